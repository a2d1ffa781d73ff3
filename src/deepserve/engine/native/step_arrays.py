"""The arguments of `ds_step`, kept from step to step: only what changed is written.

While the same sequences decode, a step differs from the one before by a token and a position in each row, and what
else Python does there costs several times its usual time: the core has just gone through all caches. Numbers are
written straight into the core's structs, because every attribute set through ctypes would cost as much as some
arithmetic.
"""

from __future__ import annotations

import ctypes
import struct
from array import array
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from deepserve.engine.interface import Draw, Drawn, Row, RowFault
from deepserve.engine.mask_source import NO_MASK, MaskSource
from deepserve.engine.native.abi import (
    CHUNK_TOKENS,
    DrawnToken,
    DrawSpec,
    LateMask,
    MaskState,
    RowFaultKind,
    RowSpec,
    Want,
)
from deepserve.engine.native.mask_worker import MaskJob, MaskWorker

_ROW = struct.Struct("=qQiiQQ")
_DRAW = struct.Struct("=6d2Q6i6QqQ")
_DRAW_MASK = struct.Struct("=QqQ")
assert _ROW.size == ctypes.sizeof(RowSpec)
assert _DRAW.size == ctypes.sizeof(DrawSpec)

_INT32_BYTES: Final = ctypes.sizeof(ctypes.c_int32)
_UINT64_BYTES: Final = ctypes.sizeof(ctypes.c_uint64)
_HAS_MASK_AT: Final = DrawSpec.has_mask.offset
_MASK_AT: Final = DrawSpec.mask.offset
_FAULT_AFTER: Final = (DrawnToken.fault.offset - DrawnToken.token.offset) // _INT32_BYTES

_NO_LOGPROBS = -1
_NOTHING, _TOKEN, _LOGITS = int(Want.NOTHING), int(Want.TOKEN), int(Want.LOGITS)  # plain: they are packed as they are
_UINT64 = (1 << 64) - 1
_AWAITED, _FAILED = int(MaskState.AWAITED), int(MaskState.FAILED)
_LATE_MASK: Final = object()
"""Stands for a mask that is computed for one step alone."""
_FAULTS = {
    RowFaultKind.NOT_FINITE: "the model's logits are not finite",
    RowFaultKind.NOTHING_ALLOWED: "no token is allowed here",
    RowFaultKind.NO_MASK: NO_MASK,
}


class _Place:
    """What stands in the arrays at one number.

    sequence, num_tokens, draw, allowed   as in the last row written here; no draw if it may not be taken as it is
    tokens_at, position_at, drawn_at, mask_state_at  its elements in the views
    kept          what the draw points to
    kept_mask     the same for its mask
    late_mask     where the core waits for one
    """

    __slots__ = (
        "allowed",
        "draw",
        "drawn_at",
        "kept",
        "kept_mask",
        "late_mask",
        "mask_state_at",
        "num_tokens",
        "number",
        "position_at",
        "sequence",
        "tokens_at",
    )

    def __init__(self, number: int, late_mask: LateMask) -> None:
        self.number = number
        self.late_mask = late_mask
        self.tokens_at = number * CHUNK_TOKENS
        self.position_at = (number * _DRAW.size + DrawSpec.position.offset) // _UINT64_BYTES
        self.drawn_at = (number * ctypes.sizeof(DrawnToken) + DrawnToken.token.offset) // _INT32_BYTES
        self.mask_state_at = (number * ctypes.sizeof(LateMask) + LateMask.state.offset) // _INT32_BYTES
        self.kept: list[array[int] | array[float]] = []
        self.kept_mask: bytes | array[int] | None = None
        self.forget()

    def forget(self) -> None:
        self.sequence = -1
        self.num_tokens = 0
        self.draw: Draw | None = None
        self.allowed: object = None


class StepArrays:
    """Belongs to an engine. `rows`, `drawn`: the arrays, for `ds_step`; they grow, so they are read for every step."""

    def __init__(self, *, vocab_size: int, masks: MaskWorker) -> None:
        self._vocab_size = vocab_size
        self._masks = masks
        self._make_room(8)

    def write(self, rows: Sequence[Row], *, known: Collection[int]) -> None:
        """Prepare a step that draws where its rows want it; known: the sequences there are."""
        if len(rows) > len(self._places):
            self._make_room(2 * len(rows))
        token_ids, positions = self._token_ids, self._positions
        sources: list[tuple[_Place, MaskSource]] = []
        for place, row in zip(self._places, rows, strict=False):
            draw, tokens = row.draw, row.tokens
            num_tokens = len(tokens)
            if draw is not place.draw or row.sequence != place.sequence or num_tokens != place.num_tokens:
                self._prepare(place, row, known)
            try:
                if num_tokens == 1:
                    token_ids[place.tokens_at] = tokens[0]
                else:
                    struct.pack_into(f"={num_tokens}i", self._tokens, place.tokens_at * _INT32_BYTES, *tokens)
            except (struct.error, ValueError, TypeError) as error:
                raise ValueError(f"token ids must be within 0..{self._vocab_size - 1}: {error}") from error
            if draw is not None:
                positions[place.position_at] = draw.position & _UINT64
                allowed = draw.allowed
                if allowed is not place.allowed:
                    if callable(allowed):
                        sources.append((place, allowed))
                    else:
                        self._write_mask(place, allowed)
        if sources:
            self._write_sources(sources)

    def write_for_logits(self, rows: Sequence[Row], logits: Sequence[int], *, known: Collection[int]) -> None:
        """Prepare a step that writes the logits of every token to these addresses, one for each row."""
        self.write([Row(sequence=row.sequence, tokens=row.tokens) for row in rows], known=known)
        for place, row, address in zip(self._places, rows, logits, strict=False):
            self._write_row(place, row, want=_LOGITS, logits=address)
            place.forget()

    def read(self, rows: Sequence[Row]) -> list[Drawn | RowFault | None]:
        """What the step brought."""
        answers = self._answers
        results: list[Drawn | RowFault | None] = []
        for place, row in zip(self._places, rows, strict=False):
            draw = row.draw
            if draw is None:
                results.append(None)
            elif answers[place.drawn_at + _FAULT_AFTER]:
                results.append(RowFault(_FAULTS[RowFaultKind(answers[place.drawn_at + _FAULT_AFTER])]))
            elif draw.num_top_logprobs is None:
                results.append(Drawn(answers[place.drawn_at]))
            else:
                results.append(_with_logprobs(self.drawn[place.number]))
        return results

    def _make_room(self, num_rows: int) -> None:
        self.rows = (RowSpec * num_rows)()
        self.drawn = (DrawnToken * num_rows)()
        self._draws = (DrawSpec * num_rows)()
        late_masks = (LateMask * num_rows)()
        self._places = [_Place(number, late_mask) for number, late_mask in enumerate(late_masks)]
        self._tokens = (ctypes.c_int32 * (num_rows * CHUNK_TOKENS))()
        self._draws_at = ctypes.addressof(self._draws)
        self._tokens_at = ctypes.addressof(self._tokens)
        self._token_ids = memoryview(self._tokens).cast("B").cast("i")
        self._positions = memoryview(self._draws).cast("B").cast("Q")
        self._answers = memoryview(self.drawn).cast("B").cast("i")
        self._mask_states = memoryview(late_masks).cast("B").cast("i")

    def _prepare(self, place: _Place, row: Row, known: Collection[int]) -> None:
        """Write what does not change while the same sequence goes on with the same draw."""
        place.forget()
        if row.sequence not in known:
            raise ValueError(f"no sequence {row.sequence}")
        num_tokens = len(row.tokens)
        if not 0 < num_tokens <= CHUNK_TOKENS:
            raise ValueError(f"a row has 1 to {CHUNK_TOKENS} tokens, not {num_tokens}")
        draw = row.draw
        if draw is not None:
            self._write_draw(place, draw)
        self._write_row(place, row, want=_NOTHING if draw is None else _TOKEN)
        place.sequence, place.num_tokens = row.sequence, num_tokens
        if draw is not None and not _has_counts(draw):
            place.draw = draw

    def _write_row(self, place: _Place, row: Row, *, want: int, logits: int = 0) -> None:
        _ROW.pack_into(
            self.rows,
            place.number * _ROW.size,
            row.sequence,
            self._tokens_at + place.tokens_at * _INT32_BYTES,
            len(row.tokens),
            want,
            self._draws_at + place.number * _DRAW.size if want == _TOKEN else 0,
            logits,
        )

    def _write_draw(self, place: _Place, draw: Draw) -> None:
        """Everything but the mask: that follows."""
        place.kept.clear()
        place.kept_mask = None
        biases = bias_values = prompt = counted = counts = (0, 0)
        if draw.logit_bias:
            biases = self._keep(place, "i", draw.logit_bias.keys())
            bias_values = self._keep(place, "d", draw.logit_bias.values())
        if draw.repetition_penalty != 1.0:
            prompt = self._keep(place, "i", draw.prompt_tokens)
        if draw.output_counts and _has_counts(draw):
            counted = self._keep(place, "i", draw.output_counts.keys())
            counts = self._keep(place, "i", draw.output_counts.values())
        try:
            _DRAW.pack_into(
                self._draws,
                place.number * _DRAW.size,
                draw.temperature,
                draw.top_p,
                draw.min_p,
                draw.repetition_penalty,
                draw.frequency_penalty,
                draw.presence_penalty,
                draw.seed & _UINT64,
                draw.position & _UINT64,
                draw.top_k,
                _NO_LOGPROBS if draw.num_top_logprobs is None else draw.num_top_logprobs,
                biases[1],
                prompt[1],
                counted[1],
                False,
                biases[0],
                bias_values[0],
                prompt[0],
                counted[0],
                counts[0],
                0,
                0,
                0,
            )
        except struct.error as error:
            raise ValueError(f"a draw holds numbers out of range: {error}") from error

    def _keep(self, place: _Place, kind: str, values: Iterable[float]) -> tuple[int, int]:
        """Address and length of a copy that lives as long as the draw stands here."""
        try:
            kept = array(kind, values)
        except OverflowError as error:
            raise ValueError(f"a draw names token ids outside 0..{self._vocab_size - 1}") from error
        place.kept.append(kept)
        address, length = kept.buffer_info()
        return address, length

    # Masks

    def _write_mask(self, place: _Place, mask: bytes | None) -> None:
        """A mask that is there already; it stays until there is another."""
        address, length = 0, 0
        place.kept_mask = None
        if mask is not None:
            place.kept_mask = kept = array("B", mask)
            address, length = kept.buffer_info()
        self._point_to_mask(place, has_mask=mask is not None, address=address, length=length, late_mask=0)
        place.allowed = mask

    def _write_sources(self, sources: Sequence[tuple[_Place, MaskSource]]) -> None:
        """Masks that are computed now, or beside the step where that is worth a thread."""
        if self._masks.is_worth_waking(len(sources)):
            jobs = []
            for place, source in sources:
                self._write_late_mask(place, _AWAITED)
                jobs.append(MaskJob(source, place.late_mask))
            self._masks.take(jobs)
            return
        for place, source in sources:
            mask = self._masks.compute(source)
            if mask is not None:
                self._write_mask(place, mask)
            else:
                self._write_late_mask(place, _FAILED)

    def _write_late_mask(self, place: _Place, state: int) -> None:
        self._mask_states[place.mask_state_at] = state
        if place.allowed is not _LATE_MASK:
            address = ctypes.addressof(place.late_mask)
            self._point_to_mask(place, has_mask=False, address=0, length=0, late_mask=address)
            place.allowed = _LATE_MASK

    def _point_to_mask(self, place: _Place, *, has_mask: bool, address: int, length: int, late_mask: int) -> None:
        at = place.number * _DRAW.size
        struct.pack_into("=i", self._draws, at + _HAS_MASK_AT, has_mask)
        _DRAW_MASK.pack_into(self._draws, at + _MASK_AT, address, length, late_mask)


def _has_counts(draw: Draw) -> bool:
    """Whether what was written so far counts: then the draw is another in every step."""
    return (draw.repetition_penalty, draw.frequency_penalty, draw.presence_penalty) != (1, 0, 0)


def _with_logprobs(drawn: DrawnToken) -> Drawn:
    top = tuple((drawn.top_tokens[at], drawn.top_logprobs[at]) for at in range(drawn.num_top))
    return Drawn(drawn.token, drawn.logprob, top)

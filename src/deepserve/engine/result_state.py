"""One result on its way: its tokens, how many of them the engine has seen, and where its rows end."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import Literal

import msgspec

from deepserve.engine.generation import Generation, GenerationId, TokenGuide
from deepserve.engine.interface import CHUNK_TOKENS, Draw, Drawn, Row, SequenceId

FORCED_ROW_TOKENS = 32
"""So many tokens that are certain are computed in one step with those that other results draw; more take turns with
the prompts, so that nobody's next token waits for a long one."""


class ResultState:
    """Belongs to the scheduler.

    history   prompt and output so far; the last token drawn is in it before the engine has seen it
    computed  tokens of the history the engine's sequence holds
    sequence  the engine's handle; None while waiting
    snapshot_positions  where the prefix index wants a copy, besides its regular interval
    row_tokens  rows end at multiples of this divisor of CHUNK_TOKENS
    owned_tokens  tokens up to the end of the last block that its sequence alone holds: writing them takes no memory
    ending    why the output is complete; None while it is not

    Prefill, decode, tokens that a guide forces and the recomputation after a preemption are one case: the next row is
    the next stretch of history the engine has not seen, and a row that reaches its end draws.
    """

    def __init__(self, generation_id: GenerationId, generation: Generation, result: int) -> None:
        self.id = generation_id
        self.generation = generation
        self.result = result
        self.guide = generation.guides[result] if generation.guides else None
        self.history = array("I", generation.prompt)
        self.num_prompt = len(self.history)
        self.output: list[int] = []
        self.computed = 0
        self.sequence: SequenceId | None = None
        self.last_chunk_step = 0
        self.row_tokens = CHUNK_TOKENS
        self.owned_tokens = 0
        self.was_recomputed = False
        self.has_begun = self.guide is None
        self.is_ended = False
        self.ending: Literal["stop", "length"] | None = None
        self._stop_tokens, self._max_tokens = generation.stop_tokens, generation.max_tokens
        self.snapshot_positions = set(generation.boundaries)
        draw = generation.draws[result]
        self._counts: dict[int, int] = {}
        self._has_penalty = (draw.repetition_penalty, draw.frequency_penalty, draw.presence_penalty) != (1, 0, 0)
        prompt_tokens: frozenset[int] = frozenset(self.history if draw.repetition_penalty != 1 else ())
        self._draw = msgspec.structs.replace(draw, prompt_tokens=prompt_tokens, output_counts=self._counts)
        # A cut after the whole prompt matters where the answer begins with forced tokens.
        self._cuts = sorted(cut for cut in set(self._cut_positions()) if 0 < cut <= self.num_prompt)

    @property
    def num_pending(self) -> int:
        return len(self.history) - self.computed

    @property
    def is_decoding(self) -> bool:
        """One token from the next draw, or a few that its guide forced."""
        num_pending = len(self.history) - self.computed
        return num_pending == 1 or (num_pending <= FORCED_ROW_TOKENS and self.computed >= self.num_prompt)

    @property
    def is_about_to_begin(self) -> bool:
        """The next row ends the prompt, and the guide was not asked yet what must follow."""
        return not self.has_begun and self.next_end == self.num_prompt

    @property
    def next_end(self) -> int:
        """Where the next row ends: at the latest at the next cut or multiple of CHUNK_TOKENS."""
        end = len(self.history)
        if end - self.computed == 1:
            return end
        end = min(end, (self.computed // self.row_tokens + 1) * self.row_tokens)
        index = bisect_right(self._cuts, self.computed)
        return min(end, self._cuts[index]) if index < len(self._cuts) else end

    @property
    def next_tokens(self) -> int:
        return self.next_end - self.computed

    def next_row(self) -> Row:
        """What the engine computes next. Raises whatever the guide raises."""
        assert self.sequence is not None
        end = self.next_end
        draw: Draw | None = None
        if end == len(self.history):
            draw = self._draw
            draw.position = len(self.output)
            if self.guide is not None:
                draw.allowed = self.guide.mask()
        return Row(sequence=self.sequence, tokens=self.history[self.computed : end], draw=draw)

    def accept(self, drawn: Drawn) -> list[Drawn]:
        """Append the token just drawn, or the one its guide puts in its place, and all that must follow it.

        Returns what was appended. Raises whatever the guide raises.
        """
        if self.guide is None:
            self._append(drawn.token)
            return [drawn]
        token = self.guide.accept(drawn.token)
        appended = [drawn if token == drawn.token else self._certain(token)]
        if not self._append(token):
            self._follow(self.guide, appended)
        return appended

    def follow(self) -> list[Drawn]:
        """Append what the answer must begin with whatever the model thinks, as far as it goes."""
        self.has_begun = True
        appended: list[Drawn] = []
        if self.guide is not None and self.ending is None:
            self._follow(self.guide, appended)
        return appended

    def _follow(self, guide: TokenGuide, appended: list[Drawn]) -> None:
        for token in guide.forced():
            appended.append(self._certain(token))
            if self._append(token):
                break

    def packed(self, num_tokens: int) -> bytes:
        """The first tokens of the history, as the prefix index compares them."""
        return self.history[:num_tokens].tobytes()

    def _append(self, token: int) -> bool:
        """Whether that completes the output."""
        self.history.append(token)
        self.output.append(token)
        if token in self._stop_tokens:
            self.ending = "stop"
        elif len(self.output) >= self._max_tokens:
            self.ending = "length"
        if self._has_penalty:
            self._counts[token] = self._counts.get(token, 0) + 1
        return self.ending is not None

    def _certain(self, token: int) -> Drawn:
        """A token without an alternative, as it is reported: what no mask leaves a choice has probability 1."""
        num_top = self.generation.draws[self.result].num_top_logprobs
        if num_top is None:
            return Drawn(token)
        return Drawn(token, 0.0, ((token, 0.0),) if num_top else ())

    def _cut_positions(self) -> tuple[int, ...]:
        # Several results share everything but the prompt's last token, whose logits each draws from for itself.
        trunk = (self.num_prompt - 1,) if len(self.generation.draws) > 1 else ()
        return (*self.generation.boundaries, *trunk)

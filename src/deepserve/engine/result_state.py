"""One result on its way: its tokens, how many of them the engine has seen, and where its rows end."""

from __future__ import annotations

from array import array
from bisect import bisect_right

import msgspec

from deepserve.engine.generation import Generation, GenerationId
from deepserve.engine.interface import CHUNK_TOKENS, Draw, Row, SequenceId


class ResultState:
    """Belongs to the scheduler.

    history   prompt and output so far; the last token drawn is in it before the engine has seen it
    computed  tokens of the history the engine's sequence holds
    sequence  the engine's handle; None while waiting
    snapshot_positions  where the prefix index wants a copy, besides its regular interval
    row_tokens  rows end at multiples of this divisor of CHUNK_TOKENS

    Prefill, decode and the recomputation after a preemption are one case: the next row is the next stretch of
    history the engine has not seen, and a row that reaches its end draws.
    """

    def __init__(self, generation_id: GenerationId, generation: Generation, result: int) -> None:
        self.id = generation_id
        self.generation = generation
        self.result = result
        self.history = array("I", generation.prompt)
        self.num_prompt = len(self.history)
        self.output: list[int] = []
        self.computed = 0
        self.sequence: SequenceId | None = None
        self.last_chunk_step = 0
        self.row_tokens = CHUNK_TOKENS
        self.was_recomputed = False
        self.is_ended = False
        self.snapshot_positions = set(generation.boundaries)
        draw = generation.draws[result]
        self._counts: dict[int, int] = {}
        self._has_penalty = (draw.repetition_penalty, draw.frequency_penalty, draw.presence_penalty) != (1, 0, 0)
        self._prompt_set = frozenset(self.history) if draw.repetition_penalty != 1 else frozenset()
        self._cuts = sorted(cut for cut in set(self._cut_positions()) if 0 < cut < self.num_prompt)

    @property
    def num_pending(self) -> int:
        return len(self.history) - self.computed

    @property
    def is_decoding(self) -> bool:
        """One token from the next draw."""
        return self.num_pending == 1

    @property
    def next_end(self) -> int:
        """Where the next row ends: at the latest at the next cut or multiple of CHUNK_TOKENS."""
        end = min(len(self.history), (self.computed // self.row_tokens + 1) * self.row_tokens)
        index = bisect_right(self._cuts, self.computed)
        return min(end, self._cuts[index]) if index < len(self._cuts) else end

    @property
    def next_tokens(self) -> int:
        return self.next_end - self.computed

    def next_row(self) -> Row:
        """Raises whatever the guide raises."""
        assert self.sequence is not None
        end = self.next_end
        draw = self._draw() if end == len(self.history) else None
        return Row(sequence=self.sequence, tokens=self.history[self.computed : end], draw=draw)

    def append(self, token: int) -> None:
        self.history.append(token)
        self.output.append(token)
        if self._has_penalty:
            self._counts[token] = self._counts.get(token, 0) + 1

    def packed(self, num_tokens: int) -> bytes:
        """The first tokens of the history, as the prefix index compares them."""
        return self.history[:num_tokens].tobytes()

    def _draw(self) -> Draw:
        template, guide = self.generation.draws[self.result], self.generation.guide
        return msgspec.structs.replace(
            template,
            position=len(self.output),
            prompt_tokens=self._prompt_set,
            output_counts=self._counts,
            allowed=guide.allowed(self.output) if guide is not None else None,
        )

    def _cut_positions(self) -> tuple[int, ...]:
        # Several results share everything but the prompt's last token, whose logits each draws from for itself.
        trunk = (self.num_prompt - 1,) if len(self.generation.draws) > 1 else ()
        return (*self.generation.boundaries, *trunk)

"""The blocks of one result, numbered, with the log-probabilities of the tokens that their text came from."""

from __future__ import annotations

from collections import deque

from deepserve.core.events import Block, BlockClosed, BlockDelta, BlockOpened, TokenLogprob
from deepserve.prompt.pieces import Piece, spelled_text

BlockEvent = BlockOpened | BlockDelta | BlockClosed


class BlockWriter:
    """Collects events until they are taken. Places are offsets into the whole answer."""

    def __init__(self, result: int) -> None:
        self._result = result
        self._events: list[BlockEvent] = []
        self._num_blocks = 0
        self._logprobs: deque[tuple[int, TokenLogprob]] = deque()  # with the place where the token's text begins
        self.is_open = False

    def open(self, block: Block) -> None:
        """Open a block behind what is closed with it."""
        self.close()
        self._events.append(BlockOpened(index=self._num_blocks, block=block, result=self._result))
        self._num_blocks += 1
        self.is_open = True

    def close(self) -> None:
        if self.is_open:
            self._events.append(BlockClosed(index=self._num_blocks - 1, result=self._result))
            self.is_open = False

    def write(self, text: str, end: int) -> None:
        """Text of the open block that is over at `end`, with the log-probabilities of its tokens."""
        self._delta(spelled_text(text), self._take_logprobs(end))

    def write_arguments(self, text: str) -> None:
        if text:
            self._delta(text, ())

    def take(self) -> list[BlockEvent]:
        events, self._events = self._events, []
        return events

    def note_logprobs(self, piece: Piece, text: str, at: int) -> None:
        """Remember where each token of a piece begins; in a piece that does not say, all begin with it."""
        if piece.is_special and not text:
            return
        is_told = len(piece.logprobs) > 1 and "".join(entry.token for entry in piece.logprobs) == text
        for entry in piece.logprobs:
            self._logprobs.append((at, entry))
            at += len(entry.token) if is_told else 0

    def flush_logprobs(self, end: int) -> None:
        """Write the log-probabilities of tokens whose text was trimmed."""
        logprobs = self._take_logprobs(end)
        if logprobs and self.is_open:
            self._delta("", logprobs)

    def drop_logprobs(self, end: int | None = None) -> None:
        """Forget those of tokens that begin before `end`; None: of all."""
        if end is None:
            self._logprobs.clear()
        else:
            self._take_logprobs(end)

    def _take_logprobs(self, end: int) -> tuple[TokenLogprob, ...]:
        taken: list[TokenLogprob] = []
        while self._logprobs and self._logprobs[0][0] < end:
            taken.append(self._logprobs.popleft()[1])
        return tuple(taken)

    def _delta(self, text: str, logprobs: tuple[TokenLogprob, ...]) -> None:
        self._events.append(BlockDelta(index=self._num_blocks - 1, text=text, logprobs=logprobs, result=self._result))

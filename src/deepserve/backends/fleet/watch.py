"""Listens to one answer: whether it has begun, whether it goes on for ever, and what it is worth at its end."""

from __future__ import annotations

import math

import msgspec

from deepserve.backends.fleet.repetition import Repetition
from deepserve.backends.upstream.estimate import estimate_tokens
from deepserve.core.errors import BackendFailure, DeepserveError
from deepserve.core.events import (
    BlockDelta,
    BlockOpened,
    Event,
    Failed,
    Finished,
    ReasoningBlock,
    ServerToolCallBlock,
    ServerToolResultBlock,
    Started,
    ToolCallBlock,
    UsageReported,
)
from deepserve.core.usage import Usage

_NAMED_BLOCKS = (ToolCallBlock, ServerToolCallBlock, ServerToolResultBlock)
"""Their opening tells something already."""

_PIECES = 64
"""That are looked at together,"""

_LARGE_CHARACTERS = 256
"""but for large ones, which are looked at alone."""

_MOST_CHARACTERS_PER_TOKEN = 256
"""Far more than a text has for each of its tokens, whatever it says."""

_SPARE_CHARACTERS = 65_536
"""For services that count in another way."""


class AnswerWatch:
    """`hear` every event.

    max_repeated  characters that an answer may go on repeating itself; 0: as long as it likes
    max_tokens    that were asked for, or that the model gives at most; who goes far beyond has not heard of it
    expected      what its text has to hold, where that is known

    has_content  something of the answer was told
    is_empty     it ended as if it were complete, and nothing was told
    error        with which the last result failed
    """

    def __init__(self, num_results: int, *, max_repeated: int, max_tokens: int, expected: str | None = None) -> None:
        self._max_repeated = max_repeated
        self._max_characters = num_results * (max_tokens * _MOST_CHARACTERS_PER_TOKEN + _SPARE_CHARACTERS)
        self._expected = expected
        self._text = ""
        self._heard: list[list[str]] = [[] for _ in range(num_results)]
        self._repetitions = [Repetition() for _ in range(num_results)]
        self.open_results = set(range(num_results))
        self.has_content = False
        self.is_endless = False
        self.has_finished = False
        self.error: DeepserveError | None = None
        self._reported: Usage | None = None
        self._prompt: Usage | None = None
        self._only_stopped = True
        self._thinking: set[int] = set()
        self._num_characters = [0, 0]  # of traces, and of all else

    def hear(self, event: Event) -> None:
        """Raises BackendFailure for an answer that does nothing but repeat itself."""
        if type(event) is BlockDelta:  # by far the most: looked at many at once
            if event.text:
                self.has_content = True
                heard = self._heard[event.result]
                heard.append(event.text)
                if len(heard) >= _PIECES or len(event.text) >= _LARGE_CHARACTERS:
                    self._take(event.result)
        elif isinstance(event, BlockOpened):
            self._take(event.result)
            self._repetitions[event.result] = Repetition()
            (self._thinking.add if isinstance(event.block, ReasoningBlock) else self._thinking.discard)(event.result)
            if isinstance(event.block, _NAMED_BLOCKS):
                self.has_content = True
        elif isinstance(event, Finished):
            self._take(event.result)
            self.open_results.discard(event.result)
            self.has_finished = True
            self._only_stopped = self._only_stopped and event.reason == "stop"
        elif isinstance(event, Failed):
            self.open_results.discard(event.result)
            self.error = event.error
        elif isinstance(event, UsageReported):
            self._reported = event.usage
        elif isinstance(event, Started):
            self._prompt = event.prompt_usage

    def _take(self, result: int) -> None:
        """What was heard since the last time."""
        text = "".join(self._heard[result])
        self._heard[result].clear()
        self._num_characters[result not in self._thinking] += len(text)
        if self._expected is not None:
            self._text += text
        if sum(self._num_characters) > self._max_characters:
            self.is_endless = True
            raise BackendFailure("The answer went on far beyond its limit and was ended.")
        repetition = self._repetitions[result]
        if self._max_repeated and repetition.hear(text) and repetition.num_characters >= self._max_repeated:
            self.is_endless = True
            raise BackendFailure(
                f"The answer repeated the same text for {repetition.num_characters:,} characters and was ended."
            )

    @property
    def is_empty(self) -> bool:
        return self.has_finished and not self.has_content and self._only_stopped

    @property
    def is_wrong(self) -> bool:
        """It ended, and is not what was to be expected."""
        return self._expected is not None and self.has_finished and self._expected not in self._text

    @property
    def usage(self) -> Usage | None:
        """As far as it was told."""
        return self._reported or self._prompt

    def estimated_usage(self) -> Usage:
        """Of an answer that is cut off here, where nothing better was told."""
        if self._reported is not None:
            return self._reported
        counts = list(self._num_characters)
        for result, heard in enumerate(self._heard):
            counts[result not in self._thinking] += sum(map(len, heard))
        reasoning, answer = (math.ceil(estimate_tokens("x") * count) for count in counts)
        return msgspec.structs.replace(
            self._prompt or Usage(), reasoning_tokens=reasoning, answer_tokens=answer, is_estimated=True
        )

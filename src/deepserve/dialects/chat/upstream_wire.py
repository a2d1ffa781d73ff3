"""Answers of other services as they stand on the wire, read with patience.

Members that a service leaves out or sends as null have a default, unknown ones are skipped, and what several services
call differently stands side by side. What we write ourselves is in `wire`.
"""

from __future__ import annotations

import msgspec

from deepserve.core.messages import Json
from deepserve.dialects.chat.wire import WireLogprobs
from deepserve.dialects.upstream_results import ReadEnd
from deepserve.dialects.upstream_usage import ReadUsage


class ReadFunction(msgspec.Struct, frozen=True):
    name: str | None = None
    arguments: str | None = None


class ReadCall(msgspec.Struct, frozen=True):
    index: int | None = None
    id: str | None = None
    function: ReadFunction | None = None


class ReadDetail(msgspec.Struct, frozen=True):
    """Of a trace at OpenRouter; text or summary, by its type."""

    text: str | None = None
    summary: str | None = None


class ReadMessage(msgspec.Struct, frozen=True):
    """A whole message or what a chunk adds to it."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[ReadDetail] | None = None
    tool_calls: list[ReadCall] | None = None

    @property
    def trace(self) -> str | None:
        """Under the first of the names that it has; services that use two say the same twice."""
        if self.reasoning_content is not None:
            return self.reasoning_content
        if self.reasoning is not None:
            return self.reasoning
        if self.reasoning_details is None:
            return None
        return "".join(detail.text or detail.summary or "" for detail in self.reasoning_details)


class ReadChoice(ReadEnd, frozen=True):
    index: int = 0
    message: ReadMessage | None = None
    delta: ReadMessage | None = None
    logprobs: WireLogprobs | None = None


class ReadWords(msgspec.Struct, frozen=True):
    """A whole answer, or a chunk of one, but for its usage. error: as it came; `errors` knows its many shapes."""

    model: str | None = None
    system_fingerprint: str | None = None
    choices: list[ReadChoice] | None = None
    error: Json = None


class ReadAnswer(ReadWords, frozen=True):
    usage: ReadUsage | None = None

"""The bodies of answers as this service writes them; the order of members is that of recorded answers.

Clients check them: a chunk without `finish_reason`, or a whole answer
without `system_fingerprint` is refused by one or another of the official SDKs.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from deepserve.dialects.chat.wire import WireLogprob, WireToolCall
from deepserve.dialects.openrouter.errors import WireError
from deepserve.dialects.openrouter.metadata import WireRouting
from deepserve.dialects.openrouter.usage import WireUsage


class WireReasoning(msgspec.Struct):
    """The formats are a closed set, in which V4's has no name of its own."""

    text: str
    type: str = "reasoning.text"
    format: str = "unknown"
    index: int = 0


class WireServerCall(msgspec.Struct, kw_only=True):
    """A call of a tool that the server ran, for sending back."""

    type: str = "reasoning.server_tool_call"
    tool_name: str
    arguments: str
    result: str
    tool_call_id: str
    format: str = "unknown"
    index: int = 0


class WireUrlCitation(msgspec.Struct):
    url: str
    title: str
    content: str
    start_index: int
    end_index: int


class WireAnnotation(msgspec.Struct):
    url_citation: WireUrlCitation
    type: str = "url_citation"


class WireMessage(msgspec.Struct, kw_only=True):
    """A message or a delta."""

    role: str | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    refusal: str | UnsetType | None = UNSET
    reasoning: str | UnsetType | None = UNSET
    reasoning_details: list[WireReasoning | WireServerCall] | UnsetType = UNSET
    tool_calls: list[WireToolCall] | UnsetType = UNSET
    annotations: list[WireAnnotation] | UnsetType = UNSET


class WireLogprobs(msgspec.Struct):
    content: list[WireLogprob] | None
    refusal: None = None


class WireChoice(msgspec.Struct, kw_only=True):
    index: int
    message: WireMessage | UnsetType = UNSET
    delta: WireMessage | UnsetType = UNSET
    logprobs: WireLogprobs | None = None
    finish_reason: str | None = None
    native_finish_reason: str | None = None


class WireCompletion(msgspec.Struct, kw_only=True):
    """A whole answer, or a chunk of one."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    provider: str
    system_fingerprint: str | None = None
    choices: list[WireChoice]
    usage: WireUsage | UnsetType = UNSET
    error: WireError | UnsetType = UNSET
    openrouter_metadata: WireRouting | UnsetType = UNSET
    x_deepserve_validated: str | UnsetType = UNSET

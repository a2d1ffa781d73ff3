"""The bodies of answers as they stand on the wire; the order of members is the vendor's.

Members that a service leaves out are UNSET, which is not null. Other services' answers are read by `upstream_wire`.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType


class WireFunction(msgspec.Struct):
    name: str | UnsetType | None = UNSET
    arguments: str | UnsetType | None = UNSET


class WireToolCall(msgspec.Struct):
    """Whole in an answer; in a chunk only the first of a call has id, type and name."""

    index: int | UnsetType = UNSET
    id: str | UnsetType | None = UNSET
    type: str | UnsetType | None = UNSET
    function: WireFunction | UnsetType | None = UNSET


class WireMessage(msgspec.Struct):
    """A message or a delta. reasoning is what other services call reasoning_content."""

    role: str | UnsetType | None = UNSET
    content: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType | None = UNSET
    reasoning: str | UnsetType | None = UNSET
    tool_calls: list[WireToolCall] | UnsetType | None = UNSET


class WireTopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None


class WireLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[WireTopLogprob] = []


class WireLogprobs(msgspec.Struct):
    content: list[WireLogprob] | None = None
    reasoning_content: list[WireLogprob] | None = None


class WirePromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class WireCompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class WireUsage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: WirePromptDetails | UnsetType | None = UNSET
    completion_tokens_details: WireCompletionDetails | UnsetType | None = UNSET
    prompt_cache_hit_tokens: int | UnsetType | None = UNSET
    prompt_cache_miss_tokens: int | UnsetType | None = UNSET


class WireChoice(msgspec.Struct):
    index: int = 0
    message: WireMessage | UnsetType = UNSET
    delta: WireMessage | UnsetType | None = UNSET
    logprobs: WireLogprobs | None = None
    finish_reason: str | None = None


class WireCompletion(msgspec.Struct):
    """x_deepserve_validated is ours: present when a form was asked for and the headers had already left."""

    id: str = ""
    object: str = "chat.completion"
    created: int = 0
    model: str = ""
    choices: list[WireChoice] = []
    usage: WireUsage | None = None
    system_fingerprint: str | None = None
    x_deepserve_validated: str | UnsetType = UNSET

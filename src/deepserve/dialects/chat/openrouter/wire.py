"""The bodies of answers as this service writes them; the order of members is that of recorded answers.

Clients check them: a usage without its details or with a null cost, a chunk without `finish_reason`, or a whole answer
without `system_fingerprint` is refused by one or another of the official SDKs.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec
from msgspec import UNSET, UnsetType

from deepserve.dialects.chat.openrouter.errors import WireError
from deepserve.dialects.chat.wire import WireLogprob, WireToolCall


class WireReasoning(msgspec.Struct):
    """The formats are a closed set, in which V4's has no name of its own."""

    text: str
    type: str = "reasoning.text"
    format: str = "unknown"
    index: int = 0


class WireMessage(msgspec.Struct, kw_only=True):
    """A message or a delta."""

    role: str | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    refusal: str | UnsetType | None = UNSET
    reasoning: str | UnsetType | None = UNSET
    reasoning_details: list[WireReasoning] | UnsetType = UNSET
    tool_calls: list[WireToolCall] | UnsetType = UNSET


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


class WirePromptDetails(msgspec.Struct):
    cached_tokens: int
    cache_write_tokens: int = 0
    audio_tokens: int = 0
    video_tokens: int = 0


class WireCompletionDetails(msgspec.Struct):
    reasoning_tokens: int
    image_tokens: int = 0
    audio_tokens: int = 0


class WireCostDetails(msgspec.Struct):
    upstream_inference_prompt_cost: Decimal
    upstream_inference_completions_cost: Decimal
    upstream_inference_cost: None = None


class WireUsage(msgspec.Struct, kw_only=True):
    """cost is absent for a model without a price."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cost: Decimal | UnsetType = UNSET
    is_byok: bool = False
    prompt_tokens_details: WirePromptDetails
    cost_details: WireCostDetails | UnsetType = UNSET
    completion_tokens_details: WireCompletionDetails


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
    x_deepserve_validated: str | UnsetType = UNSET

"""The bodies of answers as they stand on the wire; the order of members is the vendor's."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType


class WireLogprobs(msgspec.Struct):
    """Columns with one entry for each token. text_offset counts characters of `text`, from the answer's beginning."""

    text_offset: list[int]
    token_logprobs: list[float]
    tokens: list[str]
    top_logprobs: list[dict[str, float]]


class WireChoice(msgspec.Struct):
    index: int
    text: str
    finish_reason: str | None = None
    logprobs: WireLogprobs | None = None


class WirePromptDetails(msgspec.Struct):
    cached_tokens: int


class WireUsage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: WirePromptDetails
    prompt_cache_hit_tokens: int
    prompt_cache_miss_tokens: int


class WireCompletion(msgspec.Struct, kw_only=True):
    """A whole answer, or a chunk: there usage is null or absent until the last. provider: where a service names it."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[WireChoice]
    usage: WireUsage | msgspec.Raw | UnsetType | None = UNSET
    provider: str | UnsetType = UNSET

"""Consumption and cost as this service writes them.

Clients check it: without its details, or with a null cost, the official provider for the AI SDK refuses an answer.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec
from msgspec import UNSET, UnsetType

from deepserve.core.cost import Cost
from deepserve.core.usage import Usage
from deepserve.dialects.charge import wire_cost


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


class WireServerToolUse(msgspec.Struct):
    """Calls of tools that the server runs: asked for by the model, and those that brought a result."""

    tool_calls_requested: int
    tool_calls_executed: int
    web_search_requests: int


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
    server_tool_use_details: WireServerToolUse | UnsetType = UNSET


def encode_usage(usage: Usage, cost: Cost | None, *, tool_use: WireServerToolUse | None = None) -> WireUsage:
    """Always with all details. cost: as the ledger has it."""
    money = None if cost is None else wire_cost(cost)
    return WireUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
        cost=UNSET if money is None else money.total,
        prompt_tokens_details=WirePromptDetails(
            cached_tokens=usage.hit_tokens, cache_write_tokens=usage.cache_write_tokens
        ),
        cost_details=(
            UNSET
            if money is None
            else WireCostDetails(
                upstream_inference_prompt_cost=money.prompt,
                upstream_inference_completions_cost=money.output,
            )
        ),
        completion_tokens_details=WireCompletionDetails(reasoning_tokens=usage.reasoning_tokens),
        server_tool_use_details=UNSET if tool_use is None else tool_use,
    )

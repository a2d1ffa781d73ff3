"""Bodies, frames and events as they stand on the wire. Members that are None are left out: clients take a key that is
there for a value."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec

from deepserve.dialects.amounts import encode_amounts


class WireToolCall(msgspec.Struct, rename="camel", kw_only=True):
    """input: an object, or the text as it came where the model wrote no valid JSON."""

    id: str
    type: str = "function"
    name: str
    input: Any  # Any: JSON


class WireModality(msgspec.Struct, rename="camel"):
    tokens: int
    cost: Decimal
    cost_display: str
    modality: str = "text"


class WirePromptCost(msgspec.Struct, rename="camel"):
    modalities: list[WireModality]
    billable_tokens: int
    cost: Decimal
    cost_display: str


class WireCompletionCost(msgspec.Struct, rename="camel"):
    billable_tokens: int
    text_tokens: int
    reasoning_tokens: int
    cost: Decimal
    cost_display: str


class WireTokenCosts(msgspec.Struct, rename="camel"):
    prompt: WirePromptCost
    cache: WirePromptCost
    completion: WireCompletionCost


class WireCostBreakdown(msgspec.Struct, rename="camel"):
    tokens: WireTokenCosts
    total: Decimal
    total_display: str


class WireCompletionDetails(msgspec.Struct, rename="camel"):
    reasoning_tokens: int


class WireUsage(msgspec.Struct, rename="camel", omit_defaults=True):
    """completionTokens include thinkingTokens, promptTokens include cachedInputTokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    thinking_tokens: int
    cached_input_tokens: int
    completion_tokens_details: WireCompletionDetails
    cost_breakdown: WireCostBreakdown | None = None


class WireFault(msgspec.Struct, rename="camel"):
    code: str
    message: str


class WireItem(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """One result of a task, or its acknowledgment.

    status       only where somebody polls: SDKs count the items that have one, and those that have a text
    resultIndex  when several results were asked for: SDKs that collect them tell them apart by it
    """

    task_type: str
    task_uuid: str = msgspec.field(name="taskUUID")
    result_index: int | None = None
    status: str | None = None
    text: str | None = None
    reasoning_content: list[str] | None = None
    tool_calls: list[WireToolCall] | None = None
    finish_reason: str | None = None
    seed: int | None = None
    usage: WireUsage | None = None
    cost: Decimal | None = None
    error: WireFault | None = None
    code: str | None = None
    message: str | None = None


class WireError(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    code: str
    message: str
    parameter: str | None = None
    task_type: str | None = None
    task_uuid: str | None = msgspec.field(default=None, name="taskUUID")
    result_index: int | None = None


class WireErrorBody(msgspec.Struct, rename="camel"):
    errors: list[WireError]
    error: WireError


class WireEnded(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """What is kept of a task that has ended: its finished results, and the errors of the others."""

    items: list[WireItem] = []
    errors: list[WireError] = []


class WireToolDelta(msgspec.Struct, rename="camel", omit_defaults=True):
    index: int
    id: str | None = None
    name: str | None = None
    input_delta: str | None = None


class WireDelta(msgspec.Struct, rename="camel", omit_defaults=True):
    text: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[WireToolDelta] | None = None


class WireChunk(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """finishReason, usage and cost stand in one last chunk: SDKs read no further."""

    task_type: str
    task_uuid: str = msgspec.field(name="taskUUID")
    delta: WireDelta
    finish_reason: str | None = None
    tool_calls: list[WireToolCall] | None = None
    seed: int | None = None
    usage: WireUsage | None = None
    cost: Decimal | None = None


encode = encode_amounts
"""Anything of this dialect, money as numbers."""

"""The bodies of answers as they stand on the wire."""

from __future__ import annotations

from decimal import Decimal

import msgspec
from msgspec import UNSET, UnsetType

from deepserve.core.messages import Json


class WireThinking(msgspec.Struct, tag_field="type", tag="thinking"):
    thinking: str
    signature: str


class WireText(msgspec.Struct, tag_field="type", tag="text"):
    text: str
    citations: list[Json] | UnsetType = UNSET


class WireToolUse(msgspec.Struct, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: Json


class WireServerToolUse(msgspec.Struct, tag_field="type", tag="server_tool_use"):
    id: str
    name: str
    input: Json


class WireServerResult(msgspec.Struct):
    """type: `web_search_tool_result`, …"""

    type: str
    tool_use_id: str
    content: Json


class WireMcpUse(msgspec.Struct, tag_field="type", tag="mcp_tool_use"):
    id: str
    name: str
    server_name: str
    input: Json


class WireMcpResult(msgspec.Struct, tag_field="type", tag="mcp_tool_result"):
    tool_use_id: str
    is_error: bool
    content: list[Json]


WireBlock = WireThinking | WireText | WireToolUse | WireServerToolUse | WireServerResult | WireMcpUse | WireMcpResult


class WireOutputDetails(msgspec.Struct):
    thinking_tokens: int


class WireServerToolUsage(msgspec.Struct):
    web_search_requests: int = 0
    web_fetch_requests: int = 0


class WireCostDetails(msgspec.Struct):
    upstream_inference_prompt_cost: Decimal
    upstream_inference_completions_cost: Decimal
    upstream_inference_cost: None = None


class WireUsage(msgspec.Struct):
    """input_tokens are the prompt tokens that were neither read from the cache nor billed for being written to it.

    The cost is OpenRouter's addition, with its names.
    """

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: WireOutputDetails
    server_tool_use: WireServerToolUsage | None = None
    service_tier: str = "standard"
    cost: Decimal | UnsetType = UNSET
    is_byok: bool | UnsetType = UNSET
    cost_details: WireCostDetails | UnsetType = UNSET


class WireContextManagement(msgspec.Struct):
    applied_edits: list[Json] = []


class WireMessage(msgspec.Struct, tag_field="type", tag="message"):
    """x_deepserve_validated is ours: present when a form was asked for and the headers had already left."""

    id: str
    role: str
    model: str
    content: list[WireBlock]
    stop_reason: str | None
    stop_sequence: str | None
    usage: WireUsage
    context_management: WireContextManagement | UnsetType = UNSET
    x_deepserve_validated: str | UnsetType = UNSET


class WireStop(msgspec.Struct):
    stop_reason: str | None
    stop_sequence: str | None


class WireMessageDelta(msgspec.Struct, tag_field="type", tag="message_delta"):
    delta: WireStop
    usage: WireUsage
    context_management: WireContextManagement | UnsetType = UNSET
    x_deepserve_validated: str | UnsetType = UNSET


class WireError(msgspec.Struct):
    """type, message and details are Anthropic's, param and code DeepSeek's."""

    type: str
    message: str
    code: str
    param: str | None = None
    details: Json | UnsetType = UNSET


class WireErrorBody(msgspec.Struct, tag_field="type", tag="error"):
    error: WireError
    request_id: str

"""The bodies of answers as they stand on the wire; the order of members is OpenAI's.

Members that may be left out are UNSET, which is not null. What an answer repeats from its request (tools, choices,
formats) is the client's own JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from deepserve.core.messages import Json

ItemStatus = Literal["in_progress", "completed", "incomplete"]
Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class WireTopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class WireLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[WireTopLogprob]


class WireAnnotation(msgspec.Struct, tag="url_citation"):
    start_index: int
    end_index: int
    url: str
    title: str


class ReasoningText(msgspec.Struct, tag="reasoning_text"):
    text: str


class OutputText(msgspec.Struct, tag="output_text"):
    text: str
    annotations: list[WireAnnotation] = []
    logprobs: list[WireLogprob] = []


class OutputRefusal(msgspec.Struct, tag="refusal"):
    refusal: str


class ReasoningItem(msgspec.Struct, tag="reasoning"):
    """The trace as plain text, as the vendor sends it; encrypted_content too where `include` asks for it."""

    id: str
    summary: list[Json]
    content: list[ReasoningText]
    encrypted_content: str | UnsetType | None
    status: ItemStatus


class MessageItem(msgspec.Struct, tag="message"):
    id: str
    status: ItemStatus
    role: str
    content: list[OutputText | OutputRefusal]


class FunctionCallItem(msgspec.Struct, tag="function_call"):
    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str
    namespace: str | UnsetType = UNSET


class CustomCallItem(msgspec.Struct, tag="custom_tool_call"):
    id: str
    status: ItemStatus
    call_id: str
    name: str
    input: str
    namespace: str | UnsetType = UNSET


HostedStatus = Literal["in_progress", "searching", "interpreting", "completed", "incomplete", "failed"]


class WebSearchItem(msgspec.Struct, tag="web_search_call"):
    id: str
    status: HostedStatus
    action: dict[str, Json]
    results: list[Json] | UnsetType = UNSET


class CodeInterpreterItem(msgspec.Struct, tag="code_interpreter_call"):
    id: str
    status: HostedStatus
    code: str
    container_id: str
    outputs: list[Json] | None


class McpCallItem(msgspec.Struct, tag="mcp_call"):
    id: str
    status: HostedStatus
    name: str
    server_label: str
    arguments: str
    output: str | None
    error: Json


HostedItem = WebSearchItem | CodeInterpreterItem | McpCallItem
"""A call of a tool that the server runs, and what it brought."""

Item = (
    ReasoningItem | MessageItem | FunctionCallItem | CustomCallItem | WebSearchItem | CodeInterpreterItem | McpCallItem
)


class WireInputDetails(msgspec.Struct):
    cached_tokens: int
    cache_write_tokens: int = 0


class WireOutputDetails(msgspec.Struct):
    reasoning_tokens: int


class WireCostDetails(msgspec.Struct):
    upstream_inference_input_cost: Decimal
    upstream_inference_output_cost: Decimal
    upstream_inference_cost: None = None


class WireUsage(msgspec.Struct):
    """The cost is OpenRouter's addition, with its names."""

    input_tokens: int
    input_tokens_details: WireInputDetails
    output_tokens: int
    output_tokens_details: WireOutputDetails
    total_tokens: int
    cost: Decimal | UnsetType = UNSET
    is_byok: bool | UnsetType = UNSET
    cost_details: WireCostDetails | UnsetType = UNSET


class WireFailure(msgspec.Struct):
    """Why a response failed."""

    code: str
    message: str


class WireIncomplete(msgspec.Struct):
    reason: str


class WireResponse(msgspec.Struct, kw_only=True):
    """x_deepserve_validated is ours: present when a form was asked for and the headers had already left."""

    id: str
    object: str = "response"
    created_at: int
    status: Status
    completed_at: int | None
    background: bool
    error: WireFailure | None
    incomplete_details: WireIncomplete | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: Sequence[Item]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, Json]
    safety_identifier: str | None
    service_tier: str
    store: bool
    temperature: float
    text: dict[str, Json]
    tool_choice: Json
    tools: Sequence[Json]
    top_logprobs: int
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    truncation: str
    usage: WireUsage | None
    user: str | None
    metadata: dict[str, str]
    system_fingerprint: str | UnsetType = UNSET
    x_deepserve_validated: str | UnsetType = UNSET


class CompactionItem(msgspec.Struct, tag="compaction"):
    """A conversation in the model's own words, for sending back."""

    id: str
    encrypted_content: str


class WireCompaction(msgspec.Struct, kw_only=True):
    id: str
    object: str = "response.compaction"
    created_at: int
    output: list[Json]
    usage: WireUsage

"""Whole answers: `core.Answer` to a body."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import assert_never

import msgspec
from msgspec import UNSET

from deepserve.core.answer import Answer
from deepserve.core.cost import Cost
from deepserve.core.events import FinishReason
from deepserve.core.messages import (
    Citation,
    File,
    Image,
    Json,
    OtherPart,
    Part,
    Reasoning,
    Refusal,
    ServerToolCall,
    ServerToolResult,
    Text,
    ToolCall,
    ToolResult,
)
from deepserve.core.usage import Usage
from deepserve.dialects.amounts import encode_amounts
from deepserve.dialects.charge import wire_cost
from deepserve.dialects.exchange import AnswerHead
from deepserve.dialects.messages.content import INVALID_JSON
from deepserve.dialects.messages.request import MessagesRequest
from deepserve.dialects.messages.server_tools import encode_call, encode_result, seal
from deepserve.dialects.messages.wire import (
    WireBlock,
    WireContextManagement,
    WireCostDetails,
    WireMessage,
    WireOutputDetails,
    WireServerToolUsage,
    WireText,
    WireThinking,
    WireToolUse,
    WireUsage,
)

STOP_REASONS: Mapping[FinishReason, str] = {
    "stop": "end_turn",
    "stop_string": "stop_sequence",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "aborted": "pause_turn",
}
"""Why an answer ended, in Anthropic's words. What broke off may be sent back and continued, as a paused turn may."""


def encode_answer(
    answer: Answer,
    messages: MessagesRequest,
    head: AnswerHead,
    *,
    validated: str | None = None,
    tells_cost: bool = False,
) -> bytes:
    """The body of a whole answer.

    Not carried, because the dialect has no word for it: log-probabilities, seeds, cost (which
    OpenRouter adds), and any result but the first, of which there is only one here.
    """
    result = answer.results[0]
    return encode_amounts(
        WireMessage(
            id=message_id(head),
            role="assistant",
            model=head.model,
            content=list(_blocks(result.parts, messages, head)),
            stop_reason=STOP_REASONS[result.finished.reason],
            stop_sequence=result.finished.stop_string,
            usage=encode_usage(answer.usage, answer.cost if tells_cost else None),
            context_management=context_management(messages),
            x_deepserve_validated=UNSET if validated is None else validated,
        )
    )


def message_id(head: AnswerHead) -> str:
    return "msg_" + head.id.replace("-", "")


def signature_of(signature: str | None, sealed: str | None, head: AnswerHead) -> str:
    """Never empty: clients drop thinking blocks without a signature, and with them the trace."""
    return signature or sealed or base64.b64encode(head.id.encode()).decode()


def context_management(messages: MessagesRequest) -> WireContextManagement | msgspec.UnsetType:
    return WireContextManagement() if messages.has_context_edits else UNSET


def encode_usage(usage: Usage, cost: Cost | None = None) -> WireUsage:
    calls = dict(usage.server_tool_calls)
    money = None if cost is None else wire_cost(cost)
    return WireUsage(
        input_tokens=usage.miss_tokens - usage.cache_write_tokens,
        cache_creation_input_tokens=usage.cache_write_tokens,
        cache_read_input_tokens=usage.hit_tokens,
        output_tokens=usage.output_tokens,
        output_tokens_details=WireOutputDetails(thinking_tokens=usage.reasoning_tokens),
        server_tool_use=(
            WireServerToolUsage(
                web_search_requests=calls.get("web_search", 0), web_fetch_requests=calls.get("web_fetch", 0)
            )
            if calls
            else None
        ),
        cost=UNSET if money is None else money.total,
        is_byok=UNSET if money is None else False,
        cost_details=UNSET if money is None else WireCostDetails(money.prompt, money.output),
    )


def encode_citation(citation: Citation) -> Json:
    return {
        "type": "web_search_result_location",
        "url": citation.url,
        "title": citation.title,
        "cited_text": citation.cited_text,
        "encrypted_index": seal(citation.url),
    }


def input_of(arguments: str) -> Json:
    """A call's arguments as an object; text that is none is wrapped, not dropped."""
    try:
        value = msgspec.json.decode(arguments) if arguments.strip() else {}
    except (msgspec.DecodeError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {INVALID_JSON: arguments}


def _blocks(parts: Iterable[Part], messages: MessagesRequest, head: AnswerHead) -> Iterator[WireBlock]:
    for part in parts:
        match part:
            case Reasoning():
                shown = "" if messages.request.thinking.exclude else part.text
                yield WireThinking(shown, signature_of(part.signature, part.sealed, head))
            case Text():
                citations = [encode_citation(citation) for citation in part.citations]
                yield WireText(part.text, citations or UNSET)
            case Refusal():
                yield WireText(part.text)
            case ToolCall():
                yield WireToolUse(part.id, part.name, input_of(part.arguments))
            case ServerToolCall():
                yield encode_call(part.id, part.tool, part.name, input_of(part.arguments))
            case ServerToolResult():
                yield encode_result(part, head.created_at)
            case Image() | File() | ToolResult() | OtherPart():
                pass  # no back end answers with these
            case _:
                assert_never(part)

"""Whole answers: `core.Answer` to a body."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import assert_never

import msgspec
from msgspec import UNSET

from deepserve.core.answer import Answer
from deepserve.core.events import Finished, FinishReason
from deepserve.core.messages import (
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
from deepserve.dialects.exchange import AnswerHead
from deepserve.dialects.messages.content import INVALID_JSON
from deepserve.dialects.messages.request import MessagesRequest
from deepserve.dialects.messages.server_tools import (
    UNAVAILABLE,
    ServerToolKind,
    ServerTools,
    error_content,
    kind_of_name,
    server_call_id,
)
from deepserve.dialects.messages.wire import (
    WireBlock,
    WireContextManagement,
    WireMessage,
    WireOutputDetails,
    WireServerResult,
    WireServerToolUsage,
    WireServerToolUse,
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
    answer: Answer, messages: MessagesRequest, head: AnswerHead, *, validated: str | None = None
) -> bytes:
    """The body of a whole answer.

    Not carried, because the dialect has no word for it: log-probabilities, seeds, cost, citations of our own, and any
    result but the first, of which there is only one here.
    """
    result = answer.results[0]
    calls = [part.name for part in result.parts if isinstance(part, ToolCall)]
    return msgspec.json.encode(
        WireMessage(
            id=message_id(head),
            role="assistant",
            model=head.model,
            content=list(_blocks(result.parts, messages, head)),
            stop_reason=stop_reason(result.finished, calls, messages.server_tools),
            stop_sequence=result.finished.stop_string,
            usage=encode_usage(answer.usage),
            context_management=context_management(messages),
            x_deepserve_validated=UNSET if validated is None else validated,
        )
    )


def message_id(head: AnswerHead) -> str:
    return "msg_" + head.id.replace("-", "")


def stop_reason(finished: Finished, called: Iterable[str], server_tools: ServerTools) -> str:
    """called: names of all tools the answer calls. Where only the server is to answer, the turn pauses."""
    if finished.reason == "tool_calls" and all(name in server_tools for name in called):
        return "pause_turn"
    return STOP_REASONS[finished.reason]


def signature_of(signature: str | None, sealed: str | None, head: AnswerHead) -> str:
    """Never empty: clients drop thinking blocks without a signature, and with them the trace."""
    return signature or sealed or base64.b64encode(head.id.encode()).decode()


def context_management(messages: MessagesRequest) -> WireContextManagement | msgspec.UnsetType:
    return WireContextManagement() if messages.has_context_edits else UNSET


def encode_usage(usage: Usage) -> WireUsage:
    calls = dict(usage.server_tool_calls)
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
    )


def unavailable_result(kind: ServerToolKind, call_id: str) -> WireServerResult:
    """The answer to a call of a tool that this server does not run."""
    return WireServerResult(
        type=kind.result_type, tool_use_id=server_call_id(call_id), content=error_content(kind, UNAVAILABLE)
    )


def server_result(result: ServerToolResult) -> WireServerResult:
    kind = kind_of_name(result.tool)
    content = result.output if result.error_code is None else error_content(kind, result.error_code)
    return WireServerResult(type=kind.result_type, tool_use_id=server_call_id(result.call_id), content=content)


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
            case Text() | Refusal():
                yield WireText(part.text)
            case ToolCall(name=name) if name in messages.server_tools:
                kind = messages.server_tools[name]
                yield WireServerToolUse(server_call_id(part.id), kind.name, input_of(part.arguments))
                yield unavailable_result(kind, part.id)
            case ToolCall():
                yield WireToolUse(part.id, part.name, input_of(part.arguments))
            case ServerToolCall():
                yield WireServerToolUse(server_call_id(part.id), part.tool, part.input or {})
            case ServerToolResult():
                yield server_result(part)
            case Image() | File() | ToolResult() | OtherPart():
                pass  # no back end answers with these
            case _:
                assert_never(part)

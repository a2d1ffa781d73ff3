"""Whole answers: `core.Answer` to a response object; the pieces that streams are made of, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import assert_never

import msgspec
from msgspec import UNSET, UnsetType

from deepserve.core.answer import Answer
from deepserve.core.cost import Cost
from deepserve.core.errors import DeepserveError
from deepserve.core.events import Finished, FinishReason, TokenLogprob
from deepserve.core.messages import (
    Citation,
    File,
    Image,
    Json,
    OtherPart,
    Reasoning,
    Refusal,
    ServerToolCall,
    ServerToolResult,
    Text,
    ToolCall,
    ToolResult,
)
from deepserve.core.usage import Usage
from deepserve.dialects.charge import wire_cost
from deepserve.dialects.exchange import AnswerHead
from deepserve.dialects.responses.custom_input import whole_input
from deepserve.dialects.responses.errors import wire_error
from deepserve.dialects.responses.memory import item_id, response_id
from deepserve.dialects.responses.request import ResponsesRequest
from deepserve.dialects.responses.server_tools import HostedForm
from deepserve.dialects.responses.tools import ToolName
from deepserve.dialects.responses.wire import (
    CustomCallItem,
    FunctionCallItem,
    Item,
    ItemStatus,
    MessageItem,
    OutputRefusal,
    OutputText,
    ReasoningItem,
    ReasoningText,
    Status,
    WireAnnotation,
    WireCostDetails,
    WireFailure,
    WireIncomplete,
    WireInputDetails,
    WireLogprob,
    WireOutputDetails,
    WireResponse,
    WireTopLogprob,
    WireUsage,
)

OUTCOMES: Mapping[FinishReason, tuple[Status, str | None]] = {
    "stop": ("completed", None),
    "stop_string": ("completed", None),
    "tool_calls": ("completed", None),
    "length": ("incomplete", "max_output_tokens"),
    "content_filter": ("incomplete", "content_filter"),
    "aborted": ("failed", None),
}
"""How a result ended: the response's status, and what it says about being incomplete."""

_ABORTED = WireFailure(code="server_error", message="The answer was broken off by what gave it. Please retry.")

_LEAST_LOGPROB = -9999.0
"""JSON's substitute for minus infinity, as the vendor writes it."""


class ItemForm:
    """Builds output items of one response."""

    def __init__(self, asked: ResponsesRequest, head: AnswerHead) -> None:
        self._asked = asked
        self._digits = head.id.replace("-", "")
        self.hosted = HostedForm(self._digits, asked.included)

    def reasoning(self, index: int, text: str | None, sealed: str | None, status: ItemStatus) -> ReasoningItem:
        """text: None while no content has begun."""
        encrypted: str | UnsetType | None = sealed if self._asked.is_sealed else UNSET
        return ReasoningItem(
            id=item_id("reasoning", self._digits, index),
            summary=[],
            content=[] if text is None else [ReasoningText(text=text)],
            encrypted_content=encrypted,
            status=status,
        )

    def message(self, index: int, content: OutputText | OutputRefusal | None, status: ItemStatus) -> MessageItem:
        return MessageItem(
            id=item_id("message", self._digits, index),
            status=status,
            role="assistant",
            content=[] if content is None else [content],
        )

    def call(
        self, index: int, *, call_id: str, flat_name: str, arguments: str, status: ItemStatus
    ) -> FunctionCallItem | CustomCallItem:
        """arguments: JSON; the plain input of a custom tool."""
        name = self.name_of(flat_name)
        namespace = UNSET if name.namespace is None else name.namespace
        if name.kind == "custom":
            return CustomCallItem(
                id=item_id("custom_tool_call", self._digits, index),
                status=status,
                call_id=call_id,
                name=name.name,
                input=arguments,
                namespace=namespace,
            )
        return FunctionCallItem(
            id=item_id("function_call", self._digits, index),
            status=status,
            call_id=call_id,
            name=name.name,
            arguments=arguments,
            namespace=namespace,
        )

    def name_of(self, flat_name: str) -> ToolName:
        """The client's name for a tool; a name that was not offered is passed on."""
        return self._asked.offered.names.get(flat_name) or ToolName(name=flat_name)


def output_text(text: str, citations: Sequence[Citation], logprobs: Sequence[TokenLogprob]) -> OutputText:
    return OutputText(
        text=text,
        annotations=[encode_citation(citation) for citation in citations],
        logprobs=[encode_logprob(token) for token in logprobs],
    )


def encode_citation(citation: Citation) -> WireAnnotation:
    start = citation.start or 0
    return WireAnnotation(
        start_index=start,
        end_index=start if citation.end is None else citation.end,
        url=citation.url,
        title=citation.title,
    )


def encode_logprob(token: TokenLogprob) -> WireLogprob:
    return WireLogprob(
        token=token.token,
        logprob=max(token.logprob, _LEAST_LOGPROB),
        bytes=list(token.bytes),
        top_logprobs=[
            WireTopLogprob(token=other.token, logprob=max(other.logprob, _LEAST_LOGPROB), bytes=list(other.bytes))
            for other in token.top
        ],
    )


def encode_usage(usage: Usage, cost: Cost | None = None) -> WireUsage:
    money = None if cost is None else wire_cost(cost)
    return WireUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=WireInputDetails(
            cached_tokens=usage.hit_tokens, cache_write_tokens=usage.cache_write_tokens
        ),
        output_tokens=usage.output_tokens,
        output_tokens_details=WireOutputDetails(reasoning_tokens=usage.reasoning_tokens),
        total_tokens=usage.total_tokens,
        cost=UNSET if money is None else money.total,
        is_byok=UNSET if money is None else False,
        cost_details=UNSET if money is None else WireCostDetails(money.prompt, money.output),
    )


def open_response(asked: ResponsesRequest, head: AnswerHead, *, status: Status = "in_progress") -> WireResponse:
    """The response as it is before anything has been said."""
    echo, sampling, thinking = asked.echo, asked.request.sampling, asked.request.thinking
    return WireResponse(
        id=response_id(head.id.replace("-", "")),
        created_at=head.created,
        status=status,
        completed_at=None,
        background=asked.is_background,
        error=None,
        incomplete_details=None,
        instructions=echo.instructions,
        max_output_tokens=echo.max_output_tokens,
        max_tool_calls=echo.max_tool_calls,
        model=head.model,
        output=[],
        parallel_tool_calls=asked.request.tool_choice.is_parallel,
        previous_response_id=echo.previous_response_id,
        prompt_cache_key=echo.prompt_cache_key,
        reasoning={"effort": thinking.effort if thinking.enabled else "none", "summary": echo.reasoning_summary},
        safety_identifier=echo.safety_identifier,
        service_tier="default",
        store=asked.is_kept,
        # Clients demand numbers here: where nothing was asked for, the API's nominal value is shown.
        temperature=1.0 if sampling.temperature is None else sampling.temperature,
        text={"format": {"type": "text"}, **echo.text},
        tool_choice=echo.tool_choice,
        tools=[_shown_tool(tool) for tool in echo.tools],
        top_logprobs=sampling.num_top_logprobs or 0,
        top_p=1.0 if sampling.top_p is None else sampling.top_p,
        presence_penalty=sampling.presence_penalty or 0.0,
        frequency_penalty=sampling.frequency_penalty or 0.0,
        truncation="disabled",
        usage=None,
        user=echo.user,
        metadata=dict(echo.metadata),
    )


def _shown_tool(tool: Json) -> Json:
    """A function with the members that clients demand."""
    if isinstance(tool, dict) and tool.get("type") == "function":
        return {"type": "function", "description": None, "parameters": None, "strict": False, **tool}
    return tool


def finished_response(
    response: WireResponse,
    finished: Finished,
    *,
    output: Sequence[Item],
    usage: Usage,
    at: datetime,
    cost: Cost | None = None,
) -> WireResponse:
    """The response with its end. at: when that was."""
    status, reason = OUTCOMES[finished.reason]
    return msgspec.structs.replace(
        response,
        status=status,
        completed_at=int(at.timestamp()) if status == "completed" else None,
        error=_ABORTED if status == "failed" else None,
        incomplete_details=None if reason is None else WireIncomplete(reason=reason),
        output=output,
        usage=encode_usage(usage, cost),
    )


def failed_response(
    response: WireResponse, error: DeepserveError, *, output: Sequence[Item], usage: Usage | None, is_strict: bool
) -> WireResponse:
    wire = wire_error(error, is_strict=is_strict)
    return msgspec.structs.replace(
        response,
        status="failed",
        error=WireFailure(code=str(wire.code), message=wire.message),
        output=output,
        usage=None if usage is None else encode_usage(usage),
    )


def encode_answer(
    answer: Answer, asked: ResponsesRequest, head: AnswerHead, *, at: datetime, tells_cost: bool = False
) -> WireResponse:
    """The response of a whole answer.

    Not carried, because the dialect has no word for it: signatures of reasoning, cost (which OpenRouter adds),
    seeds, which stop string was met, and log-probabilities of reasoning.
    """
    [result] = answer.results
    form, items = ItemForm(asked, head), list[Item]()
    logprobs = result.text_logprobs
    hosted: dict[str, tuple[int, int, ServerToolCall]] = {}
    for part in result.parts:
        index = len(items)
        match part:
            case Reasoning():
                items.append(form.reasoning(index, part.text, part.sealed, "completed"))
            case Text():
                items.append(form.message(index, output_text(part.text, part.citations, logprobs), "completed"))
                logprobs = ()
            case Refusal():
                items.append(form.message(index, OutputRefusal(refusal=part.text), "completed"))
            case ToolCall():
                is_custom = form.name_of(part.name).kind == "custom"
                arguments = whole_input(part.arguments) if is_custom else part.arguments
                items.append(
                    form.call(index, call_id=part.id, flat_name=part.name, arguments=arguments, status="completed")
                )
            case ServerToolCall():
                hosted[part.id] = len(hosted), index, part
                items.append(form.hosted.item(len(hosted) - 1, part, None, "incomplete"))
            case ServerToolResult():
                number, place, call = hosted[part.call_id]
                items[place] = form.hosted.item(number, call, part.output)
            case Image() | File() | OtherPart() | ToolResult():
                pass
            case _:
                assert_never(part)
    if items and OUTCOMES[result.finished.reason][0] != "completed":
        items[-1].status = "incomplete"
    response = msgspec.structs.replace(open_response(asked, head), system_fingerprint=answer.served_by.fingerprint)
    cost = answer.cost if tells_cost else None
    return finished_response(response, result.finished, output=items, usage=answer.usage, at=at, cost=cost)

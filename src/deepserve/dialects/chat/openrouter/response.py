"""Whole answers: `core.Answer` to a body of this service."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec import UNSET

from deepserve.core.answer import Answer, Result
from deepserve.core.events import Finished, FinishReason, TokenLogprob
from deepserve.core.messages import Part, Reasoning, Refusal, ServerToolCall, ServerToolResult, ToolCall
from deepserve.core.request import Request
from deepserve.dialects.amounts import encode_amounts
from deepserve.dialects.chat.openrouter.tool_record import annotate
from deepserve.dialects.chat.openrouter.tool_record import encode_call as encode_server_call
from deepserve.dialects.chat.openrouter.wire import (
    WireAnnotation,
    WireChoice,
    WireCompletion,
    WireLogprobs,
    WireMessage,
    WireReasoning,
    WireServerCall,
)
from deepserve.dialects.chat.response import FINISH_WORDS as NATIVE_WORDS
from deepserve.dialects.chat.response import encode_call
from deepserve.dialects.chat.response import encode_logprobs as encode_chat_logprobs
from deepserve.dialects.exchange import AnswerHead
from deepserve.dialects.openrouter.ids import generation_id
from deepserve.dialects.openrouter.metadata import RoutingNotes
from deepserve.dialects.openrouter.usage import encode_usage

FINISH_WORDS: Mapping[FinishReason, str] = {
    "stop": "stop",
    "stop_string": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "aborted": "error",
}
"""Why a result ended, in the words that the service makes of every provider's; the vendor's stand beside them."""


def encode_answer(
    answer: Answer,
    request: Request,
    head: AnswerHead,
    *,
    dated_name: str,
    name_of: Callable[[str], str],
    notes: RoutingNotes | None = None,
    validated: str | None = None,
) -> bytes:
    """The body of a whole answer.

    Not carried, because the dialect has no word for it: signatures and sealed forms of reasoning, files that programs
    left, seeds, log-probabilities of traces, and which stop string was met.
    """
    searches = dict(answer.usage.server_tool_calls).get("web_search", 0)
    annotated = [annotate(result.parts) for result in answer.results]
    # With tools that the server runs there is one result.
    tool_use = annotated[0][1].use(searches)
    model = dated_name if answer.model is None else name_of(answer.model)
    return encode_amounts(
        WireCompletion(
            id=generation_id(head),
            created=head.created,
            model=model,
            provider=answer.served_by.provider,
            system_fingerprint=answer.served_by.fingerprint,
            choices=[
                _encode_result(index, result, request, text, record.annotations())
                for index, (result, (text, record)) in enumerate(zip(answer.results, annotated, strict=True))
            ],
            usage=encode_usage(answer.usage, answer.cost, tool_use=tool_use),
            openrouter_metadata=UNSET if notes is None else notes.told(answer.served_by, model, answer.earlier),
            x_deepserve_validated=UNSET if validated is None else validated,
        )
    )


def _encode_result(
    index: int, result: Result, request: Request, text: str, annotations: list[WireAnnotation]
) -> WireChoice:
    text += "".join(part.text for part in result.parts if isinstance(part, Refusal))
    trace = "".join(part.text for part in result.parts if isinstance(part, Reasoning))
    calls = [part for part in result.parts if isinstance(part, ToolCall)]
    shows_trace = bool(trace) and not request.thinking.exclude
    details = list(_details(result.parts, shows_trace=shows_trace))
    return WireChoice(
        index=index,
        logprobs=encode_logprobs(result.text_logprobs, request),
        finish_reason=FINISH_WORDS[result.finished.reason],
        native_finish_reason=native_word(result.finished),
        message=WireMessage(
            role="assistant",
            content=None if calls and not text else text,
            refusal=None,
            reasoning=trace if shows_trace else None,
            reasoning_details=details or UNSET,
            tool_calls=[encode_call(number, call) for number, call in enumerate(calls)] if calls else UNSET,
            annotations=annotations or UNSET,
        ),
    )


def _details(parts: Sequence[Part], *, shows_trace: bool) -> Iterator[WireReasoning | WireServerCall]:
    """Traces and calls of the server's tools, in order; neighbouring traces are one."""
    trace = ""
    calls: dict[str, ServerToolCall] = {}
    for part in parts:
        match part:
            case Reasoning(text=text) if shows_trace:
                trace += text
            case ServerToolCall(id=call_id):
                calls[call_id] = part
            case ServerToolResult(call_id=call_id):
                if trace:
                    yield WireReasoning(trace)
                    trace = ""
                yield encode_server_call(calls[call_id], part)
    if trace:
        yield WireReasoning(trace)


def native_word(finished: Finished) -> str:
    return finished.native_reason or NATIVE_WORDS[finished.reason]


def encode_logprobs(tokens: Sequence[TokenLogprob], request: Request) -> WireLogprobs | None:
    """None unless asked for."""
    found = encode_chat_logprobs(tokens, (), request)
    return None if found is None else WireLogprobs(found.content)

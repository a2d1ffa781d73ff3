"""Whole answers: `core.Answer` to a body."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
from msgspec import UNSET, UnsetType

from deepserve.core.answer import Answer, Result
from deepserve.core.cost import Cost
from deepserve.core.events import FinishReason, TokenLogprob
from deepserve.core.messages import Reasoning, ToolCall
from deepserve.core.request import Request
from deepserve.core.usage import Usage
from deepserve.dialects.chat.wire import (
    WireChoice,
    WireCompletion,
    WireCompletionDetails,
    WireFunction,
    WireLogprob,
    WireLogprobs,
    WireMessage,
    WirePromptDetails,
    WireToolCall,
    WireTopLogprob,
    WireUsage,
)
from deepserve.dialects.exchange import AnswerHead
from deepserve.dialects.joined_text import joined_text

FINISH_WORDS: Mapping[FinishReason, str] = {
    "stop": "stop",
    "stop_string": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "aborted": "aborted",
}
"""Why a result ended, in the vendor's words."""

FAILED_WORD = "insufficient_system_resource"
"""The finish of a result that the server could not complete; an error object follows."""

UsageEncoder = Callable[[Usage, Request, Cost | None], WireUsage]
"""How a service writes what was consumed, and what that cost."""

_OUTSIDE_TOP = -9999.0
"""What the vendor writes for a token outside its 20 best, and JSON's substitute for minus infinity."""


def encode_answer(
    answer: Answer,
    request: Request,
    head: AnswerHead,
    *,
    validated: str | None = None,
    encode_usage: UsageEncoder | None = None,
) -> bytes:
    """The body of a whole answer. encode_usage: how a service writes it, where that is not as the vendor does.

    Not carried, because the dialect has no word for it: signatures and sealed forms of reasoning, citations,
    server-tool blocks, cost, seeds, and which stop string was met.
    """
    choices = [_encode_result(index, result, request) for index, result in enumerate(answer.results)]
    return msgspec.json.encode(
        WireCompletion(
            id=head.id,
            created=head.created,
            model=head.model,
            choices=choices,
            usage=(encode_usage or encode_vendor_usage)(answer.usage, request, answer.cost),
            system_fingerprint=answer.served_by.fingerprint,
            x_deepserve_validated=UNSET if validated is None else validated,
        )
    )


def _encode_result(index: int, result: Result, request: Request) -> WireChoice:
    calls = [part for part in result.parts if isinstance(part, ToolCall)]
    traces = [part.text for part in result.parts if isinstance(part, Reasoning)]
    reasoning: str | UnsetType = UNSET
    if not request.thinking.exclude and (traces or request.thinking.enabled):
        reasoning = "".join(traces)
    return WireChoice(
        index=index,
        message=WireMessage(
            role="assistant",
            content=joined_text(result.parts),
            reasoning_content=reasoning,
            tool_calls=[encode_call(number, call) for number, call in enumerate(calls)] if calls else UNSET,
        ),
        logprobs=encode_logprobs(result.text_logprobs, result.reasoning_logprobs, request),
        finish_reason=FINISH_WORDS[result.finished.reason],
    )


def encode_call(index: int, call: ToolCall) -> WireToolCall:
    return WireToolCall(
        index=index, id=call.id, type="function", function=WireFunction(name=call.name, arguments=call.arguments)
    )


def encode_vendor_usage(
    usage: Usage,
    request: Request,
    cost: Cost | None = None,  # noqa: ARG001 - the vendor does not say it
) -> WireUsage:
    """The details of the completion are absent from answers without thinking, as at the vendor."""
    has_thought = request.thinking.enabled or usage.reasoning_tokens > 0
    return WireUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
        prompt_tokens_details=WirePromptDetails(cached_tokens=usage.hit_tokens),
        completion_tokens_details=(
            WireCompletionDetails(reasoning_tokens=usage.reasoning_tokens) if has_thought else UNSET
        ),
        prompt_cache_hit_tokens=usage.hit_tokens,
        prompt_cache_miss_tokens=usage.miss_tokens,
    )


def encode_logprobs(
    text: Sequence[TokenLogprob], reasoning: Sequence[TokenLogprob], request: Request
) -> WireLogprobs | None:
    """None unless asked for; a channel without tokens is null."""
    if request.sampling.num_top_logprobs is None or not (text or reasoning):
        return None
    hide = request.is_strict
    shows_reasoning = bool(reasoning) and not request.thinking.exclude
    return WireLogprobs(
        content=[_encode_logprob(token, hide) for token in text] if text else None,
        reasoning_content=[_encode_logprob(token, hide) for token in reasoning] if shows_reasoning else None,
    )


def _encode_logprob(token: TokenLogprob, hides_unlikely: bool) -> WireLogprob:
    """hides_unlikely: write the vendor's substitute where 20 others were likelier than the token drawn."""
    is_outside = len(token.top) >= 20 and all(other.bytes != token.bytes for other in token.top)
    return WireLogprob(
        token=token.token,
        logprob=_OUTSIDE_TOP if hides_unlikely and is_outside else max(token.logprob, _OUTSIDE_TOP),
        bytes=list(token.bytes),
        top_logprobs=[
            WireTopLogprob(token=other.token, logprob=max(other.logprob, _OUTSIDE_TOP), bytes=list(other.bytes))
            for other in token.top
        ],
    )

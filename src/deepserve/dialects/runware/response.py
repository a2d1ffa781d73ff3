"""Results of a task: core to items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

import msgspec

from deepserve.core.answer import Result
from deepserve.core.cost import Cost, pico_usd, usd_of
from deepserve.core.errors import DeepserveError
from deepserve.core.events import FinishReason
from deepserve.core.messages import Reasoning, ToolCall
from deepserve.core.usage import Usage
from deepserve.dialects.amounts import plain
from deepserve.dialects.joined_text import joined_text
from deepserve.dialects.runware.errors import wire_error
from deepserve.dialects.runware.request import Inference
from deepserve.dialects.runware.wire import (
    WireCompletionCost,
    WireCompletionDetails,
    WireCostBreakdown,
    WireEnded,
    WireError,
    WireFault,
    WireItem,
    WireModality,
    WirePromptCost,
    WireTokenCosts,
    WireToolCall,
    WireUsage,
)

TASK_TYPE = "textInference"

FINISH_WORDS: Mapping[FinishReason, str] = {
    "stop": "stop",
    "stop_string": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "aborted": "unknown",
}

Outcome = Result | DeepserveError
"""What became of one of a task's results."""


def encode_ended(inference: Inference, outcomes: Sequence[Outcome], usage: Usage, cost: Cost | None) -> WireEnded:
    """All results of a task. usage, cost: of the whole request; the costs of the items sum to it."""
    items: list[WireItem] = []
    errors: list[WireError] = []
    is_several = len(outcomes) > 1
    good = [outcome for outcome in outcomes if not isinstance(outcome, DeepserveError)]
    shares = _shares([outcome.finished.output if is_several else None for outcome in good], usage, cost)
    for index, outcome in enumerate(outcomes):
        result_index = index if is_several else None
        if isinstance(outcome, DeepserveError):
            error = wire_error(outcome, task_type=TASK_TYPE, task_uuid=inference.task_uuid)
            errors.append(msgspec.structs.replace(error, result_index=result_index))
            continue
        calls = [part for part in outcome.parts if isinstance(part, ToolCall)]
        traces = [part.text for part in outcome.parts if isinstance(part, Reasoning) and part.text]
        item = WireItem(
            task_type=TASK_TYPE,
            task_uuid=inference.task_uuid,
            result_index=result_index,
            text=joined_text(outcome.parts),
            reasoning_content=traces or None,
            tool_calls=[encode_call(call.id, call.name, call.arguments) for call in calls] or None,
            finish_reason=FINISH_WORDS[outcome.finished.reason],
            seed=inference.seed_of(index),
        )
        share = shares[len(items)]
        items.append(bill(item, inference, share.usage, share.cost, billed=share.billed))
    return WireEnded(items=items, errors=errors)


class _Share(msgspec.Struct, frozen=True):
    """One result's. usage: the whole prompt, and what it produced; billed: what its cost is made of."""

    usage: Usage
    billed: Usage
    cost: Cost | None


def _shares(outputs: Sequence[Usage | None], usage: Usage, cost: Cost | None) -> list[_Share]:
    """What each result pays: its own output. The first pays the prompt, and whatever is nobody else's."""
    shares: list[_Share] = []
    left, left_usd = usage, Cost() if cost is None else cost
    for output in outputs[1:]:
        own = output or Usage()
        billed = Usage(reasoning_tokens=own.reasoning_tokens, answer_tokens=own.answer_tokens)
        part = usd_of(pico_usd(left_usd.output_usd) * billed.output_tokens // max(1, left.output_tokens))
        left_usd = msgspec.structs.replace(left_usd, output_usd=left_usd.output_usd - part)
        left = msgspec.structs.replace(
            left,
            reasoning_tokens=max(0, left.reasoning_tokens - billed.reasoning_tokens),
            answer_tokens=max(0, left.answer_tokens - billed.answer_tokens),
        )
        shares.append(_Share(share_of(usage, output), billed, None if cost is None else Cost(output_usd=part)))
    return [_Share(share_of(usage, next(iter(outputs), None)), left, None if cost is None else left_usd), *shares]


def share_of(usage: Usage, output: Usage | None) -> Usage:
    """The whole prompt, and what one result produced. Without that knowledge: everything."""
    if output is None:
        return usage
    return msgspec.structs.replace(usage, reasoning_tokens=output.reasoning_tokens, answer_tokens=output.answer_tokens)


def bill(
    item: WireItem, inference: Inference, usage: Usage, cost: Cost | None, *, billed: Usage | None = None
) -> WireItem:
    """The item with what was asked for of usage and cost. billed: what that is for, where it is not all usage."""
    told, wire = encode_bill(inference, usage, cost, billed=billed)
    return msgspec.structs.replace(item, cost=told, usage=wire)


def encode_bill(
    inference: Inference, usage: Usage, cost: Cost | None, *, billed: Usage | None = None
) -> tuple[Decimal | None, WireUsage | None]:
    """What `includeCost` and `includeUsage` ask for. Without a known price there is no cost."""
    shown = None if cost is None or not inference.include_cost else plain(cost.total_usd)
    return shown, encode_usage(usage, billed or usage, cost) if inference.include_usage else None


def encode_usage(usage: Usage, billed: Usage, cost: Cost | None) -> WireUsage:
    return WireUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
        thinking_tokens=usage.reasoning_tokens,
        cached_input_tokens=usage.hit_tokens,
        completion_tokens_details=WireCompletionDetails(usage.reasoning_tokens),
        cost_breakdown=None if cost is None else _breakdown(billed, cost),
    )


def _breakdown(billed: Usage, cost: Cost) -> WireCostBreakdown:
    return WireCostBreakdown(
        tokens=WireTokenCosts(
            prompt=_prompt_cost(billed.miss_tokens, cost.miss_usd),
            cache=_prompt_cost(billed.hit_tokens, cost.hit_usd),
            completion=WireCompletionCost(
                billable_tokens=billed.output_tokens,
                text_tokens=billed.answer_tokens,
                reasoning_tokens=billed.reasoning_tokens,
                cost=plain(cost.output_usd),
                cost_display=display(cost.output_usd),
            ),
        ),
        total=plain(cost.total_usd),
        total_display=display(cost.total_usd),
    )


def _prompt_cost(num_tokens: int, usd: Decimal) -> WirePromptCost:
    shown = display(usd)
    return WirePromptCost(
        modalities=[WireModality(tokens=num_tokens, cost=plain(usd), cost_display=shown)],
        billable_tokens=num_tokens,
        cost=plain(usd),
        cost_display=shown,
    )


def display(usd: Decimal) -> str:
    """For people: `$0.000123`."""
    return f"${usd:.6f}"


def encode_call(call_id: str, name: str, arguments: str) -> WireToolCall:
    """Arguments that are no JSON object stay the text they are, so that the caller sees what the model wrote."""
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        value = arguments
    return WireToolCall(id=call_id, name=name, input=value)


def acknowledgment(task_uuid: str) -> WireItem:
    """Says that a task was taken: neither a status nor a text, which clients would take for a result."""
    return WireItem(task_type=TASK_TYPE, task_uuid=task_uuid)


def running_items(task_uuid: str, num_results: int) -> list[WireItem]:
    """What a poll hears of a task that has not ended."""
    return [
        WireItem(
            task_type=TASK_TYPE,
            task_uuid=task_uuid,
            result_index=index if num_results > 1 else None,
            status="processing",
        )
        for index in range(num_results)
    ]


def polled_items(ended: WireEnded) -> list[WireItem]:
    """The results of a task for a poll, in order, the failed among them; none when all have failed."""
    if not ended.items:
        return []
    items = [msgspec.structs.replace(item, status="success") for item in ended.items]
    items += [_failed_item(error, is_flat=False) for error in ended.errors]
    return sorted(items, key=lambda item: item.result_index or 0)


def announced_items(ended: WireEnded) -> list[WireItem]:
    """The bodies of webhook calls: one for each result, flat."""
    items = [*ended.items, *(_failed_item(error, is_flat=True) for error in ended.errors)]
    return sorted(items, key=lambda item: item.result_index or 0)


def _failed_item(error: WireError, *, is_flat: bool) -> WireItem:
    """is_flat: with the members of the error beside it as well, for receivers that look for them there."""
    return WireItem(
        task_type=TASK_TYPE,
        task_uuid=error.task_uuid or "",
        result_index=error.result_index,
        status="error",
        error=WireFault(code=error.code, message=error.message),
        code=error.code if is_flat else None,
        message=error.message if is_flat else None,
    )

"""Results of a task: core to items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

import msgspec

from deepserve.catalog.prices import Price, cost_usd
from deepserve.core.answer import Result
from deepserve.core.cost import Cost
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


def encode_ended(inference: Inference, outcomes: Sequence[Outcome], usage: Usage, price: Price | None) -> WireEnded:
    """All results of a task. usage: of the whole request, whose prompt is billed once, with the first result."""
    items: list[WireItem] = []
    errors: list[WireError] = []
    is_several = len(outcomes) > 1
    for index, outcome in enumerate(outcomes):
        result_index = index if is_several else None
        if isinstance(outcome, DeepserveError):
            error = wire_error(outcome, task_type=TASK_TYPE, task_uuid=inference.task_uuid)
            errors.append(msgspec.structs.replace(error, result_index=result_index))
            continue
        share = share_of(usage, outcome.finished.output if is_several else None)
        is_first = not items
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
        items.append(bill(item, inference, share, price, bills_prompt=is_first))
    return WireEnded(items=items, errors=errors)


def share_of(usage: Usage, output: Usage | None) -> Usage:
    """The whole prompt, and what one result produced. Without that knowledge: everything."""
    if output is None:
        return usage
    return msgspec.structs.replace(usage, reasoning_tokens=output.reasoning_tokens, answer_tokens=output.answer_tokens)


def bill(
    item: WireItem, inference: Inference, usage: Usage, price: Price | None, *, bills_prompt: bool = True
) -> WireItem:
    """The item with what was asked for of usage and cost."""
    cost, wire = price_usage(inference, usage, price, bills_prompt=bills_prompt)
    return msgspec.structs.replace(item, cost=cost, usage=wire)


def price_usage(
    inference: Inference, usage: Usage, price: Price | None, *, bills_prompt: bool = True
) -> tuple[Decimal | None, WireUsage | None]:
    """What `includeCost` and `includeUsage` ask for. Without a known price there is no cost."""
    billed = usage if bills_prompt else msgspec.structs.replace(usage, hit_tokens=0, miss_tokens=0)
    cost = None if price is None else cost_usd(billed, price)
    shown = None if cost is None or not inference.include_cost else cost.total_usd
    return None if shown is None else plain(shown), encode_usage(
        usage, billed, cost
    ) if inference.include_usage else None


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

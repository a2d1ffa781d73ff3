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


def encode_ended(
    inference: Inference,
    outcomes: Sequence[Outcome],
    usage: Usage,
    cost: Cost | None,
    *,
    ready: Mapping[int, WireItem] = {},
) -> WireEnded:
    """All results of a task.

    usage, cost  of the whole request; the costs of the items sum to it
    ready        items that were told before, by their result's number: they stand as they are, and the prompt is paid
    """
    items: list[WireItem] = []
    errors: list[WireError] = []
    good = {index: outcome for index, outcome in enumerate(outcomes) if not isinstance(outcome, DeepserveError)}
    order = sorted(good, key=ready.__contains__)  # the first pays what is nobody else's, and who was told has paid
    outputs = [good[index].finished.output if len(outcomes) > 1 else None for index in order]
    shares = dict(zip(order, _shares(outputs, usage, cost, bills_prompt=not ready), strict=True))
    for index, outcome in enumerate(outcomes):
        if index in ready:
            items.append(ready[index])
        elif isinstance(outcome, DeepserveError):
            error = wire_error(outcome, task_type=TASK_TYPE, task_uuid=inference.task_uuid)
            errors.append(msgspec.structs.replace(error, result_index=_shown_index(inference, index)))
        else:
            items.append(_item(inference, index, outcome, shares[index]))
    return WireEnded(items=items, errors=errors)


def encode_ready(
    inference: Inference, index: int, result: Result, usage: Usage, cost: Cost | None, *, bills_prompt: bool
) -> WireItem | None:
    """One of several results while others are still worked on; None where its bill is asked for and not known yet.

    usage, cost: reported with it, of everything so far
    """
    output = result.finished.output
    if inference.include_cost or inference.include_usage:
        if output is None or output.output_tokens > usage.output_tokens:
            return None
    elif output is None:
        output = Usage()
    own, part = share_of(usage, output), None if cost is None else _output_cost(cost, usage, output)
    if bills_prompt:
        paid = None if cost is None or part is None else msgspec.structs.replace(cost, output_usd=part.output_usd)
        return _item(inference, index, result, _Share(own, own, paid))
    return _item(inference, index, result, _Share(own, _only_output(output), part))


def _item(inference: Inference, index: int, result: Result, share: _Share) -> WireItem:
    calls = [part for part in result.parts if isinstance(part, ToolCall)]
    traces = [part.text for part in result.parts if isinstance(part, Reasoning) and part.text]
    item = WireItem(
        task_type=TASK_TYPE,
        task_uuid=inference.task_uuid,
        result_index=_shown_index(inference, index),
        text=joined_text(result.parts),
        reasoning_content=traces or None,
        tool_calls=[encode_call(call.id, call.name, call.arguments) for call in calls] or None,
        finish_reason=FINISH_WORDS[result.finished.reason],
        seed=inference.seed_of(index),
    )
    return bill(item, inference, share.usage, share.cost, billed=share.billed)


def _shown_index(inference: Inference, index: int) -> int | None:
    return index if inference.request.num_results > 1 else None


def fail_the_rest(error: WireError, num_results: int, ready: Sequence[WireItem]) -> WireEnded:
    """What a task came to that failed when some of its items were ready: they stay, and the others have failed."""
    if not ready:
        return WireEnded(errors=[error])
    missing = sorted(set(range(num_results)) - {item.result_index for item in ready})
    return WireEnded(
        items=list(ready), errors=[msgspec.structs.replace(error, result_index=index) for index in missing]
    )


class _Share(msgspec.Struct, frozen=True):
    """One result's. usage: the whole prompt, and what it produced; billed: what its cost is made of."""

    usage: Usage
    billed: Usage
    cost: Cost | None


def _shares(outputs: Sequence[Usage | None], usage: Usage, cost: Cost | None, *, bills_prompt: bool) -> list[_Share]:
    """What each result pays: its own output. The first pays the prompt, if it is to be, and what is nobody else's."""
    shares: list[_Share] = []
    left, left_usd = usage, Cost() if cost is None else cost
    if not bills_prompt:
        left, left_usd = _only_output(usage), Cost(output_usd=left_usd.output_usd)
    for output in outputs[1:]:
        billed = _only_output(output or Usage())
        part = _output_cost(left_usd, left, billed)
        left_usd = msgspec.structs.replace(left_usd, output_usd=left_usd.output_usd - part.output_usd)
        left = msgspec.structs.replace(
            left,
            reasoning_tokens=max(0, left.reasoning_tokens - billed.reasoning_tokens),
            answer_tokens=max(0, left.answer_tokens - billed.answer_tokens),
        )
        shares.append(_Share(share_of(usage, output), billed, None if cost is None else part))
    return [_Share(share_of(usage, next(iter(outputs), None)), left, None if cost is None else left_usd), *shares]


def _only_output(usage: Usage) -> Usage:
    return Usage(reasoning_tokens=usage.reasoning_tokens, answer_tokens=usage.answer_tokens)


def _output_cost(cost: Cost, usage: Usage, output: Usage) -> Cost:
    """Of what the output of a usage cost, as much as some of its tokens did."""
    share = pico_usd(cost.output_usd) * output.output_tokens // max(1, usage.output_tokens)
    return Cost(output_usd=usd_of(share))


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


def running_items(task_uuid: str, num_results: int, ready: Sequence[WireItem] = ()) -> list[WireItem]:
    """What a poll hears of a task that has not ended: the items that are ready, and that the rest is on its way."""
    done = {item.result_index: msgspec.structs.replace(item, status="success") for item in ready}
    places = range(num_results) if num_results > 1 else (None,)
    return [
        done.get(place) or WireItem(task_type=TASK_TYPE, task_uuid=task_uuid, result_index=place, status="processing")
        for place in places
    ]


def polled_items(ended: WireEnded) -> list[WireItem]:
    """The results of a task for a poll, in order, the failed among them; none when all have failed."""
    if not ended.items:
        return []
    items = [msgspec.structs.replace(item, status="success") for item in ended.items]
    items += [_failed_item(error, is_flat=False) for error in ended.errors]
    return sorted(items, key=lambda item: item.result_index or 0)


def announced_items(ended: WireEnded) -> dict[int, WireItem]:
    """The bodies of webhook calls, flat, by the number of the result."""
    items = [*ended.items, *(_failed_item(error, is_flat=True) for error in ended.errors)]
    return {item.result_index or 0: item for item in items}


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

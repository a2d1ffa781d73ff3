"""Facts found, and requests turned into those of the chosen model."""

import asyncio
from collections.abc import AsyncGenerator
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from deepserve.backends.scripted import ScriptedBackend
from deepserve.catalog.presets import AUTO
from deepserve.catalog.price_table import load_prices
from deepserve.catalog.prices import cost_usd
from deepserve.core.errors import InvalidField
from deepserve.core.events import Event
from deepserve.core.request import Infill, Request, Thinking
from deepserve.core.routing import RoutingWishes
from deepserve.core.usage import Usage
from deepserve.routing.facts import FLASH, PRO
from deepserve.routing.policy import Decision
from deepserve.routing.router import Router, routed
from tests.dialects.chat.decoding import ARRIVED_AT, body, decode

SERVED = ScriptedBackend().models()


def asking(text: str = "hello there", *, model: str = AUTO, **wishes: Any) -> Request:
    request = decode(body(messages=[{"role": "user", "content": text}])).request
    return msgspec.structs.replace(request, model=model, routing=RoutingWishes(**wishes))


class Counter:
    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.num_asked = 0

    async def count(self, request: Request) -> int:
        assert request.model in [model.id for model in SERVED], "back ends know no other names"
        self.num_asked += 1
        return self.tokens


def never(_: Request) -> AsyncGenerator[Event]:
    raise AssertionError("nobody's opinion is needed")


def decide(request: Request, counter: Counter | None = None) -> Decision:
    count = (counter or Counter(0)).count
    return asyncio.run(Router(load_prices()).decide(request, SERVED, ask=never, count=count))


def test_short_prompts_are_not_counted() -> None:
    counter = Counter(0)
    assert decide(asking("x" * 150_000), counter).route.rule == "usual"
    assert counter.num_asked == 0


@pytest.mark.parametrize(("tokens", "rule"), [(90_000, "usual"), (250_000, "context-200k"), (600_000, "context-500k")])
def test_long_prompts_are_counted(tokens: int, rule: str) -> None:
    counter = Counter(tokens)
    assert decide(asking("x" * 1_000_000), counter).route.rule == rule
    assert counter.num_asked == 1


def test_no_prompt_has_more_tokens_than_the_bound_says() -> None:
    """What is not counted must be certain to be short."""
    tools = [{"type": "function", "function": {"name": "f", "description": "d" * 10, "parameters": {"type": "object"}}}]
    request = decode(body(messages=[{"role": "user", "content": "日本語 " * 9}] * 7, tools=tools)).request
    bound = next(
        told.verdict.why
        for told in decide(msgspec.structs.replace(request, model=AUTO)).told
        if told.rule == "context-200k" and told.verdict is not None
    )
    most = int(bound.split("at most ")[1].split(" ")[0].replace(",", ""))
    assert asyncio.run(ScriptedBackend().count(request)) <= most
    assert most >= 7 * 9 * len("日本語 ".encode())


def test_a_ceiling_is_held_against_the_counted_prompt_and_the_price_in_force() -> None:
    prices = load_prices()
    price = prices.price_at(PRO, ARRIVED_AT)
    assert price is not None
    pro_usd = cost_usd(Usage(miss_tokens=1_000, answer_tokens=4_096), price).total_usd
    request = asking(needs_knowledge=True, max_cost_usd=pro_usd)
    counter = Counter(1_000)
    assert decide(request, counter).route.model == PRO
    assert counter.num_asked == 1
    less = msgspec.structs.replace(request, routing=RoutingWishes(needs_knowledge=True, max_cost_usd=pro_usd / 2))
    assert decide(less, Counter(1_000)).route.model == FLASH


def test_a_model_that_is_not_served_cannot_be_asked_for() -> None:
    assert decide(asking(model=AUTO)).route.model == FLASH
    request = msgspec.structs.replace(asking(), routing=RoutingWishes(model="gpt-4"))
    with pytest.raises(InvalidField, match=r"gpt-4.*deepseek-v4-flash"):
        decide(request)


def test_the_lane_says_how_to_think_and_how_long_an_answer_may_be() -> None:
    hard = asking(difficulty="hard", model="auto:coding-agent")
    changed = routed(hard, decide(hard))
    assert (changed.model, changed.thinking) == (PRO, Thinking(effort="high"))
    assert changed.default_output_tokens == 65_536
    usual = asking(model="auto:coding-agent")
    changed = routed(usual, decide(usual))
    assert (changed.model, changed.thinking.enabled, changed.default_output_tokens) == (FLASH, False, 8_192)
    deepest = asking(model="auto:reasoning")
    changed = routed(deepest, decide(deepest))
    assert (changed.model, changed.thinking, changed.default_output_tokens) == (PRO, Thinking(effort="max"), 131_072)


def test_what_a_request_says_about_thinking_is_kept() -> None:
    request = asking(model="auto:reasoning", has_thinking=True)
    request = msgspec.structs.replace(request, thinking=Thinking(enabled=False))
    assert routed(request, decide(request)).thinking == Thinking(enabled=False)
    hidden = msgspec.structs.replace(asking(model="auto:reasoning"), thinking=Thinking(exclude=True))
    assert routed(hidden, decide(hidden)).thinking == Thinking(effort="max", exclude=True)


def test_plain_completions_never_think() -> None:
    request = msgspec.structs.replace(
        asking(model="auto:reasoning"), messages=(), infill=Infill(prompt="def f"), thinking=Thinking(enabled=False)
    )
    changed = routed(request, decide(request))
    assert (changed.model, changed.thinking.enabled) == (PRO, False)


def test_lists_show_every_preset_with_its_cost_and_what_stands_behind_it() -> None:
    listed = {model.id: model for model in Router(load_prices()).models(SERVED)}
    assert AUTO in listed
    assert len(listed) == 9
    assert "0.001 to 0.005 USD per request" in listed["auto:coding-agent"].note
    assert listed[AUTO].served_by == SERVED[0].served_by
    assert Router(load_prices()).models(()) == ()


def test_costs_are_exact_decimals() -> None:
    request = asking(max_cost_usd=Decimal("0.5"))
    verdicts = [told.verdict for told in decide(request, Counter(7)).told if told.rule == "price-ceiling"]
    assert verdicts[0] is not None
    assert "at most 0.5 USD" in verdicts[0].why

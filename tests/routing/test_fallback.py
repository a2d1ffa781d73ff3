"""Where the chosen model cannot answer, another that no limit forbids does, and the answer says so."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from deepserve.backends.backend import Backend
from deepserve.backends.fleet.fleet import FleetBackend
from deepserve.catalog.price_table import load_prices
from deepserve.core.errors import BackendFailure, UnsupportedFeature
from deepserve.core.events import Event
from deepserve.core.routing import RoutingWishes
from deepserve.gateway import Gateway
from deepserve.routing.router import Router
from tests.backends.fleet.setup import FLASH, PRO, Fake, asked, first, fleet, member, says, text

AGENT = "auto:coding-agent"


def _events(backend: Backend, **fields: Any) -> list[Event]:  # Any: fields of Request
    async def ask() -> list[Event]:
        gateway = Gateway(backend, router=Router(load_prices()))
        return [event async for event in gateway.answer(asked(**fields))]

    return asyncio.run(ask())


def _without(model: str) -> tuple[FleetBackend, Fake]:
    """A fleet whose members for one model are down."""
    down = Fake([BackendFailure("down")], models=(model,))
    other = Fake(says("here"), models=(PRO if model == FLASH else FLASH,))
    return fleet(member("down", down), member("other", other)), other


def test_the_other_lane_of_a_preset_answers() -> None:
    backend, _ = _without(FLASH)
    events = _events(backend, model=AGENT)
    assert text(events) == "here"
    route = first(events).route
    assert route is not None
    assert route.startswith(f"model={FLASH}; ")
    assert route.endswith(f"; answered by {PRO}, for {FLASH} did not answer (backend_failure)")


def test_an_answer_by_the_hard_lane_is_not_given_twice() -> None:
    """Checks find fault with it, but there is nobody better to ask."""
    backend, other = _without(FLASH)
    events = _events(backend, model=AGENT, routing=RoutingWishes(test="something else"))
    assert text(events) == "here"
    assert f"not escalated, for {PRO} had to answer already" in (first(events).route or "")
    assert len(other.requests) == 1


@pytest.mark.parametrize(
    ("model", "wishes"),
    [
        ("auto:code-review", {}),  # has one lane
        (AGENT, {"model": FLASH}),  # the client chose
        (AGENT, {"max_cost_usd": Decimal("0.001")}),  # Pro might cost more
        (FLASH, {}),
    ],
)
def test_a_model_that_may_not_answer_does_not(model: str, wishes: dict[str, Any]) -> None:
    backend, other = _without(FLASH)
    with pytest.raises(BackendFailure):
        _events(backend, model=model, routing=RoutingWishes(**wishes), max_output_tokens=1000)
    assert other.requests == []


def test_a_fallback_that_the_client_named_is_told_as_a_route() -> None:
    backend, _ = _without(PRO)
    route = first(_events(backend, model=PRO, fallback_models=(FLASH,))).route
    assert route == f"model={FLASH}; rule=fallback; why={PRO} did not answer (backend_failure)"


def test_limits_look_at_all_who_may_answer() -> None:
    """Flash runs at home, too; Pro only elsewhere."""
    backend = fleet(
        member("cloud", Fake(says("cloud")), region="eu"),
        member("home", Fake(says("home"), models=(FLASH,)), is_own=True),
    )
    events = _events(backend, model="deepseek-v4-auto", routing=RoutingWishes(is_self_host_only=True))
    assert text(events) == "home"
    events = _events(backend, model="auto:reasoning", routing=RoutingWishes(residency=("eu",)))
    assert text(events) == "cloud"
    events = _events(backend, model="auto:reasoning", routing=RoutingWishes(residency=("mars",)))
    assert text(events) == "home"
    with pytest.raises(UnsupportedFeature, match="No model may answer"):
        _events(fleet(backend.members[0]), model=AGENT, routing=RoutingWishes(residency=("mars",)))

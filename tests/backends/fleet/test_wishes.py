"""What clients wish about who answers is kept, or refused by name."""

from __future__ import annotations

import asyncio
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from deepserve.backends.fleet.fleet import FleetBackend
from deepserve.core.errors import BackendFailure, UnsupportedFeature
from deepserve.core.request import ProviderPreferences
from deepserve.core.routing import RoutingWishes
from tests.backends.fleet.setup import Fake, events_of, fleet, member, says, text, text_of


class _Price(msgspec.Struct):
    miss: Decimal
    output: Decimal


PRICES = {"cheap": _Price(Decimal("0.1"), Decimal("0.2")), "dear": _Price(Decimal(1), Decimal(2))}


def _price_of(kind: str, _model: str, _at: datetime) -> _Price | None:
    return PRICES.get(kind)


def _backend() -> FleetBackend:
    return fleet(
        member("a", Fake(says("a")), kind="dear", names=("Alpha",), region="us"),
        member("b", Fake(says("b")), kind="cheap", collects_data=False, region="eu"),
        member("c", Fake(says("c")), is_own=True, collects_data=False),
        price_of=_price_of,
    )


def _told(**preferences: Any) -> str:  # Any: fields of ProviderPreferences
    return asyncio.run(text_of(_backend(), provider=ProviderPreferences(**preferences)))


def _routed(**wishes: Any) -> str:  # Any: fields of RoutingWishes
    return asyncio.run(text_of(_backend(), routing=RoutingWishes(**wishes)))


def _refused(**preferences: Any) -> str | None:  # Any: as above
    with pytest.raises(UnsupportedFeature) as caught:
        _told(**preferences)
    return caught.value.field


@pytest.mark.parametrize(
    ("preferences", "who"),
    [
        ({}, "a"),
        ({"order": ("b", "a")}, "b"),
        ({"order": ("nobody", "c")}, "c"),
        ({"order": ("nobody",)}, "a"),
        ({"only": ("c", "b")}, "b"),
        ({"only": ("alpha",)}, "a"),
        ({"only": ("cheap",)}, "b"),
        ({"only": ("deepserve",)}, "a"),
        ({"ignore": ("a",)}, "b"),
        ({"order": ("c",), "ignore": ("c",)}, "a"),
        ({"data_collection": "deny"}, "b"),
        ({"max_price": {"prompt": "0.5", "completion": "0.5", "image": "0"}}, "b"),
        ({"sort": "price"}, "b"),
        ({"sort": "exacto"}, "a"),
        ({"sort": "price", "order": ("a",)}, "a"),
    ],
)
def test_preferences_choose_who_answers(preferences: dict[str, Any], who: str) -> None:
    assert _told(**preferences) == who


@pytest.mark.parametrize(
    ("preferences", "field"),
    [
        ({"only": ("nobody",)}, "provider.only"),
        ({"ignore": ("a", "b", "c")}, "provider.ignore"),
        ({"order": ("nobody",), "allow_fallbacks": False}, "provider.order"),
        ({"only": ("a",), "data_collection": "deny"}, "provider.data_collection"),
        ({"max_price": {"prompt": "0.01"}}, "provider.max_price"),
    ],
)
def test_a_preference_that_cannot_be_met_is_refused_by_its_name(preferences: dict[str, Any], field: str) -> None:
    assert _refused(**preferences) == field


@pytest.mark.parametrize(
    ("wishes", "who"),
    [
        ({"is_self_host_only": True}, "c"),
        ({"residency": ("eu",)}, "b"),
        ({"residency": ("mars",)}, "c"),
    ],
)
def test_where_a_prompt_may_go_is_kept(wishes: dict[str, Any], who: str) -> None:
    assert _routed(**wishes) == who


def test_where_no_member_may_see_a_prompt_it_goes_nowhere() -> None:
    one = Fake()

    async def ask(wishes: RoutingWishes) -> str | None:
        with pytest.raises(UnsupportedFeature) as caught:
            await events_of(fleet(member("one", one, region="us")), routing=wishes)
        return caught.value.field

    assert asyncio.run(ask(RoutingWishes(is_self_host_only=True))) == "x-deepserve-self-host"
    assert asyncio.run(ask(RoutingWishes(residency=("eu",)))) == "x-deepserve-residency"
    assert one.requests == []


def test_without_fallbacks_the_first_ones_fault_is_told() -> None:
    async def ask(**preferences: Any) -> None:  # Any: as above
        backend = fleet(member("a", Fake([BackendFailure("a fell")])), member("b", Fake([BackendFailure("b fell")])))
        await events_of(backend, provider=ProviderPreferences(allow_fallbacks=False, **preferences))

    with pytest.raises(BackendFailure, match="a fell"):
        asyncio.run(ask())
    with pytest.raises(BackendFailure, match="b fell"):
        asyncio.run(ask(order=("b",)))


def test_the_quickest_and_the_most_talkative_are_known_by_their_answers() -> None:
    async def ask() -> None:
        a, b = member("a", Fake(says("a"))), member("b", Fake(says("b")))
        backend = fleet(a, b)
        a.lanes["deepseek-v4-flash"].time_answer(2.0, 100, 1.0)
        b.lanes["deepseek-v4-flash"].time_answer(1.0, 10, 1.0)
        for sort, who in (("latency", "b"), ("throughput", "a")):
            assert await text_of(backend, provider=ProviderPreferences(sort=sort)) == who

    asyncio.run(ask())


def test_wishes_hold_for_the_models_to_fall_back_to() -> None:
    """The first model has nobody who may answer; the other has."""

    async def ask() -> str:
        backend = fleet(
            member("a", Fake(models=("deepseek-v4-pro",))), member("b", Fake(says("b"), models=("deepseek-v4-flash",)))
        )
        events = await events_of(
            backend,
            model="deepseek-v4-pro",
            fallback_models=("deepseek-v4-flash",),
            provider=ProviderPreferences(only=("b",)),
        )
        return text(events)

    assert asyncio.run(ask()) == "b"

"""What a client wishes about who answers: lanes that meet it, in its order, or a refusal that names the wish."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, Protocol

from deepserve.backends.fleet.lane import Lane
from deepserve.backends.fleet.member import Member
from deepserve.core.errors import UnsupportedFeature
from deepserve.core.request import ProviderPreferences, Request
from deepserve.core.routing import RoutingWishes

NO_PREFERENCES: Final = ProviderPreferences()
NO_WISHES: Final = RoutingWishes()

THIS_SERVER: Final = "deepserve"
"""A client that names this server, and no member of it, wishes nothing."""

SELF_HOST_HEADER: Final = "x-deepserve-self-host"
RESIDENCY_HEADER: Final = "x-deepserve-residency"


class ListPrice(Protocol):
    """US dollars for a million tokens."""

    @property
    def miss(self) -> Decimal: ...

    @property
    def output(self) -> Decimal: ...


PriceOf = Callable[[str, str, datetime], ListPrice | None]
"""The price of a model at a kind of provider, in force at an instant; None where nobody has said it."""

Offer = tuple[Member, Lane]


def wishes_nothing(request: Request) -> bool:
    """Whether anybody may answer."""
    return request.provider == NO_PREFERENCES and (
        request.routing == NO_WISHES or not (request.routing.is_self_host_only or request.routing.residency)
    )


def choose_offers(offers: Sequence[Offer], request: Request, price_of: PriceOf) -> list[Offer]:
    """Those that may answer, in the order in which they are to be asked. Raises UnsupportedFeature."""
    found = list(offers)
    found = _meeting_wishes(found, request.routing)
    preferences = request.provider
    if preferences == NO_PREFERENCES:
        return found
    names = _Names(offers)
    only = names.meant(preferences.only)
    if only:
        whose = f"none of those who have it is called {' or '.join(only)}"
        found = _kept(found, lambda member, _: names.is_called(member, only), "provider.only", whose)
    ignored = preferences.ignore
    if ignored:
        found = _kept(
            found, lambda member, _: not names.is_called(member, ignored), "provider.ignore", "all of them are ignored"
        )
    if preferences.data_collection == "deny":
        why = "all of them may keep prompts"
        found = _kept(found, lambda member, _: not member.collects_data, "provider.data_collection", why)
    if preferences.max_price:
        limits = preferences.max_price
        found = _kept(
            found,
            lambda member, lane: _is_affordable(price_of(member.kind, lane.model, request.arrived_at), limits),
            "provider.max_price",
            "none is known to cost so little",
        )
    if preferences.sort is not None:
        found = _sorted(found, preferences.sort, request.arrived_at, price_of)
    order = names.meant(preferences.order)
    if order:
        first = [offer for name in order for offer in found if names.is_called(offer[0], (name,))]
        first = list(dict.fromkeys(first))
        if not first and not preferences.allow_fallbacks:
            raise _none_left("provider.order", "none of those named can answer, and fallbacks are not allowed")
        if not preferences.allow_fallbacks:
            return first
        found = first + [offer for offer in found if offer not in first]
    elif not preferences.allow_fallbacks:
        found = found[:1]
    return found


def _meeting_wishes(found: list[Offer], wishes: RoutingWishes) -> list[Offer]:
    if wishes.is_self_host_only:
        found = _kept(found, lambda member, _: member.is_own, SELF_HOST_HEADER, "none runs on the operator's machines")
    if wishes.residency:
        regions = wishes.residency
        why = f"none is known to process prompts here or in {', '.join(regions)}"
        found = _kept(found, lambda member, _: member.is_own or member.region in regions, RESIDENCY_HEADER, why)
    return found


def _kept(found: list[Offer], keeps: Callable[[Member, Lane], bool], field: str, why: str) -> list[Offer]:
    kept = [(member, lane) for member, lane in found if keeps(member, lane)]
    if not kept:
        raise _none_left(field, why)
    return kept


def _none_left(field: str, why: str) -> UnsupportedFeature:
    return UnsupportedFeature(
        f"No allowed providers are available for the selected model: {why}. Change or remove `{field}`.", field=field
    )


class _Names:
    """What names mean among these offers: the id of a member means it alone, whatever its kind is called."""

    def __init__(self, offers: Sequence[Offer]) -> None:
        self._ids = frozenset(member.id.lower() for member, _ in offers)
        self._known = self._ids.union(*(member.names for member, _ in offers))

    def meant(self, names: Sequence[str]) -> tuple[str, ...]:
        """Without the name of the server itself, where no member is called so: it is all of them."""
        return () if THIS_SERVER in names and THIS_SERVER not in self._known else tuple(names)

    def is_called(self, member: Member, names: Collection[str]) -> bool:
        return any(name == member.id.lower() or (name in member.names and name not in self._ids) for name in names)


def _is_affordable(price: ListPrice | None, limits: Mapping[str, str]) -> bool:
    """A limit on what nobody charges for here is met."""
    for kind, limit in limits.items():
        if kind not in ("prompt", "completion"):
            continue
        if price is None or (price.miss if kind == "prompt" else price.output) > Decimal(limit):
            return False
    return True


def _sorted(found: list[Offer], sort: str, at: datetime, price_of: PriceOf) -> list[Offer]:
    """Stable: what is not known of goes last, in the operator's order."""
    match sort:
        case "price":
            return sorted(found, key=lambda offer: _price_rank(price_of(offer[0].kind, offer[1].model, at)))
        case "latency":
            return sorted(found, key=lambda offer: _or_last(offer[1].first_content_s))
        case "throughput":
            return sorted(found, key=lambda offer: -(offer[1].tokens_per_s or 0.0))
        case _:
            return found  # `exacto`: by the quality of tool calls, which nobody measures here


def _price_rank(price: ListPrice | None) -> float:
    return math.inf if price is None else float(price.miss + price.output)


def _or_last(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds

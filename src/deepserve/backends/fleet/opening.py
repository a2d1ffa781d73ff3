"""The fleet that the settings ask for, and what becomes of it when they change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec

from deepserve.backends.backend import Backend
from deepserve.backends.fleet.fleet import FleetBackend
from deepserve.backends.fleet.member import Member
from deepserve.backends.fleet.wishes import ListPrice, PriceOf
from deepserve.backends.kinds import open_upstream, upstream_limits
from deepserve.backends.remembering import RememberingBackend
from deepserve.backends.tokens.turn_memory import TurnMemory
from deepserve.catalog.price_book import PriceBook
from deepserve.catalog.prices import VENDOR
from deepserve.catalog.providers import load_providers, read_upstream
from deepserve.config import EMBEDDED, Settings, UpstreamSettings
from deepserve.core.errors import ConfigurationError
from deepserve.store.turns import TurnStore

AMONG_OTHERS_S: Final = 120.0
"""Until the answer begins, where somebody else could be asked and the operator says nothing."""

_TELLING_ID_CHARACTERS: Final = 20
"""Of call ids that are taken for unique. Services that draw them at random write more; those that count write less."""

Guard = Callable[[Backend], Backend]
"""Puts what the settings want in front of a back end that does not enforce the form of answers."""


def named_upstreams(settings: Settings) -> tuple[UpstreamSettings, ...]:
    """All that the settings name, the single one of the command line first. Raises ConfigurationError."""
    others = settings.upstreams
    if settings.upstream is None:
        return others
    wanted = read_upstream(settings.upstream, taken=[one.id for one in others])
    if wanted.kind == EMBEDDED:
        return (wanted, *others)
    return (
        msgspec.structs.replace(
            wanted,
            key_file=settings.upstream_key_file,
            models=settings.upstream_models,
            tokenizer=settings.upstream_tokenizer,
        ),
        *others,
    )


def needs_engine(settings: Settings) -> bool:
    """Whether our own engine is one of those who answer."""
    if settings.backend != "upstream":
        return settings.backend == "embedded"
    return any(one.kind == EMBEDDED for one in named_upstreams(settings)) or any(
        EMBEDDED in chain for chain in settings.chains.values()
    )


def keeps_turns(settings: Settings) -> bool:
    """Whether there is something to keep of turns with tools: their tokens, or what was thought in them."""
    return settings.backend == "upstream" or needs_engine(settings)


def open_fleet(
    settings: Settings,
    *,
    guard: Guard,
    engine: Callable[[], Backend],
    environment: Mapping[str, str] | None = None,
    turns: TurnStore | None = None,
) -> FleetBackend:
    """Not yet started. engine: our own, made only where it is one of them. Raises SetupError.

    turns: where turns with tools are kept; stays open when members close
    """
    traces = TurnMemory(store=turns, owns_store=False, id_characters=_TELLING_ID_CHARACTERS)
    return FleetBackend(
        _members(settings, (), guard=guard, engine=engine, environment=environment, turns=turns, traces=traces),
        chains=settings.chains,
        settings=settings.fleet,
        price_of=_price_of(PriceBook(settings.prices_file)),
        turns=turns,
        traces=traces,
    )


async def refit_fleet(
    fleet: FleetBackend,
    before: Settings,
    after: Settings,
    *,
    guard: Guard,
    renewed: Collection[str] = (),
    environment: Mapping[str, str] | None = None,
) -> None:
    """The fleet as the new settings want it; members that nothing is said of anew stay, with what is known of them.

    renewed: ids of members that must be opened again though the settings say the same, for they have other keys.

    Raises SetupError, and then everything stays as it was. Our own engine cannot come or go while the server runs.
    """
    if needs_engine(before) != needs_engine(after):
        raise ConfigurationError("Our own engine joins or leaves the upstreams only when the server is started again.")
    is_guarded_alike = (before.answer_checks, before.check_retries) == (after.answer_checks, after.check_retries)
    kept = [one for one in fleet.members if (is_guarded_alike or one.id == EMBEDDED) and one.id not in renewed]
    members = _members(
        after,
        kept,
        guard=guard,
        engine=_no_engine,
        environment=environment,
        turns=fleet.turns,
        traces=fleet.traces,
    )
    await fleet.replace(members, chains=after.chains, settings=after.fleet)


def _no_engine() -> Backend:
    raise ConfigurationError("Our own engine joins the upstreams only when the server is started again.")


def _members(
    settings: Settings,
    kept: Sequence[Member],
    *,
    guard: Guard,
    engine: Callable[[], Backend],
    environment: Mapping[str, str] | None,
    turns: TurnStore | None,
    traces: TurnMemory | None,
) -> list[Member]:
    upstreams = named_upstreams(settings)
    if needs_engine(settings) and all(one.kind != EMBEDDED for one in upstreams):
        upstreams = (*upstreams, UpstreamSettings(id=EMBEDDED, kind=EMBEDDED))
    if not upstreams:
        raise ConfigurationError("No upstream is named: say --upstream deepseek, for example.")
    known = {one.id: one for one in kept}
    members: list[Member] = []
    for named in upstreams:
        upstream = _patient(named, is_alone=len(upstreams) == 1)
        old = known.get(upstream.id)
        if upstream.kind == EMBEDDED:
            members.append(old or Member.embedded(engine()))
        elif old is not None and old.upstream == upstream:
            members.append(old)
        else:
            members.append(_opened(upstream, settings, guard, environment, turns, traces))
    return members


def _patient(upstream: UpstreamSettings, *, is_alone: bool) -> UpstreamSettings:
    """Who is not alone need not be waited for as long as the client is."""
    if is_alone or upstream.first_event_s is not None or upstream.kind == EMBEDDED:
        return upstream
    return msgspec.structs.replace(upstream, first_event_s=AMONG_OTHERS_S)


def _opened(
    upstream: UpstreamSettings,
    settings: Settings,
    guard: Guard,
    environment: Mapping[str, str] | None,
    turns: TurnStore | None,
    traces: TurnMemory | None,
) -> Member:
    backend = guard(open_upstream(upstream, settings, environment=environment, turns=turns))
    if traces is not None and upstream.tokenizer is None:  # with one, prompts are written here, and remembered so
        backend = RememberingBackend(backend, traces)
    row = load_providers()[upstream.kind]
    collects = row.collects_data if upstream.collects_data is None else upstream.collects_data
    return Member(
        upstream.id,
        backend,
        kind=upstream.kind,
        names=(row.title,),
        upstream=upstream,
        is_own=upstream.is_self_hosted,
        region=None if upstream.region is None else upstream.region.lower(),
        collects_data=not upstream.is_self_hosted if collects is None else collects,
        max_concurrent=upstream.max_concurrent,
        limits=upstream_limits(upstream),
    )


def _price_of(prices: PriceBook) -> PriceOf:
    def price_of(kind: str, model: str, at: datetime) -> ListPrice | None:
        # As it is billed: at the vendor's price where whoever answers has none of its own, like our own engine.
        return prices.price_at(model, at, provider=kind) or prices.price_at(model, at, provider=VENDOR)

    return price_of

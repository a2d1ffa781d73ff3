"""GET /v1/catalog: models, their other names, who charges what for them, and who says so."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from deepserve.catalog.models import AliasRow, FamilyRow, ModelRow
from deepserve.catalog.prices import (
    ComparedModel,
    Hours,
    Price,
    PriceCatalog,
    PriceRow,
    Provider,
    Score,
    TierPrice,
    WindowPrice,
)
from deepserve.server.site import Site
from deepserve.server.visit import visit_of


class _PriceItem(msgspec.Struct, frozen=True, kw_only=True):
    """A row. now: what holds at this moment for short prompts; None where the row is not in force."""

    provider: str
    model: str
    since: datetime
    until: datetime | None
    price: Price
    windows: tuple[WindowPrice, ...]
    tiers: tuple[TierPrice, ...]
    source: str
    origin: Literal["shipped", "operator"]
    now: Price | None


class _CatalogPage(msgspec.Struct, frozen=True, kw_only=True):
    """Amounts are US dollars for a million tokens, as strings. problem: why the operator's file is not in force."""

    object: Literal["catalog"] = "catalog"
    unit: Literal["USD per 1,000,000 tokens"] = "USD per 1,000,000 tokens"
    at: datetime
    models: tuple[ModelRow, ...]
    aliases: tuple[AliasRow, ...]
    families: tuple[FamilyRow, ...]
    compared_models: tuple[ComparedModel, ...]
    providers: tuple[Provider, ...]
    hours: tuple[Hours, ...]
    prices: list[_PriceItem]
    scores: tuple[Score, ...]
    problem: str | None


def routes(site: Site) -> list[BaseRoute]:
    async def show(request: Request) -> Response:
        grant = visit_of(request.scope).tenant.grant
        page = _page(site, has_own=grant is None or grant.is_admin)
        return Response(msgspec.json.encode(page), media_type="application/json")

    return [Route("/v1/catalog", show)]


def _page(site: Site, *, has_own: bool) -> _CatalogPage:
    """has_own: with the operator's rows, whose amounts and sources are between them and their providers, and what is
    wrong with their file."""
    at, prices, names = site.now(), site.prices.current(), site.names
    return _CatalogPage(
        at=at,
        models=names.models,
        aliases=names.aliases,
        families=names.families,
        compared_models=prices.models,
        providers=prices.providers,
        hours=prices.hours,
        prices=[
            *(_item(row, prices, at, origin="operator") for row in prices.own_rows if has_own),
            *(_item(row, prices, at, origin="shipped") for row in prices.rows),
        ],
        scores=prices.scores,
        problem=site.prices.problem if has_own else None,
    )


def _item(row: PriceRow, prices: PriceCatalog, at: datetime, *, origin: Literal["shipped", "operator"]) -> _PriceItem:
    is_in_force = prices.row_at(row.model, at, provider=row.provider) is row
    return _PriceItem(
        provider=row.provider,
        model=row.model,
        since=row.since,
        until=row.until,
        price=row.price,
        windows=row.windows,
        tiers=row.tiers,
        source=row.source,
        origin=origin,
        now=prices.price_at(row.model, at, provider=row.provider) if is_in_force else None,
    )

"""OpenRouter's catalogue: the models, their endpoints, and who provides them: this server, or those behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from deepserve.catalog.listings import Listing
from deepserve.catalog.prices import VENDOR, Hours, Price
from deepserve.config import Settings
from deepserve.core.errors import InvalidField, RouteNotFound, UnknownModel
from deepserve.core.provider import ServedModel
from deepserve.dialects.chat.openrouter.flavour import PARAMETERS
from deepserve.dialects.openrouter.provider import PROVIDER_NAME
from deepserve.dialects.openrouter.slugs import Slugs
from deepserve.server.site import Site
from deepserve.server.visit import visit_of

_DEFAULT_PAGE = 500
_MAX_PAGE = 1000
_PER_TOKEN = Decimal("0.000001")
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

Item = dict[str, Any]
"""A JSON object on its way out."""


def catalogue_routes(site: Site, slugs: Slugs, base: str) -> list[BaseRoute]:
    models = _Models(site, slugs, base)
    return [
        Route(f"{base}/models", models.list),
        Route(f"{base}/models/user", models.list),
        Route(f"{base}/models/count", models.count),
        Route(f"{base}/models/{{slug:path}}/endpoints", models.endpoints),
        Route(f"{base}/model/{{slug:path}}", models.retrieve),
        Route(f"{base}/models/{{slug:path}}", models.retrieve),
        Route(f"{base}/endpoints/zdr", models.zero_retention),
        Route(f"{base}/providers", models.providers),
        Route(f"{base}/embeddings/models", models.embeddings),
    ]


class _Models:
    """Prices are those in force at the moment of asking; the hours that cost more are listed with them."""

    def __init__(self, site: Site, slugs: Slugs, base: str) -> None:
        self._site = site
        self._slugs = slugs
        self._base = base

    async def list(self, request: Request) -> Response:
        """All models, or those that the filters of the query leave; filters that nothing acts on are named."""
        items = [self._item(listing, served) for listing, served in self._listed(request)]
        ignored: list[str] = []
        for name, wanted in request.query_params.items():
            if name in ("offset", "limit"):
                continue
            if name not in _FILTERS:
                ignored.append(name)
                continue
            items = [item for item in items if _FILTERS[name](item, wanted)]
        first = _number(request, "offset", 0, low=0, high=10**9)
        size = _number(request, "limit", _DEFAULT_PAGE, low=1, high=_MAX_PAGE)
        following = None
        if first + size < len(items):
            following = f"{self._base}/models?offset={first + size}&limit={size}"
        response = _json({"data": items[first : first + size], "total_count": len(items), "links": {"next": following}})
        if ignored:
            names = ", ".join(ignored)[:1024]
            response.headers["x-deepserve-ignored"] = "".join(
                letter if " " <= letter <= "~" else "?" for letter in names
            )
        return response

    async def count(self, request: Request) -> Response:
        return _json({"data": {"count": len(self._listed(request))}})

    async def retrieve(self, request: Request) -> Response:
        return _json({"data": self._item(*self._find(request))})

    async def endpoints(self, request: Request) -> Response:
        listing, served = self._find(request)
        return _json(
            {
                "data": {
                    "id": listing.name,
                    "name": listing.title,
                    "created": int(listing.created_at.timestamp()),
                    "description": _description(listing, served),
                    "architecture": _architecture(served),
                    "endpoints": self._endpoints(listing, served),
                }
            }
        )

    async def zero_retention(self, request: Request) -> Response:
        """Those who keep no prompts; none where the server writes what it has read to its own disk."""
        listed = () if keeps_prompts(self._site.settings) else self._listed(request)
        ends = [end for listing, served in listed for end in self._endpoints(listing, served, keeps_nothing=True)]
        return _json({"data": ends})

    async def providers(self, request: Request) -> Response:
        listed = self._listed(request)
        names = dict.fromkeys(end.provider for _, served in listed for end in served.endpoints) or (PROVIDER_NAME,)
        unknown = dict.fromkeys(
            ("privacy_policy_url", "terms_of_service_url", "status_page_url", "headquarters", "datacenters")
        )
        return _json({"data": [{"name": name, "slug": name, **unknown} for name in names]})

    async def embeddings(self, _: Request) -> Response:
        """V4 makes none."""
        return _json({"data": [], "total_count": 0, "links": {"next": None}})

    def _listed(self, request: Request) -> Sequence[tuple[Listing, ServedModel]]:
        served = {model.id: model for model in self._site.gateway.models(visit_of(request.scope).tenant)}
        return [
            (listing, served[listing.model])
            for listing in self._site.listings.openrouter
            if listing.is_listed and listing.model in served
        ]

    def _find(self, request: Request) -> tuple[Listing, ServedModel]:
        try:
            slug = self._slugs.read(request.path_params["slug"])
        except UnknownModel as error:
            raise RouteNotFound(error.message, field="model") from error
        for served in self._site.gateway.models(visit_of(request.scope).tenant):
            for listing in self._site.listings.openrouter:
                if listing.dated_name == slug.dated_name and served.id == listing.model:
                    return listing, served
        raise RouteNotFound(f"No endpoints found for {slug.model.requested[:200]}.", field="model")

    def _item(self, listing: Listing, served: ServedModel) -> Item:
        return {
            "id": listing.name,
            "canonical_slug": listing.dated_name,
            "hugging_face_id": listing.hugging_face_id,
            "name": listing.title,
            "created": int(listing.created_at.timestamp()),
            "description": _description(listing, served),
            "context_length": served.context_tokens,
            "architecture": _architecture(served),
            "pricing": self._pricing(served.id),
            "top_provider": {
                "context_length": served.context_tokens,
                "max_completion_tokens": served.max_output_tokens,
                "is_moderated": False,
            },
            "per_request_limits": None,
            "supported_parameters": PARAMETERS,
            "default_parameters": None,
            "supported_voices": None,
            "knowledge_cutoff": None,
            "expiration_date": None,
            "links": {"details": f"{self._base}/models/{listing.dated_name}/endpoints"},
            "reasoning": {
                "mandatory": False,
                "default_enabled": True,
                "default_effort": "high",
                "supported_efforts": ["xhigh", "high"],
                "supports_max_tokens": True,
            },
        }

    def _endpoints(self, listing: Listing, served: ServedModel, *, keeps_nothing: bool = False) -> Sequence[Item]:
        """In the order in which they are asked. keeps_nothing: those alone that keep no prompts."""
        if not served.endpoints:
            is_ready = self._site.gateway.is_ready()
            return [self._endpoint(listing, served, PROVIDER_NAME, self._pricing(served.id), is_ready=is_ready)]
        fleet = self._site.gateway.fleet
        statuses = () if fleet is None else fleet.upstreams()
        resting = {one.id for one in statuses if one.model == served.id and one.state not in ("ready", "full")}
        return [
            self._endpoint(
                listing,
                msgspec.structs.replace(
                    served, context_tokens=end.context_tokens, max_output_tokens=end.max_output_tokens
                ),
                end.provider,
                self._pricing(served.id, provider=end.kind),
                is_ready=end.provider not in resting,
            )
            for end in served.endpoints
            if not (keeps_nothing and end.collects_data)
        ]

    def _endpoint(self, listing: Listing, served: ServedModel, provider: str, pricing: Item, *, is_ready: bool) -> Item:
        return {
            "name": f"{provider} | {listing.dated_name}",
            "model_id": listing.name,
            "model_name": listing.title,
            "context_length": served.context_tokens,
            "pricing": {**pricing, "discount": 0},
            "provider_name": provider,
            "tag": provider,
            "quantization": "unknown",
            "max_completion_tokens": served.max_output_tokens,
            "max_prompt_tokens": None,
            "supported_parameters": PARAMETERS,
            "status": 0 if is_ready else -1,
            # Not measured, which the clients know as null.
            "uptime_last_5m": None,
            "uptime_last_30m": None,
            "uptime_last_1d": None,
            "latency_last_30m": None,
            "throughput_last_30m": None,
            "supports_implicit_caching": True,
            "native_tools": {},
            "service_tier": None,
            "supports_diarization": False,
            "supports_tool_choice": {"none": True, "auto": True, "required": True, "function": True},
            "served_by": served.served_by,
        }

    def _pricing(self, model: str, *, provider: str = VENDOR) -> Item:
        """The vendor's where the provider has none; zero where no price is known: nothing is charged then."""
        now = self._site.now()
        row = self._site.prices.row_at(model, now, provider=provider) or self._site.prices.row_at(model, now)
        if row is None:
            return {"prompt": "0", "completion": "0"}
        pricing: Item = _prices(row.price)
        overrides = [
            {**times, **_prices(window.price)}
            for window in row.windows
            for times in _windows(self._site.prices.hours_at(window.hours, now))
        ]
        if overrides:
            pricing["overrides"] = overrides
        return pricing


def keeps_prompts(settings: Settings) -> bool:
    """Whether cached prefixes or turns with tools outlive the memory of the process."""
    return settings.state_dir is not None and (settings.disk_cache_bytes > 0 or settings.kept_turns_s > 0)


def _prices(price: Price) -> Item:
    """US dollars for one token, as decimal strings."""
    return {
        "prompt": _per_token(price.miss),
        "completion": _per_token(price.output),
        "input_cache_read": _per_token(price.hit),
    }


def _per_token(million: Decimal) -> str:
    return format((million * _PER_TOKEN).normalize(), "f")


def _windows(hours: Hours | None) -> list[Item]:
    """Hours and minutes as one number, `100` for one o'clock. Days without them cannot be told in this form."""
    if hours is None:
        return []
    days = [_WEEKDAYS[day] for day in hours.weekdays]
    return [
        {"utc_days": days, "utc_start": int(begin.replace(":", "")), "utc_end": int(end.replace(":", ""))}
        for begin, end in hours.windows_utc
    ]


def _architecture(served: ServedModel) -> Item:
    return {
        "modality": f"{'+'.join(served.input_modalities)}->{'+'.join(served.output_modalities)}",
        "input_modalities": served.input_modalities,
        "output_modalities": served.output_modalities,
        "tokenizer": "DeepSeek",
        "instruct_type": None,
    }


def _description(listing: Listing, served: ServedModel) -> str:
    """With what really answers, which need not be what the name promises."""
    return f"{listing.summary}. Answered by {served.served_by.label}. {served.note}".strip()


def _csv(text: str) -> set[str]:
    return {part.strip().lower() for part in text.split(",") if part.strip()}


def _at_least(path: tuple[str, ...], scale: int = 1) -> Callable[[Item, str], bool]:
    return lambda item, wanted: _at(item, path) * scale >= _decimal(wanted)


def _at_most(path: tuple[str, ...], scale: int = 1) -> Callable[[Item, str], bool]:
    return lambda item, wanted: _at(item, path) * scale <= _decimal(wanted)


def _at(item: Item, path: tuple[str, ...]) -> Decimal:
    found: Any = item  # Any: a JSON value
    for step in path:
        found = found[step]
    return Decimal(str(found))


def _decimal(text: str) -> Decimal:
    try:
        found = Decimal(text)
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite():
        raise InvalidField(f"`{text[:64]}` is not a number.")
    return found


_FILTERS: Mapping[str, Callable[[Item, str], bool]] = {
    "q": lambda item, wanted: wanted.strip().lower() in f"{item['id']} {item['name']}".lower(),
    "supported_parameters": lambda item, wanted: _csv(wanted) <= set(item["supported_parameters"]),
    "input_modalities": lambda item, wanted: _csv(wanted) <= set(item["architecture"]["input_modalities"]),
    "output_modalities": lambda item, wanted: (
        wanted == "all" or _csv(wanted) <= set(item["architecture"]["output_modalities"])
    ),
    "context": _at_least(("context_length",)),
    "min_price": _at_least(("pricing", "prompt"), 1_000_000),
    "max_price": _at_most(("pricing", "prompt"), 1_000_000),
    "min_output_price": _at_least(("pricing", "completion"), 1_000_000),
    "max_output_price": _at_most(("pricing", "completion"), 1_000_000),
    "model_authors": lambda item, wanted: item["id"].partition("/")[0] in _csv(wanted),
    "providers": lambda _, wanted: PROVIDER_NAME in _csv(wanted),
}
"""Filters of the query, each with what it leaves."""


def _number(request: Request, name: str, default: int, *, low: int, high: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 12 and low <= int(text) <= high):
        raise InvalidField(f"{name}: a number from {low} to {high}", field=name)
    return int(text)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")

"""The addresses of OpenRouter's API, below `/api/v1`: answers, and through other modules the catalogue and accounts."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from deepserve.core import provider
from deepserve.dialects.chat.openrouter.exchange import openrouter_decoder
from deepserve.dialects.completions.openrouter import openrouter_completions_decoder
from deepserve.dialects.exchange import AnswerHead
from deepserve.dialects.openrouter.ids import generation_id
from deepserve.dialects.openrouter.routing import Directory
from deepserve.dialects.openrouter.slugs import Slugs
from deepserve.server.delivery import HeaderList
from deepserve.server.endpoint import Endpoint
from deepserve.server.messages import messages_routes
from deepserve.server.openrouter_account import account_routes
from deepserve.server.openrouter_models import catalogue_routes, keeps_prompts
from deepserve.server.site import Site

BASE = "/api/v1"


def routes(site: Site) -> list[BaseRoute]:
    slugs = Slugs(site.listings.openrouter, site.names.without_presets())
    limits = site.settings.limits
    directory = Directory(
        slugs=slugs,
        default_model=lambda: site.gateway.models()[0].id,
        prices=site.prices,
        keeps_prompts=keeps_prompts(site.settings),
        endpoints=lambda model: _endpoints(site, model),
    )
    decode = openrouter_decoder(directory=directory, limits=limits)
    decode_plain = openrouter_completions_decoder(directory=directory, limits=limits)
    chat = Endpoint(site, decode, name="openrouter chat", announce=_announce)
    completions = Endpoint(site, decode_plain, name="openrouter completions", announce=_announce)
    return [
        Route(f"{BASE}/chat/completions", chat, methods=["POST"]),
        Route(f"{BASE}/completions", completions, methods=["POST"]),
        *messages_routes(site, (BASE,), tells_cost=True),
        *catalogue_routes(site, slugs, BASE),
        *account_routes(site, BASE),
    ]


def _endpoints(site: Site, model: str) -> tuple[provider.Endpoint, ...] | None:
    return next((served.endpoints for served in site.gateway.models() if served.id == model), None)


def _announce(head: AnswerHead) -> HeaderList:
    return [(b"x-generation-id", generation_id(head).encode())]

"""The addresses of OpenRouter's API, below `/api/v1`: answers, and through other modules the catalogue and accounts."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from deepserve.dialects.chat.openrouter.exchange import openrouter_decoder
from deepserve.dialects.completions.openrouter import openrouter_completions_decoder
from deepserve.dialects.exchange import AnswerHead, Decode
from deepserve.dialects.openrouter.ids import generation_id
from deepserve.dialects.openrouter.skin import with_routing
from deepserve.server.delivery import HeaderList
from deepserve.server.endpoint import Endpoint
from deepserve.server.live_settings import LimitedDecode
from deepserve.server.messages import messages_routes
from deepserve.server.openrouter_account import account_routes
from deepserve.server.openrouter_directory import directory_of
from deepserve.server.openrouter_models import catalogue_routes
from deepserve.server.site import Site

BASE = "/api/v1"


def routes(site: Site) -> list[BaseRoute]:
    directory = directory_of(site)
    decode = LimitedDecode(site.live, lambda limits: openrouter_decoder(directory=directory, limits=limits))
    decode_plain = LimitedDecode(
        site.live, lambda limits: openrouter_completions_decoder(directory=directory, limits=limits)
    )
    chat = Endpoint(site, decode, name="openrouter chat", announce=_announce)
    completions = Endpoint(site, decode_plain, name="openrouter completions", announce=_announce)

    def skin(dialect: Decode) -> Decode:
        return with_routing(dialect, directory=directory, limits=lambda: site.settings.limits)

    return [
        Route(f"{BASE}/chat/completions", chat, methods=["POST"]),
        Route(f"{BASE}/completions", completions, methods=["POST"]),
        *messages_routes(site, (BASE,), tells_cost=True, skin=skin),
        *catalogue_routes(site, directory.slugs, BASE),
        *account_routes(site, BASE),
    ]


def _announce(head: AnswerHead) -> HeaderList:
    return [(b"x-generation-id", generation_id(head).encode())]

"""POST /completions: plain completion, and filling in between two texts."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from deepserve.dialects.completions.exchange import completions_decoder
from deepserve.server.endpoint import Endpoint
from deepserve.server.live_settings import LimitedDecode
from deepserve.server.site import Site

_PREFIXES = ("", "/v1", "/beta", "/beta/v1")
"""The vendor has it at `/beta` alone; clients of other services look for it at `/v1`."""


def routes(site: Site) -> list[BaseRoute]:
    decode = LimitedDecode(site.live, lambda limits: completions_decoder(names=site.names, limits=limits))
    endpoint = Endpoint(site, decode, name="completions")
    return [Route(f"{prefix}/completions", endpoint, methods=["POST"]) for prefix in _PREFIXES]

"""GET /v1/cache/explain: why a request found little of its prompt in the prefix cache."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from deepserve.core.errors import RouteNotFound
from deepserve.server.cache_watch import Remembered
from deepserve.server.site import Site
from deepserve.server.visit import visit_of


def routes(site: Site) -> list[BaseRoute]:
    return [Route("/v1/cache/explain", _CacheExplained(site).show)]


class _CacheExplained:
    """`a`: the earlier request, `b`: the later one, by their ids. Without `a` the one that shares most with it is
    taken, without `b` the last one."""

    def __init__(self, site: Site) -> None:
        self._watch = site.misses

    async def show(self, request: Request) -> Response:
        watch, tenant = self._watch, visit_of(request.scope).tenant.id
        if not watch.is_on:
            raise RouteNotFound("This server remembers no requests. Start it with --explain-cache.")

        def named(name: str) -> Remembered | None:
            wanted = request.query_params.get(name)
            if not wanted:
                return None
            found = watch.find(tenant, wanted)
            if found is None:
                raise RouteNotFound(f"No request {wanted[:100]} is remembered: only the last few are.", field=name)
            return found

        later = named("b") or watch.last(tenant)
        earlier = named("a") or (None if later is None else watch.nearest(later))
        if later is None or earlier is None:
            raise RouteNotFound("There is nothing to compare with yet: two requests are needed.")
        found = await watch.explanation(earlier, later)
        return Response(msgspec.json.encode(found), media_type="application/json")

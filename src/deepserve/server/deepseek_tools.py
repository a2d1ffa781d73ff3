"""POST /v1/tools/search and /v1/tools/fetch: DeepSeek's raw search and fetch, answered by the server's own tools."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from deepserve.core.errors import (
    BackendFailure,
    DeepserveError,
    InvalidField,
    RequestTimedOut,
    RouteNotFound,
    TooManyRequests,
)
from deepserve.core.messages import Json
from deepserve.core.request import ServerTool
from deepserve.core.server_tool import FetchedPage, SearchHit, SearchResults, ToolFault, ToolOutput
from deepserve.core.web_tools import encode
from deepserve.dialects.raw_web import RawSearch, decode_fetch, decode_search, encode_fetch, encode_search
from deepserve.limits.scopes import check_tool
from deepserve.server.body import read_body
from deepserve.server.endpoint import header_list
from deepserve.server.site import Site
from deepserve.server.visit import visit_of
from deepserve.tools.call import call_tool
from deepserve.tools.runner import CallContext, ToolRunner
from deepserve.tools.search.web_search import WebSearch
from deepserve.tools.toolbox import OfferedTool

_MAX_CONTENT_CHARACTERS = 20_000
_PAGES_AT_ONCE = 4


def routes(site: Site) -> list[BaseRoute]:
    tools = _DeepSeekTools(site)
    return [
        Route(f"{prefix}/tools/{name}", endpoint, methods=["POST"])
        for prefix in ("", "/v1")
        for name, endpoint in (("search", tools.search), ("fetch", tools.fetch))
    ]


class _DeepSeekTools:
    def __init__(self, site: Site) -> None:
        self._site = site

    async def search(self, request: Request) -> Response:
        check_tool(visit_of(request.scope).tenant, "tools", "web_search")
        raw = await read_body(request.scope, request.receive, self._site.settings.limits)
        wanted = decode_search(raw, self._site.settings.limits)
        runner = self._runner("web_search", "--search-folder or --search")
        output = await self._call(
            request,
            runner,
            {"query": wanted.query},
            ServerTool(tool="web_search", name="web_search", options=encode(wanted.options)),
        )
        match output:
            case SearchResults(hits=hits):
                contents = await self._contents(request, hits) if wanted.needs_content else {}
                body = encode_search(hits, contents)
                return _json(body, (*wanted.ignored, *self._unheard(request, wanted, runner)))
            case ToolFault():
                raise _refusal(output, "query")
            case _:
                raise BackendFailure("The search brought back something else than results.")

    async def fetch(self, request: Request) -> Response:
        check_tool(visit_of(request.scope).tenant, "tools", "web_fetch")
        raw = await read_body(request.scope, request.receive, self._site.settings.limits)
        url = decode_fetch(raw, self._site.settings.limits)
        output = await self._fetch(request, self._runner("web_fetch", "--fetch"), url)
        match output:
            case FetchedPage():
                return _json(encode_fetch(output), ())
            case ToolFault(code="not_allowed" | "not_accessible" | "unsupported_content" | "failed", message=message):
                raise RouteNotFound(f"failed to fetch URL: {message}", field="url")
            case ToolFault():
                raise _refusal(output, "url")
            case _:
                raise BackendFailure("Fetching brought back something else than a page.")

    def _runner(self, tool: Literal["web_search", "web_fetch"], option: str) -> ToolRunner:
        runner = self._site.gateway.toolbox.runner(tool)
        if runner is None:
            raise RouteNotFound(f"This server has no such tool. Its operator can start it with {option}.")
        return runner

    def _unheard(self, request: Request, wanted: RawSearch, runner: ToolRunner) -> list[str]:
        """What was asked for within the query and the search in use knows nothing of."""
        honours = runner.provider.honours if isinstance(runner, WebSearch) else frozenset()
        options = wanted.options
        asked = {"query.lang": options.language, "query.after": options.after, "query.before": options.before}
        kinds = {"query.lang": "language", "query.after": "dates", "query.before": "dates"}
        unheard = [name for name, value in asked.items() if value is not None and kinds[name] not in honours]
        if wanted.needs_content and self._fetcher(request) is None:
            unheard.append("need_content")
        return unheard

    def _fetcher(self, request: Request) -> ToolRunner | None:
        """What reads the pages that were found; None where there is none, or none for this key."""
        grant = visit_of(request.scope).tenant.grant
        if grant is not None and grant.tools is not None and "web_fetch" not in grant.tools:
            return None
        return self._site.gateway.toolbox.runner("web_fetch")

    async def _contents(self, request: Request, hits: tuple[SearchHit, ...]) -> dict[str, str]:
        """Pages that cannot be read stay empty: the search itself has succeeded."""
        runner = self._fetcher(request)
        if runner is None:
            return {}
        turns = asyncio.Semaphore(_PAGES_AT_ONCE)

        async def read(url: str) -> str:
            async with turns:
                output = await self._fetch(request, runner, url)
            return output.text[:_MAX_CONTENT_CHARACTERS] if isinstance(output, FetchedPage) else ""

        async with asyncio.TaskGroup() as group:
            reading = {hit.url: group.create_task(read(hit.url)) for hit in hits}
        return {url: task.result() for url, task in reading.items()}

    async def _fetch(self, request: Request, runner: ToolRunner, url: str) -> ToolOutput:
        return await self._call(request, runner, {"url": url}, ServerTool(tool="web_fetch", name="web_fetch"))

    async def _call(
        self, request: Request, runner: ToolRunner, arguments: dict[str, Json], wanted: ServerTool
    ) -> ToolOutput:
        visit, limits = visit_of(request.scope), self._site.settings.tool_limits
        context = CallContext(tenant=visit.tenant.id, session=visit.id.hex, timeout_s=limits.call_s)
        return await call_tool(
            OfferedTool(wanted=wanted, function=runner.offer(wanted), runner=runner),
            msgspec.json.encode(arguments).decode(),
            context,
            missing="",
            max_characters=limits.result_characters,
        )


def _refusal(fault: ToolFault, field: str) -> DeepserveError:
    match fault.code:
        case "invalid_input" | "input_too_long" | "not_allowed":
            return InvalidField(f"'{field}': {fault.message}", field=field)
        case "too_many_requests" | "max_uses_exceeded":
            return TooManyRequests(fault.message)
        case "timed_out":
            return RequestTimedOut(fault.message)
        case _:
            return BackendFailure(fault.message)


def _json(body: bytes, ignored: tuple[str, ...]) -> Response:
    headers = {"x-deepserve-ignored": header_list(ignored).decode()} if ignored else {}
    return Response(body, media_type="application/json", headers=headers)

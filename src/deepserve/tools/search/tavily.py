"""Tavily, by key: https://docs.tavily.com/documentation/api-reference/endpoint/search."""

from __future__ import annotations

from typing import Any

import msgspec
from typing_extensions import override

from deepserve.core.server_tool import SearchResults, ToolFault
from deepserve.core.web_tools import SearchOptions
from deepserve.tools.search.provider import RawHit, SearchProvider, Wish, choose_hits, read_day, too_long
from deepserve.tools.search.service import SearchService

ADDRESS = "https://api.tavily.com/search"

_MAX_COUNT = 20
_MAX_CHARACTERS = 400


class _Result(msgspec.Struct, frozen=True):
    url: str = ""
    title: str = ""
    content: str | None = None
    published_date: str | None = None


class _Answer(msgspec.Struct, frozen=True):
    results: list[_Result]


class Tavily(SearchProvider):
    name = "Tavily"
    honours: frozenset[Wish] = frozenset(("dates",))

    def __init__(self, key: str, *, address: str = ADDRESS) -> None:
        self._service = SearchService(self.name, address)
        self._key = key

    @override
    async def start(self) -> None:
        """It is somebody else's to start."""

    @override
    async def search(self, query: str, options: SearchOptions) -> SearchResults | ToolFault:
        fault = too_long(query, max_characters=_MAX_CHARACTERS)
        if fault is not None:
            return fault
        # Any: a JSON object on its way out
        wanted: dict[str, Any] = {
            "query": query,
            "max_results": min(options.max_results, _MAX_COUNT),
            "search_depth": "basic",
        }
        if options.domains.allowed:
            wanted["include_domains"] = list(options.domains.allowed)
        if options.domains.blocked:
            wanted["exclude_domains"] = list(options.domains.blocked)
        if options.after is not None:
            wanted["start_date"] = options.after.isoformat()
        if options.before is not None:
            wanted["end_date"] = options.before.isoformat()
        answer = await self._service.ask(_Answer, body=wanted, headers={"Authorization": f"Bearer {self._key}"})
        if isinstance(answer, ToolFault):
            return answer
        return SearchResults(query=query, hits=choose_hits([_hit(result) for result in answer.results], options))

    @override
    async def close(self) -> None:
        await self._service.close()


def _hit(result: _Result) -> RawHit:
    return RawHit(
        url=result.url,
        title=result.title,
        snippet=result.content or "",
        age=result.published_date,
        day=read_day(result.published_date),
    )

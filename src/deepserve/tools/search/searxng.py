"""SearXNG, a search engine to run oneself that asks many others.

Its search API: https://docs.searxng.org/dev/search_api.html. The operator must allow the format `json` there.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import msgspec
from typing_extensions import override

from deepserve.core.server_tool import SearchResults, ToolFault
from deepserve.core.web_tools import SearchOptions
from deepserve.tools.search.provider import RawHit, SearchProvider, Wish, choose_hits, read_day
from deepserve.tools.search.service import SearchService
from deepserve.tools.search.sites import with_sites

_MAX_PAGES = 3
_RANGES = ((1, "day"), (31, "month"), (366, "year"))
"""How far back in days each reaches. Newer releases know `week`, too; older ones refuse it."""


class _Result(msgspec.Struct, frozen=True):
    url: str = ""
    title: str = ""
    content: str | None = None
    publishedDate: Any = None  # noqa: N815 - its spelling; Any: a time or nothing, and engines differ in how


class _Answer(msgspec.Struct, frozen=True):
    results: list[_Result]


class SearXng(SearchProvider):
    """address: of the instance, such as https://search.example. today: the day from which ages are counted."""

    name = "SearXNG"
    honours: frozenset[Wish] = frozenset(("language", "dates"))

    def __init__(self, address: str, *, today: Callable[[], date]) -> None:
        self._service = SearchService(self.name, f"{address.rstrip('/')}/search")
        self._today = today

    @override
    async def start(self) -> None:
        """It is somebody else's to start."""

    @override
    async def search(self, query: str, options: SearchOptions) -> SearchResults | ToolFault:
        parameters: dict[str, str | int] = {"q": with_sites(query, options.domains), "format": "json"}
        if options.language is not None:
            parameters["language"] = options.language
        span = self._range(options)
        if span is not None:
            parameters["time_range"] = span
        hits: list[RawHit] = []
        for page in range(1, _MAX_PAGES + 1):
            answer = await self._service.ask(_Answer, query={**parameters, "pageno": page})
            if isinstance(answer, ToolFault):
                # What earlier pages brought is worth more than the fault of a later one.
                return answer if page == 1 else SearchResults(query=query, hits=choose_hits(hits, options))
            hits += [_hit(result) for result in answer.results]
            if not answer.results or len(choose_hits(hits, options)) == options.max_results:
                break
        return SearchResults(query=query, hits=choose_hits(hits, options))

    @override
    async def close(self) -> None:
        await self._service.close()

    def _range(self, options: SearchOptions) -> str | None:
        """The narrowest that holds all that is wanted; what it lets through beyond that is sorted out by date."""
        if options.after is None:
            return None
        days = (self._today() - options.after).days
        return next((span for reach, span in _RANGES if days <= reach), None)


def _hit(result: _Result) -> RawHit:
    day = read_day(result.publishedDate)
    return RawHit(
        url=result.url,
        title=result.title,
        snippet=result.content or "",
        age=None if day is None else day.isoformat(),
        day=day,
    )

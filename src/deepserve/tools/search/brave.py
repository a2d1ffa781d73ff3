"""Brave Search, by key: https://api-dashboard.search.brave.com/api-reference/web/search/get."""

from __future__ import annotations

from datetime import date

import msgspec
from typing_extensions import override

from deepserve.core.server_tool import SearchResults, ToolFault
from deepserve.core.web_tools import SearchOptions
from deepserve.tools.search.provider import RawHit, SearchProvider, Wish, choose_hits, read_day, too_long
from deepserve.tools.search.service import SearchService
from deepserve.tools.search.sites import with_sites

ADDRESS = "https://api.search.brave.com/res/v1/web/search"

_MAX_COUNT = 20
_MAX_PAGES = 3
_MAX_CHARACTERS = 400
_MAX_WORDS = 50
_FIRST_DAY, _LAST_DAY = date(1990, 1, 1), date(2999, 12, 31)


class _Result(msgspec.Struct, frozen=True):
    url: str = ""
    title: str = ""
    description: str | None = None
    age: str | None = None
    page_age: str | None = None
    extra_snippets: list[str] | None = None


class _Web(msgspec.Struct, frozen=True):
    results: list[_Result] = []


class _Answer(msgspec.Struct, frozen=True):
    """`web` is missing where nothing was found."""

    web: _Web | None = None


class Brave(SearchProvider):
    name = "Brave Search"
    honours: frozenset[Wish] = frozenset(("country", "language", "dates"))

    def __init__(self, key: str, *, address: str = ADDRESS) -> None:
        self._service = SearchService(self.name, address)
        self._key = key

    @override
    async def start(self) -> None:
        """It is somebody else's to start."""

    @override
    async def search(self, query: str, options: SearchOptions) -> SearchResults | ToolFault:
        fault = too_long(query, max_characters=_MAX_CHARACTERS, max_words=_MAX_WORDS)
        if fault is not None:
            return fault
        narrowed = with_sites(query, options.domains, max_characters=_MAX_CHARACTERS)
        parameters: dict[str, str | int] = {
            "q": narrowed if len(narrowed.split()) <= _MAX_WORDS else query,
            "count": min(options.max_results, _MAX_COUNT),
            "text_decorations": "false",
            "result_filter": "web",
        }
        if options.location.country is not None:
            parameters["country"] = options.location.country.upper()
        if options.language is not None:
            parameters["search_lang"] = options.language.lower()
        if options.after is not None or options.before is not None:
            parameters["freshness"] = f"{options.after or _FIRST_DAY}to{options.before or _LAST_DAY}"
        hits: list[RawHit] = []
        for page in range(_MAX_PAGES):
            answer = await self._service.ask(
                _Answer, query={**parameters, "offset": page}, headers={"X-Subscription-Token": self._key}
            )
            if isinstance(answer, ToolFault):
                # What earlier pages brought is worth more than the fault of a later one.
                return answer if page == 0 else SearchResults(query=query, hits=choose_hits(hits, options))
            results = [] if answer.web is None else answer.web.results
            hits += [_hit(result) for result in results]
            if not results or len(choose_hits(hits, options)) == options.max_results:
                break
        return SearchResults(query=query, hits=choose_hits(hits, options))

    @override
    async def close(self) -> None:
        await self._service.close()


def _hit(result: _Result) -> RawHit:
    return RawHit(
        url=result.url,
        title=result.title,
        snippet=" … ".join((result.description or "", *(result.extra_snippets or ()))),
        age=result.age or result.page_age,
        day=read_day(result.page_age),
    )

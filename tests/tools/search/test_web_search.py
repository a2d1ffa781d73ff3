"""The tool that searches, as a model calls it."""

from __future__ import annotations

import asyncio

import pytest
from typing_extensions import override

from deepserve.core.messages import Json
from deepserve.core.request import ServerTool
from deepserve.core.server_tool import SearchHit, SearchResults, ToolFault, ToolOutput
from deepserve.core.tenant import TenantId
from deepserve.core.web_tools import SearchOptions, encode
from deepserve.tools.runner import CallContext
from deepserve.tools.search.combined import CombinedSearch
from deepserve.tools.search.provider import SearchProvider, Wish
from deepserve.tools.search.web_search import WebSearch

CONTEXT = CallContext(tenant=TenantId("t"), session="s", timeout_s=1.0)


class Known(SearchProvider):
    """Finds what it was made with."""

    honours: frozenset[Wish] = frozenset(("dates",))

    def __init__(self, *urls: str, fault: ToolFault | None = None) -> None:
        self.name = "known"
        self._urls = urls
        self._fault = fault
        self.asked: list[tuple[str, SearchOptions]] = []
        self.is_started = self.is_closed = False

    @override
    async def start(self) -> None:
        self.is_started = True

    @override
    async def search(self, query: str, options: SearchOptions) -> SearchResults | ToolFault:
        self.asked.append((query, options))
        hits = tuple(SearchHit(url=url, title=url, snippet="") for url in self._urls)
        return self._fault or SearchResults(query=query, hits=hits[: options.max_results])

    @override
    async def close(self) -> None:
        self.is_closed = True


def call(provider: SearchProvider, arguments: dict[str, Json], options: SearchOptions | None = None) -> ToolOutput:
    wanted = ServerTool(tool="web_search", name="web_search", options=encode(options or SearchOptions()))
    return asyncio.run(WebSearch(provider).run(arguments, wanted, CONTEXT))


def test_the_tool_passes_on_what_the_model_and_the_client_want() -> None:
    provider, options = Known("https://a.example/"), SearchOptions(max_results=3)
    got = call(provider, {"query": "  two\n words "}, options)
    assert isinstance(got, SearchResults)
    assert provider.asked == [("two words", options)]
    assert WebSearch(provider).offer(ServerTool(tool="web_search", name="find")).name == "find"


@pytest.mark.parametrize("arguments", [{}, {"query": None}, {"query": ""}, {"query": " \n"}, {"query": 7}, {"q": "x"}])
def test_arguments_that_ask_nothing_are_a_fault(arguments: dict[str, Json]) -> None:
    got = call(Known(), arguments)
    assert isinstance(got, ToolFault)
    assert got.code == "invalid_input"


def test_endless_queries_are_a_fault() -> None:
    got = call(Known(), {"query": "x" * 1001})
    assert isinstance(got, ToolFault)
    assert got.code == "input_too_long"


def test_several_places_take_turns_and_nothing_comes_twice() -> None:
    both = CombinedSearch([Known("https://a/1", "https://a/2", "https://a/3"), Known("https://b/1", "https://a/1")])
    got = call(both, {"query": "q"})
    assert isinstance(got, SearchResults)
    assert [hit.url for hit in got.hits] == ["https://a/1", "https://b/1", "https://a/2", "https://a/3"]
    got = call(both, {"query": "q"}, SearchOptions(max_results=2))
    assert isinstance(got, SearchResults)
    assert [hit.url for hit in got.hits] == ["https://a/1", "https://b/1"]


def test_a_place_that_fails_is_left_out_while_another_answers() -> None:
    broken = Known(fault=ToolFault(code="unavailable", message="no"))
    got = call(CombinedSearch([broken, Known("https://b/1")]), {"query": "q"})
    assert isinstance(got, SearchResults)
    assert len(got.hits) == 1
    assert isinstance(call(CombinedSearch([broken, broken]), {"query": "q"}), ToolFault)


def test_all_places_are_started_and_closed() -> None:
    async def run() -> None:
        places = [Known(), Known()]
        tool = WebSearch(CombinedSearch(places))
        await tool.provider.start()
        await tool.close()
        assert all(place.is_started and place.is_closed for place in places)

    asyncio.run(run())

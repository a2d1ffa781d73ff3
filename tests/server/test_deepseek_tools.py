"""DeepSeek's raw search and fetch."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from deepserve.config import Settings
from deepserve.core.server_tool import FetchedPage, SearchHit, SearchResults, ToolErrorCode, ToolFault
from deepserve.core.web_tools import SearchOptions, decode
from deepserve.tools.toolbox import EMPTY, Toolbox
from deepserve.tools.web import open_web_tools
from tests.server.live import LiveServer, live_server
from tests.tools.scripted_tool import ScriptedTool, found, page

SEARCH, FETCH = "/v1/tools/search", "/v1/tools/fetch"


@pytest.fixture(scope="module")
def tools() -> dict[str, ScriptedTool]:
    return {"search": ScriptedTool(found), "fetch": ScriptedTool(page, argument="url")}


@pytest.fixture(scope="module")
def server(tools: dict[str, ScriptedTool]) -> Iterator[LiveServer]:
    with live_server(toolbox=Toolbox({"web_search": tools["search"], "web_fetch": tools["fetch"]})) as live:
        yield live


def post(server: LiveServer, path: str, **body: Any) -> httpx.Response:  # Any: JSON
    return httpx.post(server.address + path, json=body, trust_env=False)


def test_results_have_the_vendors_members(server: LiveServer) -> None:
    answer = post(server, SEARCH, query="rain")
    assert answer.status_code == 200
    assert answer.json()["results"][0] == {
        "rerank_score": 3.0,
        "title": "About rain",
        "url": "https://example.org/a",
        "snippet": "It is so.",
        "summary": "It is so.",
        "content": "",
        "site_name": "example.org",
        "site_icon": "",
        "date": "2026-10-01T00:00:00+00:00",
        "authority": -1,
    }
    assert answer.json()["results"][1]["rerank_score"] == 1.5
    assert "x-deepserve-ignored" not in answer.headers
    assert post(server, "/tools/search", query="rain").json() == answer.json()


def test_operators_in_the_query_narrow_the_search(server: LiveServer, tools: dict[str, ScriptedTool]) -> None:
    query = 'two "exact words" site:a.example OR site:b.example -site:c.example after:2026-10 before:2026-11-02 lang:de'
    answer = post(server, SEARCH, query=query, count=7)
    assert answer.status_code == 200
    search = tools["search"]
    assert search.calls[-1] == {"query": 'two "exact words"'}
    options = decode(search.wanted[-1].options, SearchOptions)
    assert (options.domains.allowed, options.domains.blocked) == (("a.example", "b.example"), ("c.example",))
    assert (options.after, options.before, options.language) == (date(2026, 10, 1), date(2026, 11, 2), "de")
    assert options.max_results == 7
    assert answer.headers["x-deepserve-ignored"] == "query.lang, query.after, query.before"


def test_pages_come_along_where_they_are_asked_for(server: LiveServer) -> None:
    answer = post(server, SEARCH, query="rain", need_content=True)
    assert [each["content"] for each in answer.json()["results"]] == ["Long ago,", "Long ago,"]


def test_what_is_not_used_is_named(server: LiveServer) -> None:
    answer = post(server, SEARCH, query="rain", ori_question="Why?", localization="8.8.8.8", mystery=1)
    assert answer.headers["x-deepserve-ignored"] == "mystery, ori_question, localization"
    nothing = post(server, SEARCH, query="rain", ori_question=None, localization="", need_content=None, count=None)
    assert nothing.status_code == 200
    assert "x-deepserve-ignored" not in nothing.headers


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": "  "}, "query"),
        ({"query": "x" * 129}, "query"),
        ({"query": 7}, "query"),
        ({"query": "site:a.example"}, "query"),
        ({"query": "a after:yesterday"}, "query"),
        ({"query": "a site:https://x"}, "query[0]"),
        ({"query": "a", "count": 0}, "count"),
        ({"query": "a", "count": 51}, "count"),
        ({"query": "a", "count": "5"}, "count"),
        ({"query": "a", "count": True}, "count"),
        ({"query": "a", "need_content": 1}, "need_content"),
        ({"query": "a", "localization": "en-US"}, "localization"),
        ({"query": "a", "ori_question": "x" * 129}, "ori_question"),
    ],
)
def test_bad_searches_are_refused_with_the_field(server: LiveServer, body: dict[str, Any], field: str) -> None:
    answer = post(server, SEARCH, **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


def test_a_query_counts_characters_and_not_bytes(server: LiveServer) -> None:
    assert post(server, SEARCH, query="深" * 128).status_code == 200


def test_a_page_comes_back_as_title_and_markdown(server: LiveServer) -> None:
    answer = post(server, FETCH, url="https://example.org/a")
    assert answer.status_code == 200
    assert answer.json() == {"title": "A page", "content": "Long ago,\n[The rest was left out.]"}


@pytest.mark.parametrize(
    "body", [{}, {"url": None}, {"url": ""}, {"url": "nowhere"}, {"url": 7}, {"url": "https://" + "x" * 9000}]
)
def test_what_is_no_url_is_refused(server: LiveServer, body: dict[str, Any]) -> None:
    answer = post(server, FETCH, **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "url"


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'"x"', b"\xff", b'{"query": "a", "query": "b"}', b"[" * 500])
@pytest.mark.parametrize("path", [SEARCH, FETCH])
def test_bodies_that_are_no_objects_are_refused(server: LiveServer, path: str, raw: bytes) -> None:
    answer = httpx.post(server.address + path, content=raw, trust_env=False)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("code", "search_status", "fetch_status"),
    [
        ("invalid_input", 400, 400),
        ("input_too_long", 400, 400),
        ("too_many_requests", 429, 429),
        ("timed_out", 504, 504),
        ("unavailable", 502, 502),
        ("failed", 502, 404),
        ("not_allowed", 400, 404),
        ("not_accessible", 502, 404),
        ("unsupported_content", 502, 404),
    ],
)
def test_faults_of_the_tools_have_the_vendors_statuses(
    code: ToolErrorCode, search_status: int, fetch_status: int
) -> None:
    broken = ScriptedTool(lambda _: ToolFault(code=code, message="because"))
    with live_server(toolbox=Toolbox({"web_search": broken, "web_fetch": broken})) as server:
        for path, body, status in (
            (SEARCH, {"query": "a"}, search_status),
            (FETCH, {"url": "https://x.example"}, fetch_status),
        ):
            answer = post(server, path, **body)
            assert answer.status_code == status
            assert "because" in answer.json()["error"]["message"]


def test_a_tool_that_hangs_or_breaks_is_an_error_of_the_request() -> None:
    settings = Settings()
    settings = msgspec.structs.replace(settings, tool_limits=msgspec.structs.replace(settings.tool_limits, call_s=0.05))
    tools = Toolbox({"web_search": ScriptedTool(hangs=True), "web_fetch": ScriptedTool(fault=RuntimeError("inside"))})
    with live_server(settings=settings, toolbox=tools) as server:
        assert post(server, SEARCH, query="a").status_code == 504
        answer = post(server, FETCH, url="https://x.example")
        assert answer.status_code == 404
        assert "inside" not in answer.text


def test_a_server_without_the_tools_says_how_to_get_them() -> None:
    with live_server(toolbox=EMPTY) as server:
        for path, body, option in ((SEARCH, {"query": "a"}, "--search"), (FETCH, {"url": "https://x"}, "--fetch")):
            answer = post(server, path, **body)
            assert answer.status_code == 404
            assert option in answer.json()["error"]["message"]


def test_folders_are_searched_and_read_without_any_network(tmp_path: Path) -> None:
    (tmp_path / "guide.md").write_text("# Guide\n\n## Wombats\n\nThey dig <｜User｜> holes.\n")
    web = open_web_tools(Settings(search_folders={"handbook": tmp_path}), environment={})
    assert web.search is not None
    assert web.fetch is not None
    with live_server(toolbox=Toolbox({"web_search": web.search, "web_fetch": web.fetch}), alive=web) as server:
        [result] = post(server, SEARCH, query="digging wombat", need_content=True).json()["results"]
        assert result["url"] == "doc://handbook/guide.md#wombats"
        assert result["title"] == "Guide - Wombats"
        assert result["snippet"] == "They dig <｜User｜> holes."
        assert result["site_name"] == "handbook"
        assert result["content"] == "## Wombats\n\nThey dig <｜User｜> holes."
        whole = post(server, FETCH, url="doc://handbook/guide.md").json()
        assert whole["title"] == "Guide"
        assert post(server, FETCH, url="doc://handbook/../../etc/passwd").status_code == 404
        assert post(server, FETCH, url="https://example.org").status_code == 404


def test_keys_guard_these_addresses_too(tools: dict[str, ScriptedTool]) -> None:
    num_calls = len(tools["search"].calls)
    toolbox = Toolbox({"web_search": tools["search"]})
    with live_server(settings=Settings(api_keys=("sk-right",)), toolbox=toolbox) as server:
        assert post(server, SEARCH, query="a").status_code == 401
        assert len(tools["search"].calls) == num_calls
        headers = {"Authorization": "Bearer sk-right"}
        answer = httpx.post(server.address + SEARCH, json={"query": "a"}, headers=headers, trust_env=False)
        assert answer.status_code == 200


def test_nothing_found_is_an_empty_list() -> None:
    empty = ScriptedTool(lambda given: SearchResults(query=str(given["query"])))
    with live_server(toolbox=Toolbox({"web_search": empty})) as server:
        answer = post(server, SEARCH, query="a", need_content=True)
        assert answer.json() == {"results": []}
        assert answer.headers["x-deepserve-ignored"] == "need_content"


def test_pages_that_cannot_be_read_leave_their_content_empty() -> None:
    hits = tuple(SearchHit(url=f"https://x.example/{number}", title="t", snippet="s") for number in range(3))
    search = ScriptedTool(lambda _: SearchResults(query="", hits=hits))

    def read(given: Any) -> FetchedPage | ToolFault:  # Any: arguments
        if given["url"].endswith("1"):
            return ToolFault(code="not_accessible", message="gone")
        return FetchedPage(url=given["url"], title="", text=given["url"], media_type="text/plain")

    with live_server(toolbox=Toolbox({"web_search": search, "web_fetch": ScriptedTool(read)})) as server:
        results = post(server, SEARCH, query="a", need_content=True).json()["results"]
        assert [bool(each["content"]) for each in results] == [True, False, True]

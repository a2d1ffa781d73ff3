"""Searching and fetching as the settings want them."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from deepserve.config import Settings
from deepserve.core.errors import ConfigurationError
from deepserve.core.server_tool import SearchResults
from deepserve.core.web_tools import SearchOptions
from deepserve.tools.web import open_web_tools


def opened(environment: dict[str, str] | None = None, **settings: Any) -> tuple[bool, bool, str]:  # Any: settings
    """Whether there is something to search, something to read, and where is searched."""

    async def run() -> tuple[bool, bool, str]:
        async with open_web_tools(Settings(**settings), environment=environment or {}) as tools:
            name = "" if tools.search is None else tools.search.provider.name
            return tools.search is not None, tools.fetch is not None, name

    return asyncio.run(run())


def test_nothing_is_searched_or_read_unless_it_is_set() -> None:
    assert opened() == (False, False, "")


def test_each_setting_brings_what_it_says(tmp_path: Path) -> None:
    assert opened(search_folders={"notes": tmp_path}) == (True, True, "folders")
    assert opened(fetch_pages=True) == (False, True, "")
    assert opened(search_service="searxng", search_url="http://127.0.0.1:8888") == (True, False, "SearXNG")
    assert opened({"BRAVE_SEARCH_API_KEY": "k"}, search_service="brave") == (True, False, "Brave Search")
    assert opened({"TAVILY_API_KEY": "k"}, search_service="tavily", search_folders={"notes": tmp_path}) == (
        True,
        True,
        "folders and Tavily",
    )


def test_a_key_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret-key\n")
    assert opened(search_service="brave", search_key_file=tmp_path / "key")[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"search_service": "searxng"}, "--search-url"),
        ({"search_service": "searxng", "search_url": "nowhere"}, "nowhere"),
        ({"search_service": "brave"}, "BRAVE_SEARCH_API_KEY"),
        ({"search_service": "tavily"}, "TAVILY_API_KEY"),
        ({"search_service": "brave", "search_key_file": Path("/no/such/file")}, "/no/such/file"),
        ({"search_folders": {"x": Path("/no/such/folder")}}, "/no/such/folder"),
        ({"fetch_pages": True, "fetch_sites": ("https://x.example",)}, "--fetch-site"),
        ({"fetch_pages": True, "fetch_blocked_sites": ("a b",)}, "--fetch-never"),
        ({"fetch_pages": True, "fetch_allowed": ("nonsense",)}, "nonsense"),
    ],
)
def test_what_cannot_be_used_is_said_before_the_server_starts(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        opened(**settings)


@pytest.mark.parametrize("key", ["", " ", "two words", "x" * 5000, "schlüssel", "a\x00b"])
def test_a_key_that_is_none_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        opened({"TAVILY_API_KEY": key}, search_service="tavily")
    assert not key.strip() or key not in refused.value.message


def test_the_index_is_kept_in_the_state_directory(tmp_path: Path) -> None:
    notes, state = tmp_path / "notes", tmp_path / "state"
    notes.mkdir()
    state.mkdir()
    (notes / "a.md").write_text("# Wombats\n\nThey dig.")

    async def run() -> None:
        settings = Settings(search_folders={"notes": notes}, state_dir=state)
        async with open_web_tools(settings, environment={}) as tools:
            assert tools.search is not None
            got = await tools.search.search("wombat", SearchOptions())
            assert isinstance(got, SearchResults)
            assert got.hits[0].url == "doc://notes/a.md#wombats"

    asyncio.run(run())
    assert (state / "search.db").exists()

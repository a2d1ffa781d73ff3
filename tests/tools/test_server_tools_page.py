"""What docs/server-tools.md says of search, fetch and MCP servers is what the code does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from deepserve.cli.tool_options import tool_options
from deepserve.tools.fetch.page_fetcher import FetchLimits
from deepserve.tools.mcp import mcp_server, stdio_transport
from deepserve.tools.mcp.mcp_config import McpServerConfig
from deepserve.tools.reading.worker import MEMORY_BYTES
from deepserve.tools.search import brave, tavily
from deepserve.tools.search.brave import Brave
from deepserve.tools.search.folders.files import FolderLimits
from deepserve.tools.search.folders.folder_search import FolderSearch
from deepserve.tools.search.provider import MAX_QUERY_CHARACTERS, SearchProvider
from deepserve.tools.search.searxng import SearXng
from deepserve.tools.search.tavily import Tavily

PAGE = (Path(__file__).parents[2] / "docs" / "server-tools.md").read_text()
MIB = 1024 * 1024


def test_limits_are_those_of_the_code() -> None:
    folders, fetch = FolderLimits(), FetchLimits()
    one = McpServerConfig(command=("x",))
    for sentence in (
        f"| files | {folders.num_files:,} in all |",
        f"| one file | {folders.text_bytes // MIB} MiB; a PDF file {folders.pdf_bytes // MIB} MiB |",
        f"| all files | {folders.total_bytes // MIB} MiB |",
        f"| query | {MAX_QUERY_CHARACTERS:,} characters; Brave takes {brave._MAX_CHARACTERS} and "
        f"{brave._MAX_WORDS} words, Tavily {tavily._MAX_CHARACTERS} |",
        f"| page | {fetch.max_bytes // MIB} MiB decompressed, {fetch.total_s:g} s, {fetch.max_redirects} redirects; ",
        f"| text | {fetch.max_characters:,} characters |",
        f"| reading it | {fetch.read_s:g} s, {MEMORY_BYTES // MIB} MiB |",
        f"more than {stdio_transport.MESSAGE_BYTES // MIB} MiB at once",
        f"beyond {mcp_server.MAX_FUNCTIONS} all others",
        f"{one.call_s:g} s (`call_s`), a start {one.start_s:g} s (`start_s`)",
    ):
        assert " ".join(sentence.split()) in " ".join(PAGE.split()), sentence


@pytest.mark.parametrize(
    ("row", "wish"), [("days from and to", "dates"), ("language", "language"), ("country of the user", "country")]
)
def test_what_each_search_honours_is_in_the_table(row: str, wish: str) -> None:
    services: list[type[SearchProvider]] = [FolderSearch, SearXng, Brave, Tavily]
    [cells] = re.findall(rf"^\| {row} \|(.*)\|$", PAGE, re.MULTILINE)
    assert [bool(cell.strip()) for cell in cells.split("|")] == [wish in service.honours for service in services]


def test_the_options_it_names_exist() -> None:
    def command() -> None: ...

    options = {name for option in tool_options(command).__click_params__ for name in option.opts}  # type: ignore[attr-defined]
    own = PAGE[PAGE.index("## Search\n") : PAGE.index("## Python\n")]
    assert set(re.findall(r"`(--[a-z-]+)", own)) <= options


def test_its_configuration_of_mcp_servers_is_read() -> None:
    [text] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    servers = msgspec.convert(tomllib.loads(text)["servers"], dict[str, McpServerConfig])
    assert servers["wiki"].always

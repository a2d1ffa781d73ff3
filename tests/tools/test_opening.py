"""Which tools a server has, from its settings."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from deepserve.config import Settings
from deepserve.core.errors import ConfigurationError
from deepserve.core.request import ServerTool
from deepserve.core.server_tool import SearchResults, ToolKind
from deepserve.core.tenant import LOCAL_TENANT
from deepserve.tools import opening
from deepserve.tools.opening import open_tools
from deepserve.tools.runner import CallContext
from deepserve.tools.sandbox.ladder import NoSandbox, Refusal
from deepserve.tools.toolbox import OfferedTool
from tests.dialects.chat.decoding import body, decode


def _available(settings: Settings) -> dict[ToolKind, str | None]:
    tools = open_tools(settings, environment={})
    asyncio.run(tools.close())
    return dict(tools.toolbox.describe())


def test_nothing_reaches_out_or_runs_code_unasked() -> None:
    described = _available(Settings())
    assert {kind for kind, reason in described.items() if reason is None} == {"datetime"}
    assert all(reason for kind, reason in described.items() if kind != "datetime")


def test_a_folder_is_searched_and_its_documents_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Title\n\nThe wanted word.\n")

    async def search() -> object:
        tools = open_tools(Settings(search_folders={"notes": tmp_path}), environment={})
        async with tools:
            runner = tools.toolbox.runner("web_search")
            assert runner is not None
            context = CallContext(tenant=LOCAL_TENANT.id, session="s", timeout_s=5.0)
            wanted = ServerTool(tool="web_search", name="web_search")
            return await runner.run({"query": "wanted"}, wanted, context)

    described = _available(Settings(search_folders={"notes": tmp_path}))
    assert described["web_search"] is None
    assert described["web_fetch"] is None
    found = asyncio.run(search())
    assert isinstance(found, SearchResults)
    assert [hit.url.partition("#")[0] for hit in found.hits] == ["doc://notes/a.md"]


def test_without_walls_programs_are_not_run_and_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = NoSandbox((Refusal("bubblewrap", "no namespaces"),))
    monkeypatch.setattr(opening, "choose_sandbox", lambda *_, **__: refused)
    reason = _available(Settings(runs_code=True))["code_interpreter"]
    assert reason == "no sandbox holds on this machine (bubblewrap: no namespaces)"
    assert open_tools(Settings(runs_code=True), environment={}).report() == [("code_interpreter", f"missing: {reason}")]


def test_settings_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not there"):
        open_tools(Settings(search_folders={"notes": tmp_path / "nowhere"}), environment={})
    with pytest.raises(ConfigurationError, match="TAVILY_API_KEY"):
        open_tools(Settings(search_service="tavily"), environment={})


def test_mcp_servers_of_a_file_are_offered_by_name_or_always(tmp_path: Path) -> None:
    pytest.importorskip("mcp")
    program = Path(__file__).parent / "mcp" / "tiny_server.py"
    config = tmp_path / "mcp.toml"
    config.write_text(
        f'[servers.asked]\ncommand = ["{sys.executable}", "{program}"]\n'
        f'[servers.always]\ncommand = ["{sys.executable}", "{program}"]\nalways = true\n'
    )

    async def offered() -> tuple[set[str], set[str]]:
        tools = open_tools(Settings(mcp_config=config), environment=dict(os.environ))
        async with tools:
            plain = decode(body()).request
            asking = msgspec.structs.replace(plain, server_tools=(ServerTool(tool="mcp", name="asked"),))
            return _servers(tools.toolbox.offer(plain)), _servers(tools.toolbox.offer(asking))

    assert asyncio.run(offered()) == ({"always"}, {"always", "asked"})


def _servers(offered: Sequence[OfferedTool]) -> set[str]:
    return {tool.function.name.split("__")[1] for tool in offered}

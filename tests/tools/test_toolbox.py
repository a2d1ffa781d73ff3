"""What a request gets of the operator's servers, which come and go."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from deepserve.core.errors import UnsupportedFeature
from deepserve.core.request import Request, ServerTool
from deepserve.core.tenant import Grant, KeyId, Tenant, TenantId
from deepserve.core.tool import Tool
from deepserve.tools.runner import ToolRunner
from deepserve.tools.toolbox import Toolbox
from tests.dialects.chat.decoding import body, decode
from tests.tools.scripted_tool import ScriptedTool


class Server:
    def __init__(self, *names: str) -> None:
        self.names = names

    def functions(self) -> Sequence[tuple[Tool, ToolRunner]]:
        return [(Tool(name=f"mcp__docs__{name}"), ScriptedTool()) for name in self.names]


def _asking(wanted: ServerTool) -> Request:
    return msgspec.structs.replace(decode(body()).request, server_tools=(wanted,))


def _names(toolbox: Toolbox, wanted: ServerTool) -> list[str]:
    return [tool.function.name for tool in toolbox.offer(_asking(wanted))]


def test_functions_that_a_client_leaves_out_are_not_offered() -> None:
    toolbox = Toolbox(sources={"docs": Server("find", "delete")})
    assert _names(toolbox, ServerTool(tool="mcp", name="docs")) == ["mcp__docs__find", "mcp__docs__delete"]
    assert _names(toolbox, ServerTool(tool="mcp", name="docs", functions=("find", "other"))) == ["mcp__docs__find"]


def test_a_server_that_is_away_is_named_or_refused_and_not_forgotten() -> None:
    """Only servers that nobody had configured were named; one that had just ended left no trace in the answer."""
    server = Server()
    toolbox = Toolbox(sources={"docs": server})
    skipped = ServerTool(tool="mcp", name="docs", if_missing="skip")
    assert _names(toolbox, skipped) == []
    assert toolbox.lacking(_asking(skipped)) == ("tools[].mcp",)
    with pytest.raises(UnsupportedFeature, match="at the moment"):
        toolbox.offer(_asking(ServerTool(tool="mcp", name="docs")))
    server.names = ("find",)
    assert toolbox.lacking(_asking(skipped)) == ()
    assert _names(toolbox, skipped) == ["mcp__docs__find"]


def test_a_server_that_all_requests_get_is_narrowed_by_those_that_say_so() -> None:
    toolbox = Toolbox(sources={"docs": Server("find", "delete")}, always=("docs",))
    assert [tool.function.name for tool in toolbox.offer(decode(body()).request)] == [
        "mcp__docs__find",
        "mcp__docs__delete",
    ]
    assert _names(toolbox, ServerTool(tool="mcp", name="docs", functions=("find",))) == ["mcp__docs__find"]
    none = ServerTool(tool="mcp", name="docs", functions=(), if_missing="skip")
    assert _names(toolbox, none) == []
    assert toolbox.lacking(_asking(none)) == ()


def test_tools_that_a_key_is_not_for_are_not_offered_where_the_request_can_do_without_them() -> None:
    """Those it cannot do without are refused before anything is offered."""
    toolbox = Toolbox(sources={"docs": Server("find")}, always=("docs",))
    wanted = ServerTool(tool="mcp", name="docs", if_missing="skip")
    tenant = Tenant(id=TenantId("acme"), key=KeyId("key-1"), grant=Grant(tools=frozenset(("datetime",))))
    for asked in (_asking(wanted), msgspec.structs.replace(_asking(wanted), server_tools=())):
        assert toolbox.offer(asked)
        assert not toolbox.offer(msgspec.structs.replace(asked, tenant=tenant))
    assert toolbox.lacking(_asking(wanted)) == ()
    assert toolbox.lacking(msgspec.structs.replace(_asking(wanted), tenant=tenant)) == ("tools[].mcp",)

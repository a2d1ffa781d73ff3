"""Tools that Anthropic runs itself: offered to the model like any other, answered by an error where nobody runs them.

A client that declares web search must not lose its session over a server without one, and must not get an answer that
only pretends to have searched. So the model may call the tool, and the call is answered at once, in the dialect's own
form, with the error code `unavailable`; the answer pauses there (`pause_turn`), and the model reads the error when the
client sends the turn back.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from deepserve.core.messages import Json
from deepserve.core.tool import Tool

UNAVAILABLE = "unavailable"
"""The documented error code of a server tool that cannot be used now."""

_ID_PREFIX = "srvtoolu_"


class ServerToolKind(msgspec.Struct, frozen=True, kw_only=True):
    """A tool with dated types: `web_search_20250305`, …

    type_prefix   of the declaration's type
    name          under which blocks call it, whatever the declaration says
    result_type   of the block with its result; `_error` is appended for the error inside
    """

    type_prefix: str
    name: str
    result_type: str
    description: str
    argument: str

    def tool(self, name: str) -> Tool:
        """The function that the model is offered."""
        return Tool(
            name=name,
            description=self.description,
            parameters={
                "type": "object",
                "properties": {self.argument: {"type": "string"}},
                "required": [self.argument],
            },
        )


WEB_SEARCH = ServerToolKind(
    type_prefix="web_search_",
    name="web_search",
    result_type="web_search_tool_result",
    description="Search the web.",
    argument="query",
)

KINDS: tuple[ServerToolKind, ...] = (
    WEB_SEARCH,
    ServerToolKind(
        type_prefix="web_fetch_",
        name="web_fetch",
        result_type="web_fetch_tool_result",
        description="Read a page of the web.",
        argument="url",
    ),
    ServerToolKind(
        type_prefix="code_execution_",
        name="code_execution",
        result_type="code_execution_tool_result",
        description="Run Python code.",
        argument="code",
    ),
)

ServerTools = Mapping[str, ServerToolKind]
"""Declared server tools by the name under which the model calls them."""


def kind_of_type(declared_type: str) -> ServerToolKind | None:
    return next((kind for kind in KINDS if declared_type.startswith(kind.type_prefix)), None)


def kind_of_name(name: str) -> ServerToolKind:
    """The kind whose blocks carry this name; web search for a name of somebody else's."""
    return next((kind for kind in KINDS if kind.name == name), WEB_SEARCH)


def kind_of_result(block_type: str) -> ServerToolKind | None:
    return next((kind for kind in KINDS if kind.result_type == block_type), None)


def server_call_id(call_id: str) -> str:
    """Clients tell server calls from their own by the beginning of the id."""
    return call_id if call_id.startswith(_ID_PREFIX) else _ID_PREFIX + call_id


def error_content(kind: ServerToolKind, error_code: str) -> Json:
    return {"type": f"{kind.result_type}_error", "error_code": error_code}

"""Tools that the server runs: their declarations and items in this dialect, both directions.

A call and what it brought are one item. Most clients send items back without what was found, as the vendor allows;
so an item's id names the call by its place in the answer, and the server remembers the rest.

Shapes: platform.openai.com/docs, "Web search", "Code interpreter", "MCP and connectors".
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping
from typing import assert_never

import msgspec

from deepserve.core.errors import UnsupportedFeature
from deepserve.core.messages import UNNAMED, Json, ServerToolCall, ServerToolResult
from deepserve.core.request import ServerTool
from deepserve.core.server_tool import (
    CodeOutput,
    FetchedPage,
    PlainOutput,
    SearchHit,
    SearchResults,
    ToolFault,
    ToolKind,
    ToolOutput,
)
from deepserve.core.web_tools import SearchOptions, encode
from deepserve.dialects.node import Node
from deepserve.dialects.reading import Reading
from deepserve.dialects.responses.wire import (
    CodeInterpreterItem,
    HostedItem,
    HostedStatus,
    McpCallItem,
    WebSearchItem,
)
from deepserve.dialects.web_options import (
    CHARACTERS_OF_SIZE,
    RESULTS_OF_SIZE,
    read_context_size,
    read_domain_rules,
    read_location,
)

SEARCHES = ("web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11")
_STRICT_SEARCHES = ("web_search", "web_search_2025_08_26")

ITEM_TYPES = ("web_search_call", "code_interpreter_call", "mcp_call")

_SHOWN_ID = re.compile(r"(?:ws|ci|mcp)_([0-9a-f]{32}_s[0-9]{1,6})")
"""An id of ours: the answer, and which of its calls."""

_NAMES: Mapping[str, ToolKind] = {"web_search": "web_search", "code_interpreter": "code_interpreter"}

INCLUDABLE = frozenset(("web_search_call.results", "web_search_call.action.sources", "code_interpreter_call.outputs"))
"""What `include` may name, beside what the vendor has of its own."""


# Declarations and choices.


def decode_server_tool(reading: Reading, node: Node, kind: str) -> ServerTool | None:
    """None for what is no tool of the server's. A server without it leaves it out: clients declare it unasked."""
    if kind in (_STRICT_SEARCHES if reading.is_strict else SEARCHES):
        known = ("type", "filters", "search_context_size", "user_location")
        reading.ignore_others(node, known, "tools[]")
        return ServerTool(tool="web_search", name="web_search", options=_search(node), if_missing="skip")
    if reading.is_strict:
        return None
    if kind == "code_interpreter":
        container = node.optional("container")
        reading.ignore_others(node, ("type", "container"), "tools[]")
        if container is not None and isinstance(container.value, dict):
            reading.ignore_others(container, ("type",), "tools[].container")
        return ServerTool(tool="code_interpreter", name="code_interpreter", if_missing="skip")
    if kind == "mcp":
        return _mcp_server(reading, node)
    return None


def _mcp_server(reading: Reading, node: Node) -> ServerTool:
    """Raises UnsupportedFeature where calls are to wait for the client's consent, which nobody here would ask for."""
    reading.ignore_others(node, ("type", "server_label", "require_approval", "allowed_tools"), "tools[]")
    approval = node.optional("require_approval")
    if approval is not None and approval.value != "never":
        raise UnsupportedFeature(
            f"`{approval.field}` must be `never`: the operator's functions are called without asking the client. "
            "Leave out with `allowed_tools` what must not be called.",
            field=approval.field,
        )
    allowed = node.optional("allowed_tools")
    if allowed is not None and isinstance(allowed.value, dict):
        if allowed.optional("read_only") is not None:
            raise UnsupportedFeature(
                f"`{allowed.field}.read_only` is not supported: name the functions in `tool_names`.",
                field=allowed.field,
            )
        reading.ignore_others(allowed, ("tool_names",), "tools[].allowed_tools")
        allowed = allowed.optional("tool_names")
    return ServerTool(
        tool="mcp",
        name=node.required("server_label").string(),
        functions=None if allowed is None else tuple(name.string() for name in allowed.items()),
        if_missing="skip",
    )


def _search(node: Node) -> Mapping[str, Json]:
    filters, size = node.optional("filters"), read_context_size(node)
    options = SearchOptions(location=read_location(node.optional("user_location")))
    if size is not None:
        options = msgspec.structs.replace(
            options, max_results=RESULTS_OF_SIZE[size], max_characters=CHARACTERS_OF_SIZE[size]
        )
    if filters is not None:
        domains = read_domain_rules(filters, allowed="allowed_domains", blocked="blocked_domains")
        options = msgspec.structs.replace(options, domains=domains)
    return encode(options)


def chosen_name(kind: str) -> str | None:
    """The name under which the model calls the tool that a `tool_choice` of this type means."""
    if kind in SEARCHES:
        return "web_search"
    return kind if kind in _NAMES else None


# Items out.


class HostedForm:
    """Builds such items for one response. digits: of its id. included: what the client wants to see of results."""

    def __init__(self, digits: str, included: Collection[str]) -> None:
        self._digits = digits
        self._included = included

    def item(
        self, number: int, call: ServerToolCall, output: ToolOutput | None, status: HostedStatus | None = None
    ) -> HostedItem:
        """number: of the call among those of the answer. output: None while there is none."""
        arguments = _arguments(call)
        if status is None:
            status = "failed" if isinstance(output, ToolFault) else "completed"
        match call.tool:
            case "code_interpreter":
                return CodeInterpreterItem(
                    id=f"ci_{self._digits}_s{number}",
                    status=status,
                    code=_member(arguments, "code"),
                    container_id=f"cntr_{self._digits}",
                    outputs=_outputs(output) if "code_interpreter_call.outputs" in self._included else None,
                )
            case "mcp":
                server, _, name = call.name.removeprefix("mcp__").partition("__")
                return McpCallItem(
                    id=f"mcp_{self._digits}_s{number}",
                    status=status,
                    name=name,
                    server_label=server,
                    arguments=call.arguments,
                    output=output.text if isinstance(output, PlainOutput) else None,
                    error=_mcp_error(output.message) if isinstance(output, ToolFault) else None,
                )
            case "web_search" | "web_fetch" | "datetime":
                return self._search(number, arguments, output, status)
            case _:
                assert_never(call.tool)

    def _search(
        self, number: int, arguments: Mapping[str, Json], output: ToolOutput | None, status: HostedStatus
    ) -> WebSearchItem:
        query = _member(arguments, "query")
        action: dict[str, Json] = {"type": "search", "query": query, "queries": [query] if query else []}
        item = WebSearchItem(id=f"ws_{self._digits}_s{number}", status=status, action=action)
        if not isinstance(output, SearchResults):
            return item
        if "web_search_call.action.sources" in self._included:
            action["sources"] = [{"type": "url", "url": hit.url} for hit in output.hits]
        if "web_search_call.results" in self._included:
            item.results = [msgspec.to_builtins(hit) for hit in output.hits]
        return item


def _arguments(call: ServerToolCall) -> Mapping[str, Json]:
    try:
        value = msgspec.json.decode(call.arguments)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _member(arguments: Mapping[str, Json], name: str) -> str:
    value = arguments.get(name)
    return value if isinstance(value, str) else ""


def _outputs(output: ToolOutput | None) -> list[Json]:
    """What was printed, then the pictures; other files are named."""
    match output:
        case CodeOutput():
            shown: list[Json] = []
            logs = "\n".join(text.rstrip("\n") for text in (output.printed, output.complaints) if text)
            others = [file.name for file in output.files if not file.media_type.startswith("image/")]
            if others:
                logs += f"\nFiles: {', '.join(others)}"
            if logs:
                shown.append({"type": "logs", "logs": logs})
            for file in output.files:
                if file.media_type.startswith("image/"):
                    content = base64.b64encode(file.content).decode()
                    shown.append({"type": "image", "url": f"data:{file.media_type};base64,{content}"})
            return shown
        case ToolFault(message=message):
            return [{"type": "logs", "logs": message}]
        case SearchResults() | FetchedPage() | PlainOutput() | None:
            return []
        case _:
            assert_never(output)


# Items in.


def decode_item(node: Node, kind: str) -> tuple[ServerToolCall, ServerToolResult]:
    """A call, and what it brought as far as the item says."""
    # Codex sends items without their ids.
    given_id = node.optional("id")
    shown_id = f"{UNNAMED}{node.field}" if given_id is None else given_id.string()
    match = _SHOWN_ID.fullmatch(shown_id)
    call_id = shown_id if match is None else match[1]
    tool: ToolKind
    output: ToolOutput | None
    match kind:
        case "code_interpreter_call":
            tool, name = "code_interpreter", "code_interpreter"
            given: Json = {"code": _text(node, "code")}
            outputs = node.optional("outputs")
            logs = [] if outputs is None else [_text(item, "logs") for item in outputs.items()]
            output = None if outputs is None else CodeOutput(code="", stdout="\n".join(log for log in logs if log))
        case "mcp_call":
            tool = "mcp"
            name = f"mcp__{_text(node, 'server_label')}__{_text(node, 'name')}"
            given = _text(node, "arguments") or "{}"
            error = node.optional("error")
            text = node.optional("output")
            output = None if text is None else PlainOutput(text=text.string())
            if error is not None:
                output = ToolFault(code="failed", message=_mcp_message(error))
        case _:
            tool, name = "web_search", "web_search"
            action = node.optional("action")
            given = {"query": "" if action is None else _text(action, "query")}
            results = node.optional("results")
            output = None if results is None else SearchResults(query="", hits=tuple(map(_hit, results.items())))
    arguments = given if isinstance(given, str) else msgspec.json.encode(given).decode()
    call = ServerToolCall(id=call_id, tool=tool, name=name, arguments=arguments)
    return call, ServerToolResult(call_id=call_id, tool=tool, output=output)


def _mcp_error(message: str) -> Json:
    return {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": message}]}


def _mcp_message(error: Node) -> str:
    """Of an error as above, or as a text, which older clients write."""
    if isinstance(error.value, str):
        return error.value
    content = error.optional("content")
    if content is None or not isinstance(content.value, list):
        return msgspec.json.encode(error.value).decode()
    return "\n".join(_text(item, "text") for item in content.items())


def _hit(node: Node) -> SearchHit:
    return SearchHit(
        url=_text(node, "url"),
        title=_text(node, "title"),
        snippet=_text(node, "snippet"),
        age=_text(node, "age") or None,
    )


def _text(node: Node, member: str) -> str:
    found = node.optional(member)
    return "" if found is None else found.string()

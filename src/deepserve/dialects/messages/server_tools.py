"""Tools that the server runs: their declarations, calls and results in this dialect, both directions.

A declaration has a dated type (`web_search_20250305`). A call is a `server_tool_use` block, its result a block of a
type of its own; what an operator's MCP server does has a pair of other blocks. Ids begin as clients expect them.

What the dialect has no open member for rides where it keeps opaque text: the snippet of a search result stands,
marked and encoded, in `encrypted_content`, so that it comes back with the conversation.

Shapes: platform.claude.com/docs, "Web search tool", "Web fetch tool", "Code execution tool", "MCP connector".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import assert_never

import msgspec

from deepserve.core.errors import InvalidField
from deepserve.core.messages import Json, ServerToolCall, ServerToolResult
from deepserve.core.request import ServerTool
from deepserve.core.server_tool import (
    CodeOutput,
    FetchedPage,
    OutputFile,
    PlainOutput,
    SearchHit,
    SearchResults,
    ToolErrorCode,
    ToolFault,
    ToolKind,
    ToolOutput,
)
from deepserve.core.web_tools import FetchOptions, SearchOptions, encode
from deepserve.dialects.messages.wire import (
    WireBlock,
    WireMcpResult,
    WireMcpUse,
    WireServerResult,
    WireServerToolUse,
)
from deepserve.dialects.node import Node
from deepserve.dialects.reading import Reading
from deepserve.dialects.tool_name import read_tool_name
from deepserve.dialects.web_options import CHARACTERS_PER_TOKEN, read_count, read_domain_rules, read_location

_ID_PREFIX = "srvtoolu_"
_MCP_ID_PREFIX = "mcptoolu_"

_SEALED_PREFIX = "deepserve1."
"""Marks opaque members that are ours."""

_MCP_NAME = "mcp__{server}__{name}"
"""How functions of MCP servers are named to the model; Claude Code names them so, too."""

MAX_NAME = 128


class ServerToolKind(msgspec.Struct, frozen=True, kw_only=True):
    """A tool with dated types: `web_search_20250305`, …

    type_prefix   of the declaration's type
    name          under which blocks call it, whatever the declaration says
    result_type   of the block with its result; `_error` is appended for the error inside
    options       members of the declaration with an effect
    error_codes   how faults are spelled; what is missing is `unavailable`
    """

    type_prefix: str
    tool: ToolKind
    name: str
    result_type: str
    options: tuple[str, ...]
    error_codes: Mapping[ToolErrorCode, str]


UNAVAILABLE = "unavailable"
"""The documented error code of a server tool that cannot be used now."""

_COMMON_CODES: Mapping[ToolErrorCode, str] = {
    "invalid_input": "invalid_tool_input",
    "too_many_requests": "too_many_requests",
    "max_uses_exceeded": "max_uses_exceeded",
}

WEB_SEARCH = ServerToolKind(
    type_prefix="web_search_",
    tool="web_search",
    name="web_search",
    result_type="web_search_tool_result",
    options=("allowed_domains", "blocked_domains", "user_location"),
    error_codes={**_COMMON_CODES, "input_too_long": "query_too_long"},
)

KINDS: tuple[ServerToolKind, ...] = (
    WEB_SEARCH,
    ServerToolKind(
        type_prefix="web_fetch_",
        tool="web_fetch",
        name="web_fetch",
        result_type="web_fetch_tool_result",
        options=("allowed_domains", "blocked_domains", "max_content_tokens"),
        error_codes={
            **_COMMON_CODES,
            "input_too_long": "url_too_long",
            "not_allowed": "url_not_allowed",
            "not_accessible": "url_not_accessible",
            "unsupported_content": "unsupported_content_type",
        },
    ),
    ServerToolKind(
        type_prefix="code_execution_",
        tool="code_interpreter",
        name="code_execution",
        result_type="code_execution_tool_result",
        options=(),
        error_codes={**_COMMON_CODES, "timed_out": "execution_time_exceeded"},
    ),
)


def kind_of_type(declared_type: str) -> ServerToolKind | None:
    return next((kind for kind in KINDS if declared_type.startswith(kind.type_prefix)), None)


def kind_of_result(block_type: str) -> ServerToolKind | None:
    return next((kind for kind in KINDS if kind.result_type == block_type), None)


def _kind_of(tool: ToolKind) -> ServerToolKind:
    """Web search for what this dialect has no tool for."""
    return next((kind for kind in KINDS if kind.tool == tool), WEB_SEARCH)


# Declarations.


def decode_server_tool(reading: Reading, node: Node, kind: ServerToolKind) -> ServerTool:
    """Raises InvalidField. A client that declares one must not lose its session over a server without it."""
    reading.ignore_others(node, ("type", "name", "max_uses", *kind.options), "tools[]")
    return ServerTool(
        tool=kind.tool,
        name=read_tool_name(node.required("name"), MAX_NAME),
        max_uses=read_count(node, "max_uses", high=2**32 - 1),
        options=_options(node, kind.tool),
        if_missing="fault",
    )


def _options(node: Node, tool: ToolKind) -> Mapping[str, Json]:
    match tool:
        case "web_search":
            domains = read_domain_rules(node, allowed="allowed_domains", blocked="blocked_domains")
            return encode(SearchOptions(domains=domains, location=read_location(node.optional("user_location"))))
        case "web_fetch":
            tokens = read_count(node, "max_content_tokens", high=2**32 - 1)
            return encode(
                FetchOptions(
                    domains=read_domain_rules(node, allowed="allowed_domains", blocked="blocked_domains"),
                    max_characters=None if tokens is None else tokens * CHARACTERS_PER_TOKEN,
                )
            )
        case _:
            return {}


def decode_mcp_servers(reading: Reading) -> tuple[ServerTool, ...]:
    """Servers of the operator's, asked for by name. An address or a key that a client brings is never used."""
    node = reading.root.optional("mcp_servers")
    if node is None:
        return ()
    wanted: list[ServerTool] = []
    for item in node.items():
        reading.ignore_others(item, ("type", "name", "tool_configuration"), "mcp_servers[]")
        configuration = item.optional("tool_configuration")
        enabled = allowed = None
        if configuration is not None:
            reading.ignore_others(configuration, ("enabled", "allowed_tools"), "mcp_servers[].tool_configuration")
            enabled, allowed = configuration.optional("enabled"), configuration.optional("allowed_tools")
        functions = None if allowed is None else tuple(name.string() for name in allowed.items())
        if enabled is not None and not enabled.boolean():
            functions = ()
        name = item.required("name").string()
        wanted.append(ServerTool(tool="mcp", name=name, functions=functions, if_missing="skip"))
    if len({one.name for one in wanted}) < len(wanted):
        raise InvalidField("mcp_servers: names must be unique.", field="mcp_servers")
    return tuple(wanted)


# Calls.


def encode_call(call_id: str, tool: ToolKind, name: str, given: Json) -> WireBlock:
    if tool == "mcp":
        server, _, function = name.removeprefix("mcp__").partition("__")
        return WireMcpUse(_MCP_ID_PREFIX + call_id, function, server, given)
    return WireServerToolUse(_ID_PREFIX + call_id, _kind_of(tool).name, given)


def decode_call(node: Node, arguments: str) -> ServerToolCall:
    """Of a `server_tool_use` or `mcp_tool_use` block."""
    name, call_id = node.required("name").string(), _plain_id(node.required("id"))
    server = node.optional("server_name")
    if server is not None:
        name = _MCP_NAME.format(server=server.string(), name=name)
        return ServerToolCall(id=call_id, tool="mcp", name=name, arguments=arguments)
    kind = next((kind for kind in KINDS if kind.name == name), None)
    return ServerToolCall(
        id=call_id, tool="mcp" if kind is None else kind.tool, name=name[:MAX_NAME], arguments=arguments
    )


def _plain_id(node: Node) -> str:
    return node.string().removeprefix(_ID_PREFIX).removeprefix(_MCP_ID_PREFIX)


# Results.


def encode_result(result: ServerToolResult, at: datetime) -> WireBlock:
    """at: when the answer began, which is as good as the moment of the fetch."""
    output = result.output or ToolFault(code="unavailable", message="")
    if result.tool == "mcp":
        text = output.message if isinstance(output, ToolFault) else getattr(output, "text", "")
        return WireMcpResult(
            tool_use_id=_MCP_ID_PREFIX + result.call_id,
            is_error=isinstance(output, ToolFault),
            content=[{"type": "text", "text": text}],
        )
    kind = _kind_of(result.tool)
    return WireServerResult(
        type=kind.result_type, tool_use_id=_ID_PREFIX + result.call_id, content=_content(kind, output, at)
    )


def _content(kind: ServerToolKind, output: ToolOutput, at: datetime) -> Json:
    match output:
        case SearchResults(hits=hits):
            return [
                {
                    "type": "web_search_result",
                    "url": hit.url,
                    "title": hit.title,
                    "encrypted_content": seal(hit.snippet),
                    "page_age": hit.age,
                }
                for hit in hits
            ]
        case FetchedPage():
            return {
                "type": "web_fetch_result",
                "url": output.url,
                "retrieved_at": at.isoformat(),
                "content": {
                    "type": "document",
                    "source": {"type": "text", "media_type": "text/plain", "data": output.shown_text},
                    "title": output.title,
                    "citations": None,
                },
            }
        case CodeOutput():
            return {
                "type": "code_execution_result",
                "stdout": output.printed,
                "stderr": output.complaints,
                "return_code": output.exit_code,
                # There is no Files API here: the file itself comes along, under members of ours.
                "content": [
                    {
                        "type": "code_execution_output",
                        "file_id": file.name,
                        "media_type": file.media_type,
                        "data": base64.b64encode(file.content).decode(),
                    }
                    for file in output.files
                ],
            }
        case PlainOutput(text=text):
            return text
        case ToolFault(code=code):
            return {"type": f"{kind.result_type}_error", "error_code": kind.error_codes.get(code, UNAVAILABLE)}
        case _:
            assert_never(output)


def decode_result(node: Node) -> ServerToolResult:
    """Of a result block, ours or another server's."""
    kind = kind_of_result(node.required("type").string())
    call_id, content = _plain_id(node.required("tool_use_id")), node.required("content")
    if kind is None:
        return ServerToolResult(call_id=call_id, tool="mcp", output=_mcp_output(node, content))
    return ServerToolResult(call_id=call_id, tool=kind.tool, output=_decode_content(kind, content))


def _decode_content(kind: ServerToolKind, node: Node) -> ToolOutput:
    if isinstance(node.value, list):
        return SearchResults(query="", hits=tuple(_hit(item) for item in node.items()))
    if not isinstance(node.value, dict):
        return PlainOutput(text=node.string())
    error_code = node.optional("error_code")
    if error_code is not None:
        return _fault(kind, error_code.string())
    match kind.tool:
        case "web_fetch":
            document = node.required("content")
            source = document.required("source")
            return FetchedPage(
                url=_text(node, "url"),
                title=_text(document, "title"),
                text=_text(source, "data"),
                media_type=_text(source, "media_type"),
            )
        case "code_interpreter":
            code, files = node.optional("return_code"), node.optional("content")
            return CodeOutput(
                code="",
                stdout=_text(node, "stdout"),
                stderr=_text(node, "stderr"),
                exit_code=0 if code is None else code.integer("i32", low=-(2**31)),
                files=() if files is None else tuple(_file(item) for item in files.items()),
            )
        case _:
            return PlainOutput(text=msgspec.json.encode(node.value).decode())


def _hit(node: Node) -> SearchHit:
    return SearchHit(
        url=_text(node, "url"),
        title=_text(node, "title"),
        snippet=unseal(_text(node, "encrypted_content")),
        age=_text(node, "page_age") or None,
    )


def _file(node: Node) -> OutputFile:
    """Its name is what the model was told."""
    return OutputFile(name=_text(node, "file_id"), media_type=_text(node, "media_type"), content=b"")


def _mcp_output(node: Node, content: Node) -> ToolOutput:
    if isinstance(content.value, list):
        text = "\n".join(_text(item, "text") for item in content.items())
    else:
        text = content.string()
    has_failed = node.optional("is_error")
    if has_failed is not None and has_failed.boolean():
        return ToolFault(code="failed", message=text)
    return PlainOutput(text=text)


def _fault(kind: ServerToolKind, error_code: str) -> ToolFault:
    code: ToolErrorCode = next(
        (ours for ours, theirs in kind.error_codes.items() if theirs == error_code), "unavailable"
    )
    return ToolFault(code=code, message=error_code[:MAX_NAME].replace("_", " "))


def _text(node: Node, member: str) -> str:
    found = node.optional(member)
    return "" if found is None else found.string()


def seal(text: str) -> str:
    """Opaque in form only: there is nothing to hide in what a search found."""
    return _SEALED_PREFIX + base64.urlsafe_b64encode(text.encode()).decode()


def unseal(sealed: str) -> str:
    """Empty for what another server sealed."""
    if not sealed.startswith(_SEALED_PREFIX):
        return ""
    try:
        return base64.urlsafe_b64decode(sealed.removeprefix(_SEALED_PREFIX).encode()).decode()
    except (binascii.Error, ValueError):
        return ""

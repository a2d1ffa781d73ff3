"""Which tools this server can run, and why it cannot run the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from deepserve.core.errors import InvalidField, UnsupportedFeature
from deepserve.core.request import Request, ServerTool
from deepserve.core.server_tool import ToolKind
from deepserve.core.tool import Tool
from deepserve.tools.runner import ToolRunner

_MISSING: Mapping[ToolKind, str] = {
    "web_search": "neither folders to search nor a search service are configured",
    "web_fetch": "it is not allowed to fetch pages",
    "code_interpreter": "it is not allowed to run programs",
    "datetime": "no clock is configured",
    "mcp": "no MCP server of this name is configured",
}
"""Why a server that says nothing else has no such tool."""

_PLACEHOLDERS: Mapping[ToolKind, tuple[str, str]] = {
    "web_search": ("Search the web.", "query"),
    "web_fetch": ("Read a page of the web.", "url"),
    "code_interpreter": ("Run Python code.", "code"),
    "datetime": ("Tell the date and time.", "timezone"),
    "mcp": ("A function of the server's operator.", "input"),
}
"""What a model is told of a tool that will answer with an error, and its argument."""


class ToolSource(Protocol):
    """A server of the operator's that brings several functions, each under a name of its own."""

    def functions(self) -> Sequence[tuple[Tool, ToolRunner]]:
        """What it offers now: nothing while it cannot be reached."""
        ...


class OfferedTool(msgspec.Struct, frozen=True, kw_only=True):
    """One function of a request that the server runs. runner: None where the tool is missing here."""

    wanted: ServerTool
    function: Tool
    runner: ToolRunner | None


class Toolbox:
    """Looks tools up. What is in it is started and closed by whoever made it.

    runners   one for each kind of tool
    reasons   why others are missing, for people: the end of "This server has no such tool: …"
    sources   servers of the operator's by name; those in `always` are offered with every request
    """

    def __init__(
        self,
        runners: Mapping[ToolKind, ToolRunner] | None = None,
        *,
        reasons: Mapping[ToolKind, str] | None = None,
        sources: Mapping[str, ToolSource] | None = None,
        always: Sequence[str] = (),
    ) -> None:
        self._runners = dict(runners or {})
        self._reasons = {**_MISSING, **(reasons or {})}
        self._sources = dict(sources or {})
        self._always = tuple(always)

    def runner(self, tool: ToolKind) -> ToolRunner | None:
        return self._runners.get(tool)

    def describe(self) -> Mapping[ToolKind, str | None]:
        """Every kind of tool, with the reason where it is missing."""
        kinds: tuple[ToolKind, ...] = ("web_search", "web_fetch", "code_interpreter", "datetime")
        return {kind: None if kind in self._runners else self._reasons[kind] for kind in kinds}

    @property
    def offers_unasked(self) -> bool:
        """Whether requests get tools that they do not ask for."""
        return bool(self._always)

    def has(self, wanted: ServerTool) -> bool:
        """Whether it can be used now: servers of the operator's come and go."""
        return bool(self._functions_of(wanted)) if wanted.tool == "mcp" else wanted.tool in self._runners

    def offer(self, request: Request) -> tuple[OfferedTool, ...]:
        """The tools that the server runs for a request, in order. Where calls are forbidden only those remain that the
        model does not call.

        Raises UnsupportedFeature for a tool that is missing and cannot be done without, InvalidField for two tools of
        one name.
        """
        offered = [tool for wanted in request.server_tools if _may(request, wanted) for tool in self._offer(wanted)]
        taken = {tool.name for tool in request.tools} | {tool.function.name for tool in offered}
        asked_for = {wanted.name for wanted in request.server_tools if wanted.tool == "mcp"}
        for name in self._always:
            unasked = ServerTool(tool="mcp", name=name)
            if name not in asked_for and request.num_results == 1 and request.infill is None and _may(request, unasked):
                # A client that brings functions of the same names runs them itself.
                every = self._functions_of(unasked)
                offered += [tool for tool in every if tool.function.name not in taken]
        called = [tool for tool in offered if not tool.wanted.is_first]
        if request.tool_choice.mode == "none":
            return tuple(tool for tool in offered if tool.wanted.is_first)
        names = [tool.name for tool in request.tools] + [tool.function.name for tool in called]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidField(f"Tool names must be unique, and `{twice}` stands for two tools.", field="tools")
        return tuple(offered)

    def lacking(self, request: Request) -> tuple[str, ...]:
        """Tools that the request could do without, and does, as `x-deepserve-ignored` names them."""
        return tuple(
            f"tools[].{wanted.tool}"
            for wanted in request.server_tools
            if wanted.if_missing == "skip"
            and wanted.functions != ()
            and not (_may(request, wanted) and self.has(wanted))
        )

    def _offer(self, wanted: ServerTool) -> Sequence[OfferedTool]:
        functions = self._functions_of(wanted) if wanted.tool == "mcp" else []
        if functions:
            return functions
        runner = self._runners.get(wanted.tool)
        if runner is not None:
            return (OfferedTool(wanted=wanted, function=runner.offer(wanted), runner=runner),)
        match wanted.if_missing:
            case "skip":
                return ()
            case "fault":
                return (OfferedTool(wanted=wanted, function=_placeholder(wanted), runner=None),)
            case "refuse":
                raise UnsupportedFeature(
                    f"The tool `{wanted.name}` cannot be run by this server: {self._why_missing(wanted)}. "
                    "Offer a function of your own instead.",
                    field="tools",
                )

    def _functions_of(self, wanted: ServerTool) -> list[OfferedTool]:
        """What is wanted of a server of the operator's and is there now."""
        source = self._sources.get(wanted.name)
        names = None if wanted.functions is None else {f"mcp__{wanted.name}__{name}" for name in wanted.functions}
        return [
            OfferedTool(wanted=ServerTool(tool="mcp", name=function.name), function=function, runner=runner)
            for function, runner in (() if source is None else source.functions())
            if names is None or function.name in names
        ]

    def _why_missing(self, wanted: ServerTool) -> str:
        if wanted.tool == "mcp" and wanted.name in self._sources:
            return "its MCP server offers no such function at the moment"
        return self.reason(wanted.tool)

    def reason(self, tool: ToolKind) -> str:
        return self._reasons[tool]


def _may(request: Request, wanted: ServerTool) -> bool:
    """Whether the key is for such tools. Where that is no reason to refuse the request, the tool is left out."""
    grant = request.tenant.grant
    return grant is None or grant.tools is None or wanted.tool in grant.tools


def _placeholder(wanted: ServerTool) -> Tool:
    description, argument = _PLACEHOLDERS[wanted.tool]
    properties = {argument: {"type": "string"}}
    return Tool(
        name=wanted.name,
        description=description,
        parameters={"type": "object", "properties": properties, "required": [argument]},
    )


EMPTY = Toolbox()
"""Of a server that runs no tools."""

"""A tool that does as it is told, for tests of those that call tools."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from typing_extensions import override

from deepserve.core.messages import Json
from deepserve.core.request import ServerTool
from deepserve.core.server_tool import CodeOutput, FetchedPage, OutputFile, SearchHit, SearchResults, ToolOutput
from deepserve.core.tool import Tool
from deepserve.tools.runner import CallContext, ToolRunner

Answering = Callable[[Mapping[str, Json]], ToolOutput]


def found(arguments: Mapping[str, Json]) -> SearchResults:
    """One page about whatever is asked for."""
    query = str(arguments.get("query", ""))
    return SearchResults(
        query=query,
        hits=(
            SearchHit(url="https://example.org/a", title=f"About {query}", snippet="It is so.", age="2026-10-01"),
            SearchHit(url="https://example.org/a/b", title="More", snippet="And so on."),
        ),
    )


def page(arguments: Mapping[str, Json]) -> FetchedPage:
    url = str(arguments.get("url", ""))
    return FetchedPage(url=url, title="A page", text="Long ago,", media_type="text/html", is_cut=True)


def ran(arguments: Mapping[str, Json]) -> CodeOutput:
    """A program that printed, drew and complained."""
    return CodeOutput(
        code=str(arguments.get("code", "")),
        stdout="one\n",
        value="2",
        stderr="a warning\n",
        files=(OutputFile(name="plot.svg", media_type="image/svg+xml", content=b"<svg/>"),),
    )


class ScriptedTool(ToolRunner):
    """calls, wanted, contexts: what it was asked, in order. hangs: a call does not come back.

    num_running, most_running: calls at this moment, and the most there were
    """

    def __init__(
        self,
        answering: Answering = found,
        *,
        argument: str = "query",
        hangs: bool = False,
        fault: BaseException | None = None,
    ) -> None:
        self._answering = answering
        self._argument = argument
        self._hangs = hangs
        self._fault = fault
        self.calls: list[Mapping[str, Json]] = []
        self.wanted: list[ServerTool] = []
        self.contexts: list[CallContext] = []
        self.num_running = self.most_running = self.num_cancelled = 0
        self.began = asyncio.Event()

    @override
    def offer(self, wanted: ServerTool) -> Tool:
        return Tool(
            name=wanted.name,
            description="Scripted.",
            parameters={
                "type": "object",
                "properties": {self._argument: {"type": "string"}},
                "required": [self._argument],
            },
        )

    @override
    async def run(self, arguments: Mapping[str, Json], wanted: ServerTool, context: CallContext) -> ToolOutput:
        self.calls.append(arguments)
        self.wanted.append(wanted)
        self.contexts.append(context)
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        self.began.set()
        try:
            await asyncio.sleep(0)
            if self._hangs:
                await asyncio.Event().wait()
            if self._fault is not None:
                raise self._fault
            return self._answering(arguments)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        finally:
            self.num_running -= 1

    @override
    async def close(self) -> None:
        """Nothing is open."""

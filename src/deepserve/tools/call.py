"""One call of a tool, from the model's arguments to an output that is always there.

Whatever a tool does (raise, hang, flood), the call ends within its time, with an output of bounded size.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from deepserve.core.server_tool import (
    CUT_NOTE,
    CodeOutput,
    FetchedPage,
    PlainOutput,
    SearchHit,
    SearchResults,
    ToolFault,
    ToolOutput,
)
from deepserve.tools.runner import CallContext
from deepserve.tools.toolbox import OfferedTool

_log = logging.getLogger(__name__)

_GRACE_S = 1.0
"""So long a cancelled tool may take to put things away; one that ignores it is left alone."""


async def call_tool(
    offered: OfferedTool, arguments: str, context: CallContext, *, missing: str, max_characters: int
) -> ToolOutput:
    """missing: why a tool without a runner has none. Raises nothing but cancellation."""
    if offered.runner is None:
        return ToolFault(code="unavailable", message=f"this tool cannot be used on this server: {missing}")
    try:
        given = msgspec.json.decode(arguments) if arguments.strip() else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        given = None
    if not isinstance(given, dict):
        return ToolFault(code="invalid_input", message="the arguments are not a JSON object")
    running = asyncio.ensure_future(offered.runner.run(given, offered.wanted, context))
    try:
        done, _ = await asyncio.wait({running}, timeout=context.timeout_s)
        if not done:
            return ToolFault(code="timed_out", message=f"no result within {context.timeout_s:g} seconds")
        if running.cancelled():  # it cancelled itself, which is no wish of ours
            return ToolFault(code="failed", message="the tool broke off")
        return cut_output(running.result(), max_characters)
    except Exception:  # noqa: BLE001 - logged: the boundary that keeps a fault of a tool from the answer
        _log.exception("The tool %s met a fault", offered.function.name)
        return ToolFault(code="failed", message="the tool met an internal fault")
    finally:
        if not running.done():
            running.cancel()
            await asyncio.wait({running}, timeout=_GRACE_S)
            if not running.done():
                _log.error("The tool %s does not end although it was cancelled", offered.function.name)


def cut_output(output: ToolOutput, max_characters: int) -> ToolOutput:
    """The output, or its beginning where it is longer."""

    def cut(text: str) -> str:
        return text if len(text) <= max_characters else text[:max_characters] + CUT_NOTE

    match output:
        case SearchResults():
            hits: list[SearchHit] = []
            left = max_characters
            for hit in output.hits:
                left -= len(hit.url) + len(hit.title) + len(hit.age or "")
                if left < 0:
                    break
                hits.append(msgspec.structs.replace(hit, snippet=hit.snippet[:left]))
                left -= len(hit.snippet[:left])
            return msgspec.structs.replace(output, hits=tuple(hits))
        case FetchedPage():
            is_long = len(output.text) > max_characters
            return msgspec.structs.replace(
                output, title=output.title[:1000], text=output.text[:max_characters], is_cut=output.is_cut or is_long
            )
        case CodeOutput():
            value = None if output.value is None else cut(output.value)
            return msgspec.structs.replace(output, stdout=cut(output.stdout), stderr=cut(output.stderr), value=value)
        case PlainOutput():
            return PlainOutput(text=cut(output.text))
        case ToolFault():
            return msgspec.structs.replace(output, message=cut(output.message))

"""Conversations in which the server ran tools, as conversations with ordinary calls and results.

To the model a tool is a tool, whoever runs it. So a message of the assistant in whose middle the server ran tools
becomes several turns, as the model was asked and answered them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from deepserve.core.messages import (
    Message,
    Part,
    ServerToolCall,
    ServerToolResult,
    Text,
    ToolCall,
    ToolResult,
)
from deepserve.core.server_tool import ToolFault
from deepserve.prompt.tool_text import tool_output_text

NOT_KEPT = ToolFault(code="unavailable", message="what this call brought back is no longer known")
"""In place of a result of which the client sent back only that there was one."""

NOT_RUN = ToolFault(code="unavailable", message="this call was not carried out")
"""In place of a result that there never was."""


def ordinary_turns(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The same conversation without parts of server tools."""
    return tuple(turn for message in messages for turn in _turns(message))


def ordinary_call(call: ServerToolCall) -> ToolCall:
    return ToolCall(id=call.id, name=call.name, arguments=call.arguments)


def ordinary_result(result: ServerToolResult) -> ToolResult:
    output = NOT_KEPT if result.output is None else result.output
    return ToolResult(
        call_id=result.call_id, content=(Text(tool_output_text(output)),), is_error=isinstance(output, ToolFault)
    )


def _turns(message: Message) -> Iterator[Message]:
    if not any(isinstance(part, ServerToolCall | ServerToolResult) for part in message.parts):
        yield message
        return
    said: list[Part] = []
    results: list[ToolResult] = []
    open_ids: list[str] = []
    has_rounds = False
    for part in message.parts:
        if isinstance(part, ServerToolResult):
            results.append(ordinary_result(part))
            if part.call_id in open_ids:
                open_ids.remove(part.call_id)
            continue
        if results:
            yield from _round(said, results, open_ids)
            said, results, open_ids, has_rounds = [], [], [], True
        if isinstance(part, ServerToolCall):
            said.append(ordinary_call(part))
            open_ids.append(part.id)
        else:
            said.append(part)
    if results or open_ids:
        yield from _round(said, results, open_ids)
    elif has_rounds:
        yield msgspec.structs.replace(message, parts=tuple(said))
    else:
        yield message


def _round(said: Sequence[Part], results: Sequence[ToolResult], open_ids: Sequence[str]) -> Iterator[Message]:
    """What the model wrote before it was given results, and these."""
    yield Message(role="assistant", parts=tuple(said))
    missing = [
        ordinary_result(ServerToolResult(call_id=call_id, tool="web_search", output=NOT_RUN)) for call_id in open_ids
    ]
    for result in (*results, *missing):
        yield Message(role="tool", parts=(result,))

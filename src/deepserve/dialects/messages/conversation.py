"""The system prompt and the turns of a conversation: wire to core.

Roles of the core are finer: a user turn with results of tools becomes a message for each result and one for what is
said beside them, in the order sent. Neighbouring turns of the assistant are one turn, as Anthropic reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from deepserve.core.errors import InvalidField
from deepserve.core.messages import Message, Part, ServerToolResult, Text, ToolResult
from deepserve.dialects.messages.content import decode_content
from deepserve.dialects.node import Node
from deepserve.dialects.reading import Reading
from deepserve.dialects.volatile import without_volatile_line

_ORPHAN = (
    "{field}: unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each `tool_result` block must have a "
    "corresponding `tool_use` block in the previous message."
)
_UNANSWERED = (
    "{field}: `tool_use` ids were found without `tool_result` blocks immediately after: {ids}. Each `tool_use` block "
    "must have a corresponding `tool_result` block in the next message."
)
_NO_TRACE = "The `content[].thinking` in the thinking mode must be passed back to the API."


def decode_system(reading: Reading) -> tuple[Message, ...]:
    """At most one message, of one part for each block."""
    node = reading.root.optional("system")
    if node is None:
        return ()
    if isinstance(node.value, str):
        text = without_volatile_line(node.value)
        if text != node.value:
            reading.ignore("system")
        return (Message(role="system", parts=(Text(text),)),) if text else ()
    texts: list[str] = []
    for index, block in enumerate(node.items()):
        block.required("type").variant(("text",))
        reading.ignore_others(block, ("type", "text"), "system[]")
        text = block.required("text").string()
        if index == 0 and (kept := without_volatile_line(text)) != text:
            reading.ignore("system[0]")
            text = kept
        texts.append(text)
    parts = tuple(Text(text) for text in texts if text)
    return (Message(role="system", parts=parts),) if parts else ()


def decode_messages(reading: Reading) -> tuple[Message, ...]:
    """Raises InvalidField; also for calls without a result and results without a call, of which no prompt is made."""
    node = reading.root.required("messages")
    num_messages = len(node.sequence())
    if num_messages == 0:
        raise InvalidField("Empty input messages", field="messages")
    if num_messages > reading.limits.messages:
        raise InvalidField(
            f"Too many messages: {num_messages}, at most {reading.limits.messages} are read", field="messages"
        )
    messages: list[Message] = []
    pending: list[str] = []
    asked_at = "messages"
    for turn in node.items():
        for message in _turn(reading, turn):
            match message.role:
                case "tool":
                    [result] = message.tool_results
                    if result.call_id not in pending:
                        raise InvalidField(_ORPHAN.format(field=turn.field, id=result.call_id[:100]), field=turn.field)
                    pending.remove(result.call_id)
                case "assistant":
                    if messages and messages[-1].role == "assistant":
                        message = _joined(messages.pop(), message)
                    elif pending:
                        raise _unanswered(pending, asked_at)
                    pending = [call.id for call in message.tool_calls]
                    asked_at = turn.field
            messages.append(message)
    if pending:
        raise _unanswered(pending, asked_at)
    return (*messages[:-1], _opened(messages[-1]))


def _turn(reading: Reading, node: Node) -> Iterator[Message]:
    role = node.required("role")
    if role.value == "developer" and not reading.is_strict:
        kind = "system"
    else:
        kind = role.variant(("user", "assistant", "system"))
    reading.ignore_others(node, ("role", "content"), "messages[]")
    parts = decode_content(reading, node.required("content"))
    match kind:
        case "assistant":
            yield Message(role="assistant", parts=tuple(parts))
        case "system":
            yield Message(role="system", parts=tuple(parts))
        case _:
            yield from _user_messages(parts)


def _user_messages(parts: Sequence[Part]) -> Iterator[Message]:
    said: list[Part] = []
    for part in parts:
        if not isinstance(part, ToolResult):
            said.append(part)
            continue
        if said:
            yield Message(role="user", parts=tuple(said))
            said = []
        yield Message(role="tool", parts=(part,))
    if said or not parts:
        yield Message(role="user", parts=tuple(said))


def _joined(one: Message, other: Message) -> Message:
    return msgspec.structs.replace(one, parts=one.parts + other.parts)


def _opened(last: Message) -> Message:
    """A last turn of the assistant is the beginning of the answer; unless it paused after a tool of the server's."""
    if last.role != "assistant" or (last.parts and isinstance(last.parts[-1], ServerToolResult)):
        return last
    return msgspec.structs.replace(last, prefix=True)


def _unanswered(ids: Sequence[str], field: str) -> InvalidField:
    return InvalidField(_UNANSWERED.format(field=field, ids=", ".join(ids)[:500]), field=field)


def check_traces(messages: Sequence[Message]) -> None:
    """The vendor's demand while thinking: a trailing tool result needs the trace of the turn that made the call."""
    if messages[-1].role != "tool":
        return
    asked = next(message for message in reversed(messages) if message.role == "assistant")
    if asked.reasoning is None:
        raise InvalidField(_NO_TRACE, field="messages")

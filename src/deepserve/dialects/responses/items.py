"""Input items to messages: what a conversation is in this dialect, as turns.

Items are flat: a trace, a text and three calls of one turn are five items. They belong to one turn until something
else speaks, or until a text is followed by a trace or another text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from deepserve.core.errors import InvalidField
from deepserve.core.messages import (
    File,
    Image,
    Json,
    Message,
    OtherPart,
    Part,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolResult,
)
from deepserve.dialects.node import Node
from deepserve.dialects.reading import Reading
from deepserve.dialects.responses.compaction import open_summary
from deepserve.dialects.responses.memory import Keeper, item_id
from deepserve.dialects.responses.server_tools import decode_item
from deepserve.dialects.responses.tools import flat_name

_ROLES = ("user", "assistant", "system", "developer")

_Spoken = Text | Image | File | OtherPart | Refusal

_KNOWN: Mapping[str, frozenset[str]] = {
    "message": frozenset(("type", "id", "role", "content", "status")),
    "reasoning": frozenset(("type", "id", "summary", "content", "encrypted_content", "status")),
    "function_call": frozenset(("type", "id", "call_id", "name", "namespace", "arguments", "status")),
    "custom_tool_call": frozenset(("type", "id", "call_id", "name", "namespace", "input", "status")),
    "function_call_output": frozenset(("type", "id", "call_id", "output", "status", "name", "namespace")),
    "custom_tool_call_output": frozenset(("type", "id", "call_id", "output", "status", "name")),
    "compaction": frozenset(("type", "id", "encrypted_content")),
    "item_reference": frozenset(("type", "id")),
    "web_search_call": frozenset(("type", "id", "status", "action", "results")),
    "code_interpreter_call": frozenset(("type", "id", "status", "code", "container_id", "outputs")),
    "mcp_call": frozenset(
        ("type", "id", "status", "name", "server_label", "arguments", "output", "error", "approval_request_id")
    ),
}
"""Item types that are read, and their members that have an effect or need none."""


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """messages: everything the model reads; items: what this request added, each item with an id."""

    messages: tuple[Message, ...]
    items: list[dict[str, Json]]


def decode_conversation(
    reading: Reading, *, past: Sequence[Mapping[str, Json]], keeper: Keeper, digits: str
) -> Conversation:
    """past: the items of the responses this one continues; digits: the id of this one. Raises InvalidField."""
    turns = _Turns(reading, keeper)
    instructions = reading.root.optional("instructions")
    if instructions is not None and instructions.string():
        turns.messages.append(Message(role="system", parts=(Text(instructions.string()),)))
    for node in Node(reading.root.body, list(past), ("previous_response_id",)).items():
        turns.add(node, is_recalled=True)
    given = _given(reading)
    if not given and not past and not turns.messages:
        raise (reading.root.missing("input") if "input" not in reading.root.mapping() else _empty_input())
    if len(past) + len(given) > reading.limits.messages:
        raise InvalidField(
            f"Too many items: {len(past) + len(given)}, at most {reading.limits.messages} are read", field="input"
        )
    items: list[dict[str, Json]] = []
    for index, node in enumerate(given):
        item = turns.add(node)
        name = item_id(item["type"], digits, index, is_input=True)
        given_members = {key: value for key, value in item.items() if value is not None}
        items.append({"id": name, "status": "completed", **given_members})
    messages = turns.finish()
    if not messages:
        raise _empty_input()  # there were items, but none that says anything
    return Conversation(messages=messages, items=items)


def _empty_input() -> InvalidField:
    return InvalidField("Empty input: one of `input` and `instructions` must say something.", field="input")


def _given(reading: Reading) -> list[Node]:
    node = reading.root.optional("input")
    if node is None:
        return []
    if isinstance(node.value, str):
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": node.value}]}
        return [Node(node.body, item, node.path)]
    return list(node.items())


class _Turns:
    """Takes items one by one; `finish` gives the messages."""

    def __init__(self, reading: Reading, keeper: Keeper) -> None:
        self.messages: list[Message] = []
        self._reading = reading
        self._keeper = keeper
        self._turn: list[Part] = []
        self._open_calls: list[str] = []
        self._has_begun = False

    def add(self, node: Node, *, is_recalled: bool = False) -> dict[str, Json]:
        """Read one item; returns it in full: with its type, with content as a list, a reference replaced.

        is_recalled  the item was kept here, and named by the client
        """
        kind = _kind_of(node)
        if kind == "item_reference":
            return self._refer(node)
        if kind in _KNOWN:
            self._reading.ignore_others(node, _KNOWN[kind], "input[]")
        match kind:
            case "message":
                return self._message(node)
            case "reasoning":
                self._reason(node, is_recalled=is_recalled)
            case "function_call" | "custom_tool_call":
                self._call(node, kind)
            case "function_call_output" | "custom_tool_call_output":
                self._result(node)
            case "web_search_call" | "code_interpreter_call" | "mcp_call":
                self._turn.extend(decode_item(node, kind))
            case "compaction":
                self._speak("user", (Text(open_summary(node.required("encrypted_content"), self._keeper.unseal)),))
            case _:
                self._reading.ignore(f"input[].{kind[:64]}")
        return {**node.mapping(), "type": kind}

    def finish(self) -> tuple[Message, ...]:
        self._close_turn()
        if self._open_calls:
            raise InvalidField(f"No tool output found for function call {self._open_calls[0][:100]}.", field="input")
        return tuple(self.messages)

    def _refer(self, node: Node) -> dict[str, Json]:
        wanted = node.required("id")
        item = self._keeper.find_item(wanted.string())
        if item is None:
            raise InvalidField(f"Item with id '{wanted.string()[:100]}' not found.", field=wanted.field)
        return self.add(Node(node.body, item, node.path), is_recalled=True)

    def _message(self, node: Node) -> dict[str, Json]:
        role = node.required("role").variant(_ROLES)
        content = node.required("content")
        if isinstance(content.value, str):
            kind = "output_text" if role == "assistant" else "input_text"
            written: list[Json] = [{"type": kind, "text": content.value}]
            parts: tuple[_Spoken, ...] = (Text(content.value),)
        else:
            written = content.sequence()
            parts = tuple(_part(self._reading, part) for part in content.items())
        match role:
            case "assistant":
                self._say(parts)
            case "system":
                self._speak("system", parts)
            case "developer":
                # Before the first turn it is a system text, whatever the client calls it. Later, its place matters:
                # the vendor reads it as the user's, and what was cached of the conversation before stays valid.
                is_leading = not self._has_begun and not self._reading.is_strict
                self._speak("system" if is_leading else "user", parts)
            case _:
                self._speak("user", parts)
        return {**node.mapping(), "type": "message", "content": written}

    def _speak(self, role: Role, parts: tuple[Part, ...]) -> None:
        self._close_turn()
        self._has_begun = self._has_begun or role != "system"
        self.messages.append(Message(role=role, parts=parts))

    def _say(self, parts: Sequence[Part]) -> None:
        has_called = any(isinstance(part, ToolCall) for part in self._turn)
        if not has_called and any(not isinstance(part, Reasoning) for part in self._turn):
            self._close_turn()
        self._turn.extend(parts)

    def _reason(self, node: Node, *, is_recalled: bool) -> None:
        has_called = any(isinstance(part, ToolCall) for part in self._turn)
        if not has_called and any(not isinstance(part, Reasoning) for part in self._turn):
            self._close_turn()
        texts = _texts(node, "content")
        sealed = node.optional("encrypted_content")
        if texts is None and sealed is None:
            texts = _texts(node, "summary")
        if texts is None and sealed is None:
            return  # nothing of the trace came back
        name = node.optional("id")
        self._turn.append(
            Reasoning(
                text="".join(texts or ()),
                id=None if name is None else name.string(),
                sealed=None if sealed is None else sealed.string(),
                is_recalled=is_recalled,
            )
        )

    def _call(self, node: Node, kind: str) -> None:
        space = node.optional("namespace")
        given = node.required("input" if kind == "custom_tool_call" else "arguments")
        if isinstance(given.value, dict) and not self._reading.is_strict:
            text = msgspec.json.encode(given.value).decode()
        else:
            text = given.string()
        call_id = node.required("call_id").string()
        self._turn.append(
            ToolCall(
                id=call_id,
                name=flat_name(node.required("name").string(), None if space is None else space.string()),
                arguments=text,
                kind="custom" if kind == "custom_tool_call" else "function",
            )
        )
        self._open_calls.append(call_id)

    def _result(self, node: Node) -> None:
        self._close_turn()
        call_id = node.required("call_id").string()
        if call_id not in self._open_calls:
            raise InvalidField(
                f"No tool call found for function call output with call_id {call_id[:100]}.", field=node.field
            )
        self._open_calls.remove(call_id)
        output = node.required("output")
        content: tuple[Text | Image | File | OtherPart, ...]
        if isinstance(output.value, list):
            parts = [_part(self._reading, part) for part in output.items()]
            content = tuple(Text(part.text) if isinstance(part, Refusal) else part for part in parts)
        elif isinstance(output.value, dict) and not self._reading.is_strict:
            content = (Text(msgspec.json.encode(output.value).decode()),)
        else:
            content = (Text(output.string()),)
        self._has_begun = True
        self.messages.append(Message(role="tool", parts=(ToolResult(call_id=call_id, content=content),)))

    def _close_turn(self) -> None:
        if self._turn:
            self._has_begun = True
            self.messages.append(Message(role="assistant", parts=tuple(self._turn)))
            self._turn = []


def _kind_of(node: Node) -> str:
    kind = node.optional("type")
    if kind is not None:
        return kind.string()
    if "role" in node.mapping():
        return "message"  # the short form that the SDKs call an easy message
    return "item_reference" if "id" in node.mapping() else node.required("type").string()


def _texts(node: Node, member: str) -> list[str] | None:
    """The texts of a list of parts; None where there are no parts."""
    parts = node.optional(member)
    if parts is None or not parts.sequence():
        return None
    return [part.required("text").string() for part in parts.items()]


def _part(reading: Reading, node: Node) -> _Spoken:
    kind = node.required("type").string()
    match kind:
        case "input_text" | "output_text" | "text":
            known = ("type", "text", "annotations", "logprobs", "parsed")
            reading.ignore_others(node, known, "input[].content[]")
            return Text(node.required("text").string())
        case "refusal":
            return Refusal(node.required("refusal").string())
        case "input_image":
            url, file_id, detail = (node.optional(key) for key in ("image_url", "file_id", "detail"))
            if reading.is_strict and url is None and file_id is None:
                raise InvalidField("input_image must have image_url or file_id", field=node.field)
            if reading.is_strict and url is not None and file_id is not None:
                raise InvalidField("input_image cannot have both image_url and file_id", field=node.field)
            reading.ignore("input[].content[].input_image")
            return Image(
                url=None if url is None else url.string(),
                file_id=None if file_id is None else file_id.string(),
                detail=None if detail is None else detail.string(),
            )
        case "input_file":
            reading.ignore("input[].content[].input_file")
            strings = {
                key: inner.string()
                for key in ("file_id", "file_data", "filename")
                if (inner := node.optional(key)) is not None
            }
            return File(file_id=strings.get("file_id"), data=strings.get("file_data"), filename=strings.get("filename"))
        case _:
            reading.ignore(f"input[].content[].{kind[:64]}")
            return OtherPart(kind=kind[:64], value=node.value)

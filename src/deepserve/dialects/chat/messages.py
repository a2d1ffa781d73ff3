"""Messages of a conversation: wire to core and back."""

from __future__ import annotations

from collections.abc import Mapping

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
from deepserve.dialects.chat.reading import ChatReading
from deepserve.dialects.chat.server_call import decode_details
from deepserve.dialects.node import Node

_ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool", "latest_reminder")
_FILE_KEYS = ("file_id", "file_data", "filename")
_MESSAGE_KEYS: Mapping[str, frozenset[str]] = {
    "system": frozenset(("role", "content")),
    "latest_reminder": frozenset(("role", "content")),
    "user": frozenset(("role", "content")),
    "tool": frozenset(("role", "content", "tool_call_id")),
    "assistant": frozenset(("role", "content", "prefix", "tool_calls", "refusal", "reasoning_content")),
}
"""What has an effect. `name` has none: the prompt format has no place for it."""

_TOLERATED_TRACES = frozenset(("reasoning", "reasoning_details"))
"""Other services' names for `reasoning_content`; strict mode does not know them."""

_Spoken = Text | Image | File | OtherPart | Refusal


def decode_messages(reading: ChatReading, node: Node) -> tuple[Message, ...]:
    num_messages = len(node.sequence())
    if num_messages == 0:
        raise InvalidField("Empty input messages", field="messages")
    if num_messages > reading.limits.messages:
        raise InvalidField(
            f"Too many messages: {num_messages}, at most {reading.limits.messages} are read", field="messages"
        )
    return tuple(_message(reading, message) for message in node.items())


def _message(reading: ChatReading, node: Node) -> Message:
    role_node = node.required("role")
    if role_node.value == "developer" and not reading.is_strict:
        role: Role = "system"
    else:
        role = _ROLES[_ROLES.index(role_node.variant(_ROLES))]
    node = node.labelled()
    known = _MESSAGE_KEYS[role]
    if role == "assistant" and not reading.is_strict:
        known |= _TOLERATED_TRACES
    reading.ignore_others(node, known, "messages[]")
    name = node.optional("name")
    parts: tuple[Part, ...]
    match role:
        case "tool":
            parts = (_tool_result(reading, node),)
        case "assistant":
            parts = _assistant_parts(reading, node)
        case _:
            parts = _content(reading, node.required("content"), takes_parts=role == "user")
    prefix = node.optional("prefix") if role == "assistant" else None
    return Message(
        role=role,
        parts=parts,
        name=None if name is None else name.string(),
        prefix=prefix is not None and prefix.boolean(),
    )


def _content(reading: ChatReading, node: Node, *, takes_parts: bool) -> tuple[_Spoken, ...]:
    """A string, or a list of parts."""
    if isinstance(node.value, list) and (takes_parts or not reading.is_strict):
        return tuple(_part(reading, part) for part in node.items())
    return (Text(node.string()),)


def _part(reading: ChatReading, node: Node) -> _Spoken:
    kind_node = node.required("type")
    kind = kind_node.variant(("text",)) if reading.is_strict else kind_node.string()
    match kind:
        case "text" | "input_text" | "output_text":
            reading.ignore_others(node, ("type", "text"), "messages[].content[]")
            return Text(node.required("text").string())
        case "refusal":
            return Refusal(node.required("refusal").string())
        case "image_url":
            reading.ignore("messages[].content[].image_url")
            image = node.required("image_url")
            if isinstance(image.value, str):
                return Image(url=image.value)
            detail = image.optional("detail")
            return Image(url=image.required("url").string(), detail=None if detail is None else detail.string())
        case "file":
            reading.ignore("messages[].content[].file")
            file = node.optional("file") or node
            strings = {key: inner.string() for key in _FILE_KEYS if (inner := file.optional(key)) is not None}
            return File(
                file_id=strings.get("file_id"),
                data=strings.get("file_data"),
                filename=strings.get("filename"),
            )
        case _:
            reading.ignore(f"messages[].content[].{kind}")
            return OtherPart(kind=kind, value=node.value)


def _tool_result(reading: ChatReading, node: Node) -> ToolResult:
    call_id = node.required("tool_call_id").string()
    content = node.required("content") if reading.is_strict else node.optional("content")
    name = node.optional("name")
    parts = () if content is None else _content(reading, content, takes_parts=False)
    return ToolResult(
        call_id=call_id,
        name=None if name is None else name.string(),
        content=tuple(Text(part.text) if isinstance(part, Refusal) else part for part in parts),
    )


def _assistant_parts(reading: ChatReading, node: Node) -> tuple[Part, ...]:
    if reading.is_strict:
        node.required("content")
    parts: list[Part] = []
    recorded = () if reading.is_strict else decode_details(node.optional("reasoning_details"))
    parts.extend(recorded)
    trace = None if recorded else _trace(reading, node)
    if trace is not None:
        parts.append(trace)
    content = node.optional("content")
    if content is not None:
        parts.extend(_assistant_content(reading, content))
    refusal = node.optional("refusal")
    if refusal is not None:
        parts.append(Refusal(refusal.string()))
    calls = node.optional("tool_calls")
    if calls is not None:
        parts.extend(_call(reading, call) for call in calls.items())
    has_said = any(not isinstance(part, Reasoning) for part in parts)
    if reading.is_strict and not has_said:
        raise InvalidField(
            f"Invalid assistant message: content or tool_calls must be set{node.body.position_of(node.path)}",
            field=node.field,
        )
    return tuple(parts)


def _assistant_content(reading: ChatReading, node: Node) -> tuple[Part, ...]:
    if reading.is_strict or not isinstance(node.value, list):
        return _content(reading, node, takes_parts=False)
    traces: list[Part] = []
    spoken: list[Part] = []
    for part in node.items():
        if part.required("type").value == "thinking":
            signature = part.optional("signature")
            traces.append(
                Reasoning(
                    text=part.required("thinking").string(),
                    signature=None if signature is None else signature.string(),
                )
            )
        else:
            spoken.append(_part(reading, part))
    return (*traces, *spoken)


def _trace(reading: ChatReading, node: Node) -> Reasoning | None:
    """The thinking trace under any of the names that services send and clients return."""
    for key in ("reasoning_content",) if reading.is_strict else ("reasoning_content", "reasoning"):
        trace = node.optional(key)
        if trace is not None:
            return Reasoning(text=trace.string())
    details = None if reading.is_strict else node.optional("reasoning_details")
    if details is None or not details.sequence():
        return None
    found: dict[str, list[str]] = {"text": [], "summary": [], "signature": [], "data": []}
    for detail in details.items():
        for key, texts in found.items():
            if (text := detail.optional(key)) is not None:
                texts.append(text.string())
    return Reasoning(
        text="".join(found["text"] or found["summary"]),
        signature=next(iter(found["signature"]), None),
        sealed=next(iter(found["data"]), None),
    )


def _call(reading: ChatReading, node: Node) -> ToolCall:
    kind = node.optional("type")
    if kind is not None and kind.variant(("function",) if reading.is_strict else ("function", "custom")) == "custom":
        custom = node.required("custom")
        return ToolCall(
            id=node.required("id").string(),
            name=custom.required("name").string(),
            arguments=custom.required("input").string(),
            kind="custom",
        )
    function = node.required("function")
    reading.ignore_others(node, ("index", "id", "type", "function"), "messages[].tool_calls[]")
    reading.ignore_others(function, ("name", "arguments"), "messages[].tool_calls[].function")
    arguments = function.required("arguments")
    if isinstance(arguments.value, dict) and not reading.is_strict:
        text = msgspec.json.encode(arguments.value).decode()
    else:
        text = arguments.string()
    return ToolCall(id=node.required("id").string(), name=function.required("name").string(), arguments=text)


def encode_message(message: Message, reasoning_field: str) -> Json:
    fields: dict[str, Json] = {"role": message.role}
    if message.name is not None:
        fields["name"] = message.name
    if message.role == "tool":
        result = message.tool_results[0]
        fields["tool_call_id"] = result.call_id
        fields["content"] = _encode_content(result.content)
        return fields
    spoken = tuple(part for part in message.parts if isinstance(part, _Spoken))
    fields["content"] = _encode_content(spoken)
    if message.reasoning is not None:
        fields[reasoning_field] = message.reasoning
    if message.prefix:
        fields["prefix"] = True
    if message.tool_calls:
        fields["tool_calls"] = [_encode_call(call) for call in message.tool_calls]
    return fields


def _encode_call(call: ToolCall) -> Json:
    if call.kind == "custom":
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _encode_content(parts: tuple[_Spoken, ...]) -> Json:
    if not parts:
        return ""
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    return [_encode_part(part) for part in parts]


def _encode_part(part: _Spoken) -> Json:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Refusal():
            return {"type": "refusal", "refusal": part.text}
        case Image():
            detail = {} if part.detail is None else {"detail": part.detail}
            return {"type": "image_url", "image_url": {"url": part.url or "", **detail}}
        case File():
            named = {"file_id": part.file_id, "file_data": part.data, "filename": part.filename}
            return {"type": "file", "file": {name: value for name, value in named.items() if value is not None}}
        case OtherPart():
            return part.value

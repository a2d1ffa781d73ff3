"""Content blocks of a conversation: wire to core."""

from __future__ import annotations

import msgspec

from deepserve.core.errors import UnsupportedFeature
from deepserve.core.messages import (
    File,
    Image,
    OtherPart,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
)
from deepserve.dialects.messages.fields import REFUSED_BLOCKS
from deepserve.dialects.messages.server_tools import decode_call, decode_result, kind_of_result
from deepserve.dialects.node import Node
from deepserve.dialects.reading import Reading

INVALID_JSON = "INVALID_JSON"
"""The one member of an input that stands for text which is not a JSON object. Anthropic proposes this wrapping for
arguments that were cut off (platform.claude.com/docs, "Fine-grained tool streaming")."""

_BLOCKS = "messages[].content[]"

_Shown = Text | Image | File | OtherPart


def decode_content(reading: Reading, node: Node) -> list[Part]:
    """A string, or a list of blocks."""
    if isinstance(node.value, str):
        return [Text(node.value)]
    return [part for block in node.items() for part in _block(reading, block)]


def _block(reading: Reading, node: Node) -> list[Part]:
    kind = node.required("type").string()
    match kind:
        case "thinking":
            signature = node.optional("signature")
            reading.ignore_others(node, ("type", "thinking", "signature"), _BLOCKS)
            return [
                Reasoning(
                    text=node.required("thinking").string(),
                    signature=None if signature is None else signature.string() or None,
                )
            ]
        case "redacted_thinking":
            return [Reasoning(sealed=node.required("data").string())]
        case "tool_use":
            reading.ignore_others(node, ("type", "id", "name", "input", "caller"), _BLOCKS)
            return [
                ToolCall(
                    id=node.required("id").string(),
                    name=node.required("name").string(),
                    arguments=_arguments(node.optional("input")),
                )
            ]
        case "tool_result":
            return [_tool_result(reading, node)]
        case "server_tool_use" | "mcp_tool_use":
            return [decode_call(node, _arguments(node.optional("input")))]
        case _ if kind in REFUSED_BLOCKS:
            raise UnsupportedFeature(
                f"Content blocks of type `{kind}` are not supported: {REFUSED_BLOCKS[kind]}.", field=node.field
            )
        case _ if kind == "mcp_tool_result" or kind_of_result(kind) is not None:
            return [decode_result(node)]
        case _:
            return list(_shown(reading, node))


def _arguments(node: Node | None) -> str:
    if node is None:
        return "{}"
    if isinstance(node.value, str):
        return node.value
    if node.mapping().keys() == {INVALID_JSON} and isinstance(node.value[INVALID_JSON], str):
        return str(node.value[INVALID_JSON])
    return msgspec.json.encode(node.value).decode()


def _shown(reading: Reading, node: Node) -> list[_Shown]:
    """A block that the model is to read, as text where there is text."""
    kind = node.required("type").string()
    match kind:
        case "text":
            reading.ignore_others(node, ("type", "text"), _BLOCKS)
            return [Text(node.required("text").string())]
        case "image":
            reading.ignore(f"{_BLOCKS}.image")
            return [_image(node.required("source"))]
        case "document":
            return _document(reading, node)
        case "search_result":
            reading.ignore_others(node, ("type", "source", "title", "content"), _BLOCKS)
            found = [Text(node.required("title").string()), Text(node.required("source").string())]
            return [*found, *_shown_content(reading, node.required("content"))]
        case _:
            reading.ignore(f"{_BLOCKS}.{kind[:64]}")
            return [OtherPart(kind=kind[:64], value=node.value)]


def _shown_content(reading: Reading, node: Node) -> list[_Shown]:
    if isinstance(node.value, str):
        return [Text(node.value)]
    return [part for block in node.items() for part in _shown(reading, block)]


def _strings(source: Node) -> dict[str, str]:
    return {key: value for key, value in source.mapping().items() if isinstance(value, str)}


def _image(source: Node) -> Image:
    strings = _strings(source)
    media_type = strings.get("media_type")
    match source.required("type").string():
        case "base64":
            data = source.required("data").string()
            return Image(url=f"data:{media_type or 'image/png'};base64,{data}", media_type=media_type)
        case "file":
            return Image(file_id=source.required("file_id").string())
        case _:
            return Image(url=strings.get("url", ""), media_type=media_type)


def _document(reading: Reading, node: Node) -> list[_Shown]:
    """Plain text is read, with its title and context before it; anything else is named by a placeholder."""
    reading.ignore_others(node, ("type", "source", "title", "context"), _BLOCKS)
    source = node.required("source")
    head = [Text(part.string()) for key in ("title", "context") if (part := node.optional(key)) is not None]
    match source.required("type").string():
        case "text":
            return [*head, Text(source.required("data").string())]
        case "content":
            return [*head, *_shown_content(reading, source.required("content"))]
        case _:
            reading.ignore(f"{_BLOCKS}.document")
            strings = _strings(source)
            data = strings.get("data") or strings.get("url")
            file = File(file_id=strings.get("file_id"), data=data, media_type=strings.get("media_type"))
            return [*head, file]


def _tool_result(reading: Reading, node: Node) -> ToolResult:
    reading.ignore_others(node, ("type", "tool_use_id", "content", "is_error"), _BLOCKS)
    content, is_error = node.optional("content"), node.optional("is_error")
    has_failed = is_error is not None and is_error.boolean()
    if has_failed:
        reading.ignore(f"{_BLOCKS}.is_error")
    return ToolResult(
        call_id=node.required("tool_use_id").string(),
        content=() if content is None else tuple(_shown_content(reading, content)),
        is_error=has_failed,
    )

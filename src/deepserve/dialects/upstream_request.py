"""What requests to other services have in common, whatever dialect they are written in.

What a service has no field for is asked for in words, at the beginning of the conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar, assert_never

import msgspec

from deepserve.core.errors import UnsupportedFeature
from deepserve.core.messages import Image, Json, Message, Part, Refusal, Text, ToolResult
from deepserve.core.request import Request, ResponseFormat, ToolChoice

LOST_TRACE: Final = "(What was thought here is lost.)"
"""Stands for a trace that is needed and that nobody has: services refuse none, and an empty one too
(github.com/BerriAI/litellm/issues/27439)."""

ONE_CALL: Final = "Call at most one function at a time."
JSON_ANSWER: Final = "Answer with JSON."
SEVERAL_RESULTS: Final = "The upstream gives one result to a request: ask several times."

Spoken = TypeVar("Spoken", bound=Part)


class UpstreamRequest(msgspec.Struct, frozen=True, kw_only=True):
    """path: after the service's base address. left_out: what the client asked for and the service does not know."""

    path: str
    body: bytes
    left_out: tuple[str, ...] = ()


def refuse_everywhere_unsayable(request: Request) -> None:
    """Raises UnsupportedFeature for what no service is asked."""
    if request.infill is not None:
        raise UnsupportedFeature("Plain completions are not passed on to an upstream: send messages.", field="prompt")
    if request.server_tools:
        tool = request.server_tools[0].tool
        raise UnsupportedFeature(f"The server tool `{tool}` is not supported.", field="tools")
    for index, message in enumerate(request.messages):
        if message.task is not None or message.tools:
            raise UnsupportedFeature(
                "Tasks and tools of one turn are not passed on to an upstream.", field=f"messages[{index}]"
            )
        if any(isinstance(part, Image) and part.url is None for part in inner_parts(message.parts)):
            raise UnsupportedFeature(
                "Images by the id of a file are not passed on to an upstream: send a URL.", field=f"messages[{index}]"
            )


def inner_parts(parts: Sequence[Part]) -> list[Part]:
    """The parts, and those inside results of tools."""
    found: list[Part] = list(parts)
    for part in parts:
        if isinstance(part, ToolResult):
            found.extend(part.content)
    return found


def form_in_words(form: ResponseFormat) -> str | None:
    """The sentence that asks for a form; None where none is wanted."""
    match form.kind:
        case "text":
            return None
        case "json_object":
            return "Answer with one JSON object and nothing else."
        case "json_schema":
            schema = msgspec.json.encode(form.schema).decode()
            return (
                "Answer with JSON and nothing else: no words around it, no code fence. "
                f"It must be valid by this JSON schema:\n{schema}"
            )
        case "regex":
            return f"Your whole answer must match this regular expression, nothing else:\n{form.pattern}"
        case "choice":
            choices = "\n".join(f"- {choice}" for choice in form.choices)
            return f"Your whole answer must be exactly one of these, nothing else:\n{choices}"
        case _:
            assert_never(form.kind)


def demand_in_words(choice: ToolChoice) -> str:
    """The sentence that demands a call."""
    return (
        f"Call the function `{choice.names[0]}` now." if choice.mode == "named" else "Call at least one function now."
    )


def is_object(schema: Json) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "object"


def with_words(messages: Sequence[Message], sentences: Sequence[str]) -> Sequence[Message]:
    """At the beginning, where every service takes them and a cached prefix can hold them."""
    if not sentences:
        return messages
    told = "\n\n".join(sentences)
    if messages and messages[0].role == "system":
        first = messages[0]
        said = Text(f"\n\n{told}" if first.text else told)
        return (msgspec.structs.replace(first, parts=(*first.parts, said)), *messages[1:])
    return (Message(role="system", parts=(Text(told),)), *messages)


def joined_texts(parts: Sequence[Spoken]) -> tuple[Spoken | Text, ...]:
    """Texts beside each other as one, refusals among them."""
    joined: list[Spoken | Text] = []
    for part in parts:
        if isinstance(part, Text | Refusal):
            before = joined[-1] if joined else None
            if isinstance(before, Text):
                joined[-1] = Text(before.text + part.text)
            else:
                joined.append(Text(part.text))
        else:
            joined.append(part)
    return tuple(joined)

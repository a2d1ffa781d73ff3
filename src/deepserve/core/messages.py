"""Conversations as values that belong to no wire format.

A message is a role and an ordered tuple of parts. The parts carry everything the dialects can say: what a dialect
cannot express is listed by its encoder, never dropped in silence. Values only: nothing here renders or validates.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from deepserve.core.server_tool import ToolKind, ToolOutput
from deepserve.core.tool import Tool

Role = Literal["system", "user", "assistant", "tool", "latest_reminder"]

Json = Any
"""A decoded JSON value; its shape is known only to whoever declared it."""


class Citation(msgspec.Struct, frozen=True, kw_only=True):
    """Where a stretch of text comes from; offsets count characters of the text part."""

    url: str
    title: str = ""
    cited_text: str = ""
    start: int | None = None
    end: int | None = None
    opaque: str | None = None
    """A provider's handle that must be sent back unchanged (Anthropic `encrypted_index`)."""


class Text(msgspec.Struct, frozen=True, tag="text"):
    text: str
    citations: tuple[Citation, ...] = ()


class Refusal(msgspec.Struct, frozen=True, tag="refusal"):
    text: str


class Image(msgspec.Struct, frozen=True, kw_only=True, tag="image"):
    """Exactly one of url (may be a data URL) and file_id is set."""

    url: str | None = None
    file_id: str | None = None
    detail: str | None = None
    media_type: str | None = None


class File(msgspec.Struct, frozen=True, kw_only=True, tag="file"):
    file_id: str | None = None
    data: str | None = None
    filename: str | None = None
    media_type: str | None = None


class Reasoning(msgspec.Struct, frozen=True, kw_only=True, tag="reasoning"):
    """A thinking trace.

    signature    opaque text that a client got with the trace and sends back
    sealed       the trace in a form only its issuer can open; text may then be empty
    is_recalled  this server kept it: the client sent its name, or that of the response it was part of
    """

    text: str = ""
    id: str | None = None
    signature: str | None = None
    sealed: str | None = None
    format: str | None = None
    is_recalled: bool = False


class ToolCall(msgspec.Struct, frozen=True, kw_only=True, tag="tool_call"):
    """A call the model made. arguments is the text as received: JSON in the good case, anything in the bad one."""

    id: str
    name: str
    arguments: str = "{}"
    namespace: str | None = None
    kind: Literal["function", "custom"] = "function"


class ToolResult(msgspec.Struct, frozen=True, kw_only=True, tag="tool_result"):
    call_id: str
    content: tuple[Text | Image | File | OtherPart, ...] = ()
    is_error: bool = False
    name: str | None = None


UNNAMED = "unnamed_"
"""How the id of a call begins whose own the client did not send back."""


class ServerToolCall(msgspec.Struct, frozen=True, kw_only=True, tag="server_tool_call"):
    """A call of a tool that the server runs itself inside one request (web search, fetch, code).

    name       under which the model called it
    arguments  the text as the model wrote it
    """

    id: str
    tool: ToolKind
    name: str
    arguments: str = "{}"


class ServerToolResult(msgspec.Struct, frozen=True, kw_only=True, tag="server_tool_result"):
    """output: None where the client sent back only that there was one; the server may remember it."""

    call_id: str
    tool: ToolKind
    output: ToolOutput | None = None


class OtherPart(msgspec.Struct, frozen=True, kw_only=True, tag="other"):
    """A part this server has no meaning for; kept so that it can be named, echoed or replaced by a placeholder."""

    kind: str
    value: Json = None


Part = Text | Refusal | Image | File | Reasoning | ToolCall | ToolResult | ServerToolCall | ServerToolResult | OtherPart

Task = Literal["query", "authority", "domain", "read_url", "title", "action"]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One turn.

    prefix  the last assistant message only: the answer continues these parts instead of starting anew
    tools   offered in this turn rather than for the whole request (V4's internal developer turns do so)
    task    a quick-task marker of the V4 prompt format
    id      an identifier the client gave the turn, echoed where the dialect does so
    """

    role: Role
    parts: tuple[Part, ...] = ()
    name: str | None = None
    prefix: bool = False
    task: Task | None = None
    tools: tuple[Tool, ...] = ()
    id: str | None = None

    @property
    def text(self) -> str:
        """All text parts joined with nothing between."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def reasoning(self) -> str | None:
        """The thinking trace, None when the message carries none (an empty trace is a trace)."""
        traces = [part.text for part in self.parts if isinstance(part, Reasoning)]
        return "".join(traces) if traces else None

    @property
    def is_reasoning_recalled(self) -> bool:
        """Whether it carries a trace, no part of which the client sent."""
        traces = [part.is_recalled for part in self.parts if isinstance(part, Reasoning)]
        return bool(traces) and all(traces)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple([part for part in self.parts if isinstance(part, ToolCall)])

    @property
    def tool_results(self) -> tuple[ToolResult, ...]:
        return tuple([part for part in self.parts if isinstance(part, ToolResult)])

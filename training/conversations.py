"""What a training example is, before it becomes text: a conversation with its tools and its switches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

Split = Literal["train", "held_out"]
"""Which side of every value pool may be used: evaluation never sees a value that training saw."""

Effort = Literal["low", "high", "max"]


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """One offered function; `parameters` is its JSON schema (any JSON, hence Any)."""

    name: str
    description: str
    parameters: Mapping[str, Any]


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call the assistant makes; argument values are plain JSON values (hence Any)."""

    name: str
    arguments: Mapping[str, Any]


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One message. `reasoning` and `calls` are the assistant's; tool turns answer the calls before them in order."""

    role: Literal["user", "assistant", "tool"]
    content: str = ""
    reasoning: str = ""
    calls: tuple[Call, ...] = ()


class Hole(msgspec.Struct, frozen=True, kw_only=True):
    """A plain completion: what stands before and after the text that is missing."""

    before: str
    after: str


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """A whole example; the last turn is the answer to be learned."""

    skill: str
    turns: tuple[Turn, ...]
    system: str | None = None
    tools: tuple[Tool, ...] = ()
    thinking: bool = True
    effort: Effort = "high"
    json_object: bool = False
    json_schema: Mapping[str, Any] | None = None
    """A schema for the answer (any JSON, hence Any); not together with json_object."""
    infill: Hole | None = None
    """Set for a plain completion: then there is one turn, which fills the hole, and nothing is thought."""
    facts: tuple[tuple[str, ...], ...] = ()
    """What a sensible answer says: of each fact one of its spellings. Empty: only the exact answer is right."""

"""Answers of other services as they stand on the wire, read with patience.

Members that a service leaves out or sends as null have a default, unknown ones are skipped. What we write ourselves is
in `wire`.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

import msgspec

from deepserve.core.messages import Json

NOTHING: Final = msgspec.Raw(b"null")


class ReadTopLogprob(msgspec.Struct, frozen=True):
    """bytes: None where the token is whole characters, and for some services always."""

    token: str = ""
    logprob: float = 0.0
    bytes: list[int] | None = None


class ReadLogprob(ReadTopLogprob, frozen=True):
    top_logprobs: list[ReadTopLogprob] | None = None


class ReadPart(msgspec.Struct, frozen=True):
    """Of a message, a trace or its summary."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None
    logprobs: list[ReadLogprob] | None = None


class ReadItem(msgspec.Struct, frozen=True):
    """Any item of an answer; its type says which members it has."""

    type: str = ""
    content: list[ReadPart] | None = None
    summary: list[ReadPart] | None = None
    encrypted_content: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None


class ReadIncomplete(msgspec.Struct, frozen=True):
    reason: str | None = None


class ReadResponse(msgspec.Struct, frozen=True):
    """usage: decoded apart, for a wrong one is no reason to lose the answer. error: as it came."""

    model: str | None = None
    system_fingerprint: str | None = None
    status: str | None = None
    output: list[ReadItem] | None = None
    incomplete_details: ReadIncomplete | None = None
    usage: msgspec.Raw = NOTHING
    error: Json = None


class ReadEvent(msgspec.Struct, frozen=True):
    """One event; its type says which members it has. delta: of the item with this index.

    code, message  of the event `error`, which some services put into a member of that name
    """

    type: str = ""
    response: ReadResponse | None = None
    output_index: int = 0
    item: ReadItem | None = None
    delta: Json = None
    logprobs: list[ReadLogprob] | None = None
    summary_index: int = 0
    error: Json = None
    code: Json = None
    message: Json = None

    @property
    def text(self) -> str:
        """The piece. In events of a later day, which are skipped, it may be no text."""
        return self.delta if isinstance(self.delta, str) else ""


class ReadInputDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class ReadOutputDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int | None = None


class ReadCostDetails(msgspec.Struct, frozen=True):
    upstream_inference_input_cost: Decimal | None = None


class ReadUsage(msgspec.Struct, frozen=True):
    """cost: in US dollars, at services that state it."""

    input_tokens: int | None = None
    input_tokens_details: ReadInputDetails | None = None
    output_tokens: int | None = None
    output_tokens_details: ReadOutputDetails | None = None
    cost: Decimal | None = None
    cost_details: ReadCostDetails | None = None

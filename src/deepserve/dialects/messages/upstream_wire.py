"""Answers of other services as they stand on the wire, read with patience.

Members that a service leaves out or sends as null have a default, unknown ones are skipped. Whole answers and events
of a stream are of the same few values. What we write ourselves is in `wire`.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

import msgspec

from deepserve.core.messages import Json

NOTHING: Final = msgspec.Raw(b"null")


class ReadBlock(msgspec.Struct, frozen=True):
    """A block, or what an event adds to one. input: a call's arguments; in a stream `partial_json` tells them."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = NOTHING
    partial_json: str | None = None


class ReadDelta(ReadBlock, frozen=True):
    """The member `delta` of events: a piece of a block, or the end of the answer."""

    stop_reason: str | None = None
    stop_sequence: str | None = None


class ReadMessage(msgspec.Struct, frozen=True):
    """usage: decoded apart, for a wrong one is no reason to lose the answer. error: as it came."""

    type: str | None = None
    model: str | None = None
    content: list[ReadBlock] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: msgspec.Raw = NOTHING
    error: Json = None


class ReadEvent(msgspec.Struct, frozen=True):
    type: str = ""
    index: int = 0
    message: ReadMessage | None = None
    content_block: ReadBlock | None = None
    delta: ReadDelta | None = None
    usage: msgspec.Raw = NOTHING
    error: Json = None


class ReadOutputDetails(msgspec.Struct, frozen=True):
    thinking_tokens: int | None = None


class ReadCostDetails(msgspec.Struct, frozen=True):
    upstream_inference_prompt_cost: Decimal | None = None


class ReadUsage(msgspec.Struct, frozen=True):
    """None: not told; of several reports each replaces what it tells. cost: in US dollars, where it is stated."""

    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None
    output_tokens_details: ReadOutputDetails | None = None
    cost: Decimal | None = None
    cost_details: ReadCostDetails | None = None

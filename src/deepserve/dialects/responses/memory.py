"""What earlier responses said, as this dialect needs it to continue a conversation."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from deepserve.core.errors import InvalidField
from deepserve.core.messages import Json
from deepserve.core.tenant import TenantId
from deepserve.dialects.responses.errors import previous_not_found


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """One kept response: the items that were sent, each with an id, and the response as it was answered.

    digest  tells the request from others, where it came with an idempotency key
    """

    response: dict[str, Json]
    input: list[dict[str, Json]]
    digest: str | None = None

    @property
    def items(self) -> list[dict[str, Json]]:
        return [*self.input, *self.response.get("output", ())]


class ResponseMemory(Protocol):
    """Where responses are kept, as JSON of a `Remembered`. All may be called from any thread."""

    @property
    def can_keep(self) -> bool: ...

    def find(self, tenant: TenantId, response_id: str) -> bytes | None:
        """May block."""
        ...

    def keep(self, tenant: TenantId, response_id: str, record: bytes) -> None:
        """Must not block: it is called while an answer is on its way."""
        ...


class Sealing(Protocol):
    """What makes texts unreadable for everybody else, and altered ones worthless."""

    def seal(self, tenant: TenantId, text: str) -> str: ...

    def unseal(self, tenant: TenantId, sealed: str) -> str | None: ...


Recall = Callable[[str], Remembered | None]
"""The response with this id; None where there is none (any more)."""


class Keeper:
    """What one tenant has kept here, and what it keeps for us. Lives as long as one request.

    max_bytes  of what the request may bring in from earlier ones: a few words can name megabytes, again and again
    """

    def __init__(self, memory: ResponseMemory, sealing: Sealing, tenant: TenantId, *, max_bytes: int) -> None:
        self._memory = memory
        self._sealing = sealing
        self._tenant = tenant
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._found: dict[str, Remembered] = {}

    @property
    def can_keep(self) -> bool:
        return self._memory.can_keep

    def find(self, response_id: str) -> Remembered | None:
        """May block. Raises InvalidField when all that was found is too large."""
        found = self._found.get(response_id)
        if found is None:
            record = self._memory.find(self._tenant, response_id)
            if record is None:
                return None
            self._count(len(record))
            found = self._found[response_id] = msgspec.json.decode(record, type=Remembered)
        return found

    def find_item(self, wanted: str) -> dict[str, Json] | None:
        """The item an `item_reference` means; counted each time, for the model reads it each time. Raises as `find`."""
        match = _ITEM_ID.fullmatch(wanted)
        link = None if match is None else self.find(response_id(match[1]))
        item = None if link is None else next((item for item in link.items if item.get("id") == wanted), None)
        if item is not None:
            self._count(len(msgspec.json.encode(item)))
        return item

    def _count(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes
        if self._num_bytes > self._max_bytes:
            raise InvalidField(
                f"The earlier responses and items that this request refers to have more than {self._max_bytes} bytes.",
                field="input",
            )

    def keep(self, response_id: str, record: bytes) -> None:
        self._memory.keep(self._tenant, response_id, record)

    def seal(self, text: str) -> str:
        return self._sealing.seal(self._tenant, text)

    def unseal(self, sealed: str) -> str | None:
        return self._sealing.unseal(self._tenant, sealed)


_ITEM_ID = re.compile(r"[a-z]+_([0-9a-f]{32})_[0-9a-z]+")

_ITEM_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "compaction": "cmp",
    "web_search_call": "ws",
    "code_interpreter_call": "ci",
    "mcp_call": "mcp",
}


def response_id(digits: str) -> str:
    """digits: 32 hex digits."""
    return f"resp_{digits}"


def item_id(kind: str, digits: str, index: int, *, is_input: bool = False) -> str:
    """Says by the digits in which response the item is, so that a reference to it needs no index."""
    return f"{_ITEM_PREFIXES.get(kind, 'item')}_{digits}_{'in' if is_input else ''}{index}"


def chain(recall: Recall, previous_id: str | None, *, max_items: int) -> list[Remembered]:
    """The responses that led here, the oldest first. Raises InvalidField where a link is missing."""
    found: list[Remembered] = []
    num_items = 0
    while previous_id is not None:
        link = recall(previous_id)
        if link is None:
            raise previous_not_found(previous_id)
        if link.response.get("status") in ("queued", "in_progress"):
            raise InvalidField(f"The response {previous_id} has not ended yet.", field="previous_response_id")
        num_items += len(link.items)
        if num_items > max_items:
            raise InvalidField(
                f"The conversation has more than {max_items} items; `/responses/compact` shortens it.",
                field="previous_response_id",
            )
        found.append(link)
        previous_id = link.response.get("previous_response_id")
    return found[::-1]


def listed(links: Sequence[Remembered]) -> list[dict[str, Json]]:
    return [item for link in links for item in link.items]

"""What the server's tools brought back in earlier answers, for clients that cannot send it back.

Some dialects show that there was a search, but not what it found; on the next turn the model must see it again, and
the cached prefix fits only if it sees the same. So results are kept, found by the ids that the dialects show, within
one tenant and for one `user_id` of it. Lives in memory; least recently used goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import msgspec

from deepserve.core.messages import UNNAMED, Message, Part, ServerToolCall, ServerToolResult, ToolCall
from deepserve.core.request import Request, RequestId
from deepserve.core.server_tool import CodeOutput, ToolFault
from deepserve.core.tenant import TenantId

_ENTRY_BYTES = 500
"""What an entry costs beside its texts, roughly."""


class KeptCall(msgspec.Struct, frozen=True, kw_only=True):
    """answer, round_number: where the call was made. others: ids of the client's calls beside it.

    session  which programs of the conversation share what they leave
    """

    call: ServerToolCall
    result: ServerToolResult
    answer: RequestId
    round_number: int
    others: frozenset[str]
    session: str

    @property
    def size_bytes(self) -> int:
        return _ENTRY_BYTES + len(self.call.arguments) + len(msgspec.msgpack.encode(self.result.output))


class _Shelf:
    """One tenant's calls."""

    def __init__(self) -> None:
        self.calls: OrderedDict[tuple[str | None, str], KeptCall] = OrderedDict()
        self.size_bytes = 0


def shown_id(answer: RequestId, number: int) -> str:
    """What the number-th call of an answer is called where the dialect names items by answer."""
    return f"{answer}_s{number}"


def _without_files(kept: KeptCall) -> KeptCall:
    """The model hears what files there were, not what is in them."""
    output = kept.result.output
    if not isinstance(output, CodeOutput) or not output.files:
        return kept
    files = tuple(msgspec.structs.replace(file, content=b"") for file in output.files)
    result = msgspec.structs.replace(kept.result, output=msgspec.structs.replace(output, files=files))
    return msgspec.structs.replace(kept, result=result)


def _query_name(call: ServerToolCall) -> str | None:
    """No id looks like it."""
    if call.tool != "web_search":
        return None
    try:
        given = msgspec.json.decode(call.arguments)
    except (msgspec.DecodeError, RecursionError):
        return None
    query = given.get("query") if isinstance(given, dict) else None
    return f"?{query}" if isinstance(query, str) else None


class ResultMemory:
    """tenant_bytes: most that one tenant's results may take. max_tenants: the least recently active are forgotten."""

    def __init__(self, *, tenant_bytes: int = 16 << 20, max_tenants: int = 1000) -> None:
        self.tenant_bytes = tenant_bytes
        self._max_tenants = max_tenants
        self._shelves: OrderedDict[TenantId, _Shelf] = OrderedDict()

    def remember(self, request: Request, number: int, kept: KeptCall) -> None:
        """Keep a call under its own id, under that of its place in the answer, and a search under its query."""
        kept = _without_files(kept)
        shelf = self._shelves.setdefault(request.tenant.id, _Shelf())
        self._shelves.move_to_end(request.tenant.id)
        if len(self._shelves) > self._max_tenants:
            self._shelves.popitem(last=False)
        names = [kept.call.id, shown_id(request.answer_id or request.id, number), _query_name(kept.call)]
        for name in filter(None, names):
            replaced = shelf.calls.pop((request.user_id, name), None)
            shelf.size_bytes += kept.size_bytes - (0 if replaced is None else replaced.size_bytes)
            shelf.calls[request.user_id, name] = kept
        while shelf.size_bytes > self.tenant_bytes:
            _, dropped = shelf.calls.popitem(last=False)
            shelf.size_bytes -= dropped.size_bytes

    def session_of(self, request: Request) -> str | None:
        """The session of the first call in the conversation that is remembered."""
        for message in request.messages:
            for part in message.parts:
                kept = self._find(request, part) if isinstance(part, ServerToolCall) else None
                if kept is not None:
                    return kept.session
        return None

    def restore(self, request: Request) -> Request:
        """The request with the results that the client could not send, and calls of one round side by side again.

        What the client sends wins; but of a fault it can often send no more than the code.
        """
        if not any(isinstance(part, ServerToolCall) for message in request.messages for part in message.parts):
            return request
        messages = tuple(self._restored(request, message) for message in request.messages)
        return msgspec.structs.replace(request, messages=messages)

    def _restored(self, request: Request, message: Message) -> Message:
        found = {
            part.id: kept
            for part in message.parts
            if isinstance(part, ServerToolCall) and (kept := self._find(request, part)) is not None
        }
        if not found:
            return message
        return msgspec.structs.replace(message, parts=tuple(_arranged(message.parts, found)))

    def _find(self, request: Request, call: ServerToolCall) -> KeptCall | None:
        """By its id; a search whose id the client dropped (Codex does) by what was asked."""
        shelf = self._shelves.get(request.tenant.id)
        if shelf is None:
            return None
        name = _query_name(call) if call.id.startswith(UNNAMED) else call.id
        if name is None or (request.user_id, name) not in shelf.calls:
            return None
        key = (request.user_id, name)
        shelf.calls.move_to_end(key)
        return shelf.calls[key]


def _arranged(parts: Sequence[Part], found: dict[str, KeptCall]) -> Iterator[Part]:
    """Results of a round after all its calls, as the model wrote and read them."""
    waiting: list[Part] = []
    current: KeptCall | None = None
    for part in parts:
        match part:
            case ServerToolCall() if (kept := found.get(part.id)) is not None:
                is_same_round = current is not None and (current.answer, current.round_number) == (
                    kept.answer,
                    kept.round_number,
                )
                if not is_same_round:
                    yield from waiting
                    waiting = []
                current = kept
                yield part if part.id == kept.call.id else kept.call
            case ServerToolResult():
                waiting.append(_restored_result(part, found.get(part.call_id)))
            case ToolCall() if current is not None and part.id in current.others:
                yield part
            case _:
                yield from waiting
                waiting, current = [], None
                yield part
    yield from waiting


def _restored_result(sent: ServerToolResult, kept: KeptCall | None) -> ServerToolResult:
    if kept is None:
        return sent
    are_faults = isinstance(sent.output, ToolFault) and isinstance(kept.result.output, ToolFault)
    if sent.output is None or are_faults or sent.call_id != kept.call.id:
        return kept.result
    return sent

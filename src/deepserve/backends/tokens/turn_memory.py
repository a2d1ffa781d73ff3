"""What the model drew in earlier turns, for clients that do not send it back as it was.

Two uses. Exact replay: a turn with tool calls, rendered anew from what the client sends, may differ from what was
drawn in order and spacing, and then no cached prefix fits; so the drawn tokens are kept. Restored reasoning: many
clients drop the thinking trace of earlier turns, which the model needs while tools are in play; so the trace is kept.

A turn is found by the ids of its tool calls, which we mint from 128 random bits or more, and by the conversation that
led to it together with its text. Both only ever within one tenant, and for one `user_id` of it, as cached prefixes
are: what one end user of a tenant was told must not show in what another is. Lives in memory, least recently used
goes first; turns with tools in play are also kept in the store, where there is one, and recalled after a restart.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import msgspec

from deepserve.core.events import PastReasoning
from deepserve.core.messages import Message, Reasoning
from deepserve.core.request import Request
from deepserve.core.tenant import TenantId
from deepserve.prompt.encoder import SampledTurn
from deepserve.store.turns import TurnStore

_log = logging.getLogger(__name__)

_ENTRY_BYTES = 400
"""What an entry costs beside its tokens and texts, roughly."""

_TOKEN_BYTES = 36
"""An integer and the reference to it."""

_Key = tuple[str | None, str | bytes]
"""Whose turn it is by `user_id`, then the id of a call or the digest of a conversation."""


class RememberedTurn(msgspec.Struct, frozen=True, kw_only=True):
    """sampled: the turn's tokens; None when they should not be repeated (damaged markup, an answer cut off)."""

    reasoning: str | None
    sampled: SampledTurn | None

    @property
    def size_bytes(self) -> int:
        texts, num_tokens = [self.reasoning or ""], 0
        if self.sampled is not None:
            texts += [self.sampled.text, *(call.arguments for call in self.sampled.calls)]
            num_tokens = len(self.sampled.ids)
        return _ENTRY_BYTES + _TOKEN_BYTES * num_tokens + sum(map(sys.getsizeof, texts))


class _KeptTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A turn in the store. vocabulary: what the ids are ids of; under another one only the trace is of use."""

    vocabulary: str
    turn: RememberedTurn


class _Shelf:
    """One tenant's turns."""

    def __init__(self) -> None:
        self.turns: OrderedDict[_Key, RememberedTurn] = OrderedDict()
        self.size_bytes = 0


class TurnMemory:
    """tenant_bytes: most that one tenant's turns may take. max_tenants: the least recently active are forgotten.

    store       where turns outlive this memory; None: nowhere
    owns_store  it is closed with the memory; otherwise others use it, too
    vocabulary  names the tokenizer whose ids are remembered
    id_characters  a shorter call id finds nothing: there are services that count calls anew in every conversation
    """

    def __init__(
        self,
        *,
        tenant_bytes: int = 16 << 20,
        max_tenants: int = 1000,
        store: TurnStore | None = None,
        owns_store: bool = True,
        vocabulary: str = "",
        id_characters: int = 0,
    ) -> None:
        self._id_characters = id_characters
        self._tenant_bytes = tenant_bytes
        self._max_tenants = max_tenants
        self._store = store
        self._owns_store = owns_store
        self._vocabulary = vocabulary
        self._num_recalled = 0
        self._shelves: OrderedDict[TenantId, _Shelf] = OrderedDict()

    @property
    def num_turns(self) -> int:
        """Keys under which turns are found."""
        return sum(len(shelf.turns) for shelf in self._shelves.values())

    @property
    def num_recalled(self) -> int:
        """Names under which a turn came back from the store."""
        return self._num_recalled

    def close(self) -> None:
        """Let the store write what waits. Blocks."""
        if self._store is not None:
            if self._owns_store:
                self._store.close()
            else:
                self._store.flush()

    async def settle(self) -> None:
        """Wait until what was remembered is found by other servers, too: the client may ask any of them next."""
        if self._store is not None and self._store.is_shared:
            await asyncio.to_thread(self._store.flush)

    def remember(self, request: Request, turn: RememberedTurn, *, call_ids: Sequence[str], text: str) -> None:
        """Keep the answer to a request under its call ids and under the conversation it continued."""
        *_, conversation = _digests(request.messages)
        found_by: list[str | bytes] = [*self._telling(call_ids), _turn_key(conversation, call_ids, text)]
        keys = [(request.user_id, name) for name in found_by]
        self._put(request.tenant.id, keys, turn)
        if self._store is not None and _has_tools(request):
            kept = msgspec.msgpack.encode(_KeptTurn(vocabulary=self._vocabulary, turn=turn))
            self._store.keep(request.tenant.id, [_name_of(key) for key in keys], kept)

    async def recall(self, request: Request) -> None:
        """Fetch from the store what `restore` will look for and this memory does not have."""
        if self._store is None or not _has_tools(request):
            return
        shelf = self._shelves.get(request.tenant.id, _Shelf())
        wanted: dict[bytes, _Key] = {}
        for message, before in zip(request.messages, _digests(request.messages), strict=False):
            if (
                message.role == "assistant"
                and not message.prefix
                and self._find(shelf, request.user_id, message, before) is None
            ):
                wanted |= {_name_of(key): key for key in self._keys_of(request.user_id, message, before)}
        if not wanted:
            return
        found = await asyncio.to_thread(self._store.find, request.tenant.id, list(wanted))
        for name, kept in found.items():
            turn = self._read(kept)
            if turn is not None:
                self._num_recalled += 1
                self._put(request.tenant.id, [wanted[name]], turn)

    def _read(self, kept: bytes) -> RememberedTurn | None:
        try:
            read = msgspec.msgpack.decode(kept, type=_KeptTurn)
        except msgspec.DecodeError:
            _log.warning("A kept turn cannot be read; another release may have written it.")
            return None
        is_ours = read.vocabulary == self._vocabulary
        return read.turn if is_ours else msgspec.structs.replace(read.turn, sampled=None)

    def _put(self, tenant: TenantId, keys: Sequence[_Key], turn: RememberedTurn) -> None:
        shelf = self._shelves.setdefault(tenant, _Shelf())
        self._shelves.move_to_end(tenant)
        if len(self._shelves) > self._max_tenants:
            self._shelves.popitem(last=False)
        for key in keys:
            replaced = shelf.turns.pop(key, None)
            shelf.size_bytes += turn.size_bytes - (replaced.size_bytes if replaced is not None else 0)
            shelf.turns[key] = turn
        while shelf.size_bytes > self._tenant_bytes:
            _, dropped = shelf.turns.popitem(last=False)
            shelf.size_bytes -= dropped.size_bytes

    def restore(self, request: Request) -> tuple[Request, PastReasoning, dict[str, SampledTurn]]:
        """The request with lost traces put back, what became of each, and the turns to repeat token by token.

        What the client sends wins: over a trace of ours, and, where it differs, over the drawn tokens.
        """
        shelf = self._shelves.get(request.tenant.id, _Shelf())
        sent = restored = missing = 0
        messages: list[Message] = []
        replays: dict[str, SampledTurn] = {}
        for message, before in zip(request.messages, _digests(request.messages), strict=False):
            if message.role != "assistant" or message.prefix:
                messages.append(message)
                continue
            turn = self._find(shelf, request.user_id, message, before)
            if message.is_reasoning_recalled:
                restored += 1
            elif message.reasoning is not None:
                sent += 1
            elif turn is not None and turn.reasoning is not None:
                restored += 1
                message = msgspec.structs.replace(message, parts=(Reasoning(text=turn.reasoning), *message.parts))
            else:
                missing += 1
            if turn is not None and turn.sampled is not None and _has_same_reasoning(message, turn):
                replays |= {call.id: turn.sampled for call in message.tool_calls}
            messages.append(message)
        counts = PastReasoning(sent=sent, restored=restored, missing=missing)
        return msgspec.structs.replace(request, messages=tuple(messages)), counts, replays

    def _find(self, shelf: _Shelf, user_id: str | None, message: Message, conversation: bytes) -> RememberedTurn | None:
        for key in self._keys_of(user_id, message, conversation):
            if key in shelf.turns:
                shelf.turns.move_to_end(key)
                return shelf.turns[key]
        return None

    def _keys_of(self, user_id: str | None, message: Message, conversation: bytes) -> list[_Key]:
        call_ids = [call.id for call in message.tool_calls]
        found_by: list[str | bytes] = [*self._telling(call_ids[:1]), _turn_key(conversation, call_ids, message.text)]
        return [(user_id, name) for name in found_by]

    def _telling(self, call_ids: Sequence[str]) -> list[str]:
        """Those that name one call and no other."""
        return [id_ for id_ in call_ids if len(id_) >= self._id_characters]


def _name_of(key: _Key) -> bytes:
    """What the store calls it: nothing of a client's own stands in the database."""
    return hashlib.blake2b(msgspec.msgpack.encode(key), digest_size=16).digest()


def _has_tools(request: Request) -> bool:
    """Without tools the prompt shows no past trace, and there is nothing to replay."""
    return bool(request.tools) or any(message.tools for message in request.messages)


def _has_same_reasoning(message: Message, turn: RememberedTurn) -> bool:
    return (message.reasoning or "").strip() == (turn.reasoning or "").strip()


def _turn_key(conversation: bytes, call_ids: Sequence[str], text: str) -> bytes:
    """Bytes, where call ids are text: no client can make up a call id that leads here."""
    digest = hashlib.blake2b(conversation, digest_size=16)
    digest.update(msgspec.msgpack.encode((call_ids, text.strip())))
    return digest.digest()


def _digests(messages: Sequence[Message]) -> Iterator[bytes]:
    """A digest of the conversation before each message, and at last of all of it.

    Traces are left out: whether a client sends an earlier one must not decide whether a later one is found. Neither
    do leading and trailing blanks count, which clients trim.
    """
    digest = hashlib.blake2b(digest_size=16)
    for message in messages:
        yield digest.digest()
        results = [(result.call_id, result.content) for result in message.tool_results]
        calls = [call.id for call in message.tool_calls]
        digest.update(msgspec.msgpack.encode((message.role, message.text.strip(), calls, results)))
    yield digest.digest()

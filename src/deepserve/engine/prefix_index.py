"""What is remembered of earlier prompts: engine snapshots, found again by the tokens they cover.

One radix tree for each cache key. An edge holds a run of tokens, a node may hold the snapshot of the state after
exactly these tokens. A snapshot can only be restored and continued, never cut: the window and the compressors' tails
are known at its position and nowhere before it. The vendor's cache works in whole units for the same reason
(api-docs.deepseek.com/guides/kv_cache).

Knows nothing of time: recency is the order of use. Belongs to the step loop; not thread-safe.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import msgspec

from deepserve.core.tenant import TenantId
from deepserve.engine.interface import CHUNK_TOKENS, EngineInfo, Snapshot

TOKEN_BYTES = array("I").itemsize
_MOST_DENSE = 16


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """The form in which prompts are compared: one machine word a token."""
    return array("I", tokens).tobytes()


def snapshot_interval(info: EngineInfo) -> int:
    """Distance of the snapshots taken along a long prompt, a multiple of CHUNK_TOKENS.

    The smallest at which one prompt of full length takes at most half of the states that fit the memory.
    """
    most_snapshots = max(1, info.capacity_states // 2)
    chunks = -(-info.max_context // CHUNK_TOKENS)
    return CHUNK_TOKENS * max(1, -(-chunks // most_snapshots))


def dense_tokens(info: EngineInfo) -> int:
    """So far from its beginning a prompt has a snapshot at every multiple of CHUNK_TOKENS.

    Most prompts are short, and differ only in their last question; those snapshots are small. One prompt takes a
    thirty-second of the states for them.
    """
    return CHUNK_TOKENS * min(_MOST_DENSE, info.capacity_states // 32)


class CacheKey(msgspec.Struct, frozen=True, kw_only=True):
    """Who may hit what: prompts under different keys never see each other."""

    tenant: TenantId
    user_id: str | None
    model: str
    profile: str
    fingerprint: str


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """The longest usable snapshot of a prompt.

    position       tokens it covers, 0 without a snapshot
    common_tokens  tokens the prompt shares with anything remembered under its key: where a hit could have been
    """

    snapshot: Snapshot | None = None
    position: int = 0
    common_tokens: int = 0


class Unit(msgspec.Struct, frozen=True, eq=False):
    """A snapshot, and the packed tokens it covers under its key."""

    key: CacheKey
    tokens: bytes
    snapshot: Snapshot


class _Node:
    """The state of the tree after the tokens on the way to it; `end` counts them."""

    __slots__ = ("children", "end", "is_unit", "key", "label", "parent", "snapshot")

    def __init__(self, key: CacheKey, parent: _Node | None, label: bytes, end: int) -> None:
        self.key = key
        self.parent = parent
        self.label = label
        self.end = end
        self.children: dict[bytes, _Node] = {}
        self.snapshot: Snapshot | None = None
        self.is_unit = False

    @property
    def num_tokens(self) -> int:
        return len(self.label) // TOKEN_BYTES


class PrefixIndex:
    """Snapshots within a byte budget, least recently used evicted first.

    Over budget, a tenant that holds more than an equal share loses its own entries first; otherwise the tenant that
    holds most does. So nobody can push another below an equal share.

    Bytes are counted as the tree shares them: the growing state once for each remembered token, the fixed state once
    for each snapshot.
    """

    def __init__(self, *, info: EngineInfo, max_bytes: int, release: Callable[[Snapshot], None]) -> None:
        self._max_bytes = max_bytes
        self._release = release
        self._bytes_per_token = info.state_bytes_per_token + TOKEN_BYTES
        self._bytes_per_snapshot = info.state_bytes_fixed
        self._roots: dict[CacheKey, _Node] = {}
        self._recent: dict[TenantId, OrderedDict[_Node, None]] = {}
        self._bytes: dict[TenantId, float] = {}
        self.num_evicted = 0

    @property
    def size_bytes(self) -> int:
        return round(sum(self._bytes.values()))

    @property
    def num_snapshots(self) -> int:
        return sum(map(len, self._recent.values()))

    def tenant_bytes(self, tenant: TenantId) -> int:
        return round(self._bytes.get(tenant, 0))

    def match(self, key: CacheKey, tokens: bytes, *, limit: int) -> Match:
        """The snapshot that covers most of the packed tokens, at most `limit` of them; it counts as used."""
        best: _Node | None = None
        node, common = self._walk(key, tokens)
        while node is not None:
            if node.snapshot is not None and node.end <= limit:
                best = node
                break
            node = node.parent
        if best is None or best.snapshot is None:
            return Match(common_tokens=common)
        self._recent[key.tenant].move_to_end(best)
        return Match(snapshot=best.snapshot, position=best.end, common_tokens=common)

    def has(self, key: CacheKey, tokens: bytes) -> bool:
        """Whether there is a snapshot of exactly these packed tokens."""
        return self.find(key, tokens) is not None

    def find(self, key: CacheKey, tokens: bytes) -> Snapshot | None:
        """The snapshot of exactly these packed tokens; this is not a use."""
        node = self._node_at(key, tokens)
        return node.snapshot if node is not None else None

    def mark_unit(self, key: CacheKey, tokens: bytes) -> None:
        """Later prompts are likely to continue right after these packed tokens, if there is a snapshot of them."""
        node = self._node_at(key, tokens)
        if node is not None and node.snapshot is not None:
            node.is_unit = True

    def units(self) -> Iterator[Unit]:
        """What is marked, and the ends of every branch; tenant after tenant in turn, most recently used first.

        Nothing may change meanwhile.
        """
        queues = [reversed(recent) for recent in self._recent.values()]
        while queues:
            for queue in list(queues):
                node = next((node for node in queue if node.is_unit or not node.children), None)
                if node is None:
                    queues.remove(queue)
                    continue
                assert node.snapshot is not None
                yield Unit(node.key, _tokens_to(node), node.snapshot)

    def insert(self, key: CacheKey, tokens: bytes, snapshot: Snapshot) -> None:
        """Take over a snapshot of these packed tokens; it may be released at once if there is no room."""
        node = self._node_for(key, tokens)
        recent = self._recent.setdefault(key.tenant, OrderedDict())
        if node.snapshot is not None:
            self._release(snapshot)
        else:
            node.snapshot = snapshot
            self._charge(key.tenant, self._bytes_per_snapshot)
        recent[node] = None
        recent.move_to_end(node)
        while self.size_bytes > self._max_bytes and self.evict(key.tenant):
            pass

    def evict(self, on_behalf_of: TenantId) -> bool:
        """Drop one snapshot to make room for this tenant; False when there is none left."""
        holders = [tenant for tenant, recent in self._recent.items() if recent]
        if not holders:
            return False
        share = self._max_bytes / len(holders)
        victim = on_behalf_of
        if victim not in holders or self._bytes[victim] <= share:
            victim = max(holders, key=lambda tenant: self._bytes[tenant])
        node, _ = self._recent[victim].popitem(last=False)
        assert node.snapshot is not None
        self._release(node.snapshot)
        node.snapshot, node.is_unit = None, False
        self._charge(victim, -self._bytes_per_snapshot)
        self._prune(node)
        self.num_evicted += 1
        return True

    def clear(self) -> None:
        """Release everything."""
        for recent in self._recent.values():
            for node in recent:
                assert node.snapshot is not None
                self._release(node.snapshot)
        self._roots.clear()
        self._recent.clear()
        self._bytes.clear()

    def _walk(self, key: CacheKey, tokens: bytes) -> tuple[_Node | None, int]:
        """The deepest node all of whose tokens agree, and how many tokens agree in all."""
        node = self._roots.get(key)
        if node is None:
            return None, 0
        while True:
            offset = node.end * TOKEN_BYTES
            child = node.children.get(tokens[offset : offset + TOKEN_BYTES])
            if child is None:
                return node, node.end
            common = _common_tokens(child.label, tokens[offset : offset + len(child.label)])
            if common < child.num_tokens:
                return node, node.end + common
            node = child

    def _node_at(self, key: CacheKey, tokens: bytes) -> _Node | None:
        """The node after exactly these tokens."""
        node, common = self._walk(key, tokens)
        is_there = node is not None and node.end == common == len(tokens) // TOKEN_BYTES
        return node if is_there else None

    def _node_for(self, key: CacheKey, tokens: bytes) -> _Node:
        root = self._roots.setdefault(key, _Node(key, None, b"", 0))
        node, common = self._walk(key, tokens)
        node = node or root
        if common > node.end:
            node = self._split(node, tokens, common)
        rest = tokens[common * TOKEN_BYTES :]
        if rest:
            leaf = _Node(key, node, rest, len(tokens) // TOKEN_BYTES)
            node.children[rest[:TOKEN_BYTES]] = leaf
            self._charge(key.tenant, leaf.num_tokens * self._bytes_per_token)
            node = leaf
        return node

    def _split(self, node: _Node, tokens: bytes, end: int) -> _Node:
        """Put a node into the edge below `node`, after `end` tokens."""
        first = tokens[node.end * TOKEN_BYTES : (node.end + 1) * TOKEN_BYTES]
        below = node.children[first]
        cut = (end - node.end) * TOKEN_BYTES
        middle = _Node(node.key, node, below.label[:cut], end)
        node.children[first] = middle
        below.parent = middle
        below.label = below.label[cut:]
        middle.children[below.label[:TOKEN_BYTES]] = below
        return middle

    def _prune(self, node: _Node) -> None:
        """Forget tokens that lead to no snapshot any more, and join edges that need not be apart."""
        while node.parent is not None and node.snapshot is None and not node.children:
            parent = node.parent
            del parent.children[node.label[:TOKEN_BYTES]]
            self._charge(node.key.tenant, -node.num_tokens * self._bytes_per_token)
            node = parent
        if node.parent is None:
            if not node.children:
                del self._roots[node.key]
        elif node.snapshot is None and len(node.children) == 1:
            (child,) = node.children.values()
            child.label = node.label + child.label
            child.parent = node.parent
            node.parent.children[node.label[:TOKEN_BYTES]] = child

    def _charge(self, tenant: TenantId, size_bytes: float) -> None:
        self._bytes[tenant] = self._bytes.get(tenant, 0) + size_bytes
        if not self._recent.get(tenant) and self._bytes[tenant] < 1:
            self._bytes.pop(tenant)
            self._recent.pop(tenant, None)


def _tokens_to(node: _Node) -> bytes:
    """All tokens on the way to a node, packed."""
    labels: list[bytes] = []
    while node.parent is not None:
        labels.append(node.label)
        node = node.parent
    return b"".join(reversed(labels))


def _common_tokens(one: bytes, other: bytes) -> int:
    """Length of the common prefix, in whole tokens."""
    size = min(len(one), len(other)) // TOKEN_BYTES
    if one[: size * TOKEN_BYTES] == other[: size * TOKEN_BYTES]:
        return size
    low, high = 0, size
    while high - low > 1:
        middle = (low + high) // 2
        if one[low * TOKEN_BYTES : middle * TOKEN_BYTES] == other[low * TOKEN_BYTES : middle * TOKEN_BYTES]:
            low = middle
        else:
            high = middle
    return low

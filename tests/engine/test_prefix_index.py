from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepserve.core.tenant import TenantId
from deepserve.engine.interface import Snapshot
from deepserve.engine.prefix_index import CacheKey, PrefixIndex, pack_tokens, snapshot_interval
from tests.engine.fake_engine import FakeEngine, FakeSnapshot

INFO = FakeEngine().info  # 1000 bytes a state; 96 a token, with the index's own 4 it is 100


class Shelf:
    """An index and the snapshots it has not released."""

    def __init__(self, *, max_bytes: int = 1 << 30) -> None:
        self.alive: list[Snapshot] = []
        self.index = PrefixIndex(info=INFO, max_bytes=max_bytes, release=self.release)

    def release(self, snapshot: Snapshot) -> None:
        self.alive.remove(snapshot)

    def put(self, tokens: list[int], *, key: CacheKey | None = None) -> None:
        snapshot = FakeSnapshot(history=tuple(tokens), size_bytes=1000)
        self.alive.append(snapshot)
        self.index.insert(key or key_of("a"), pack_tokens(tokens), snapshot)

    def position(self, tokens: list[int], *, key: CacheKey | None = None, limit: int | None = None) -> int:
        packed = pack_tokens(tokens)
        match = self.index.match(key or key_of("a"), packed, limit=len(tokens) if limit is None else limit)
        if match.snapshot is not None:
            assert isinstance(match.snapshot, FakeSnapshot)
            assert list(match.snapshot.history) == tokens[: match.position]
        return match.position

    def common(self, tokens: list[int]) -> int:
        return self.index.match(key_of("a"), pack_tokens(tokens), limit=len(tokens)).common_tokens


def key_of(tenant: str, **changes: object) -> CacheKey:
    key = CacheKey(tenant=TenantId(tenant), user_id=None, model="flash", profile="mini", fingerprint="f")
    return msgspec.structs.replace(key, **changes)


def test_the_longest_snapshot_that_the_prompt_contains_is_found() -> None:
    shelf = Shelf()
    shelf.put([1, 2])
    shelf.put([1, 2, 3, 4])
    shelf.put([1, 9])
    assert shelf.position([1, 2, 3, 4, 5]) == 4
    assert shelf.position([1, 2, 3]) == 2
    assert shelf.position([1, 2, 3, 4], limit=3) == 2
    assert shelf.position([1]) == 0
    assert shelf.position([2, 2]) == 0


def test_a_snapshot_of_a_longer_prompt_is_never_cut_to_fit() -> None:
    shelf = Shelf()
    shelf.put([1, 2, 3, 4])
    assert shelf.position([1, 2, 3]) == 0
    assert shelf.common([1, 2, 3]) == 3
    assert shelf.common([1, 2, 7, 4]) == 2


@pytest.mark.parametrize(
    "other",
    [
        key_of("b"),
        key_of("a", user_id="u"),
        key_of("a", model="pro"),
        key_of("a", profile="0731"),
        key_of("a", fingerprint="g"),
    ],
)
def test_no_part_of_the_key_can_be_different(other: CacheKey) -> None:
    shelf = Shelf()
    shelf.put([1, 2, 3])
    assert shelf.position([1, 2, 3, 4], key=other) == 0
    assert shelf.index.match(other, pack_tokens([1, 2, 3]), limit=3).common_tokens == 0
    assert shelf.position([1, 2, 3, 4]) == 3


def test_the_same_tokens_are_kept_once() -> None:
    shelf = Shelf()
    shelf.put([1, 2, 3])
    shelf.put([1, 2, 3])
    assert len(shelf.alive) == shelf.index.num_snapshots == 1
    assert shelf.index.size_bytes == 1000 + 3 * 100


def test_shared_tokens_are_counted_once() -> None:
    shelf = Shelf()
    shelf.put([1, 2, 3])
    shelf.put([1, 2, 3, 4])
    shelf.put([1, 2, 5])
    assert shelf.index.size_bytes == 3 * 1000 + 5 * 100


def test_the_least_recently_used_goes_first() -> None:
    shelf = Shelf(max_bytes=3300)
    shelf.put([1])
    shelf.put([2])
    shelf.put([3])
    assert shelf.position([1, 0]) == 1  # used again
    shelf.put([4])
    assert [shelf.position([first, 0]) for first in (1, 2, 3, 4)] == [1, 0, 1, 1]
    assert shelf.index.num_evicted == 1


def test_what_does_not_fit_at_all_is_released_at_once() -> None:
    shelf = Shelf(max_bytes=500)
    shelf.put([1, 2])
    assert not shelf.alive
    assert shelf.index.size_bytes == 0


def test_a_tenant_over_its_share_loses_its_own_entries_first() -> None:
    shelf = Shelf(max_bytes=6 * 1100)
    for token in range(3):
        shelf.put([token], key=key_of("small"))
    for token in range(20):
        shelf.put([token], key=key_of("greedy"))
    assert shelf.index.tenant_bytes(TenantId("small")) == 3 * 1100
    assert all(shelf.position([token, 99], key=key_of("small")) for token in range(3))


def test_a_new_tenant_gets_room_from_the_one_that_holds_most() -> None:
    shelf = Shelf(max_bytes=4 * 1100)
    for token in range(4):
        shelf.put([token], key=key_of("first"))
    shelf.put([0], key=key_of("second"))
    shelf.put([1], key=key_of("second"))
    assert shelf.index.tenant_bytes(TenantId("first")) == shelf.index.tenant_bytes(TenantId("second")) == 2200


def test_the_interval_is_a_multiple_of_the_chunk_and_follows_the_memory() -> None:
    def interval(capacity_states: int) -> int:
        info = msgspec.structs.replace(INFO, capacity_states=capacity_states, max_context=131_072)
        return snapshot_interval(info)

    assert interval(2048) == interval(1 << 40) == 128
    assert interval(512) == 512
    assert interval(1) == 131_072


def test_clearing_releases_everything() -> None:
    shelf = Shelf()
    shelf.put([1, 2])
    shelf.put([1, 2, 3], key=key_of("b"))
    shelf.index.clear()
    assert not shelf.alive
    assert shelf.index.size_bytes == shelf.index.num_snapshots == 0
    assert shelf.position([1, 2, 3]) == 0


def test_units_are_what_is_marked_and_the_ends_newest_first_in_turns() -> None:
    shelf = Shelf()
    for end in (2, 4, 6):
        shelf.put(list(range(end)))
    shelf.put([0, 9])
    shelf.put([5], key=key_of("b"))
    shelf.put([6], key=key_of("b"))
    shelf.index.mark_unit(key_of("a"), pack_tokens([0, 1]))
    shelf.index.mark_unit(key_of("a"), pack_tokens([0, 1, 2]))  # there is no snapshot
    shelf.index.mark_unit(key_of("c"), pack_tokens([0, 1]))
    assert shelf.position([5], key=key_of("b")) == 1
    found = [(unit.key.tenant, unit.tokens) for unit in shelf.index.units()]
    expected = [("a", [0, 9]), ("b", [5]), ("a", list(range(6))), ("b", [6]), ("a", [0, 1])]
    assert found == [(TenantId(tenant), pack_tokens(tokens)) for tenant, tokens in expected]
    for unit in shelf.index.units():
        assert shelf.index.find(unit.key, unit.tokens) is unit.snapshot
        assert unit.snapshot in shelf.alive


def test_a_mark_goes_with_its_snapshot() -> None:
    shelf = Shelf()
    shelf.put([1, 2])
    shelf.index.mark_unit(key_of("a"), pack_tokens([1, 2]))
    shelf.put([1, 2, 3])
    shelf.index.evict(TenantId("a"))
    shelf.put([1, 2])
    assert [unit.tokens for unit in shelf.index.units()] == [pack_tokens([1, 2, 3])]


@given(st.integers(0, 2**32), st.integers(2000, 20_000))
def test_the_tree_agrees_with_a_plain_list_whatever_happens_to_it(seed: int, max_bytes: int) -> None:
    """Model: the list of (key, tokens) still alive; look-ups, counts and released snapshots must agree with it."""
    randomness = random.Random(seed)
    shelf = Shelf(max_bytes=max_bytes)
    keys = [key_of("a"), key_of("b"), key_of("b", user_id="u")]
    put: dict[CacheKey, set[tuple[int, ...]]] = {key: set() for key in keys}
    for _ in range(60):
        key = randomness.choice(keys)
        tokens = [randomness.randint(0, 1) for _ in range(randomness.randint(1, 12))]
        if randomness.random() < 0.2:
            shelf.index.evict(key.tenant)
        elif randomness.random() < 0.6:
            shelf.put(tokens, key=key)
            put[key].add(tuple(tokens))
        alive = {key: {t for t in put[key] if shelf.index.has(key, pack_tokens(t))} for key in keys}
        limit = randomness.randint(0, len(tokens))
        best = max((len(t) for t in alive[key] if len(t) <= limit and tuple(tokens[: len(t)]) == t), default=0)
        assert shelf.position(tokens, key=key, limit=limit) == best
        assert sum(map(len, alive.values())) == shelf.index.num_snapshots == len(shelf.alive)
        prefixes = {(key, t[:end]) for key in keys for t in alive[key] for end in range(1, len(t) + 1)}
        assert shelf.index.size_bytes == 1000 * len(shelf.alive) + 100 * len(prefixes) <= max_bytes
        ends = {(key, t) for key in keys for t in alive[key] if not any(t == u[: len(t)] != u for u in alive[key])}
        assert {(unit.key, unit.tokens) for unit in shelf.index.units()} == {(k, pack_tokens(t)) for k, t in ends}

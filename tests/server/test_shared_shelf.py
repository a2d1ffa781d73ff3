"""What tenants keep in one memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deepserve.core.tenant import TenantId
from deepserve.server.shared_shelf import SharedShelf

TENANTS = [TenantId(name) for name in "abc"]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def shelf(clock: Clock | None = None, *, max_entries: int = 4, max_bytes: int = 100) -> SharedShelf[str]:
    return SharedShelf(max_entries=max_entries, max_bytes=max_bytes, keep_s=10, clock=clock or Clock())


def test_who_is_alone_has_all_the_room() -> None:
    kept = shelf()
    for name in "vwxyz":
        kept.put(TENANTS[0], name, name, size_bytes=1)
    assert [kept.find(TENANTS[0], name) for name in "vwxyz"] == [None, "w", "x", "y", "z"]
    assert kept.find(TENANTS[1], "w") is None


def test_an_entry_that_is_put_again_is_new() -> None:
    kept = shelf(max_entries=2)
    for name in ("x", "y", "x", "z"):
        kept.put(TENANTS[0], name, name, size_bytes=1)
    assert [kept.find(TENANTS[0], name) for name in "xyz"] == ["x", None, "z"]


def test_what_is_over_makes_room_before_anything_else() -> None:
    clock = Clock()
    kept = shelf(clock, max_entries=2)
    kept.put(TENANTS[0], "old", "old", size_bytes=1)
    clock.now = 9
    kept.put(TENANTS[1], "x", "x", size_bytes=1)
    assert kept.find(TENANTS[0], "old") == "old"
    clock.now = 10
    assert kept.find(TENANTS[0], "old") is None
    kept.put(TENANTS[1], "y", "y", size_bytes=1)
    assert [kept.find(TENANTS[1], name) for name in "xy"] == ["x", "y"]


@given(
    st.lists(
        st.tuples(st.sampled_from(TENANTS), st.sampled_from("pqrstuvwxyz"), st.integers(min_value=0, max_value=120))
    )
)
def test_bounds_hold_and_an_even_share_is_never_taken(puts: list[tuple[TenantId, str, int]]) -> None:
    kept = shelf()
    sizes: dict[tuple[TenantId, str], int] = {}
    for tenant, name, size_bytes in puts:
        before = {key for key in sizes if kept.find(*key) is not None}
        kept.put(tenant, name, name, size_bytes=size_bytes)
        sizes[tenant, name] = size_bytes
        now = {key for key in sizes if kept.find(*key) is not None}
        assert len(now) <= 4
        assert sum(sizes[key] for key in now) <= 100
        for other in TENANTS:
            had = {key for key in before if key[0] == other}
            is_modest = len(had) <= 4 // len(TENANTS) and sum(sizes[key] for key in had) <= 100 // len(TENANTS)
            assert other == tenant or not is_modest or had <= now

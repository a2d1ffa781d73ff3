"""Keys are looked up once in a while, not for every request."""

from __future__ import annotations

import asyncio
import threading

from deepserve.core.tenant import Tenant, TenantId
from deepserve.server.access import Access
from deepserve.server.known_keys import KnownKeys


class Store:
    """Counts who asks."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.valid = {"one", "two", "three"}

    def find(self, key: str) -> Tenant | None:
        self.asked.append(key)
        return Tenant(id=TenantId(key)) if key in self.valid else None


def test_a_key_is_looked_up_again_when_a_second_has_passed_and_a_revoked_one_is_refused_then() -> None:
    now_s, store = 0.0, Store()
    known = KnownKeys(clock=lambda: now_s)

    async def ask() -> Tenant | None:
        return known.get("one") or await known.ask(store.find, "one")

    async def run() -> None:
        nonlocal now_s
        for _ in range(5):
            assert await ask() is not None
        assert store.asked == ["one"]
        store.valid.remove("one")
        now_s = 0.9
        assert await ask() is not None
        now_s = 1.0
        assert await ask() is None
        assert store.asked == ["one", "one"]

    asyncio.run(run())


def test_a_key_ages_from_the_moment_it_was_asked_for_not_from_the_answer() -> None:
    """A revocation between the two would otherwise be overlooked for longer than is promised."""
    now_s, store = 0.0, Store()
    known = KnownKeys(clock=lambda: now_s)

    def find_slowly(key: str) -> Tenant | None:
        nonlocal now_s
        now_s += 0.7
        return store.find(key)

    async def run() -> None:
        nonlocal now_s
        await known.ask(find_slowly, "one")
        now_s = 1.0
        assert known.get("one") is None

    asyncio.run(run())


def test_wrong_keys_are_not_kept_and_push_nobody_out() -> None:
    store = Store()
    known = KnownKeys(clock=lambda: 0.0, most_keys=2)

    async def run() -> None:
        await known.ask(store.find, "one")
        for number in range(50):
            assert await known.ask(store.find, f"guess {number}") is None
        assert known.get("one") is not None
        await known.ask(store.find, "two")
        await known.ask(store.find, "three")
        assert [known.get(key) is not None for key in ("one", "two", "three")] == [False, True, True]

    asyncio.run(run())


def test_those_who_bring_one_key_at_the_same_time_ask_once_and_one_that_leaves_leaves_the_others() -> None:
    store, released = Store(), threading.Event()
    known = KnownKeys(clock=lambda: 0.0)

    def find_late(key: str) -> Tenant | None:
        released.wait()
        return store.find(key)

    async def run() -> None:
        asking = [asyncio.create_task(known.ask(find_late, "one")) for _ in range(20)]
        await asyncio.sleep(0)
        asking[0].cancel()
        await asyncio.sleep(0)
        released.set()
        found = await asyncio.gather(*asking[1:])
        assert all(tenant is not None for tenant in found)
        assert store.asked == ["one"]

    asyncio.run(run())


def test_nothing_that_is_known_outlives_the_places_it_came_from() -> None:
    async def run() -> None:
        store = Store()
        access = Access((store,))
        assert (await access.tenant_of("one")).id == "one"
        assert (await access.tenant_of("one")).id == "one"
        assert store.asked == ["one"]
        access.replace((other := Store(),))
        assert (await access.tenant_of("one")).id == "one"
        assert other.asked == ["one"]

    asyncio.run(run())

"""Items of a result that are ready before the whole is: announced at once, once, and never without their record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from secrets import token_hex
from typing import Any

import pytest
from sqlalchemy import text
from typing_extensions import override

from deepserve.core.errors import BackendFailure, DeepserveError, Overloaded
from deepserve.core.task import TaskState
from deepserve.store.database import Database, open_memory_database
from deepserve.store.tasks import TaskStore
from deepserve.tasks.performer import Announce
from deepserve.tasks.runner import TaskRunner
from tests.outgoing.receiver import Receiver
from tests.tasks.setup import (
    ALICE,
    LETTERS,
    NOON,
    PATIENCE_S,
    Scripted,
    ended,
    fresh_database,
    new_task,
    running,
    until,
)

pytestmark = pytest.mark.usefixtures("both_kinds")


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await coroutine

    asyncio.run(bounded())


class LetterByLetter(Scripted):
    """Announces letter after letter of the body in capitals; waits before those that the body writes after a dash.

    changed  what the letters not announced before become
    """

    def __init__(self, changed: Callable[[bytes], bytes] = bytes.upper) -> None:
        super().__init__()
        self._changed = changed
        self.known: list[bytes | None] = []

    @override
    async def perform(self, task: TaskState, announce: Announce) -> bytes:
        self.known.append(task.result)
        self.performed.append(task.id)
        first, _, later = task.body.partition(b"-")
        known = task.result or b""
        result = known + self._changed((first + later)[len(known) :])
        for end in range(len(known) + 1, len(first) + 1):
            await announce(result[:end])
        self.begun.set()
        if later:
            await self.go_on.wait()
        if self.errors:
            raise self.errors.pop(0)
        return result

    @override
    def encode_failure(self, task: TaskState, error: DeepserveError) -> bytes:
        return (task.result or b"") + b"!"


def by_id(receiver: Receiver) -> dict[str, set[bytes]]:
    """What was received, each delivery with every body that it had."""
    bodies: dict[str, set[bytes]] = {}
    for received in receiver.received:
        bodies.setdefault(received.headers["webhook-id"], set()).add(received.body)
    return bodies


async def items_of(runner: TaskRunner, task_id: str = "one") -> list[tuple[int, bytes]]:
    return [(delivery.item, delivery.body) for delivery in await runner.deliveries(ALICE.id, task_id)]


def test_an_item_is_announced_while_others_are_worked_on() -> None:
    async def scenario() -> None:
        performer = LetterByLetter()
        async with (
            Receiver() as receiver,
            running(performer, allowed=(receiver.host,), webhooks=LETTERS) as runner,
        ):
            await runner.submit(new_task(body=b"ab-c", webhook_url=receiver.url))
            await until(lambda: len(receiver.received) == 2)
            state = await runner.find(ALICE.id, "one")
            assert state is not None
            assert (state.status, state.result) == ("running", b"AB"), "it can be asked for as well"
            performer.go_on.set()
            assert (await ended(runner)).result == b"ABC"
            await until(lambda: len(receiver.received) == 3)
            assert sorted(by_id(receiver).values(), key=sorted) == [{b"A"}, {b"B"}, {b"C"}]

    run(scenario())


def test_without_a_receiver_items_are_noted_and_nobody_is_called() -> None:
    async def scenario() -> None:
        performer = LetterByLetter()
        async with running(performer, webhooks=LETTERS) as runner:
            await runner.submit(new_task(body=b"ab-c"))
            await until(performer.begun.is_set)
            state = await runner.find(ALICE.id, "one")
            assert state is not None
            assert state.result == b"AB"
            assert await items_of(runner) == []

    run(scenario())


def test_what_was_announced_stands_in_the_next_attempt_and_is_not_announced_again() -> None:
    """The second attempt would have written every letter in another way."""

    async def scenario() -> None:
        async with Receiver() as receiver:
            first = LetterByLetter()
            known: dict[str, Any] = {
                "database": fresh_database(),
                "new_hex": token_hex,
                "allowed": (receiver.host,),
                "webhooks": LETTERS,
            }
            async with running(first, **known) as runner:
                await runner.submit(new_task(body=b"ab-cd", webhook_url=receiver.url))
                await until(lambda: len(receiver.received) == 2)
            second = LetterByLetter(changed=bytes)
            second.go_on.set()
            async with running(second, **known) as runner:
                assert (await ended(runner)).result == b"ABcd"
                await until(lambda: len(by_id(receiver)) == 4)
            assert second.known == [b"AB"]
            assert sorted(by_id(receiver).values(), key=sorted) == [{b"A"}, {b"B"}, {b"c"}, {b"d"}]

    run(scenario())


def test_a_task_that_waits_for_room_keeps_what_it_has_announced() -> None:
    async def scenario() -> None:
        performer = LetterByLetter()
        performer.errors = [Overloaded("full", retry_after_s=0.0)]
        performer.go_on.set()
        async with (
            Receiver() as receiver,
            running(performer, allowed=(receiver.host,), webhooks=LETTERS) as runner,
        ):
            await runner.submit(new_task(body=b"a-b", webhook_url=receiver.url))
            assert (await ended(runner)).result == b"AB"
            assert performer.known == [None, b"A"]
            await until(lambda: len(by_id(receiver)) == 2)
            assert len(receiver.received) == 2

    run(scenario())


def test_a_task_that_fails_says_so_beside_the_items_it_has_announced() -> None:
    async def scenario() -> None:
        performer = LetterByLetter()
        performer.errors = [BackendFailure("broken")]
        performer.go_on.set()
        async with (
            Receiver() as receiver,
            running(performer, allowed=(receiver.host,), webhooks=LETTERS) as runner,
        ):
            await runner.submit(new_task(body=b"a-b", webhook_url=receiver.url))
            state = await ended(runner)
            assert (state.status, state.result) == ("failed", b"A!")
            await until(lambda: len(by_id(receiver)) == 2)
            assert sorted(by_id(receiver).values(), key=sorted) == [{b"!"}, {b"A"}]

    run(scenario())


def test_a_cancelled_task_announces_nothing_more() -> None:
    async def scenario() -> None:
        performer = LetterByLetter()
        async with (
            Receiver() as receiver,
            running(performer, allowed=(receiver.host,), webhooks=LETTERS) as runner,
        ):
            await runner.submit(new_task(body=b"a-b", webhook_url=receiver.url))
            await until(lambda: len(receiver.received) == 1)
            cancelled = await runner.cancel(ALICE.id, "one")
            assert cancelled is not None
            assert (cancelled.status, cancelled.result) == ("cancelled", None)
            await until(lambda: runner.gauges()["tasks_running"] == 0)
            assert [item for item, _ in await items_of(runner)] == [0]

    run(scenario())


def claimed(database: Database) -> TaskStore:
    store = TaskStore(database)
    store.insert(new_task(webhook_url="https://example.com/"), now=NOON, max_unfinished=10, max_bytes=1000)
    assert store.claim((ALICE.id, "one"), owner="a", now=NOON, lease_s=30) is not None
    return store


def forbid_calls(database: Database) -> None:
    with database.begin() as connection:
        connection.execute(
            text("CREATE TRIGGER full BEFORE INSERT ON deliveries BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        )


def test_an_item_and_its_call_are_written_together_or_not_at_all(caplog: pytest.LogCaptureFixture) -> None:
    """And where neither can be, the answer goes on: what could not be announced is announced with the end."""

    async def scenario() -> None:
        database = open_memory_database()
        performer = LetterByLetter()
        async with (
            Receiver() as receiver,
            running(performer, database=database, allowed=(receiver.host,), webhooks=LETTERS) as runner,
        ):
            forbid_calls(database)
            await runner.submit(new_task(body=b"ab-c", webhook_url=receiver.url))
            await until(performer.begun.is_set)
            state = await runner.find(ALICE.id, "one")
            assert state is not None
            assert (state.status, state.result, await items_of(runner)) == ("running", None, [])
            with database.begin() as connection:
                connection.execute(text("DROP TRIGGER full"))
            performer.go_on.set()
            assert (await ended(runner)).result == b"ABC"
            await until(lambda: len(by_id(receiver)) == 3)

    run(scenario())
    assert "it is announced later" in caplog.text


def test_who_has_lost_a_task_announces_nothing_of_it() -> None:
    database = fresh_database()
    store, key = claimed(database), (ALICE.id, "one")
    assert store.advance(key, owner="b", result=b"theirs") is None
    assert store.advance(key, owner="a", result=b"ours") == []
    found = store.find(key, now=NOON)
    assert found is not None
    assert found.result == b"ours"
    assert store.cancel(key, now=NOON) is not None
    assert store.advance(key, owner="a", result=b"too late") is None

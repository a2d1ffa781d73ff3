"""Several servers on one PostgreSQL database: who works on what, and who goes on when one of them dies."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deepserve.config import TaskLimits
from deepserve.core.errors import StoreUnavailable
from deepserve.core.task import TaskState
from deepserve.core.tenant import LOCAL_TENANT
from deepserve.store.deliveries import DeliveryStore
from deepserve.store.tasks import TaskStore
from deepserve.tasks import database_thread, webhooks
from tests.databases import Opener, PostgresServer
from tests.outgoing.receiver import Receiver
from tests.tasks.setup import ALICE, NOON, Clock, Scripted, ended, new_task, running, until

_PATIENCE_S = 30.0
_LEASE_S = 0.4
"""Of the processes that are killed here, in seconds of the real clock."""


replica = partial(running, new_hex=secrets.token_hex)
"""A runner with a name of its own, as servers have."""


def run(scenario: Coroutine[Any, Any, None]) -> None:  # Any: as asyncio has it
    async def bounded() -> None:
        async with asyncio.timeout(_PATIENCE_S):
            await scenario

    asyncio.run(bounded())


def test_two_servers_perform_each_task_once(open_place: Opener, tmp_path: Path) -> None:
    """Each holds the lock of its own state directory, which says nothing about the other."""

    async def scenario() -> None:
        first, second = Scripted(), Scripted()
        places = [tmp_path / name for name in ("one", "other")]
        for place in places:
            place.mkdir()
        async with (
            replica(first, database=open_place(), state_dir=places[0]) as one,
            replica(second, database=open_place(), state_dir=places[1]) as other,
        ):
            for number in range(20):
                await (one, other)[number % 2].submit(new_task(str(number)))
            await one._keep_house()
            await other._keep_house()
            for number in range(20):
                assert (await ended(one, str(number))).result == b"HELLO"
        assert sorted(first.performed + second.performed, key=int) == [str(number) for number in range(20)]

    run(scenario())


def test_a_server_that_starts_takes_nothing_from_one_that_works(open_place: Opener, tmp_path: Path) -> None:
    """Both had got a lock, each in its own state directory, and took the other's tasks for those of a dead server."""

    async def scenario() -> None:
        first, second = Scripted(), Scripted()
        places = [tmp_path / name for name in ("one", "other")]
        for place in places:
            place.mkdir()
        async with replica(first, database=open_place(), state_dir=places[0]) as one:
            await one.submit(new_task(body=b"wait"))
            await until(first.begun.is_set)
            async with replica(second, database=open_place(), state_dir=places[1]) as other:
                await other._keep_house()
                assert second.performed == []
                first.go_on.set()
                assert (await ended(other)).result == b"WAIT"

    run(scenario())


def test_a_task_is_taken_over_when_its_lease_has_run_out_and_ends_once(open_place: Opener) -> None:
    """The server that was too slow finds its end void: nobody is told twice."""

    async def scenario() -> None:
        clock, performer = Clock(), Scripted()
        store, key = TaskStore(open_place()), (ALICE.id, "one")
        async with Receiver() as receiver:
            task = new_task(webhook_url=f"http://{receiver.host}/")
            store.insert(task, now=clock.now(), max_unfinished=10, max_bytes=1000)
            assert store.claim(key, owner="slow", now=clock.now(), lease_s=30.0) is not None
            async with replica(performer, database=open_place(), clock=clock, allowed=(receiver.host,)) as other:
                clock.pass_s(30)
                await other._keep_house()
                assert performer.performed == []
                clock.pass_s(0.001)
                await other._keep_house()
                state = await ended(other)
                assert (state.status, state.num_attempts) == ("succeeded", 2)
                late = store.finish(
                    key, owner="slow", status="succeeded", result=b"late", error_code=None, now=clock.now()
                )
                assert late is None
                await until(lambda: len(receiver.received) == 1)
                await other._sender._rescan()
                assert await other.find(ALICE.id, "one") == state
        assert [call.body for call in receiver.received] == [b"HELLO"]

    run(scenario())


def test_servers_that_hold_the_same_call_make_it_once(open_place: Opener) -> None:
    async def scenario() -> None:
        async with Receiver() as receiver:
            allowed = (receiver.host,)
            async with (
                replica(database=open_place(), allowed=allowed) as one,
                replica(database=open_place(), allowed=allowed) as other,
            ):
                for number in range(10):
                    await one.submit(new_task(str(number), webhook_url=f"http://{receiver.host}/"))
                for number in range(10):
                    await ended(one, str(number))
                    await other._sender._rescan()
                store = DeliveryStore(open_place())
                await until(lambda: not store.pending())
                calls = [call.headers["webhook-id"] for call in receiver.received]
                assert len(calls) == len(set(calls)) == 10

    run(scenario())


def test_servers_together_admit_no_more_tasks_than_one(open_place: Opener) -> None:
    """Each inserted and counted in a transaction that did not see the other's task."""

    async def scenario() -> None:
        limits = TaskLimits(max_unfinished_per_tenant=3)
        async with (
            replica(database=open_place(), limits=limits) as one,
            replica(database=open_place(), limits=limits) as other,
        ):
            tasks = [new_task(str(number), b"wait") for number in range(20)]
            outcomes = await asyncio.gather(
                *((one, other)[number % 2].submit(task) for number, task in enumerate(tasks)), return_exceptions=True
            )
        assert sum(isinstance(outcome, TaskState) for outcome in outcomes) == 3

    run(scenario())


@contextlib.asynccontextmanager
async def worker(
    address: str, receiver: Receiver, mode: str, num_tasks: int, prefix: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Killed at the end of the block, without a chance to tidy up."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.tasks.worker_process", address),
        *(receiver.host, mode, str(num_tasks), prefix, str(_LEASE_S)),
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        await process.communicate()


async def hear(process: asyncio.subprocess.Process, word: str) -> None:
    assert process.stdout is not None
    while (line := (await process.stdout.readline()).decode().strip()) != word:
        assert line, "the process has ended"


def test_whichever_of_two_servers_is_killed_every_accepted_task_ends_and_is_announced(
    postgres_place: str, open_place: Opener
) -> None:
    chance = random.Random(6)
    num_tasks = [chance.randint(1, 9) for _ in range(4)]

    async def scenario() -> None:
        async with Receiver() as receiver, worker(postgres_place, receiver, "go on", 0, "-") as survivor:
            await hear(survivor, "accepted")
            for number, (mode, count) in enumerate(zip(("hold", "go on") * 2, num_tasks, strict=True)):
                async with worker(postgres_place, receiver, mode, count, f"{number}-") as victim:
                    await hear(victim, "accepted")
            await until(lambda: len({call.body for call in receiver.received}) == sum(num_tasks))
        ids = {
            call.body: {other.headers["webhook-id"] for other in receiver.received if other.body == call.body}
            for call in receiver.received
        }
        assert all(len(found) == 1 for found in ids.values()), "one delivery for each task"

    run(scenario())
    store = TaskStore(open_place())
    for number, count in enumerate(num_tasks):
        for task in range(count):
            state = store.find((LOCAL_TENANT.id, f"{number}-{task}"), now=datetime.min.replace(tzinfo=NOON.tzinfo))
            assert state is not None
            assert (state.status, state.result) == ("succeeded", f"TASK {number}-{task}".encode())


def test_a_result_waits_for_a_database_that_is_away_and_is_not_computed_again(
    postgres_server: PostgresServer, open_place: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_thread, "_PAUSE_S", 0.01)

    async def scenario() -> None:
        performer = Scripted()
        async with (
            Receiver() as receiver,
            replica(performer, database=open_place(), allowed=(receiver.host,)) as runner,
        ):
            await runner.submit(new_task(body=b"wait", webhook_url=f"http://{receiver.host}/"))
            await until(performer.begun.is_set)
            try:
                await asyncio.to_thread(postgres_server.stop, at_once=True)
                performer.go_on.set()
                with pytest.raises(StoreUnavailable):
                    await runner.find(ALICE.id, "one")
            finally:
                postgres_server.start()  # in this thread: the server ends with the one that began it
            await until(lambda: len(receiver.received) == 1)
            assert (await ended(runner)).result == b"WAIT"
            assert performer.performed == ["one"]

    run(scenario())


def test_a_call_whose_record_fails_is_not_forgotten(
    postgres_server: PostgresServer, open_place: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could be neither noted nor given back was known to its server for ever, and never tried again."""
    monkeypatch.setattr(database_thread, "_PAUSE_S", 0.01)
    monkeypatch.setattr(webhooks, "_AFTER_FAULT_S", 0.01)

    async def scenario() -> None:
        async with Receiver() as receiver:
            store = DeliveryStore(open_place())
            async with replica(database=open_place(), allowed=(receiver.host,)) as runner:
                claim = runner._deliveries.claim
                num_failures = 2

                def failing(*arguments: Any, **named: Any) -> Any:  # Any: of the method in its place
                    nonlocal num_failures
                    if num_failures:
                        num_failures -= 1
                        raise StoreUnavailable("away")
                    return claim(*arguments, **named)

                def never(*_: Any, **__: Any) -> None:  # Any: as above
                    raise StoreUnavailable("away")

                monkeypatch.setattr(runner._deliveries, "claim", failing)
                monkeypatch.setattr(runner._deliveries, "let_go", never)
                await runner.submit(new_task(webhook_url=f"http://{receiver.host}/"))
                await until(lambda: len(receiver.received) == 1 and not store.pending())
                monkeypatch.undo()

    run(scenario())

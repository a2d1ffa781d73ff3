"""Tasks: accepted durably, ended once, kept for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from deepserve.config import TaskLimits
from deepserve.core.errors import InvalidField, Overloaded, TooManyRequests, UnsupportedFeature
from deepserve.store.database import open_database
from deepserve.store.tables import tasks
from deepserve.store.tasks import TaskStore
from deepserve.tasks.runner import TaskRunner
from tests.tasks.setup import (
    ALICE,
    BOB,
    NOON,
    PATIENCE_S,
    Clock,
    Scripted,
    ended,
    fresh_database,
    make_runner,
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


def test_a_task_is_queued_then_ends_with_the_performers_result() -> None:
    async def scenario() -> None:
        async with running() as runner:
            accepted = await runner.submit(new_task(metadata={"n": 2}))
            assert (accepted.status, accepted.result, accepted.metadata) == ("queued", None, {"n": 2})
            state = await ended(runner)
            assert (state.status, state.result, state.error_code) == ("succeeded", b"HELLO", None)
            assert (state.tenant, state.num_attempts, state.arrived_at) == (ALICE, 1, NOON)

    run(scenario())


def test_an_id_is_taken_once_by_each_tenant() -> None:
    async def scenario() -> None:
        async with running() as runner:
            await runner.submit(new_task())
            with pytest.raises(InvalidField, match="used before") as refused:
                await runner.submit(new_task(body=b"other"))
            assert refused.value.field == "id"
            await runner.submit(new_task(tenant=BOB, body=b"of bob"))
            assert (await ended(runner)).result == b"HELLO"
            assert (await ended(runner, tenant=BOB)).result == b"OF BOB"

    run(scenario())


def test_the_tasks_of_others_are_unknown() -> None:
    async def scenario() -> None:
        async with running() as runner:
            await runner.submit(new_task())
            assert await runner.find(BOB.id, "one") is None
            assert await runner.cancel(BOB.id, "one") is None
            assert await runner.wait(BOB.id, "one") is None
            assert (await ended(runner)).status == "succeeded"

    run(scenario())


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (UnsupportedFeature("Not here.", field="tools"), "unsupported_feature"),
        (RuntimeError("secret detail"), "engine_failure"),
    ],
)
def test_a_failure_ends_a_task_with_the_dialects_own_body(raised: Exception, code: str) -> None:
    async def scenario() -> None:
        performer = Scripted()
        performer.errors = [raised]
        async with running(performer) as runner:
            await runner.submit(new_task())
            state = await ended(runner)
            assert (state.status, state.error_code) == ("failed", code)
            assert state.result is not None
            assert state.result.startswith(f"failed: {code}".encode())
            assert b"secret" not in state.result
            assert performer.performed == ["one"]

    run(scenario())


def test_a_back_end_without_room_is_waited_for() -> None:
    async def scenario() -> None:
        performer = Scripted()
        performer.errors = [Overloaded("Full.", retry_after_s=0.0), Overloaded("Full.", retry_after_s=0.0)]
        async with running(performer, limits=TaskLimits(max_attempts=1)) as runner:
            await runner.submit(new_task())
            state = await ended(runner)
            assert (state.status, state.num_attempts, len(performer.performed)) == ("succeeded", 1, 3)

    run(scenario())


def test_a_back_end_without_room_for_too_long_fails_the_task() -> None:
    async def scenario() -> None:
        performer = Scripted()
        performer.errors = [Overloaded("Full.", retry_after_s=0.0)]
        async with running(performer, limits=TaskLimits(patience_s=0.0)) as runner:
            await runner.submit(new_task())
            assert (await ended(runner)).error_code == "overloaded"

    run(scenario())


def test_no_more_tasks_run_than_allowed_and_tenants_take_turns() -> None:
    async def scenario() -> None:
        performer = Scripted()
        async with running(performer, limits=TaskLimits(max_running=1)) as runner:
            await runner.submit(new_task("first", b"wait"))
            await until(performer.begun.is_set)
            for number in range(3):
                await runner.submit(new_task(f"a{number}"))
            await runner.submit(new_task("b0", tenant=BOB))
            assert runner.gauges() == {"tasks_queued": 4, "tasks_running": 1, "webhooks_pending": 0}
            assert performer.performed == ["first"]
            performer.go_on.set()
            await ended(runner, "a2")
            assert performer.performed == ["first", "a0", "b0", "a1", "a2"]
            assert runner.counts()["tasks_ended"] == {("scripted", "succeeded"): 5}

    run(scenario())


def test_too_many_unfinished_tasks_are_refused_and_leave_nothing_behind() -> None:
    async def scenario() -> None:
        performer = Scripted()
        async with running(performer, limits=TaskLimits(max_running=1, max_unfinished_per_tenant=2)) as runner:
            await runner.submit(new_task("a", b"wait"))
            await runner.submit(new_task("b"))
            with pytest.raises(TooManyRequests, match="at most 2 tasks"):
                await runner.submit(new_task("c"))
            await runner.submit(new_task("c", tenant=BOB))
            performer.go_on.set()
            await ended(runner, "b")
            await runner.submit(new_task("c"))

    run(scenario())


def test_tasks_that_are_too_large_together_are_refused() -> None:
    async def scenario() -> None:
        limits = TaskLimits(max_running=1, max_bytes_per_tenant=2 << 20)
        performer = Scripted()
        async with running(performer, limits=limits) as runner:
            await runner.submit(new_task("a", b"wait"))
            await runner.submit(new_task("b", b"x" * (1 << 20)))
            with pytest.raises(TooManyRequests, match="2 MiB"):
                await runner.submit(new_task("c", b"x" * (1 << 20)))
            assert await runner.find(ALICE.id, "c") is None

    run(scenario())


def test_a_running_task_is_cancelled_at_once() -> None:
    async def scenario() -> None:
        performer = Scripted()
        async with running(performer) as runner:
            await runner.submit(new_task(body=b"wait"))
            await until(performer.begun.is_set)
            cancelled = await runner.cancel(ALICE.id, "one")
            assert cancelled is not None
            assert (cancelled.status, cancelled.result) == ("cancelled", None)
            await until(lambda: runner.gauges()["tasks_running"] == 0)
            assert (await ended(runner)).status == "cancelled"

    run(scenario())


def test_a_queued_task_that_is_cancelled_never_begins() -> None:
    async def scenario() -> None:
        performer = Scripted()
        async with running(performer, limits=TaskLimits(max_running=1)) as runner:
            await runner.submit(new_task("first", b"wait"))
            await until(performer.begun.is_set)
            await runner.submit(new_task("second"))
            await runner.submit(new_task("third"))
            await runner.cancel(ALICE.id, "second")
            performer.go_on.set()
            await ended(runner, "third")
            assert performer.performed == ["first", "third"]

    run(scenario())


def test_cancelling_what_has_ended_changes_nothing() -> None:
    async def scenario() -> None:
        async with running() as runner:
            await runner.submit(new_task())
            before = await ended(runner)
            assert await runner.cancel(ALICE.id, "one") == before

    run(scenario())


def test_results_are_gone_when_their_time_is_over_but_the_id_stays_taken() -> None:
    async def scenario() -> None:
        clock, database = Clock(), fresh_database()
        async with running(database=database, clock=clock) as runner:
            await runner.submit(new_task(keep_s=3600.0))
            await ended(runner)
            clock.pass_s(3599)
            assert await runner.find(ALICE.id, "one") is not None
            clock.pass_s(1)
            assert await runner.find(ALICE.id, "one") is None
        store = TaskStore(database)
        assert store.purge(now=clock.now(), record_s=7200.0, max_bytes_per_tenant=100) == 1
        with database.connect() as connection:
            row = connection.execute(select(tasks)).one()
        assert (row.body, row.result) == (b"", None)
        async with running(database=database, clock=clock, limits=TaskLimits(record_s=7200.0)) as runner:
            with pytest.raises(InvalidField, match="used before"):
                await runner.submit(new_task())
        clock.pass_s(7200)
        async with running(database=database, clock=clock, limits=TaskLimits(record_s=7200.0)) as runner:
            await runner.submit(new_task())
            assert (await ended(runner)).status == "succeeded"

    run(scenario())


def test_beyond_a_tenants_bytes_the_oldest_results_go_first() -> None:
    async def scenario() -> None:
        clock, database = Clock(), fresh_database()
        async with running(database=database, clock=clock) as runner:
            for name in ("old", "middle", "new"):
                await runner.submit(new_task(name, b"x" * 50))
                await ended(runner, name)
                clock.pass_s(1)
            await runner.submit(new_task("of bob", b"x" * 50, tenant=BOB))
            await ended(runner, "of bob", BOB)
            store = TaskStore(database)
            assert store.purge(now=clock.now(), record_s=9e6, max_bytes_per_tenant=200) == 1
            assert await runner.find(ALICE.id, "old") is None
            assert await runner.find(ALICE.id, "middle") is not None
            assert await runner.find(BOB.id, "of bob") is not None

    run(scenario())


def test_a_stopped_server_begins_its_tasks_again_without_counting_the_attempt(tmp_path: Path) -> None:
    async def scenario() -> None:
        first = Scripted()
        async with running(first, state_dir=tmp_path) as runner:
            await runner.submit(new_task(body=b"wait"))
            await until(first.begun.is_set)
        second = Scripted()
        second.go_on.set()
        async with running(second, state_dir=tmp_path) as runner:
            state = await ended(runner)
            assert (state.status, state.result, state.num_attempts) == ("succeeded", b"WAIT", 1)
            assert second.performed == ["one"]

    run(scenario())


def test_a_task_that_dies_with_the_server_every_time_ends_with_a_stated_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = open_database(tmp_path)
        clock = Clock()
        performer = Scripted()
        idle = make_runner(performer, database=database, state_dir=None, clock=clock)
        await idle.submit(new_task(body=b"wait"))
        store = TaskStore(database)
        key = (ALICE.id, "one")
        for _ in range(3):  # begun, and never heard of again
            assert store.claim(key, owner="dead", now=clock.now(), lease_s=30) is not None
            clock.pass_s(31)
            assert store.release(now=clock.now(), dead_owner=None) == 1
        async with running(performer, database=database, clock=clock) as runner:
            state = await ended(runner)
        await idle.close()
        assert (state.status, state.error_code, state.num_attempts) == ("failed", "engine_failure", 4)
        assert state.result is not None
        assert b"begun 3 times" in state.result
        assert performer.performed == []

    run(scenario())


def test_two_runners_on_one_state_directory_perform_each_task_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        first, second = Scripted(), Scripted()
        async with running(first, state_dir=tmp_path) as one, running(second, state_dir=tmp_path) as other:
            for number in range(20):
                await (one, other)[number % 2].submit(new_task(str(number)))
            await one._keep_house()
            await other._keep_house()
            for number in range(20):
                assert (await ended(one, str(number))).result == b"HELLO"
        assert sorted(first.performed + second.performed, key=int) == [str(number) for number in range(20)]

    run(scenario())


def test_a_second_server_does_not_take_what_the_first_is_working_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        first, second = Scripted(), Scripted()
        async with running(first, state_dir=tmp_path) as one:
            await one.submit(new_task(body=b"wait"))
            await until(first.begun.is_set)
            async with running(second, state_dir=tmp_path) as other:
                cancelled = await other.cancel(ALICE.id, "one")
                assert cancelled is not None
                assert cancelled.status == "cancelled"
            assert second.performed == []
            await one._keep_house()
            await until(lambda: one.gauges()["tasks_running"] == 0)

    run(scenario())


def test_a_task_whose_end_could_not_be_written_is_begun_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = open_database(tmp_path)
        performer = Scripted()
        with database.begin() as connection:
            connection.execute(
                text("CREATE TRIGGER full BEFORE UPDATE OF result ON tasks BEGIN SELECT RAISE(ABORT, 'disk full'); END")
            )
        async with running(performer, database=database) as runner:
            await runner.submit(new_task())
            await until(lambda: performer.performed == ["one"] and not runner.gauges()["tasks_running"])
            with database.begin() as connection:
                connection.execute(text("DROP TRIGGER full"))
            await runner._keep_house()
            state = await ended(runner)
            assert (state.status, state.num_attempts, performer.performed) == ("succeeded", 2, ["one", "one"])

    run(scenario())


def test_a_kind_nobody_carries_out_any_more_fails_after_a_restart() -> None:
    async def scenario() -> None:
        database = fresh_database()
        idle = make_runner(Scripted(), database=database)
        await idle.submit(new_task())
        await idle.close()
        runner = TaskRunner(database, idle._client, now=Clock().now)
        await runner.start()
        assert (await ended(runner)).error_code == "engine_failure"
        await runner.close()

    run(scenario())

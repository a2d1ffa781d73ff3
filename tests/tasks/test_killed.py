"""Processes that are killed without warning, and started again on the same state directory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from deepserve.core.task import TaskState
from deepserve.core.tenant import LOCAL_TENANT
from deepserve.store.database import open_database
from deepserve.store.deliveries import DeliveryStore
from deepserve.store.tasks import TaskStore
from tests.conftest import running_server
from tests.outgoing.receiver import OK, Received, Receiver
from tests.tasks.setup import NOON, until

_PATIENCE_S = 30.0
_NUM_TASKS = 6


@contextlib.asynccontextmanager
async def worker(
    state_dir: Path, receiver: Receiver, mode: str, num_tasks: int = 0
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Killed at the end of the block, without a chance to tidy up."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.tasks.worker_process", str(state_dir)),
        *(receiver.host, mode, str(num_tasks), "", "30"),
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        await process.communicate()


async def hear(process: asyncio.subprocess.Process, word: str, times: int = 1) -> None:
    assert process.stdout is not None
    while times:
        line = (await process.stdout.readline()).decode().strip()
        assert line, "the process has ended"
        times -= line == word


def found(state_dir: Path) -> list[TaskState]:
    store = TaskStore(open_database(state_dir))
    states = [store.find((LOCAL_TENANT.id, str(number)), now=NOON) for number in range(_NUM_TASKS)]
    return [state for state in states if state is not None]


def test_killed_in_the_middle_of_tasks_every_one_ends_and_is_announced_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(_PATIENCE_S), Receiver() as receiver:
            async with worker(tmp_path, receiver, "hold", _NUM_TASKS) as process:
                await hear(process, "accepted")
            states = await asyncio.to_thread(found, tmp_path)
            assert len(states) == _NUM_TASKS, "accepted is accepted"
            assert "running" in {state.status for state in states}
            async with worker(tmp_path, receiver, "hold") as process:
                await hear(process, "begun", times=4)
            async with worker(tmp_path, receiver, "go on"):
                await until(lambda: len(receiver.received) == _NUM_TASKS)
        bodies = sorted(received.body for received in receiver.received)
        assert bodies == [f"TASK {number}".encode() for number in range(_NUM_TASKS)]

    asyncio.run(scenario())
    states = found(tmp_path)
    assert {state.status for state in states} == {"succeeded"}
    assert {state.num_attempts for state in states} <= {1, 2, 3}
    assert max(state.num_attempts for state in states) == 3, "some had been begun before both ends"


def test_a_task_that_was_begun_three_times_before_its_process_was_killed_fails(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(_PATIENCE_S), Receiver() as receiver:
            for attempt in range(3):
                async with worker(tmp_path, receiver, "hold", 0 if attempt else 1) as process:
                    await hear(process, "begun")
            async with worker(tmp_path, receiver, "hold"):
                await until(lambda: len(receiver.received) == 1)
            assert receiver.received[0].body == b"engine_failure"

    asyncio.run(scenario())


def test_killed_after_the_receiver_has_answered_the_call_comes_again_with_the_same_id(tmp_path: Path) -> None:
    """Between the answer and its record: what the receiver sees twice it can recognise."""

    async def scenario() -> None:
        async with asyncio.timeout(_PATIENCE_S):
            has_called = asyncio.Event()

            async def kill_first(_: Received, writer: asyncio.StreamWriter) -> None:
                has_called.set()
                await is_killed.wait()
                writer.write(OK)

            is_killed = asyncio.Event()
            async with Receiver(kill_first, OK) as receiver:
                async with worker(tmp_path, receiver, "go on", 1):
                    await has_called.wait()
                is_killed.set()
                async with worker(tmp_path, receiver, "go on"):
                    await until(lambda: len(receiver.received) == 2)
                    first, second = receiver.received
                    assert first.headers["webhook-id"] == second.headers["webhook-id"]
                    assert first.body == second.body == b"TASK 0"

    asyncio.run(scenario())
    (delivery,) = DeliveryStore(open_database(tmp_path)).of_task(LOCAL_TENANT.id, "0")
    assert delivery.num_attempts <= 1, "the attempt whose end nobody saw is not on record"


def test_killed_between_its_items_a_task_announces_each_of_them_once(tmp_path: Path) -> None:
    """Twice: with one item announced, then with three. Each has one id and one body, whoever sends it."""

    async def scenario() -> None:
        async with asyncio.timeout(_PATIENCE_S), Receiver() as receiver:
            async with worker(tmp_path, receiver, "spell 1", 1) as process:
                await hear(process, "holding")
                await until(lambda: len(receiver.received) == 1)
            async with worker(tmp_path, receiver, "spell 3") as process:
                await hear(process, "holding")
            async with worker(tmp_path, receiver, "spell"):
                await until(lambda: len({one.headers["webhook-id"] for one in receiver.received}) == len(b"TASK 0"))
            bodies: dict[str, set[bytes]] = {}
            for received in receiver.received:
                bodies.setdefault(received.headers["webhook-id"], set()).add(received.body)
            assert sorted(b"".join(body) for body in bodies.values()) == sorted(bytes((one,)) for one in b"TASK 0")

    asyncio.run(scenario())
    (state,) = found(tmp_path)
    assert (state.status, state.result, state.num_attempts) == ("succeeded", b"TASK 0", 3)
    calls = DeliveryStore(open_database(tmp_path)).of_task(LOCAL_TENANT.id, "0")
    assert [call.item for call in calls] == list(range(len(b"TASK 0")))


_SLOW = '[[rules]]\nwhen = { contains = "slow" }\nreply = { text = "at last", first_delay_s = 3600 }\n'
_QUICK = '[[rules]]\nreply = { text = "at last" }\n'


def ask(address: str, body: Any = None) -> Any:  # Any: JSON
    request = urllib.request.Request(
        address,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answered:
        return json.load(answered)


def test_a_whole_server_that_is_killed_finishes_its_background_answers_after_a_restart(tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    script.write_text(_SLOW)
    arguments = ("--backend", "scripted", "--script", str(script))
    body = {"model": "deepseek-v4-flash", "input": "slow", "background": True}
    with running_server(*arguments, state_dir=tmp_path, is_killed=True) as base:
        names = [ask(f"{base}/v1/responses", body)["id"] for _ in range(3)]
        while ask(f"{base}/v1/responses/{names[0]}")["status"] != "in_progress":
            pass
    script.write_text(_QUICK)
    with running_server(*arguments, state_dir=tmp_path) as base:
        for name in names:
            while (answer := ask(f"{base}/v1/responses/{name}"))["status"] in ("queued", "in_progress"):
                pass
            assert answer["status"] == "completed"
            assert answer["output"][-1]["content"][0]["text"] == "at last"
        ended = 'deepserve_tasks_ended_total{kind="response",status="succeeded"} 3.0'
        for _ in range(1000):  # the count follows the row that clients see
            with urllib.request.urlopen(f"{base}/metrics") as metrics:
                text = metrics.read().decode()
            if ended in text:
                break
    assert ended in text
    assert "deepserve_tasks_running 0.0" in text

"""What a client hears of work in the background that does not go as planned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import cast

import pytest

from deepserve.core.errors import BackendFailure, DeepserveError, Overloaded
from deepserve.core.events import BlockDelta, Event, Finished
from deepserve.core.task import TaskState
from deepserve.core.tenant import LOCAL_TENANT, TenantId
from deepserve.server.following import Key, Line, Lines
from deepserve.tasks.runner import TaskRunner

KEY: Key = (TenantId("tenant"), "resp_1")
PIECE = BlockDelta(index=0, text="a")


class Tasks:
    """Stands for the runner: a task that has ended, or never does."""

    def __init__(self, state: TaskState | None, *, has_ended: bool) -> None:
        self._state = state
        self._has_ended = has_ended

    async def wait(self, *_: str) -> TaskState | None:
        if not self._has_ended:
            await asyncio.Event().wait()
        return self._state


async def answer(*events: Event) -> AsyncGenerator[Event]:
    for event in events:
        yield event


async def hear(line: Line, tasks: Tasks) -> list[Event | DeepserveError]:
    heard: list[Event | DeepserveError] = []
    try:
        # Of the runner only `wait` is asked.
        async for event in line.events(cast("TaskRunner", tasks), KEY):
            heard.append(event)
    except DeepserveError as error:
        heard.append(error)
    return heard


async def attempt(line: Line, *events: Event) -> None:
    line.begin()
    async for _ in line.overhear(answer(*events)):
        pass


def test_the_end_is_told_only_when_the_answer_is_kept() -> None:
    async def main() -> tuple[int, list[Event | DeepserveError]]:
        line, finished = Line(), Finished(reason="stop")
        await attempt(line, PIECE, finished)
        num_before = line.num_waiting
        line.end()
        return num_before, await hear(line, Tasks(None, has_ended=False))

    assert asyncio.run(main()) == (1, [PIECE, Finished(reason="stop")])


def test_an_attempt_that_had_told_nothing_is_followed_by_another() -> None:
    async def main() -> list[Event | DeepserveError]:
        line = Line()
        await attempt(line)
        await attempt(line, PIECE, Finished(reason="stop"))
        line.end()
        return await hear(line, Tasks(None, has_ended=False))

    assert asyncio.run(main()) == [PIECE, Finished(reason="stop")]


def test_work_that_is_begun_again_after_something_was_told_ends_the_stream() -> None:
    async def main() -> list[Event | DeepserveError]:
        line = Line()
        await attempt(line, PIECE)
        await attempt(line, PIECE, Finished(reason="stop"))
        line.end()
        return await hear(line, Tasks(None, has_ended=False))

    heard = asyncio.run(main())
    assert heard[:-1] == [PIECE]
    assert isinstance(heard[-1], Overloaded)


def test_work_that_another_server_did_ends_the_stream_with_that_reason(ended_task: TaskState) -> None:
    [error] = asyncio.run(hear(Line(), Tasks(ended_task, has_ended=True)))
    assert isinstance(error, BackendFailure)


def test_a_line_is_found_while_it_is_followed_and_not_afterwards() -> None:
    lines = Lines()
    with lines.open(KEY) as line:
        assert lines.find(KEY) is line
    assert lines.find(KEY) is None


@pytest.fixture
def ended_task() -> TaskState:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return TaskState(
        id="resp_1",
        kind="response",
        tenant=LOCAL_TENANT,
        status="succeeded",
        body=b"{}",
        arrived_at=at,
        created_at=at,
        keep_s=60.0,
    )

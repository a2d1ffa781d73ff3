"""A request sent again may come to another server on the same database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest
from typing_extensions import override

from deepserve.config import Settings
from deepserve.core.errors import DeepserveError, EngineFailure, InvalidField, Overloaded
from deepserve.core.events import BlockClosed, BlockDelta, BlockOpened, Event, Finished, Started, TextBlock
from deepserve.core.provider import ServedBy
from deepserve.core.tenant import TenantId
from deepserve.dialects.exchange import AnswerHead
from deepserve.server import replay
from deepserve.server.replay import ReplayMemory
from deepserve.store.database import Database
from deepserve.store.replays import KeptReplay, ReplayLimits, ReplayStore
from deepserve.store.sealing import Sealer
from tests.databases import database as database
from tests.databases import open_place as open_place
from tests.databases import place as place
from tests.tasks.setup import until

TENANT = TenantId("a")
NOON = datetime(2026, 11, 20, tzinfo=UTC)
PATIENCE_S = 10.0


def head(name: str) -> AnswerHead:
    return AnswerHead(id=name, created_at=NOON, model="m")


class Counting(ReplayStore):
    """Counts how often somebody looks whether another server has ended."""

    num_looks = 0

    @override
    def find(self, tenant: TenantId, key: str) -> KeptReplay | None:
        self.num_looks += 1
        return super().find(tenant, key)


def looks(memory: ReplayMemory) -> int:
    assert isinstance(memory._shared, Counting)
    return memory._shared.num_looks


def server(database: Database, name: str) -> ReplayMemory:
    store = Counting(
        database,
        Sealer(bytes(32)),
        owner=name,
        limits=ReplayLimits(answers=10, size_bytes=100_000, age_s=60.0),
        lease_s=30.0,
        now=lambda: NOON,
    )
    return ReplayMemory(Settings(), clock=lambda: 0.0, shared=store)


def answering(
    text: str, *, wait: asyncio.Event | None = None, error: DeepserveError | None = None
) -> Callable[[], AsyncGenerator[Event]]:
    async def start() -> AsyncGenerator[Event]:
        yield Started(served_by=ServedBy(provider="p", model="m", fingerprint="f"))
        yield BlockOpened(index=0, block=TextBlock())
        if wait is not None:
            await wait.wait()
        if error is not None:
            raise error
        for letter in text:
            yield BlockDelta(index=0, text=letter)
        yield BlockClosed(index=0)
        yield Finished(reason="stop")

    return start


async def ask(
    memory: ReplayMemory, start: Callable[[], AsyncGenerator[Event]], *, name: str, digest: bytes = b"d"
) -> tuple[str, str, bool]:
    """The answer's text, its id, and whether it was given before."""
    async with memory.claim(TENANT, "k", digest=digest, head=head(name), start=start) as claim:
        events = [event async for event in claim.events]
        assert isinstance(events[-1], Finished)
        text = "".join(event.text for event in events if isinstance(event, BlockDelta))
        return text, claim.head.id, claim.is_replay


def run(scenario: Coroutine[Any, Any, None]) -> None:  # Any: as asyncio has it
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await scenario

    asyncio.run(bounded())


def test_another_server_gives_the_same_answer_under_the_same_id(database: Database) -> None:
    async def scenario() -> None:
        one, other = server(database, "one"), server(database, "other")
        assert await ask(one, answering("text"), name="first") == ("text", "first", False)
        assert await ask(other, answering("new"), name="second") == ("text", "first", True)
        assert await ask(one, answering("new"), name="third") == ("text", "first", True)
        with pytest.raises(InvalidField, match="another request"):
            await ask(other, answering("new"), name="fourth", digest=b"other")

    run(scenario())


def test_another_server_waits_for_the_first_to_end(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_POLL_S", 0.001)

    async def scenario() -> None:
        one, other, go_on = server(database, "one"), server(database, "other"), asyncio.Event()
        first = asyncio.create_task(ask(one, answering("text", wait=go_on), name="first"))
        await until(lambda: bool(one._running))
        second = asyncio.create_task(ask(other, answering("new"), name="second"))
        await until(lambda: looks(other) >= 2)
        assert not second.done()
        go_on.set()
        assert await first == ("text", "first", False)
        assert await second == ("text", "first", True)

    run(scenario())


def test_what_fails_at_one_server_is_answered_anew_at_another(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_POLL_S", 0.001)

    async def scenario() -> None:
        one, other, go_on = server(database, "one"), server(database, "other"), asyncio.Event()
        failing = answering("text", wait=go_on, error=EngineFailure("broken"))
        first = asyncio.create_task(ask(one, failing, name="first"))
        await until(lambda: bool(one._running))
        second = asyncio.create_task(ask(other, answering("new"), name="second"))
        await until(lambda: looks(other) >= 1)
        go_on.set()
        with pytest.raises(EngineFailure):
            await first
        with pytest.raises(Overloaded, match="broken off"):
            await second
        assert await ask(other, answering("new"), name="third") == ("new", "third", False)

    run(scenario())


def test_a_client_that_leaves_frees_the_key_for_everybody(database: Database) -> None:
    async def scenario() -> None:
        one, other = server(database, "one"), server(database, "other")
        first = asyncio.create_task(ask(one, answering("text", wait=asyncio.Event()), name="first"))
        await until(lambda: bool(one._running))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert await ask(other, answering("new"), name="second") == ("new", "second", False)

    run(scenario())

"""Several results of one task: each is announced when it is ready, and what was announced stays as it was."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from deepserve.backends.scripted import ScriptedBackend
from deepserve.config import Settings
from deepserve.core.errors import EngineFailure
from deepserve.core.events import Event, Failed, Finished, Started
from deepserve.core.request import Request
from deepserve.dialects.runware.response import fail_the_rest
from deepserve.dialects.runware.wire import WireError, WireItem
from deepserve.store.database import open_database
from tests.outgoing.receiver import Received, Receiver
from tests.server.live import PATIENCE_S, Gate, LiveServer, live_server, scripted
from tests.server.runware.setup import Json, post, question, task_of


class LaterGate(Gate):
    """Lets so many pieces pass before it closes."""

    def __init__(self, num_free: int) -> None:
        super().__init__()
        self._num_free = num_free

    @override
    async def sleep(self, seconds: float) -> None:
        if self._num_free > 0:
            self._num_free -= 1
        else:
            await super().sleep(seconds)


class ForEver(LaterGate):
    """The same, but whoever waits at it can only be told to stop."""

    @override
    async def sleep(self, seconds: float) -> None:
        if self._num_free <= 0:
            await asyncio.Event().wait()
        await super().sleep(seconds)


def with_receiver(work: Callable[[Receiver, Settings], None], **settings: Any) -> list[Received]:  # Any: of Settings
    """Run blocking work beside a receiver that may be called; returns what it received."""

    async def run() -> list[Received]:
        async with Receiver() as receiver:
            allowed = Settings(outgoing_allowed=(receiver.host,), outgoing_http=True, **settings)
            await asyncio.to_thread(work, receiver, allowed)
            return receiver.received

    return asyncio.run(asyncio.wait_for(run(), 3 * PATIENCE_S))


def bodies(received: list[Received]) -> dict[str, Json]:
    """By delivery; the same each time it comes."""
    found: dict[str, Json] = {}
    for one in received:
        body = json.loads(one.body)
        assert found.setdefault(one.headers["x-runware-delivery"], body) == body
    return found


def await_calls(receiver: Receiver, num_calls: int) -> None:
    pause = threading.Event()
    while len(bodies(receiver.received)) < num_calls:
        pause.wait(0.005)


def state_of(live: LiveServer, task: Json) -> list[Json]:
    return list(post(live, question(task)).json()["data"])


def ended_state_of(live: LiveServer, task: Json) -> list[Json]:
    while True:
        items = state_of(live, task)
        if all(item["status"] != "processing" for item in items):
            return items


@pytest.mark.parametrize("bill", [{}, {"includeCost": True, "includeUsage": True}])
def test_an_item_is_announced_and_can_be_polled_while_others_are_worked_on(bill: Json) -> None:
    def work(receiver: Receiver, settings: Settings) -> None:
        gate = LaterGate(num_free=2)
        with live_server(scripted(gate=gate, text="two words", delay_s=1), settings) as live:
            task = task_of(webhookURL=receiver.url, numberResults=3, seed=7, **bill)
            assert post(live, task).status_code == 200
            await_calls(receiver, 1)
            (first,) = bodies(receiver.received).values()
            assert (first["resultIndex"], first["text"], first["seed"]) == (0, "two words", 7)
            done, *others = state_of(live, task)
            assert done == {**first, "status": "success"}
            assert [(item["resultIndex"], item["status"]) for item in others] == [(1, "processing"), (2, "processing")]
            gate.open()
            await_calls(receiver, 3)
            items = ended_state_of(live, task)
            assert items[0] == done
            if bill:
                prompts = [item["usage"]["costBreakdown"]["tokens"]["prompt"]["billableTokens"] for item in items]
                assert prompts[0] > 0
                assert prompts[1:] == [0, 0], "the prompt is billed once"
                prompt_cost = items[0]["cost"] - items[0]["usage"]["costBreakdown"]["tokens"]["completion"]["cost"]
                assert prompt_cost > 0
                assert items[0]["cost"] - prompt_cost == pytest.approx(items[1]["cost"])
                assert items[1]["cost"] == items[2]["cost"] > 0

    received = with_receiver(work)
    assert sorted(body["resultIndex"] for body in bodies(received).values()) == [0, 1, 2]


def test_an_item_that_was_announced_outlives_the_server_and_is_not_announced_again(tmp_path: Path) -> None:
    """The second server would have answered otherwise: what was told stands, the rest is told by the new one."""

    def work(receiver: Receiver, settings: Settings) -> None:
        task = task_of(webhookURL=receiver.url, numberResults=2, includeCost=True)
        before = scripted(gate=ForEver(num_free=1), text="before", delay_s=1)
        with live_server(before, settings, database=open_database(tmp_path)) as live:
            assert post(live, task).status_code == 200
            await_calls(receiver, 1)
        with live_server(scripted(text="after"), settings, database=open_database(tmp_path)) as live:
            items = ended_state_of(live, task)
            assert [(item["resultIndex"], item["text"]) for item in items] == [(0, "before"), (1, "after")]
            await_calls(receiver, 2)

    received = with_receiver(work, state_dir=tmp_path)
    assert sorted(body["text"] for body in bodies(received).values()) == ["after", "before"]


class Odd(ScriptedBackend):
    """Whose first result fails when its second is ready, and which says what it read at the end only."""

    @override
    async def answer(self, request: Request) -> AsyncGenerator[Event]:
        held: list[Event] = []
        async for event in super().answer(request):
            if isinstance(event, Started):
                yield Started(served_by=event.served_by)
            elif getattr(event, "result", None) == 0:
                held.append(event)
            else:
                yield event
        for event in held:
            yield Failed(error=EngineFailure("broke")) if isinstance(event, Finished) else event


def test_a_failed_item_is_announced_with_the_end_and_the_prompt_is_billed_once() -> None:
    def work(receiver: Receiver, settings: Settings) -> None:
        with live_server(Odd(), settings) as live:
            task = task_of(webhookURL=receiver.url, numberResults=2, includeUsage=True)
            assert post(live, task).status_code == 200
            await_calls(receiver, 2)
            failed, done = ended_state_of(live, task)
            assert (failed["status"], failed["error"]["message"]) == ("error", "broke")
            assert done["usage"]["promptTokens"] > 0
            assert done["usage"]["costBreakdown"]["tokens"]["prompt"]["billableTokens"] > 0

    with_receiver(work)


def test_what_failed_after_some_items_were_told_is_the_rest() -> None:
    error = WireError(code="timeout", message="late")
    told = WireItem(task_type="textInference", task_uuid="u", result_index=1, text="told")
    assert fail_the_rest(error, 3, ()).errors == [error]
    ended = fail_the_rest(error, 3, [told])
    assert ended.items == [told]
    assert [(one.result_index, one.code) for one in ended.errors] == [(0, "timeout"), (2, "timeout")]

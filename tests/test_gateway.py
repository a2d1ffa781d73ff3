"""The life of a request, seen from the gateway."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
import pytest
from typing_extensions import override

from deepserve.backends.script import Reply, Rule, Script
from deepserve.backends.scripted import ScriptedBackend
from deepserve.core.answer import Answer, collect
from deepserve.core.errors import BackendFailure, DeepserveError, EngineFailure, Overloaded, UnknownModel
from deepserve.core.events import Event, Failed, Finished, Started
from deepserve.core.messages import Message, Reasoning
from deepserve.core.request import Request
from deepserve.gateway import Gateway
from deepserve.store.sealing import Sealer
from tests.dialects.chat.decoding import body, decode

REQUEST = decode(body(n=2)).request


class Diary:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.accepted: list[Request] = []
        self.events: list[Event] = []
        self.ended: list[DeepserveError | None] = []

    def on_accepted(self, request: Request) -> None:
        self.accepted.append(request)

    def on_event(self, request: Request, event: Event) -> None:
        self.events.append(event)

    def on_ended(self, request: Request, error: DeepserveError | None) -> None:
        self.ended.append(error)


class Breaking(ScriptedBackend):
    """Raises, or stops without an end, after so many events."""

    def __init__(self, after: int, fault: Exception | None) -> None:
        super().__init__()
        self._after = after
        self._fault = fault

    @override
    async def answer(self, request: Request) -> AsyncGenerator[Event]:
        async with aclosing(super().answer(request)) as events:
            for _ in range(self._after):
                yield await anext(events)
            if self._fault is not None:
                raise self._fault


def _events(gateway: Gateway, request: Request = REQUEST) -> list[Event]:
    async def run() -> list[Event]:
        return [event async for event in gateway.answer(request)]

    return asyncio.run(run())


def test_observers_hear_everything_in_order() -> None:
    diary = Diary()
    events = _events(Gateway(ScriptedBackend(), observers=(diary,)))
    assert diary.accepted == [REQUEST]
    assert diary.events == events
    assert diary.ended == [None]
    assert isinstance(events[0], Started)
    assert [event.result for event in events if isinstance(event, Finished)] == [0, 1]


def test_a_model_that_is_not_served_is_refused_before_anybody_hears() -> None:
    diary = Diary()
    gateway = Gateway(ScriptedBackend(model_ids=("deepseek-v4-pro",)), observers=(diary,))
    with pytest.raises(UnknownModel, match="deepseek-v4-pro"):
        _events(gateway)
    with pytest.raises(UnknownModel):
        asyncio.run(gateway.count(REQUEST))
    assert (diary.accepted, diary.ended) == ([], [])


def test_an_error_before_the_first_event_is_raised_and_heard() -> None:
    diary = Diary()
    backend = ScriptedBackend(Script(rules=(Rule(reply=Reply(failure="overloaded")),)))
    with pytest.raises(Overloaded):
        _events(Gateway(backend, observers=(diary,)))
    assert [type(error) for error in diary.ended] == [Overloaded]


@pytest.mark.parametrize(
    ("fault", "cls"),
    [(EngineFailure("x"), EngineFailure), (ZeroDivisionError("x"), EngineFailure), (None, BackendFailure)],
)
@pytest.mark.parametrize("after", range(1, 6))
def test_a_fault_at_any_event_ends_every_result(after: int, fault: Exception | None, cls: type[DeepserveError]) -> None:
    diary = Diary()
    events = _events(Gateway(Breaking(after, fault), observers=(diary,)))
    failed = [event for event in events if isinstance(event, Failed)]
    assert sorted(event.result for event in failed) == [0, 1]
    assert all(type(event.error) is cls for event in failed)
    assert [type(error) for error in diary.ended] == [cls]


def test_an_unknown_fault_before_the_first_event_hides_its_text(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(EngineFailure) as caught:
        _events(Gateway(Breaking(0, ZeroDivisionError("secret"))))
    assert "secret" not in caught.value.message
    assert "secret" in caplog.text


def test_closing_the_stream_cancels_the_work_and_is_no_error() -> None:
    diary, backend = Diary(), ScriptedBackend()

    async def leave() -> None:
        async with aclosing(Gateway(backend, observers=(diary,)).answer(REQUEST)) as events:
            await anext(events)

    asyncio.run(leave())
    assert (backend.num_running, backend.num_cancelled) == (0, 1)
    assert diary.ended == [None]


def test_counting_answers_nothing() -> None:
    assert asyncio.run(Gateway(ScriptedBackend()).count(REQUEST)) == 3


def test_a_trace_leaves_sealed_and_comes_back_as_text() -> None:
    backend = Hearing(Script(rules=(Rule(reply=Reply(reasoning="because", text="A")),)))
    gateway = Gateway(backend, sealer=Sealer(bytes(32)))

    async def answer(request: Request) -> Answer:
        return await collect(gateway.answer(request))

    question = decode(body()).request
    (trace, text) = asyncio.run(answer(question)).results[0].parts
    assert isinstance(trace, Reasoning)
    assert trace.signature
    assert trace.sealed
    bare = msgspec.structs.replace(trace, text="")
    foreign = msgspec.structs.replace(trace, text="", signature="x", sealed=None)
    for part in (bare, foreign):
        turn = Message(role="assistant", parts=(part, text))
        asyncio.run(answer(msgspec.structs.replace(question, messages=(*question.messages, turn))))
    assert [heard.messages[-1].reasoning for heard in backend.heard] == [None, "because", None]
    assert gateway.gauges() == {"sealed_traces_opened": 1, "sealed_traces_refused": 1, "usage_repaired": 0}


class Hearing(ScriptedBackend):
    """Remembers what it was asked."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.heard: list[Request] = []

    @override
    async def answer(self, request: Request) -> AsyncGenerator[Event]:
        self.heard.append(request)
        async with aclosing(super().answer(request)) as events:
            async for event in events:
                yield event

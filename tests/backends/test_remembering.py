"""A service that refuses conversations without their traces, and clients that send none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from deepserve.backends.fleet.fleet import FleetBackend
from deepserve.backends.fleet.opening import open_fleet
from deepserve.backends.selection import guard_of
from deepserve.config import Settings, UpstreamSettings
from deepserve.core.answer import Answer, collect
from deepserve.core.events import Event, PastReasoning, Started
from deepserve.core.messages import Message, Reasoning, Text, ToolCall, ToolResult
from deepserve.core.request import Request, Thinking, Tool
from deepserve.core.tenant import Tenant, TenantId
from deepserve.dialects.upstream_request import LOST_TRACE
from deepserve.store.database import open_database
from deepserve.store.turns import TurnLimits, TurnStore
from tests.backends.upstream.setup import DONE, delta, frame, head, request
from tests.outgoing.receiver import Received, Receiver, answer

TOOL = Tool(name="weather", description="", parameters={"type": "object", "properties": {}})
USAGE = {"prompt_tokens": 5, "completion_tokens": 2}


class StrictService:
    """Calls its tool in every turn but each third, thinks a new thought each time, and forgives no lost trace.

    ids: how it names the call of a turn
    """

    def __init__(self, ids: str = "call_00_abcdefghijklmnopqrs{}") -> None:
        self._ids = ids
        self._num_turns = 0
        self.seen: list[list[str | None]] = []

    async def __call__(self, received: Received, writer: asyncio.StreamWriter) -> None:
        past = [one for one in json.loads(received.body)["messages"] if one["role"] == "assistant"]
        self.seen.append([one.get("reasoning_content") for one in past])
        if not all(one.get("reasoning_content") for one in past):
            body = (
                b'{"error":{"message":"The `reasoning_content` must be passed back.","type":"invalid_request_error"}}'
            )
            writer.write(answer(400, "Content-Type: application/json", body=body))
            return
        self._num_turns += 1
        writer.write(head() + frame(delta(reasoning_content=f"thought {self._num_turns}")))
        if self._num_turns % 3:
            function = {"name": "weather", "arguments": "{}"}
            call = {"index": 0, "id": self._ids.format(self._num_turns), "type": "function", "function": function}
            writer.write(frame(delta(tool_calls=[call])) + frame({**delta(finish="tool_calls"), "usage": USAGE}) + DONE)
        else:
            writer.write(frame(delta(content="Sunny.")) + frame({**delta(finish="stop"), "usage": USAGE}) + DONE)


def _fleet(*hosts: str, turns: TurnStore | None = None) -> FleetBackend:
    upstreams = tuple(
        UpstreamSettings(id=f"one{number}", kind="deepseek", address=f"http://{host}", num_retries=0)
        for number, host in enumerate(hosts)
    )
    settings = Settings(backend="upstream", upstreams=upstreams)
    environment = {"DEEPSEEK_API_KEY": "sk-test"}
    return open_fleet(settings, guard=guard_of(settings), engine=_no_engine, environment=environment, turns=turns)


def _no_engine() -> FleetBackend:
    raise AssertionError("nobody wants the engine here")


def _asked(messages: Sequence[Message], tenant: str = "local") -> Request:
    return request(
        messages=tuple(messages), tools=(TOOL,), thinking=Thinking(), tenant=Tenant(id=TenantId(tenant), name=tenant)
    )


async def _answer(fleet: FleetBackend, asked: Request) -> tuple[Answer, PastReasoning | None]:
    events = [event async for event in fleet.answer(asked)]
    started = next(event for event in events if isinstance(event, Started))

    async def each() -> AsyncIterator[Event]:
        for event in events:
            yield event

    return await collect(each()), started.past_reasoning


def _next_turn(messages: list[Message], said: Answer, *, sends_traces: bool) -> list[Message]:
    """The conversation with the answer, a result for each call, and a new question where there was none."""
    parts = said.results[0].parts
    if not sends_traces:
        parts = tuple(part for part in parts if not isinstance(part, Reasoning))
    calls = [part for part in parts if isinstance(part, ToolCall)]
    after = [
        Message(role="tool", parts=(ToolResult(call_id=call.id, content=(Text("18 degrees"),)),)) for call in calls
    ]
    return [
        *messages,
        Message(role="assistant", parts=parts),
        *(after or [Message(role="user", parts=(Text("More"),))]),
    ]


QUESTION = [Message(role="user", parts=(Text("How is the weather?"),))]


@pytest.mark.parametrize("ids", ["call_00_abcdefghijklmnopqrs{}", "call_0"])
def test_thirty_turns_of_a_client_that_forgets_look_like_those_of_one_that_does_not(ids: str) -> None:
    async def conversation(sends_traces: bool) -> list[list[str | None]]:
        service = StrictService(ids)
        async with Receiver(service) as receiver:
            fleet = _fleet(receiver.host)
            await fleet.start()
            messages = QUESTION
            for turn in range(30):
                said, past = await _answer(fleet, _asked(messages))
                if turn and not sends_traces:
                    assert past == PastReasoning(restored=turn)
                messages = _next_turn(messages, said, sends_traces=sends_traces)
            await fleet.close()
        return service.seen

    assert asyncio.run(conversation(False)) == asyncio.run(conversation(True))


def test_a_restart_loses_no_trace(tmp_path: Path) -> None:
    async def scenario() -> list[list[str | None]]:
        service = StrictService()
        async with Receiver(service) as receiver:
            messages = QUESTION
            for _ in range(4):
                database = open_database(tmp_path)
                store = TurnStore(
                    database, limits=TurnLimits(size_bytes=1 << 20, age_s=3600.0), now=lambda: datetime.now(UTC)
                )
                fleet = _fleet(receiver.host, turns=store)
                await fleet.start()
                said, _ = await _answer(fleet, _asked(messages))
                messages = _next_turn(messages, said, sends_traces=False)
                await fleet.close()
                store.close()
                database.dispose()
        return service.seen

    assert asyncio.run(scenario())[-1] == ["thought 1", "thought 2", "thought 3"]


def test_another_upstream_gets_the_traces_of_the_one_before() -> None:
    async def scenario() -> list[list[str | None]]:
        first, second = StrictService(), StrictService()
        async with Receiver(first) as one, Receiver(second) as two:
            fleet = _fleet(one.host, two.host)
            await fleet.start()
            said, _ = await _answer(fleet, _asked(QUESTION))
            fleet.drain("one0")
            await _answer(fleet, _asked(_next_turn(QUESTION, said, sends_traces=False)))
            await fleet.close()
        return second.seen

    assert asyncio.run(scenario()) == [["thought 1"]]


def test_a_trace_nobody_has_is_replaced_by_words_and_said_to_be_missing() -> None:
    call = ToolCall(id="call_elsewhere_0123456789", name="weather", arguments="{}")
    result = ToolResult(call_id=call.id, content=(Text("rain"),))
    foreign = [
        *QUESTION,
        Message(role="assistant", parts=(call,)),
        Message(role="tool", parts=(result,)),
    ]

    async def scenario() -> tuple[PastReasoning | None, list[list[str | None]]]:
        service = StrictService()
        async with Receiver(service) as receiver:
            fleet = _fleet(receiver.host)
            await fleet.start()
            _, past = await _answer(fleet, _asked(foreign))
            await fleet.close()
        return past, service.seen

    assert asyncio.run(scenario()) == (PastReasoning(missing=1), [[LOST_TRACE]])


def test_one_tenants_thoughts_are_not_put_into_anothers_conversation() -> None:
    async def scenario() -> list[list[str | None]]:
        service = StrictService()
        async with Receiver(service) as receiver:
            fleet = _fleet(receiver.host)
            await fleet.start()
            said, _ = await _answer(fleet, _asked(QUESTION, tenant="a"))
            await _answer(fleet, _asked(_next_turn(QUESTION, said, sends_traces=False), tenant="b"))
            await fleet.close()
        return service.seen

    assert asyncio.run(scenario())[-1] == [LOST_TRACE]


def test_what_the_client_sends_goes_before_what_is_remembered() -> None:
    async def scenario() -> list[list[str | None]]:
        service = StrictService()
        async with Receiver(service) as receiver:
            fleet = _fleet(receiver.host)
            await fleet.start()
            said, _ = await _answer(fleet, _asked(QUESTION))
            *before, turn, result = _next_turn(QUESTION, said, sends_traces=False)
            own = msgspec.structs.replace(turn, parts=(Reasoning(text="my own"), *turn.parts))
            await _answer(fleet, _asked([*before, own, result]))
            await fleet.close()
        return service.seen

    assert asyncio.run(scenario())[-1] == ["my own"]

"""Which trace a conversation gets when text and seals compete."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from deepserve.core.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    PastReasoning,
    ReasoningBlock,
    Started,
    TextBlock,
)
from deepserve.core.messages import Message, Reasoning, Text
from deepserve.core.provider import ServedBy
from deepserve.core.request import Request, RequestId
from deepserve.core.tenant import LOCAL_TENANT, Tenant, TenantId
from deepserve.store.sealed_reasoning import OpenedTraces, TraceSealer, open_traces
from deepserve.store.sealing import Sealer

SEALER = Sealer(bytes(range(32)))
SEAL = SEALER.seal(LOCAL_TENANT.id, "because")


def request_with(*parts: Reasoning | Text, tenant: Tenant = LOCAL_TENANT, prefix: bool = False) -> Request:
    return Request(
        id=RequestId("r"),
        model="deepseek-v4-flash",
        arrived_at=datetime(2026, 11, 1, tzinfo=UTC),
        messages=(
            Message(role="user", parts=(Text("q"),)),
            Message(role="assistant", parts=parts, prefix=prefix),
        ),
        tenant=tenant,
    )


def counts(opened: OpenedTraces) -> tuple[int, int, int]:
    return opened.num_turns, opened.num_opened, opened.num_refused


@pytest.mark.parametrize(
    "part", [Reasoning(sealed=SEAL), Reasoning(signature=SEAL), Reasoning(sealed="x", signature=SEAL)]
)
def test_a_seal_without_text_is_opened_whichever_field_carries_it(part: Reasoning) -> None:
    opened = open_traces(SEALER, request_with(part, Text("A")))
    assert opened.request.messages[1].reasoning == "because"
    assert opened.request.messages[1].text == "A"
    assert counts(opened) == (1, 1, 0)


@pytest.mark.parametrize("seal", [SEAL, "foreign"])
def test_text_the_client_sends_wins_over_any_seal(seal: str) -> None:
    request = request_with(Reasoning(text="mine", signature=seal, sealed=seal))
    opened = open_traces(SEALER, request)
    assert opened.request is request
    assert counts(opened) == (0, 0, 0)


@pytest.mark.parametrize("seal", ["foreign", SEAL[:-4], SEALER.seal(TenantId("other"), "because")])
def test_a_seal_that_is_not_ours_is_as_if_nothing_had_been_sent(seal: str) -> None:
    opened = open_traces(SEALER, request_with(Reasoning(signature=seal), Text("A")))
    assert opened.request.messages[1].reasoning is None
    assert opened.request.messages[1].text == "A"
    assert counts(opened) == (0, 0, 1)


def test_a_seal_that_the_server_kept_is_opened_and_not_counted_again() -> None:
    """Whoever counts turns takes what was kept here for restored already."""
    opened = open_traces(SEALER, request_with(Reasoning(sealed=SEAL, is_recalled=True), Text("A")))
    assert opened.request.messages[1].reasoning == "because"
    assert counts(opened) == (0, 1, 0)


def test_an_empty_trace_without_a_seal_is_a_trace() -> None:
    opened = open_traces(SEALER, request_with(Reasoning(text=""), Text("A")))
    assert opened.request.messages[1].reasoning == ""
    assert counts(opened) == (0, 0, 0)


def test_a_turn_is_sent_when_the_client_has_some_of_its_text_and_a_continued_one_is_no_past_turn() -> None:
    both = open_traces(SEALER, request_with(Reasoning(text="First. "), Reasoning(sealed=SEAL)))
    assert both.request.messages[1].reasoning == "First. because"
    assert counts(both) == (0, 1, 0)
    continued = open_traces(SEALER, request_with(Reasoning(sealed=SEAL), prefix=True))
    assert counts(continued) == (0, 1, 0)


def test_each_trace_is_sealed_where_it_ends_and_nothing_else_is() -> None:
    opened = OpenedTraces(request=request_with())
    seals = TraceSealer(SEALER, opened)
    events: list[Event] = [
        BlockOpened(index=0, block=ReasoningBlock(), result=1),
        BlockDelta(index=0, text="be", result=1),
        BlockOpened(index=0, block=TextBlock()),
        BlockDelta(index=0, text="A"),
        BlockDelta(index=0, text="cause", result=1),
        BlockClosed(index=0, result=1),
        BlockClosed(index=0),
        BlockOpened(index=1, block=TextBlock(), result=1),
        BlockDelta(index=1, text="B", result=1),
        BlockClosed(index=1, result=1),
    ]
    sealed = [seals.seal(event) for event in events]
    assert sealed[5] == BlockClosed(index=0, signature=SEAL, sealed=SEAL, result=1)
    assert sealed[:5] + sealed[6:] == events[:5] + events[6:]


def test_a_signature_of_another_provider_stays() -> None:
    seals = TraceSealer(SEALER, OpenedTraces(request=request_with()))
    seals.seal(BlockOpened(index=0, block=ReasoningBlock()))
    assert seals.seal(BlockClosed(index=0, signature="theirs")) == BlockClosed(
        index=0, signature="theirs", sealed=SEALER.seal(LOCAL_TENANT.id, "")
    )


def test_opened_turns_are_told_as_restored() -> None:
    started = Started(
        served_by=ServedBy(provider="p", model="m", fingerprint="f"),
        past_reasoning=PastReasoning(sent=3, restored=1, missing=2),
    )
    opened = open_traces(SEALER, request_with(Reasoning(sealed=SEAL)))
    told = TraceSealer(SEALER, opened).seal(started)
    assert isinstance(told, Started)
    assert told.past_reasoning == PastReasoning(sent=2, restored=2, missing=2)

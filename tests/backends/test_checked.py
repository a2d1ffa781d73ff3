"""Answers of a back end that does not enforce their form, checked, repaired, asked for again, or failed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from typing_extensions import override

from deepserve.backends.checked import CheckedBackend
from deepserve.backends.script import Reply, Rule, Script, ScriptedCall, When
from deepserve.backends.scripted import ScriptedBackend
from deepserve.backends.selection import select_backend
from deepserve.config import CheckPolicy, Settings
from deepserve.core.answer import collect_parts
from deepserve.core.errors import (
    BackendFailure,
    ConfigurationError,
    DamagedToolCall,
    DeepserveError,
    Overloaded,
    UnfitAnswer,
)
from deepserve.core.events import BlockDelta, BlockOpened, Event, Failed, Finished, Started, UsageReported
from deepserve.core.messages import Message, Reasoning, Text, ToolCall
from deepserve.core.request import Request, RequestId, ResponseFormat, Tool, ToolChoice
from deepserve.core.usage import Usage
from deepserve.core.verdict import judge

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = Tool(name="weather", parameters=SCHEMA, strict=True)
LOOSE = msgspec.structs.replace(WEATHER, strict=False)
JSON = ResponseFormat(kind="json_schema", schema=SCHEMA)
LEAK = (
    '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="weather">\n'
    '<｜DSML｜parameter name="city" string="true">Rome</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
)
POLICIES: tuple[CheckPolicy, ...] = ("repair", "retry", "fail")


def ask(**fields: Any) -> Request:  # whatever `Request` takes
    messages = fields.pop("messages", (Message(role="user", parts=(Text("Weather?"),)),))
    at = datetime(2026, 11, 1, tzinfo=UTC)
    return Request(id=RequestId("r" * 22), model="deepseek-v4-pro", arrived_at=at, messages=messages, **fields)


def upstream(first: Reply, again: Reply | None = None) -> ScriptedBackend:
    """Answers with `first`, and with `again` once it is told what was wrong."""
    rules = [Rule(reply=first)]
    if again is not None:
        rules.insert(0, Rule(when=When(contains="was refused"), reply=again))
    return ScriptedBackend(Script(rules=tuple(rules)))


def told(
    request: Request, first: Reply, again: Reply | None = None, *, policy: CheckPolicy = "retry", num_retries: int = 1
) -> list[Event]:
    return run(CheckedBackend(upstream(first, again), policy=policy, num_retries=num_retries), request)


def run(backend: CheckedBackend | ScriptedBackend, request: Request) -> list[Event]:
    async def main() -> list[Event]:
        async with aclosing(backend.answer(request)) as events:
            return [event async for event in events]

    return asyncio.run(main())


def end_of(events: Sequence[Event], result: int = 0) -> Finished | Failed:
    (end,) = [event for event in events if isinstance(event, Finished | Failed) and event.result == result]
    return end


def failure(events: Sequence[Event], result: int = 0) -> DeepserveError:
    end = end_of(events, result)
    assert isinstance(end, Failed), end
    return end.error


def check(events: Sequence[Event], result: int = 0) -> tuple[str, tuple[str, ...], int]:
    end = end_of(events, result)
    assert isinstance(end, Finished), end
    assert end.checked is not None
    return end.checked.verdict, end.checked.repairs, end.checked.num_retries


def text_of(events: Sequence[Event]) -> str:
    return "".join(part.text for part in collect_parts(events) if isinstance(part, Text))


def calls_of(events: Sequence[Event]) -> list[tuple[str, Any]]:
    return [(part.name, json.loads(part.arguments)) for part in collect_parts(events) if isinstance(part, ToolCall)]


def usage_of(events: Sequence[Event]) -> Usage:
    return [event.usage for event in events if isinstance(event, UsageReported)][-1]


# What is right passes


@pytest.mark.parametrize("policy", POLICIES)
def test_an_answer_that_is_right_passes_as_it_came(policy: CheckPolicy) -> None:
    reply = Reply(reasoning="Rome it is.", text='{"city": "Rome", "days": 3}')
    events = told(ask(response_format=JSON), reply, policy=policy)
    assert check(events) == ("valid", (), 0)
    plain = run(upstream(reply), ask(response_format=JSON))
    assert [event for event in events if isinstance(event, BlockOpened | BlockDelta)] == [
        event for event in plain if isinstance(event, BlockOpened | BlockDelta)
    ]
    assert usage_of(events) == usage_of(plain)
    assert isinstance(events[0], Started)
    assert events[0].checked is not None
    assert events[0].checked.label == "checked=valid"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_request_that_asks_for_no_form_is_left_alone(policy: CheckPolicy) -> None:
    reply = Reply(text="Sunny, ```json and all```.")
    assert told(ask(), reply, policy=policy) == run(upstream(reply), ask())


def test_off_and_report_change_nothing_and_report_says_what_is_wrong() -> None:
    reply = Reply(text="no JSON")
    request = ask(response_format=JSON)
    assert told(request, reply, policy="off") == run(upstream(reply), request)
    events = told(request, reply, policy="report")
    assert (text_of(events), check(events)) == ("no JSON", ("invalid", (), 0))


# Repairs


@pytest.mark.parametrize(
    ("text", "repairs"),
    [
        ('```json\n{"city": "Rome"}\n```', ("fences",)),
        ('Here you are:\n{"city": "Rome"}\nEnjoy!', ("prose",)),
        ('{"city": "Rome",}', ("trailing commas",)),
        ('```\n{"city": "Rome", "days": 3,}\n```', ("trailing commas", "fences")),
        ('{"city": "Ro\nme"}', ("line breaks in strings",)),
    ],
)
def test_json_that_was_meant_for_certain_is_repaired(text: str, repairs: tuple[str, ...]) -> None:
    request = ask(response_format=JSON)
    for policy in ("repair", "retry"):
        events = told(request, Reply(text=text), policy=policy)
        assert check(events) == ("repaired", repairs, 0)
        assert [judgement.verdict for judgement in judge(request, collect_parts(events))] == ["valid"]
    assert isinstance(failure(told(request, Reply(text=text), policy="fail")), UnfitAnswer)


def test_thinking_stays_with_a_repaired_answer() -> None:
    events = told(ask(response_format=JSON), Reply(reasoning="hm", text='x {"city": "Rome"}'), policy="repair")
    assert collect_parts(events) == (Reasoning(text="hm"), Text('{"city": "Rome"}'))


def test_what_a_limit_cut_is_closed_where_it_can_be() -> None:
    reply = Reply(text='{"city": "Rome", "da', finish="length")
    events = told(ask(response_format=JSON), reply, policy="repair")
    assert (json.loads(text_of(events)), check(events)) == ({"city": "Rome"}, ("repaired", ("open brackets",), 0))
    end = end_of(events)
    assert isinstance(end, Finished)
    assert end.reason == "length"


def test_a_cut_answer_that_lacks_something_fails_and_is_not_asked_for_again() -> None:
    reply = Reply(text='{"days": 3, "ci', finish="length")
    error = failure(told(ask(response_format=JSON), reply, Reply(text='{"city": "Rome"}')))
    assert isinstance(error, UnfitAnswer)
    assert "The output limit cut it." in error.message


@pytest.mark.parametrize("text", [' "yes".', "**yes**", "yes\n"])
def test_a_choice_is_freed_of_the_signs_around_it(text: str) -> None:
    request = ask(response_format=ResponseFormat(kind="choice", choices=("yes", "no")))
    events = told(request, Reply(text=text), policy="repair")
    assert (text_of(events), check(events)[0]) == ("yes", "repaired")
    assert isinstance(failure(told(request, Reply(text="maybe"), policy="repair")), UnfitAnswer)


def test_a_regular_expression_has_to_match_the_whole_answer() -> None:
    request = ask(response_format=ResponseFormat(kind="regex", pattern="[0-9]{4}"))
    assert check(told(request, Reply(text="2026")))[0] == "valid"
    assert isinstance(failure(told(request, Reply(text="in 2026"))), UnfitAnswer)


def test_arguments_of_a_strict_tool_are_repaired_or_refused() -> None:
    broken = Reply(tool_calls=(ScriptedCall(name="weather", arguments='{"city": "Rome",}'),))
    events = told(ask(tools=(WEATHER,)), broken, policy="repair")
    assert (calls_of(events), check(events)[0]) == ([("weather", {"city": "Rome"})], "repaired")
    wrong = Reply(tool_calls=(ScriptedCall(name="weather", arguments='{"town": "Rome"}'),))
    error = failure(told(ask(tools=(WEATHER,)), wrong, policy="repair"))
    assert isinstance(error, UnfitAnswer)
    assert "tool:weather" in error.message


# Another try


def test_the_model_is_told_what_was_wrong_and_asked_again() -> None:
    request = ask(response_format=JSON)
    first, again = Reply(text='{"town": "Rome"}', hit_tokens=1), Reply(text='{"city": "Rome"}')
    events = told(request, first, again)
    assert (text_of(events), check(events)) == ('{"city": "Rome"}', ("valid", (), 1))
    started = events[0]
    assert isinstance(started, Started)
    assert started.checked is not None
    assert started.checked.label == "checked=valid, retried=1"


def test_the_usage_of_every_try_is_counted() -> None:
    request = ask(tools=(WEATHER,), tool_choice=ToolChoice(mode="required"))
    first, again = (
        Reply(text="I will not."),
        Reply(tool_calls=(ScriptedCall(name="weather", arguments='{"city": "R"}'),)),
    )
    backend = upstream(first, again)
    events = run(CheckedBackend(backend, policy="retry"), request)
    usage, once = usage_of(events), usage_of(run(upstream(first), request))
    assert usage.answer_tokens == once.answer_tokens + 2
    assert usage.prompt_tokens > 2 * once.prompt_tokens
    started = events[0]
    assert isinstance(started, Started)
    assert started.prompt_usage is not None
    assert started.prompt_usage.prompt_tokens == usage.prompt_tokens


def test_tries_are_bounded_and_the_last_error_says_so() -> None:
    backend = upstream(Reply(text="no"), Reply(text="never"))
    checked = CheckedBackend(backend, policy="retry", num_retries=2)
    error = failure(run(checked, ask(response_format=JSON)))
    assert isinstance(error, UnfitAnswer)
    assert "Asked 3 times." in error.message
    assert checked.gauges()["checked_retries"] == 2
    assert checked.gauges()["checked_invalid"] == 1


def test_nothing_is_sent_before_the_answer_is_known_to_be_right() -> None:
    """A second try must not be seen: no event of the first has left."""
    events = told(ask(response_format=JSON), Reply(reasoning="first thought", text="no"), Reply(text='{"city": "R"}'))
    assert "first thought" not in str(events)
    assert [type(event).__name__ for event in events[:2]] == ["Started", "BlockOpened"]


def test_what_the_client_began_stays_last_when_the_model_is_asked_again() -> None:
    begun = Message(role="assistant", parts=(Text('{"city":'),), prefix=True)
    messages = (Message(role="user", parts=(Text("Weather?"),)), begun)
    seen: list[Request] = []

    class Hearing(ScriptedBackend):
        @override
        def answer(self, request: Request) -> AsyncGenerator[Event]:
            seen.append(request)
            return super().answer(request)

    script = Script(
        rules=(Rule(when=When(contains="was refused"), reply=Reply(text=' "R"}')), Rule(reply=Reply(text="?")))
    )
    events = run(CheckedBackend(Hearing(script), policy="retry"), ask(messages=messages, response_format=JSON))
    assert (text_of(events), check(events)) == (' "R"}', ("valid", (), 1))
    assert seen[1].messages[-1] == begun
    assert "refused" in seen[1].messages[1].text


def test_each_result_is_checked_and_asked_for_again_by_itself() -> None:
    class Alternating(ScriptedBackend):
        """The second of three results is wrong."""

        @override
        async def answer(self, request: Request) -> AsyncGenerator[Event]:
            async for event in super().answer(request):
                is_bad = isinstance(event, BlockDelta) and request.num_results > 1 and event.result == 1
                yield msgspec.structs.replace(event, text="?") if is_bad and isinstance(event, BlockDelta) else event

    script = Script(rules=(Rule(reply=Reply(text='{"city": "R"}')),))
    events = run(CheckedBackend(Alternating(script), policy="retry"), ask(response_format=JSON, num_results=3))
    assert [check(events, result)[2] for result in range(3)] == [0, 1, 0]
    for result in range(3):
        own = [event for event in events if getattr(event, "result", None) == result]
        assert text_of(own) == '{"city": "R"}'
    assert isinstance(events[-2], UsageReported)


# Certain faults end the run early


@pytest.mark.parametrize(
    "text",
    ['["a list", ', '{"town": "Rome", ', '{"city": 5, "days": 3', '{"days": "many", ', "{'city': 'Rome', "],
    ids=["another type", "unknown member", "wrong member", "wrong string", "quotes"],
)
def test_a_fault_that_is_certain_ends_the_run_before_its_end(text: str) -> None:
    backend = upstream(Reply(text=text + "word " * 1000))
    events = run(CheckedBackend(backend, policy="repair"), ask(response_format=JSON))
    assert isinstance(failure(events), UnfitAnswer)
    assert backend.num_cancelled == 1
    assert usage_of(events).answer_tokens < 20
    assert usage_of(events).is_estimated


# Tools


@pytest.mark.parametrize(
    ("choice", "calls", "is_right"),
    [
        (ToolChoice(mode="required"), ("weather",), True),
        (ToolChoice(mode="required"), (), False),
        (ToolChoice(mode="named", names=("weather",)), ("weather",), True),
        (ToolChoice(mode="named", names=("weather",)), ("other",), False),
        (ToolChoice(names=("weather",)), ("other",), False),
        (ToolChoice(names=("weather",)), (), True),
    ],
)
def test_tool_choice_is_checked(choice: ToolChoice, calls: tuple[str, ...], is_right: bool) -> None:
    scripted = tuple(ScriptedCall(name=name, arguments='{"city": "R"}') for name in calls)
    reply = Reply(text=None if calls else "Sunny.", tool_calls=scripted)
    events = told(ask(tools=(LOOSE, Tool(name="other")), tool_choice=choice), reply, policy="fail")
    assert isinstance(end_of(events), Finished if is_right else Failed)


def test_of_parallel_calls_that_may_not_be_the_first_stays() -> None:
    class Doubling(ScriptedBackend):
        @override
        def answer(self, request: Request) -> AsyncGenerator[Event]:
            return super().answer(msgspec.structs.replace(request, tool_choice=ToolChoice()))

    call = ScriptedCall(name="weather", arguments='{"city": "R"}')
    script = Script(rules=(Rule(reply=Reply(tool_calls=(call, call))),))
    request = ask(tools=(LOOSE,), tool_choice=ToolChoice(is_parallel=False))
    events = run(CheckedBackend(Doubling(script), policy="repair"), request)
    assert (len(calls_of(events)), check(events)) == (1, ("repaired", ("further calls",), 0))


def test_an_empty_answer_is_none() -> None:
    for reply in (Reply(reasoning="I thought, then nothing."), Reply(text=" \n")):
        error = failure(told(ask(tools=(WEATHER,)), reply, policy="repair"))
        assert "the answer is empty" in error.message
    events = told(ask(tools=(WEATHER,)), Reply(reasoning="I thought."), Reply(text="Sunny."))
    assert (text_of(events), check(events)) == ("Sunny.", ("valid", (), 1))


@pytest.mark.parametrize("piece_characters", [None, 1, 7])
@pytest.mark.parametrize("is_thought", [False, True])
def test_calls_that_leaked_into_the_text_are_read_while_it_streams(
    piece_characters: int | None, is_thought: bool
) -> None:
    said = f"I look.\n\n{LEAK}"
    reply = Reply(
        reasoning=said if is_thought else None,
        text=None if is_thought else said,
        piece_characters=piece_characters,
    )
    events = told(ask(tools=(LOOSE,)), reply, policy="repair")
    assert calls_of(events) == [("weather", {"city": "Rome"})]
    assert "DSML" not in str(events)
    end = end_of(events)
    assert isinstance(end, Finished)
    assert (end.reason, check(events)) == ("tool_calls", ("repaired", ("tool markup",), 0))
    assert [event.index for event in events if isinstance(event, BlockOpened)] == [0, 1]
    if piece_characters is not None:
        at = next(index for index, event in enumerate(events) if isinstance(event, BlockDelta))
        assert at == 2, "text is not held back"


@pytest.mark.parametrize("tool", [WEATHER, LOOSE])
def test_damage_that_cannot_be_read_ends_in_its_error_or_another_try(tool: Tool) -> None:
    lost = Reply(text=LEAK.replace(' name="weather"', ""))
    error = failure(told(ask(tools=(tool,)), lost, policy="repair"))
    assert isinstance(error, DamagedToolCall)
    assert "DSML" not in error.message
    good = Reply(tool_calls=(ScriptedCall(name="weather", arguments='{"city": "Rome"}'),))
    events = told(ask(tools=(WEATHER,)), lost, good)
    assert (calls_of(events), check(events)) == ([("weather", {"city": "Rome"})], ("valid", (), 1))


@pytest.mark.parametrize("tool", [WEATHER, LOOSE])
def test_where_nothing_is_repaired_leaked_markup_fails(tool: Tool) -> None:
    events = told(ask(tools=(tool,)), Reply(text=f"x\n\n{LEAK}"), policy="fail")
    assert isinstance(failure(events), DamagedToolCall)
    assert "DSML" not in str([event for event in events if isinstance(event, BlockDelta)])
    assert calls_of(events) == []


def test_markup_is_text_where_no_tools_are_offered() -> None:
    for request in (ask(), ask(tools=(LOOSE,), tool_choice=ToolChoice(mode="none"))):
        events = told(request, Reply(text=LEAK), policy="repair")
        assert text_of(events) == LEAK


# Faults of the upstream


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_fault_before_the_first_event_is_raised_as_it_is(is_streamed: bool) -> None:
    fields: dict[str, Any] = {"tools": (LOOSE,)} if is_streamed else {"response_format": JSON}
    with pytest.raises(Overloaded):
        told(ask(**fields), Reply(failure="overloaded"))


def test_a_fault_at_every_step_ends_in_its_own_error_and_is_not_asked_for_again() -> None:
    reply = Reply(reasoning="a b", text='{"city": "R", "days": 3}', failure="backend_failure")
    for step in range(5):
        failing = msgspec.structs.replace(reply, fail_after_pieces=step)
        backend = upstream(failing, Reply(text='{"city": "R"}'))
        events = run(CheckedBackend(backend, policy="retry"), ask(response_format=JSON))
        error = failure(events)
        assert type(error) is BackendFailure, step
        assert [type(event) for event in events] == [Started, UsageReported, Failed]
        assert backend.num_running == 0


def test_a_fault_at_every_step_of_another_try_fails_with_both_reasons() -> None:
    good = Reply(reasoning="a b", text='{"city": "R"}', failure="backend_failure")
    for step in (None, 0, 1, 2, 3):
        again = msgspec.structs.replace(good, fail_after_pieces=step)
        error = failure(told(ask(response_format=JSON), Reply(text="no"), again))
        assert "Scripted: the upstream failed." in error.message, step


def test_an_upstream_that_stops_without_an_end_is_a_fault() -> None:
    class Silent(ScriptedBackend):
        num_events = 0

        @override
        async def answer(self, request: Request) -> AsyncGenerator[Event]:
            events = [event async for event in super().answer(request)]
            for event in events[: self.num_events]:
                yield event

    script = Script(rules=(Rule(reply=Reply(text='{"city": "R"}')),))
    for number in range(1, 5):
        backend = Silent(script)
        backend.num_events = number
        assert isinstance(
            failure(run(CheckedBackend(backend, policy="retry"), ask(response_format=JSON))), BackendFailure
        )
    with pytest.raises(BackendFailure):
        run(CheckedBackend(Silent(script), policy="retry"), ask(response_format=JSON))


@pytest.mark.parametrize("is_held", [False, True])
def test_a_client_that_leaves_ends_the_upstream(is_held: bool) -> None:
    class Pausing(ScriptedBackend):
        """Waits for ever before its fifth event."""

        @override
        async def answer(self, request: Request) -> AsyncGenerator[Event]:
            number = 0
            async with aclosing(super().answer(request)) as events:
                async for event in events:
                    number += 1
                    if number == 5:
                        await asyncio.Event().wait()
                    yield event

    backend = Pausing(Script(rules=(Rule(reply=Reply(text="a b c d e f g")),)))
    fields: dict[str, Any] = {"response_format": JSON} if is_held else {"tools": (LOOSE,)}
    # JSON that may still become right, so that nothing but the client ends it.
    backend = Pausing(Script(rules=(Rule(reply=Reply(text='{"city": "a b c d e f g"}')),))) if is_held else backend

    async def main() -> None:
        async with aclosing(CheckedBackend(backend, policy="retry").answer(ask(**fields))) as events:
            reading = asyncio.create_task(_drain(events))
            for _ in range(20):
                await asyncio.sleep(0)
            assert backend.num_running == 1
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        assert (backend.num_running, backend.num_cancelled) == (0, 1)

    asyncio.run(main())


async def _drain(events: AsyncGenerator[Event]) -> None:
    async for _ in events:
        pass


# Settings


def test_scripts_are_exact_unless_checks_are_asked_for() -> None:
    assert type(select_backend(Settings(backend="scripted"))) is ScriptedBackend
    assert isinstance(select_backend(Settings(backend="scripted", answer_checks="retry")), CheckedBackend)
    with pytest.raises(ConfigurationError, match="check_retries"):
        select_backend(Settings(backend="scripted", answer_checks="retry", check_retries=-1))


def test_who_enforces_and_who_does_not() -> None:
    scripted = ScriptedBackend()
    assert not scripted.enforces()
    assert [CheckedBackend(scripted, policy=policy).enforces() for policy in ("off", "report", *POLICIES)] == [
        False,
        False,
        True,
        True,
        True,
    ]

"""Flash first, Pro where Flash's answer fails a check."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from typing_extensions import override

from deepserve.backends.checked import CheckedBackend
from deepserve.backends.script import Failure, Reply, Rule, Script, ScriptedCall, When
from deepserve.backends.scripted import ScriptedBackend
from deepserve.catalog.presets import AUTO
from deepserve.catalog.price_table import load_prices
from deepserve.core.answer import collect
from deepserve.core.errors import BackendFailure, UnfitAnswer
from deepserve.core.events import BlockDelta, Event, Failed, Started, UsageReported
from deepserve.core.messages import Text, ToolCall
from deepserve.core.request import Request, ResponseFormat
from deepserve.core.routing import RoutingWishes
from deepserve.gateway import Gateway
from deepserve.routing.facts import FLASH, PRO
from deepserve.routing.router import Router
from tests.dialects.chat.decoding import WEATHER, body, decode
from tests.test_gateway import Diary

CODING = "auto:coding-agent"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
JSON = ResponseFormat(kind="json_schema", schema=CITY, strict=True)
NO_FORM = ResponseFormat()
GOOD, BAD = '{"city": "Oslo"}', '{"town": "Oslo"}'
PRO_ANSWER = Reply(text=GOOD)


def script(flash: Reply, pro: Reply = PRO_ANSWER) -> ScriptedBackend:
    return ScriptedBackend(
        Script(rules=(Rule(when=When(model=FLASH), reply=flash), Rule(when=When(model=PRO), reply=pro)))
    )


def asking(model: str = CODING, *, form: ResponseFormat = NO_FORM, tools: bool = False, **wishes: Any) -> Request:
    request = decode(body(tools=[WEATHER]) if tools else body()).request
    routing = RoutingWishes(**wishes)
    return msgspec.structs.replace(request, model=model, response_format=form, routing=routing)


class Run:
    """One request through a gateway: what the client sees, and what observers hear."""

    def __init__(self, backend: ScriptedBackend | CheckedBackend, request: Request) -> None:
        self.diary = Diary()
        self.gateway = Gateway(backend, observers=(self.diary,), router=Router(load_prices()))
        self.events: list[Event] = asyncio.run(self._run(request))

    async def _run(self, request: Request) -> list[Event]:
        return [event async for event in self.gateway.answer(request)]

    @property
    def models(self) -> list[str]:
        return [request.model for request in self.diary.accepted]

    @property
    def route(self) -> str:
        (route,) = [event.route for event in self.events if isinstance(event, Started)]
        assert route is not None
        return route

    @property
    def text(self) -> str:
        answer = asyncio.run(collect(_again(self.events)))
        return "".join(part.text for part in answer.results[0].parts if isinstance(part, Text))


async def _again(events: Sequence[Event]) -> AsyncGenerator[Event]:
    for event in events:
        yield event


def test_an_answer_that_passes_is_flashs() -> None:
    run = Run(script(Reply(text=GOOD)), asking(form=JSON))
    assert (run.text, run.models) == (GOOD, [FLASH])
    assert run.route.startswith(f"model={FLASH}; thinking=off; rule=usual")
    assert run.route.endswith("; checks passed")


def test_an_answer_of_another_form_escalates() -> None:
    run = Run(script(Reply(text=BAD)), asking(form=JSON))
    assert (run.text, run.models) == (GOOD, [FLASH, PRO])
    assert run.route.startswith(f"model={PRO}; thinking=high; rule=escalated; preset={CODING}; why={FLASH} failed")
    assert "json_schema" in run.route
    assert run.diary.accepted[1].thinking.effort == "high"


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (ScriptedCall(name="get_weather", arguments='{"city": 5}'), "tool:get_weather"),
        (ScriptedCall(name="get_weather", arguments='{"city"'), "not JSON"),
        (ScriptedCall(name="drop_table"), "drop_table, which is no tool"),
    ],
)
def test_calls_that_fail_their_tools_escalate(call: ScriptedCall, problem: str) -> None:
    good = Reply(tool_calls=(ScriptedCall(name="get_weather", arguments=GOOD),))
    run = Run(script(Reply(tool_calls=(call,)), good), asking(tools=True))
    assert run.models == [FLASH, PRO]
    assert problem in run.route
    answer = asyncio.run(collect(_again(run.events)))
    assert [part.arguments for part in answer.results[0].parts if isinstance(part, ToolCall)] == [GOOD]


def test_calls_that_fit_are_flashs() -> None:
    good = Reply(tool_calls=(ScriptedCall(name="get_weather", arguments=GOOD),))
    assert Run(script(good), asking(tools=True)).models == [FLASH]


def test_unlikely_tokens_escalate_and_their_probabilities_stay_here() -> None:
    """The scripted back end gives each token the probability 1/2, which is just enough."""
    request = asking(AUTO, checks=("confidence",))
    passed = Run(script(Reply(text="so so")), request)
    assert passed.models == [FLASH]
    assert passed.diary.accepted[0].sampling.num_top_logprobs == 0
    assert all(not event.logprobs for event in passed.events if isinstance(event, BlockDelta))
    assert any(event.logprobs for event in passed.diary.events if isinstance(event, BlockDelta))
    doubtful = Run(Doubtful(), request)
    assert doubtful.models == [FLASH, PRO]
    assert "mean probability of a token 0.25" in doubtful.route


class Doubtful(ScriptedBackend):
    @override
    async def answer(self, request: Request) -> AsyncGenerator[Event]:
        async with aclosing(super().answer(request)) as events:
            async for event in events:
                if isinstance(event, BlockDelta):
                    tokens = tuple(
                        msgspec.structs.replace(token, logprob=token.logprob * 2) for token in event.logprobs
                    )
                    event = msgspec.structs.replace(event, logprobs=tokens)
                yield event


def test_a_clients_own_logprobs_are_kept() -> None:
    request = asking(AUTO, checks=("confidence",))
    request = msgspec.structs.replace(request, sampling=msgspec.structs.replace(request.sampling, num_top_logprobs=2))
    run = Run(script(Reply(text="so so")), request)
    assert all(len(event.logprobs[0].top) == 2 for event in run.events if isinstance(event, BlockDelta))


def test_a_test_of_the_client_escalates() -> None:
    request = asking(AUTO, test="(?i)city")
    assert Run(script(Reply(text="a City")), request).models == [FLASH]
    run = Run(script(Reply(text="a town")), request)
    assert (run.text, run.models) == (GOOD, [FLASH, PRO])
    assert "x-deepserve-test" in run.route


@pytest.mark.parametrize(
    "request_",
    [
        asking(),  # nothing to check
        asking(form=JSON, checks=()),
        asking(form=JSON, model=FLASH),
        asking(form=JSON, model=AUTO),  # no checks unless asked for
        asking(form=JSON, model="auto:support-triage", checks=("form",)),  # no second lane
    ],
)
def test_nothing_is_held_back_without_a_check(request_: Request) -> None:
    run = Run(script(Reply(text=BAD)), request_)
    assert (run.text, run.models) == (BAD, [FLASH])
    assert run.events[0] == run.diary.events[0]


def test_a_named_model_and_a_hard_request_have_no_second_lane() -> None:
    assert Run(script(Reply(text=BAD), Reply(text=BAD)), asking(form=JSON, difficulty="hard")).models == [PRO]
    named = asking(form=JSON)
    named = msgspec.structs.replace(named, routing=RoutingWishes(model=FLASH))
    assert Run(script(Reply(text=BAD)), named).models == [FLASH]


def test_the_usage_of_both_attempts_is_the_clients_and_each_has_its_own_record() -> None:
    run = Run(script(Reply(text=BAD)), asking(form=JSON))
    client = [event.usage for event in run.events if isinstance(event, UsageReported)][-1]
    reported = [event.usage for event in run.diary.events if isinstance(event, UsageReported)]
    flash, pro = reported[0], reported[-1]
    assert client == flash.plus(pro)
    started = run.events[0]
    assert isinstance(started, Started)
    assert started.prompt_usage is not None
    assert started.prompt_usage.prompt_tokens == client.prompt_tokens
    ids = [request.id for request in run.diary.accepted]
    assert len(set(ids)) == 2
    assert run.diary.ended == [None, None]


def test_a_budget_covers_both_attempts() -> None:
    dear = asking(form=JSON, max_cost_usd=Decimal("0.02"))
    assert Run(script(Reply(text=BAD)), dear).models == [FLASH, PRO]
    prices = load_prices().price_at(PRO, dear.arrived_at)
    assert prices is not None
    # What Pro alone is expected to cost: the limit lets it pass, and what Flash has used is too much then.
    prompt = asyncio.run(script(Reply()).count(msgspec.structs.replace(dear, model=PRO)))
    alone = (prompt * prices.miss + 4_096 * prices.output) / 1_000_000
    run = Run(script(Reply(text=BAD)), asking(form=JSON, max_cost_usd=alone))
    assert (run.text, run.models) == (BAD, [FLASH])
    assert "checks failed: json_schema" in run.route
    assert "not escalated, for both attempts might cost more" in run.route


@pytest.mark.parametrize("failure", ["overloaded", "too_many_requests", "backend_failure"])
def test_where_pro_cannot_answer_the_first_answer_is_given_and_said_to_have_failed(failure: Failure) -> None:
    run = Run(script(Reply(text=BAD), Reply(failure=failure)), asking(form=JSON))
    assert (run.text, run.models) == (BAD, [FLASH, PRO])
    assert f"not escalated, for it failed: {failure}" in run.route


def test_a_failure_of_pro_in_the_middle_is_the_answers() -> None:
    run = Run(
        script(Reply(text=BAD), Reply(text="a b c", failure="backend_failure", fail_after_pieces=2)), asking(form=JSON)
    )
    assert [type(event.error) for event in run.events if isinstance(event, Failed)] == [BackendFailure]


def test_faults_of_the_server_do_not_escalate() -> None:
    with pytest.raises(BackendFailure):
        Run(script(Reply(failure="backend_failure")), asking(form=JSON))
    run = Run(script(Reply(text="a b", failure="backend_failure", fail_after_pieces=1)), asking(form=JSON))
    assert run.models == [FLASH]
    assert [type(event.error) for event in run.events if isinstance(event, Failed)] == [BackendFailure]


def test_an_answer_that_a_checking_back_end_refuses_escalates() -> None:
    run = Run(CheckedBackend(script(Reply(text=BAD)), policy="fail"), asking(form=JSON))
    assert (run.text, run.models) == (GOOD, [FLASH, PRO])
    both = Run(CheckedBackend(script(Reply(text=BAD), Reply(text=BAD)), policy="fail"), asking(form=JSON))
    assert [type(event.error) for event in both.events if isinstance(event, Failed)] == [UnfitAnswer]


def test_a_client_that_leaves_meanwhile_ends_the_first_attempt() -> None:
    diary = Diary()
    waiting = asyncio.Event()

    async def sleep(_: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    backend = ScriptedBackend(Script(rules=(Rule(reply=Reply(text=BAD, delay_s=1.0)),)), sleep=sleep)
    gateway = Gateway(backend, observers=(diary,), router=Router(load_prices()))

    async def leave() -> None:
        answer = gateway.answer(asking(form=JSON))
        first = asyncio.ensure_future(anext(answer))
        await waiting.wait()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await answer.aclose()

    asyncio.run(leave())
    assert [request.model for request in diary.accepted] == [FLASH]
    assert diary.ended == [None]

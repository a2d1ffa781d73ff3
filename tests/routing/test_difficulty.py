"""Who says how hard a request is."""

import asyncio
from collections.abc import AsyncGenerator

import msgspec
import pytest

from deepserve.backends.script import Reply, Rule, Script
from deepserve.backends.scripted import ScriptedBackend
from deepserve.core.events import Event
from deepserve.core.request import Request
from deepserve.core.routing import Difficulty, RoutingWishes
from deepserve.routing.difficulty import DifficultyEstimator, Estimate, ModelEstimator, SignEstimator, TaggedEstimator
from tests.dialects.chat.decoding import body, decode


def asking(text: str) -> Request:
    return decode(body(messages=[{"role": "user", "content": text}])).request


def never(_: Request) -> AsyncGenerator[Event]:
    raise AssertionError("nobody's opinion is needed")


def estimate(estimator: DifficultyEstimator, request: Request) -> Estimate:
    return asyncio.run(estimator.estimate(request, never))


@pytest.mark.parametrize(
    ("text", "difficulty"),
    [
        ("What is the capital of France?", "normal"),
        ("Translate this into German: good morning", "easy"),
        ("请把这句话翻译成英文", "easy"),
        ("Prove it.", "normal"),
        ("Prove by induction that the time complexity is right.", "hard"),
        ("Refactor the whole codebase; there is a race condition somewhere.", "hard"),
        ("Find the deadlock. " + "word " * 400, "hard"),
        ("word " * 400, "normal"),
        ("Summarize this proof of the theorem.", "normal"),
    ],
)
def test_signs_in_the_question_decide(text: str, difficulty: Difficulty) -> None:
    found = estimate(SignEstimator(), asking(text))
    assert found.difficulty == difficulty
    assert found.why


def test_only_what_the_user_said_last_counts() -> None:
    turns = [
        {"role": "user", "content": "Prove the theorem; mind the deadlock."},
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "thanks"},
    ]
    assert estimate(SignEstimator(), decode(body(messages=turns)).request).difficulty == "easy"


def test_a_tag_goes_before_every_estimate() -> None:
    hard = asking("Prove by induction that the time complexity is right.")
    tagged = msgspec.structs.replace(hard, routing=RoutingWishes(difficulty="easy"))
    assert estimate(TaggedEstimator(SignEstimator()), tagged) == Estimate(difficulty="easy", why="the client says so")
    assert estimate(TaggedEstimator(SignEstimator()), hard).difficulty == "hard"


@pytest.mark.parametrize(
    ("reply", "difficulty", "why"),
    [
        (Reply(text="hard"), "hard", "judges it so"),
        (Reply(text=" Easy\n"), "easy", "judges it so"),
        (Reply(text="who knows"), "normal", "no grade"),
        (Reply(failure="backend_failure"), "normal", "the judge failed: backend_failure"),
        (Reply(failure="overloaded"), "normal", "the judge failed: overloaded"),
    ],
)
def test_a_model_judges_and_its_failure_fails_nothing_else(reply: Reply, difficulty: Difficulty, why: str) -> None:
    backend = ScriptedBackend(Script(rules=(Rule(reply=reply),)))
    asked: list[Request] = []

    def ask(request: Request) -> AsyncGenerator[Event]:
        asked.append(request)
        return backend.answer(request)

    request = asking("x" * 10_000)
    found = asyncio.run(ModelEstimator().estimate(request, ask))
    assert found.difficulty == difficulty
    assert why in found.why
    (judged,) = asked
    assert judged.id != request.id, "two answers may not be recorded under one id"
    assert judged.tenant == request.tenant
    assert not judged.thinking.enabled
    assert len(judged.messages[-1].text) < 5_000

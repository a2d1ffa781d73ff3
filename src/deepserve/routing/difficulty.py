"""How hard is a request? Estimators, one of which a server is set to. A tag of the client goes before all of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final, Protocol, assert_never

import msgspec

from deepserve.config import EstimatorName
from deepserve.core.answer import collect
from deepserve.core.errors import CapacityError, ServingError
from deepserve.core.events import Event
from deepserve.core.messages import Message, Text
from deepserve.core.request import Request, RequestId, ResponseFormat, Thinking
from deepserve.core.routing import Difficulty
from deepserve.core.sampling import Sampling
from deepserve.routing.facts import FLASH

Ask = Callable[[Request], AsyncGenerator[Event]]
"""Whoever answers a request, with all that belongs to an answer: limits, record, metrics."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """why: what speaks for it, in words for the client and the record."""

    difficulty: Difficulty
    why: str


class DifficultyEstimator(Protocol):
    async def estimate(self, request: Request, ask: Ask) -> Estimate:
        """ask: for estimators that need a model's opinion."""
        ...


_READ_CHARACTERS: Final = 20_000
"""Of what the user said last; the beginning says what is wanted."""

_LONG_QUESTION_WORDS: Final = 300

_SIGNS_OF_HARD: Final[tuple[tuple[str, re.Pattern[str]], ...]] = tuple(
    (name, re.compile(pattern, re.IGNORECASE))
    for name, pattern in (
        ("a proof", r"\b(?:prove|proof|theorem|lemma|by induction)\b|证明|定理"),
        (
            "a change across files",
            r"\b(?:refactor|migrate|redesign|whole codebase|entire codebase|across files)\b|重构",
        ),
        ("a fault of concurrency or memory", r"\b(?:race condition|deadlock|livelock|memory leak|segfault)\b|死锁"),
        ("a competition problem", r"\b(?:olympiad|putnam|codeforces|np-hard|np-complete)\b|竞赛"),
        ("planning in steps", r"\b(?:step[- ]by[- ]step plan|design an? \w+ (?:system|protocol)|architect)\b|规划"),
        ("an analysis of complexity", r"\b(?:time complexity|big-?o|asymptotic)\b|复杂度"),
    )
)

_SIGN_OF_EASY: Final = re.compile(
    r"\b(?:translate|summari[sz]e|classify|rephrase|proofread|reformat|extract|hello|thanks)\b|翻译|总结|分类|你好",
    re.IGNORECASE,
)


class SignEstimator:
    """The default: looks for words. Two signs of hard, or one in a long question, make it hard."""

    async def estimate(self, request: Request, ask: Ask) -> Estimate:  # noqa: ARG002 - needs nobody's opinion
        text = question_of(request)[:_READ_CHARACTERS]
        signs = [name for name, pattern in _SIGNS_OF_HARD if pattern.search(text)]
        is_long = len(text.split()) > _LONG_QUESTION_WORDS
        if len(signs) + (is_long and bool(signs)) >= 2:
            found = signs + ["a long question"] * is_long
            return Estimate(difficulty="hard", why=f"signs of {' and '.join(found)}")
        if not signs and _SIGN_OF_EASY.search(text):
            return Estimate(difficulty="easy", why="a routine task")
        return Estimate(difficulty="normal", why=f"only signs of {signs[0]}" if signs else "no signs of easy or hard")


_RUBRIC: Final = (
    "You sort requests by how capable the model must be that answers them. Judge the request below; do not answer it. "
    "easy: routine work such as translation, summaries, small talk, simple edits. hard: proofs, competition problems, "
    "changes across many files, plans of many steps, subtle faults. normal: everything else."
)
_JUDGED_CHARACTERS: Final = 4_000
_GRADES: Final[tuple[Difficulty, ...]] = ("easy", "normal", "hard")


class ModelEstimator:
    """Asks a model, which costs a short answer of its own; that is recorded and billed like any other."""

    def __init__(self, model: str = FLASH) -> None:
        self._model = model

    async def estimate(self, request: Request, ask: Ask) -> Estimate:
        question = Request(
            # Two answers may not be recorded under one id.
            id=RequestId(hashlib.blake2b(f"{request.id} difficulty".encode(), digest_size=16).hexdigest()),
            model=self._model,
            arrived_at=request.arrived_at,
            messages=(
                Message(role="system", parts=(Text(_RUBRIC),)),
                Message(role="user", parts=(Text(question_of(request)[:_JUDGED_CHARACTERS]),)),
            ),
            response_format=ResponseFormat(kind="choice", choices=_GRADES),
            thinking=Thinking(enabled=False),
            sampling=Sampling(temperature=0),
            max_output_tokens=16,
            tenant=request.tenant,
            user_id=request.user_id,
        )
        try:
            async with aclosing(ask(question)) as events:
                answer = await collect(events)
        except (ServingError, CapacityError) as error:
            return Estimate(difficulty="normal", why=f"the judge failed: {error.code}")
        said = "".join(part.text for part in answer.results[0].parts if isinstance(part, Text)).strip().lower()
        for grade in _GRADES:
            if said == grade:
                return Estimate(difficulty=grade, why=f"{self._model} judges it so")
        return Estimate(difficulty="normal", why=f"{self._model} gave no grade")


class TaggedEstimator:
    """The client's tag where there is one, else another estimator."""

    def __init__(self, other: DifficultyEstimator) -> None:
        self._other = other

    async def estimate(self, request: Request, ask: Ask) -> Estimate:
        tag = request.routing.difficulty
        if tag is not None:
            return Estimate(difficulty=tag, why="the client says so")
        return await self._other.estimate(request, ask)


def make_estimator(name: EstimatorName) -> DifficultyEstimator:
    """The estimator of the settings."""
    match name:
        case "signs":
            return SignEstimator()
        case "model":
            return ModelEstimator()
        case _:
            assert_never(name)


def question_of(request: Request) -> str:
    """What the user said last."""
    if request.infill is not None:
        return request.infill.prompt
    return next((message.text for message in reversed(request.messages) if message.role == "user"), "")

"""The usual lane's answer, checked before anything of it is sent; where it fails, the hard lane answers instead.

What is checked is held back, and the client hears keep-alives meanwhile. The second answer streams as it comes. Its
usage is that of both; each of the two is an attempt of its own to those who record and bill.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from decimal import Decimal
from typing import Final

import msgspec

from deepserve.catalog.presets import LaneThinking
from deepserve.core.answer import collect_parts
from deepserve.core.errors import (
    BudgetExhausted,
    CapacityError,
    DamagedToolCall,
    DeepserveError,
    ServingError,
    UnfitAnswer,
)
from deepserve.core.events import BlockClosed, BlockDelta, BlockOpened, Event, Failed, Started, TextBlock, UsageReported
from deepserve.core.messages import Part, Text, ToolCall
from deepserve.core.request import Request, RequestId
from deepserve.core.routing import CheckName
from deepserve.core.schema import check_schema
from deepserve.core.usage import Usage
from deepserve.core.verdict import is_judged, judge, judge_call
from deepserve.routing.policy import Route

Attempt = Callable[[Request, str | None], AsyncGenerator[Event]]
"""Whoever gives one answer by the model that the request names. The text is the route, for its record."""

LEAST_PROBABILITY: Final = 0.5
"""Of a text's tokens, as their geometric mean. Ours: below it the model wavered at every token."""

EXPECTED_OUTPUT_TOKENS: Final = 4_096
"""Of an answer to which the client sets no limit; what a budget reserves for one, too."""


def expected_usage(request: Request, prompt_tokens: int) -> Usage:
    """What an answer is expected to take at most, before it is given."""
    output_tokens = request.max_output_tokens or EXPECTED_OUTPUT_TOKENS
    return Usage(miss_tokens=prompt_tokens, answer_tokens=output_tokens * request.num_results)


class AnswerChecks:
    """What one answer has to pass."""

    def __init__(self, request: Request, names: Sequence[CheckName]) -> None:
        self._request = request
        self._names = names

    @classmethod
    def of(cls, request: Request, names: Sequence[CheckName]) -> AnswerChecks | None:
        """None where the answer cannot fail any of them, so that it need not be held back."""
        tested = request.routing.test is not None
        applying: list[CheckName] = []
        if "form" in names and is_judged(request):
            applying.append("form")
        if "arguments" in names and request.tools and request.tool_choice.mode != "none":
            applying.append("arguments")
        if "confidence" in names:
            applying.append("confidence")
        return cls(request, applying) if applying or tested else None

    @property
    def needs_logprobs(self) -> bool:
        return "confidence" in self._names and self._request.sampling.num_top_logprobs is None

    def problem(self, events: Sequence[Event]) -> str | None:
        """What is wrong with the first result that fails; None: every result passes."""
        for result in range(self._request.num_results):
            blocks = [
                event
                for event in events
                if isinstance(event, BlockOpened | BlockDelta | BlockClosed) and event.result == result
            ]
            found = self._problem_of(collect_parts(blocks)) or self._doubt(blocks)
            if found is not None:
                return found
        return None

    def _problem_of(self, parts: Sequence[Part]) -> str | None:
        request = self._request
        if "form" in self._names:
            for judgement in judge(request, parts):
                if judgement.verdict == "invalid":
                    return f"{judgement.subject}: {judgement.problems[0]}"
        calls = [part for part in parts if isinstance(part, ToolCall)]
        if "arguments" in self._names:
            tools = {tool.name: tool for tool in request.tools}
            for call in calls:
                if call.name not in tools:
                    return f"a call of {call.name[:80]}, which is no tool of the request"
                judgement = judge_call(tools[call.name], call.arguments)
                if judgement.verdict == "invalid":
                    return f"{judgement.subject}: {judgement.problems[0]}"
        if request.routing.test is not None and not calls:
            text = "".join(part.text for part in parts if isinstance(part, Text))
            # Searched for within linear time.
            if check_schema({"type": "string", "pattern": request.routing.test}, text).verdict != "valid":
                return "the text does not match x-deepserve-test"
        return None

    def _doubt(self, blocks: Sequence[BlockOpened | BlockDelta | BlockClosed]) -> str | None:
        if "confidence" not in self._names:
            return None
        texts = {
            event.index for event in blocks if isinstance(event, BlockOpened) and isinstance(event.block, TextBlock)
        }
        logprobs = [
            token.logprob
            for event in blocks
            if isinstance(event, BlockDelta) and event.index in texts
            for token in event.logprobs
        ]
        mean = math.exp(math.fsum(logprobs) / len(logprobs)) if logprobs else 1.0
        return f"mean probability of a token {mean:.2f}" if mean < LEAST_PROBABILITY else None


class Escalation:
    """One request on its way through both lanes.

    first, second  the request for each lane's model
    cost           of an answer to a request by its usage; None: its model has no price
    """

    def __init__(
        self,
        first: Request,
        second: Request,
        *,
        route: Route,
        hard_thinking: LaneThinking | None,
        checks: AnswerChecks,
        cost: Callable[[Request, Usage], Decimal | None],
    ) -> None:
        self._first = first
        # Two attempts may not be recorded under one id.
        digest = hashlib.blake2b(f"{first.id} escalated".encode(), digest_size=16).hexdigest()
        self._second = msgspec.structs.replace(second, id=RequestId(digest))
        self._route = route
        self._hard_thinking = hard_thinking
        self._checks = checks
        self._cost = cost

    async def answer(self, attempt: Attempt) -> AsyncGenerator[Event]:
        """As `Backend.answer`."""
        held: list[Event] = []
        unfit: DeepserveError | None = None
        try:
            async with aclosing(attempt(self._asked_first(), self._route.label)) as events:
                async for event in events:
                    held.append(event)
                    if isinstance(event, Failed):
                        unfit = event.error
        except (UnfitAnswer, DamagedToolCall) as error:
            unfit = error
        if unfit is not None and not isinstance(unfit, UnfitAnswer | DamagedToolCall):
            problem = None  # a fault of the server is none of the model's
        else:
            problem = unfit.message if unfit is not None else self._checks.problem(held)
        if problem is None:
            for event in self._told(held, "checks passed" if unfit is None else None):
                yield event
            return
        spent = _usage(held)
        refusal = self._refusal(held, spent)
        if refusal is None:
            has_begun = False
            try:
                async with aclosing(attempt(self._second, self._label(problem))) as events:
                    async for event in events:
                        has_begun = True
                        yield self._with_first(event, spent)
                return
            except (CapacityError, ServingError, BudgetExhausted) as error:
                if has_begun or unfit is not None:
                    raise
                refusal = f"not escalated, for it failed: {error.code}"
        if unfit is not None and not held:
            raise unfit
        for event in self._told(held, f"checks failed: {problem}; {refusal}"):
            yield event

    def _asked_first(self) -> Request:
        if not self._checks.needs_logprobs:
            return self._first
        sampling = msgspec.structs.replace(self._first.sampling, num_top_logprobs=0)
        return msgspec.structs.replace(self._first, sampling=sampling)

    def _told(self, held: Sequence[Event], end: str | None) -> list[Event]:
        """The held answer, with what became of it; without what only the checks wanted to know."""
        told: list[Event] = []
        for event in held:
            if isinstance(event, Started) and end is not None:
                event = msgspec.structs.replace(event, route=f"{self._route.label}; {end}")
            elif isinstance(event, BlockDelta) and self._checks.needs_logprobs:
                event = msgspec.structs.replace(event, logprobs=())
            told.append(event)
        return told

    def _refusal(self, held: Sequence[Event], spent: Usage) -> str | None:
        """Why the second attempt may not be made."""
        if any(isinstance(event, Started) and event.model == self._second.model for event in held):
            return f"not escalated, for {self._second.model} had to answer already"
        ceiling = self._first.routing.max_cost_usd
        if ceiling is None:
            return None
        first = self._cost(self._first, spent)
        second = self._cost(self._second, expected_usage(self._second, spent.prompt_tokens))
        if first is not None and second is not None and first + second <= ceiling:
            return None
        return f"not escalated, for both attempts might cost more than {ceiling} USD"

    def _label(self, problem: str) -> str:
        why = f"{self._first.model} failed a check: {problem}"
        route = Route(
            preset=self._route.preset,
            model=self._second.model,
            thinking=self._hard_thinking,
            rule="escalated",
            why=why,
        )
        return route.label

    def _with_first(self, event: Event, spent: Usage) -> Event:
        """An event of the second answer, with what the first has used."""
        match event:
            case Started(prompt_usage=Usage() as prompt):
                both = Usage(
                    hit_tokens=spent.hit_tokens + prompt.hit_tokens,
                    miss_tokens=spent.miss_tokens + prompt.miss_tokens,
                    is_estimated=spent.is_estimated or prompt.is_estimated,
                )
                return msgspec.structs.replace(event, prompt_usage=both)
            case UsageReported():
                return msgspec.structs.replace(event, usage=spent.plus(event.usage))
            case _:
                return event


def _usage(events: Sequence[Event]) -> Usage:
    """What an attempt has used, as far as it said so."""
    usage = Usage()
    for event in events:
        if isinstance(event, Started):
            usage = event.prompt_usage or usage
        elif isinstance(event, UsageReported):
            usage = event.usage
    return usage

"""Answers of a back end that does not enforce their form, checked before they are sent.

The promise is that of an engine with masks, kept in another way: an answer that leaves here has the form that was asked
for, or the client gets a typed error. By policy:

    off     nothing is looked at
    report  answers pass as they are; what is wrong with them is said at their end
    repair  what was meant for certain is put right, the rest fails
    retry   as repair, but before an answer fails the model is asked again and told what was wrong
    fail    nothing is put right, what is wrong fails

An answer whose form matters is held back until it is known to be right, so that it can be asked for again unseen by the
client. Requests that offer tools and ask for no form stream: calls that leaked into the text are read on the way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final, Literal, assert_never

import msgspec

from deepserve.backends.backend import Backend
from deepserve.backends.json_stream import JsonStream
from deepserve.backends.leaked_markup import LeakedMarkup
from deepserve.config import CheckPolicy
from deepserve.core.answer import collect_parts
from deepserve.core.cost import Cost
from deepserve.core.errors import BackendFailure, DamagedToolCall, DeepserveError, UnfitAnswer
from deepserve.core.events import (
    Block,
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Checked,
    Event,
    Failed,
    Finished,
    ReasoningBlock,
    Started,
    TextBlock,
    ToolCallBlock,
    UsageReported,
    worst_check,
)
from deepserve.core.messages import Citation, Message, Part, Reasoning, Text, ToolCall
from deepserve.core.provider import ServedModel
from deepserve.core.request import Request
from deepserve.core.usage import Usage
from deepserve.core.verdict import continued_text, is_judged, judge, judge_call, judge_text
from deepserve.prompt.decoder import mint_call_id
from deepserve.prompt.json_repair import repair_json


class CheckedBackend:
    """In front of a back end. num_retries: how often an answer may be asked for again."""

    def __init__(
        self,
        backend: Backend,
        *,
        policy: CheckPolicy,
        num_retries: int = 1,
        call_id: Callable[[int], str] = mint_call_id,
    ) -> None:
        self._backend = backend
        self._policy: CheckPolicy = policy
        self._num_retries = num_retries if policy == "retry" else 0
        self._call_id = call_id
        self._counts: dict[str, int] = dict.fromkeys(("valid", "repaired", "unjudged", "invalid", "retries"), 0)

    def models(self) -> tuple[ServedModel, ...]:
        return self._backend.models()

    async def start(self) -> None:
        await self._backend.start()

    async def close(self) -> None:
        await self._backend.close()

    def is_ready(self) -> bool:
        return self._backend.is_ready()

    def enforces(self) -> bool:
        return self._backend.enforces() or self._policy in ("repair", "retry", "fail")

    def gauges(self) -> Mapping[str, float]:
        return {**self._backend.gauges(), **{f"checked_{name}": float(count) for name, count in self._counts.items()}}

    async def count(self, request: Request) -> int:
        return await self._backend.count(request)

    def answer(self, request: Request) -> AsyncGenerator[Event]:
        match self._policy:
            case "off":
                return self._counted(self._backend.answer(request))
            case "report":
                return self._counted(self._reported(request)) if is_judged(request) else self._backend.answer(request)
            case "repair" | "retry" | "fail":
                if is_judged(request):
                    return self._counted(self._held(request))
                if request.tools and request.tool_choice.mode != "none":
                    return self._counted(self._streamed(request))
                return self._backend.answer(request)
            case _:
                assert_never(self._policy)

    async def _counted(self, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Finished) and event.checked is not None:
                    self._counts[event.checked.verdict] += 1
                elif isinstance(event, Failed) and isinstance(event.error, UnfitAnswer | DamagedToolCall):
                    self._counts["invalid"] += 1
                yield event

    # As they come

    async def _reported(self, request: Request) -> AsyncGenerator[Event]:
        seen: defaultdict[int, list[Event]] = defaultdict(list)
        async with aclosing(self._backend.answer(request)) as events:
            async for event in events:
                if isinstance(event, BlockOpened | BlockDelta | BlockClosed):
                    seen[event.result].append(event)
                elif isinstance(event, Finished):
                    verdict = _verdict(request, collect_parts(seen.pop(event.result, [])))
                    event = msgspec.structs.replace(event, checked=verdict)
                yield event

    async def _streamed(self, request: Request) -> AsyncGenerator[Event]:
        """No form but calls that must be calls: each piece is certain as soon as the decoder lets it go."""
        readers = [self._reader(request, result) for result in range(request.num_results)]
        ended: set[int] = set()
        async with aclosing(self._backend.answer(request)) as events:
            async for event in events:
                if isinstance(event, Started | UsageReported):
                    yield event
                    continue
                reader = readers[event.result]
                for sent in reader.feed(event):
                    if isinstance(sent, Finished):
                        verdict = Checked(verdict="repaired", repairs=("tool markup",))
                        sent = msgspec.structs.replace(
                            sent, checked=verdict if reader.num_recovered else Checked(verdict="valid")
                        )
                    if isinstance(sent, Finished | Failed):
                        ended.add(event.result)
                    yield sent

    # Held back until they are right

    async def _held(self, request: Request) -> AsyncGenerator[Event]:
        first = await self._ask(request, range(request.num_results))
        spent = _Spent(first)
        settled = {result: self._settle(request, first, result) for result in range(request.num_results)}
        for number in range(self._num_retries):
            unfit = [result for result, found in settled.items() if found.is_worth_a_retry]
            for result in unfit:
                again = _explained(request, settled[result])
                self._counts["retries"] += 1
                try:
                    taken = await self._ask(again, [result])
                except DeepserveError as error:
                    settled[result].error = error
                else:
                    spent.add(taken)
                    settled[result] = self._settle(request, taken, result)
                settled[result].num_retries = number + 1
        assert first.started is not None
        yield msgspec.structs.replace(
            first.started,
            prompt_usage=spent.prompt_usage,
            checked=worst_check(found.checked for found in settled.values()),
        )
        for result, found in settled.items():
            events = found.events()
            for event in events[:-1]:
                yield event
            if result == max(settled):
                yield UsageReported(usage=spent.usage, cost=spent.cost)
            yield events[-1]

    async def _ask(self, request: Request, results: Sequence[int]) -> _Taken:
        """One run of the back end, to its end or until nothing good can come of it. results: what its results are."""
        taken = _Taken()
        readers = {number: self._reader(request, result) for number, result in enumerate(results)}
        watch = self._watch(request) if len(results) == 1 else None
        async with aclosing(self._backend.answer(request)) as events:
            async for event in events:
                match event:
                    case Started():
                        taken.started = event
                    case UsageReported():
                        taken.reported = event
                    case _:
                        result = results[event.result]
                        event = msgspec.structs.replace(event, result=result)
                        reader = readers[event.result if len(results) > 1 else 0]
                        for read in reader.feed(event):
                            taken.events[result].append(read)
                            if watch is not None and isinstance(read, BlockOpened | BlockDelta):
                                taken.problem = watch.feed(read)
                        taken.num_recovered[result] = reader.num_recovered
                        if taken.problem is not None:
                            break
        if taken.started is None:
            raise BackendFailure("The answer ended before it began. This is a fault of the server; please retry.")
        return taken

    def _reader(self, request: Request, result: int) -> LeakedMarkup | _Unread:
        if not request.tools or request.tool_choice.mode == "none":
            return _Unread()
        return LeakedMarkup(request.tools, result=result, may_repair=self._policy != "fail", call_id=self._call_id)

    def _watch(self, request: Request) -> _Watch | None:
        form = request.response_format
        if form.kind not in ("json_object", "json_schema") or continued_text(request):
            return None
        schema = {"type": "object"} if form.kind == "json_object" else form.schema
        return _Watch(JsonStream(schema, is_lenient=self._policy != "fail"))

    def _settle(self, request: Request, taken: _Taken, result: int) -> _Settled:
        """What one result is worth, after what can be repaired has been."""
        events = taken.events[result]
        parts = collect_parts(events)
        end = events[-1] if events and isinstance(events[-1], Finished | Failed) else None
        settled = _Settled(result=result, events=events, parts=parts, end=end)
        if isinstance(end, Failed):
            # A fault of the upstream is its own; damage is one of the model, which may do better.
            settled.problems = (end.error.message,) if isinstance(end.error, DamagedToolCall) else ()
            settled.error = end.error
            return settled
        if taken.problem is not None:
            settled.problems = (taken.problem,)
            return settled
        if end is None:
            settled.error = BackendFailure("The answer stopped without an end. Please retry.")
            return settled
        if taken.num_recovered[result]:
            settled.repairs = ("tool markup",)
        found = _verdict(request, parts)
        if found.verdict == "invalid" and self._policy != "fail":
            mended = _Repair(request, is_cut=end.reason == "length").mend(parts)
            if mended is not None and _verdict(request, mended[0]).verdict != "invalid":
                settled.parts, repairs = mended
                settled.repairs = (*settled.repairs, *repairs)
                found = _verdict(request, settled.parts)
        settled.is_unjudged = found.verdict == "unjudged"
        settled.problems = _problems(request, settled.parts)
        return settled


class _Unread:
    """Stands where no tools are offered: whatever looks like markup is text."""

    num_recovered = 0

    def feed(self, event: Event) -> list[Event]:
        return [event]


class _Watch:
    """Listens to the text of one result while it comes."""

    def __init__(self, json: JsonStream) -> None:
        self._json = json
        self._is_text = False

    def feed(self, event: BlockOpened | BlockDelta) -> str | None:
        if isinstance(event, BlockOpened):
            self._is_text = isinstance(event.block, TextBlock)
        elif self._is_text:
            return self._json.feed(event.text)
        return self._json.problem


class _Taken:
    """What one run of the back end gave."""

    def __init__(self) -> None:
        self.started: Started | None = None
        self.reported: UsageReported | None = None
        self.events: defaultdict[int, list[Event]] = defaultdict(list)
        self.num_recovered: defaultdict[int, int] = defaultdict(int)
        self.problem: str | None = None

    @property
    def usage(self) -> Usage:
        """What is known to have been used; of a run that was stopped early the output is our count of pieces."""
        if self.reported is not None:
            return self.reported.usage
        prompt = self.started.prompt_usage if self.started is not None else None
        num_pieces = sum(isinstance(event, BlockDelta) for events in self.events.values() for event in events)
        return (prompt or Usage()).plus(Usage(answer_tokens=num_pieces, is_estimated=True))


class _Spent:
    """Consumption of all runs together."""

    def __init__(self, first: _Taken) -> None:
        self.usage = first.usage
        self.prompt_usage = first.started.prompt_usage if first.started is not None else None
        self.cost: Cost | None = first.reported.cost if first.reported is not None else None

    def add(self, taken: _Taken) -> None:
        self.usage = self.usage.plus(taken.usage)
        started = taken.started
        if self.prompt_usage is not None and started is not None and started.prompt_usage is not None:
            self.prompt_usage = self.prompt_usage.plus(started.prompt_usage)
        cost = taken.reported.cost if taken.reported is not None else None
        self.cost = self.cost.plus(cost) if self.cost is not None and cost is not None else None


class _Settled:
    """One result, judged.

    parts    what it says, repaired where that was possible
    end      how the upstream ended it
    problems what is wrong with its form; empty for a result that may be sent, or that failed on its own
    """

    def __init__(self, *, result: int, events: Sequence[Event], parts: tuple[Part, ...], end: Finished | Failed | None):
        self._result = result
        self._events = events
        self._received = parts
        self.parts = parts
        self.end = end
        self.problems: tuple[str, ...] = ()
        self.repairs: tuple[str, ...] = ()
        self.error: DeepserveError | None = None
        self.is_unjudged = False
        self.num_retries = 0

    @property
    def is_worth_a_retry(self) -> bool:
        """Not where the limit cut the answer: it would cut the next one, too."""
        return bool(self.problems) and not (isinstance(self.end, Finished) and self.end.reason == "length")

    @property
    def checked(self) -> Checked:
        if self.problems or self.error is not None:
            return Checked(verdict="invalid", num_retries=self.num_retries)
        verdict: Literal["repaired", "unjudged", "valid"] = "valid"
        if self.repairs:
            verdict = "repaired"
        elif self.is_unjudged:
            verdict = "unjudged"
        return Checked(verdict=verdict, repairs=self.repairs, num_retries=self.num_retries)

    def events(self) -> list[Event]:
        """What to send: the result, or the error that stands for it."""
        if self.problems or self.error is not None or not isinstance(self.end, Finished):
            return [Failed(error=self._failure(), result=self._result)]
        end = msgspec.structs.replace(self.end, checked=self.checked, result=self._result)
        if self.parts == self._received:
            return [*self._events[:-1], end]
        return [*_told(self.parts, self._result), end]

    def _failure(self) -> DeepserveError:
        if self.error is not None and (not self.problems or isinstance(self.error, DamagedToolCall)):
            return self.error
        tries = f" Asked {self.num_retries + 1} times." if self.num_retries else ""
        cut = " The output limit cut it." if isinstance(self.end, Finished) and self.end.reason == "length" else ""
        failed = f" Another try failed: {self.error.message}" if self.error is not None else ""
        return UnfitAnswer(
            f"The model's answer does not have the form that was asked for: {'; '.join(self.problems)}."
            f"{cut}{tries}{failed} Please retry, or ask for a simpler form."
        )


def _told(parts: Sequence[Part], result: int) -> list[Event]:
    """Parts as events, each block in one piece."""
    events: list[Event] = []
    for index, part in enumerate(parts):
        closed = BlockClosed(index=index, result=result)
        citations: tuple[Citation, ...] = ()
        match part:
            case Reasoning():
                block: Block = ReasoningBlock()
                text = part.text
                closed = BlockClosed(index=index, signature=part.signature, sealed=part.sealed, result=result)
            case Text():
                block, text, citations = TextBlock(), part.text, part.citations
            case ToolCall():
                block, text = ToolCallBlock(id=part.id, name=part.name), part.arguments
            case _:
                raise AssertionError(f"a back end sends no {type(part).__name__}")
        events.append(BlockOpened(index=index, block=block, result=result))
        events.append(BlockDelta(index=index, text=text, citations=citations, result=result))
        events.append(closed)
    return events


# What is wrong, and what can be done about it


def _verdict(request: Request, parts: Sequence[Part]) -> Checked:
    verdicts = {judgement.verdict for judgement in judge(request, parts)}
    if _problems(request, parts):
        return Checked(verdict="invalid")
    return Checked(verdict="unjudged" if "unjudged" in verdicts else "valid")


def _problems(request: Request, parts: Sequence[Part]) -> tuple[str, ...]:
    if not any(isinstance(part, ToolCall) or (isinstance(part, Text) and part.text.strip()) for part in parts):
        return ("the answer is empty",)
    found = [judgement for judgement in judge(request, parts) if judgement.verdict == "invalid"]
    return tuple(f"{judgement.subject}: {problem}" for judgement in found for problem in judgement.problems)[
        :_MAX_PROBLEMS
    ]


_MAX_PROBLEMS: Final = 5


class _Repair:
    """What can be put right without the model, because only one thing can have been meant."""

    def __init__(self, request: Request, *, is_cut: bool) -> None:
        self._request = request
        self._is_cut = is_cut
        self._repairs: list[str] = []

    def mend(self, parts: Sequence[Part]) -> tuple[tuple[Part, ...], tuple[str, ...]] | None:
        """The parts with whatever could be repaired, and the repairs; None when there were none."""
        mended = self._mend_text(self._mend_calls(parts))
        return (mended, tuple(dict.fromkeys(self._repairs))) if self._repairs else None

    def _mend_calls(self, parts: Sequence[Part]) -> tuple[Part, ...]:
        tools = {tool.name: tool for tool in self._request.tools if tool.strict}
        kept: list[Part] = []
        num_calls = 0
        for part in parts:
            if isinstance(part, ToolCall):
                num_calls += 1
                if num_calls > 1 and not self._request.tool_choice.is_parallel:
                    self._repairs.append("further calls")
                    continue
                tool = tools.get(part.name)
                if tool is not None and judge_call(tool, part.arguments).verdict == "invalid":
                    found = repair_json(part.arguments, is_cut=self._is_cut and part is parts[-1])
                    if found is not None and found.repairs:
                        self._repairs += found.repairs
                        part = msgspec.structs.replace(part, arguments=found.text)
            kept.append(part)
        return tuple(kept)

    def _mend_text(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        form = self._request.response_format
        text = "".join(part.text for part in parts if isinstance(part, Text))
        if form.kind == "text" or not text or continued_text(self._request):
            return parts
        if judge_text(form, text).verdict != "invalid":
            return parts
        mended: str | None = None
        if form.kind in ("json_object", "json_schema"):
            found = repair_json(text, is_cut=self._is_cut)
            if found is not None and found.repairs:
                mended, repairs = found.text, found.repairs
        elif form.kind == "choice":
            bare = text.strip().removesuffix(".").strip("\"'`*").removesuffix(".")
            if bare in form.choices:
                mended, repairs = bare, ("signs around the choice",)
        if mended is None:
            return parts
        self._repairs += repairs
        first = next(index for index, part in enumerate(parts) if isinstance(part, Text))
        return tuple(
            Text(mended) if index == first else part
            for index, part in enumerate(parts)
            if index == first or not isinstance(part, Text)
        )


def _explained(request: Request, settled: _Settled) -> Request:
    """The request once more, for one result, with what was wrong with the answer to it."""
    said = "\n".join(
        part.text if isinstance(part, Text) else f"{part.name}({part.arguments})"
        for part in settled.parts
        if isinstance(part, Text | ToolCall)
    )
    lines = ["Your answer to this was refused, because it does not have the form that was asked for:"]
    lines += [f"- {problem}" for problem in settled.problems]
    if said.strip():
        lines += ["", "It was:", "", said[:_MAX_QUOTED_CHARACTERS], ""]
    lines.append("Answer again, in the form that was asked for, without a word about this.")
    told = Message(role="user", parts=(Text("\n".join(lines)),))
    messages = request.messages
    # What the client has begun stays last: the answer goes on from there.
    at = len(messages) - 1 if messages and messages[-1].prefix else len(messages)
    return msgspec.structs.replace(request, messages=(*messages[:at], told, *messages[at:]), num_results=1)


_MAX_QUOTED_CHARACTERS: Final = 4000

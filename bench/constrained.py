"""Answers whose form is enforced, beside free ones of the same lengths: what JSON costs.

    python -m bench.constrained

The shipped model's shape, once with its weights and once with random ones, which never stop by themselves: their
answers end where the limit narrows the grammar to the shortest end. Streams are kept full, as a server would; every
answer brings a prompt of its own, and free answers are as long as those in JSON were.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar
from unittest import mock

import msgspec

from bench.bandwidth import bandwidth_probe
from bench.random_weights import write_checkpoint
from bench.results import Recorder
from bench.rounds import random_tokens, turns
from deepserve.backends.tokens.form import call_markup, vocabulary_of
from deepserve.backends.tokens.model import TokenModel, load_model
from deepserve.core.messages import Json
from deepserve.core.tenant import TenantId
from deepserve.engine.generation import Generation, GenerationId, ResultEnded, TokenDrawn, TokenGuide
from deepserve.engine.interface import Draw, Engine
from deepserve.engine.loader import load_engine
from deepserve.engine.mask_source import computed_mask
from deepserve.engine.native import mask_worker
from deepserve.engine.options import EngineOptions
from deepserve.engine.prefix_index import CacheKey
from deepserve.engine.scheduler import Scheduler
from deepserve.grammar.answer_form import AnswerForm, Content
from deepserve.grammar.compiler import GrammarCompiler
from deepserve.grammar.guide import AnswerGuide, GuideRules
from deepserve.grammar.matcher import Matcher
from deepserve.prompt.special_tokens import END_THINK

PROMPT_TOKENS = 64
MAX_TOKENS = 1_024
ANSWERS_PER_STREAM = 2
TEMPERATURE, TOP_P = 1.0, 0.95

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

MEDIUM_SCHEMA: Json = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "priority": {"enum": ["low", "normal", "high", "urgent"]},
        "estimate_hours": {"type": "number", "minimum": 0},
        "is_billable": {"type": "boolean"},
        "labels": {"type": "array", "items": {"type": "string", "maxLength": 24}, "maxItems": 8},
        "assignee": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 60},
                "badge": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
                "team": {"type": ["string", "null"]},
            },
            "required": ["name", "badge", "team"],
            "additionalProperties": False,
        },
        "steps": {
            "type": "array",
            "minItems": 2,
            "items": {
                "type": "object",
                "properties": {"text": {"type": "string"}, "minutes": {"type": "integer"}, "done": {"type": "boolean"}},
                "required": ["text", "minutes", "done"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["title", "priority", "estimate_hours", "is_billable", "labels", "assignee", "steps"],
    "additionalProperties": False,
}
"""A ticket: about 900 bytes, with every kind of value, bounded strings and free ones."""


def main() -> int:
    probe = bandwidth_probe()
    recorder = Recorder("Enforced JSON against free answers, the shipped model's shape, one thread", probe=probe)
    if probe is None:
        recorder.note("skipped: the native core is not part of this installation")
        return recorder.finish()
    model = load_model(None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder, msgspec.json.decode((model.folder / "config.json").read_bytes()))
        for weights, place in (("shipped", model.folder), ("random", folder)):
            engine = load_engine(place, EngineOptions(memory_bytes=1 << 29, name="native", num_threads=1))
            measure_decoding(Answers(engine, model), weights, recorder)
    return recorder.finish()


def measure_decoding(answers: Answers, weights: str, recorder: Recorder) -> None:
    for num_streams in (1, 8):
        answers.run(num_streams, guided=True)
        free, enforced = turns(
            recorder,
            lambda n=num_streams: answers.run(n, guided=False),  # type: ignore[misc]  # bound now
            lambda n=num_streams: answers.run(n, guided=True),  # type: ignore[misc]
        )
        recorder.add(
            f"{weights} weights: JSON at {num_streams} stream{'s' * (num_streams > 1)}, of free",
            100 * enforced / free,
            "%",
            details=f"{enforced:,.0f} tok/s, free {free:,.0f}; {100 * answers.forced_ratio:.0f} % of tokens forced",
            # What random weights write is no use to anybody: told, as the harder case, and not judged.
            at_least=90 if num_streams > 1 and weights == "shipped" else None,
            keep_probes=True,
        )
    step_s = answers.step_s
    times = answers.mask_times(8)
    p50, p99 = _percentiles(times.alone_s)
    recorder.add(
        f"{weights} weights: a mask, p50",
        1e6 * p50,
        "us",
        details=f"{len(times.alone_s):,} computed",
        at_most=50,
        keep_probes=True,
    )
    recorder.add(
        f"{weights} weights: a mask, p99, of a step",
        100 * p99 / step_s,
        "%",
        details=f"{1e6 * p99:.0f} us of {1e6 * step_s:.0f}, free answers at 8 streams",
        at_most=20,
        keep_probes=True,
    )
    p50, p99 = _percentiles(times.with_searches_s)
    recorder.add(
        f"{weights} weights: with what is looked for before it, p99, of a step",
        100 * p99 / step_s,
        "%",
        details=f"{1e6 * p99:.0f} us, p50 {1e6 * p50:.0f} us, "
        f"mean {1e6 * sum(times.with_searches_s) / len(times.with_searches_s):.0f} us",
    )

    with_masks_s, known_s = turns(
        recorder,
        lambda: answers.step_seconds(8, recorded=False),
        lambda: answers.step_seconds(8, recorded=True),
    )
    recorder.add(
        f"{weights} weights: what a step waits for masks, of a step",
        100 * (with_masks_s - known_s) / known_s,
        "%",
        details=f"{1e6 * (with_masks_s - known_s):.0f} us: steps of {1e6 * with_masks_s:.0f} us, and of "
        f"{1e6 * known_s:.0f} us where the same answers have their masks from an earlier run",
    )


def _percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Half of them, and 99 of 100, take no longer."""
    ordered = sorted(seconds)
    return ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]


class MaskTimes(msgspec.Struct, frozen=True):
    """CPU time of the threads that computed masks.

    alone_s          of every mask, those that searches for an end ask for among them
    with_searches_s  of every call that the engine makes for a mask, searches for an end included
    """

    alone_s: list[float]
    with_searches_s: list[float]


class Recorded:
    """A guide whose every answer is known from an earlier one; without a record it asks and keeps them."""

    def __init__(self, guide: AnswerGuide | None, record: list[object]) -> None:
        self._guide = guide
        self._record = record
        self._answers = iter(record)

    def _known(self, ask: Callable[[AnswerGuide], T]) -> T:
        if self._guide is None:
            return next(self._answers)  # type: ignore[return-value]  # asked in the order in which it was kept
        found = ask(self._guide)
        self._record.append(found)
        return found

    def accept(self, token: int) -> int:
        return self._known(lambda guide: guide.accept(token))

    def forced(self) -> Sequence[int]:
        return self._known(lambda guide: guide.forced())

    def mask(self) -> bytes | None:
        def now(guide: AnswerGuide) -> bytes | None:
            mask = guide.mask()
            return mask() if callable(mask) else mask

        return self._known(now)


class Answers:
    """Answers of one engine, so many at a time, free or in the form of MEDIUM_SCHEMA."""

    def __init__(self, engine: Engine, model: TokenModel) -> None:
        self._engine = engine
        self._vocabulary = vocabulary_of(model.tokenizer, model.stop_tokens, engine.info.vocab_size)
        markup = call_markup(model.tokenizer)
        form = AnswerForm(content=Content(kind="json", schema=MEDIUM_SCHEMA))
        self._compiled = GrammarCompiler(self._vocabulary, markup).compile(form)
        self._rules = GuideRules(max_tokens=MAX_TOKENS, end_think=model.tokenizer.special_id(END_THINK))
        self._mark = markup.mark_id
        self._stop_tokens = model.stop_tokens
        self._lengths: dict[int, list[int]] = {}
        self._records: list[list[object]] = []
        self._fixed_prompts: list[list[int]] = []
        self.guided_step_s = 0.0
        self.forced_ratio = 0.0
        self.step_s = 0.0

    def run(self, num_streams: int, *, guided: bool) -> float:
        """Tokens per second. Free answers are as long as the last guided ones."""
        lengths = self._lengths.get(num_streams) or [MAX_TOKENS] * ANSWERS_PER_STREAM * num_streams
        guide = self._guide if guided else None
        found, seconds = self._answer(num_streams, guide, [MAX_TOKENS] * len(lengths) if guided else lengths)
        if guided:
            self._lengths[num_streams] = found
        return sum(found) / seconds

    def mask_times(self, num_streams: int) -> MaskTimes:
        times = MaskTimes([], [])
        with (
            mock.patch.object(Matcher, "mask", _timed(Matcher.mask, times.alone_s)),
            mock.patch.object(mask_worker, "computed_mask", _timed(computed_mask, times.with_searches_s)),
        ):
            self._answer(num_streams, self._guide, [MAX_TOKENS] * ANSWERS_PER_STREAM * num_streams)
        return times

    def step_seconds(self, num_streams: int, *, recorded: bool) -> float:
        """The mean step of guided answers, with their masks computed or all known before."""
        lengths = [MAX_TOKENS] * ANSWERS_PER_STREAM * num_streams
        if not self._records:
            self._fixed_prompts = [random_tokens(PROMPT_TOKENS, self._vocabulary.num_tokens) for _ in lengths]
            self._records = [[] for _ in lengths]
            self._answer(num_streams, lambda number: Recorded(self._guide(), self._records[number]), lengths)
        guide = (lambda number: Recorded(None, self._records[number])) if recorded else self._guide
        self._answer(num_streams, guide, lengths)
        return self.guided_step_s

    def _guide(self, _: int = 0) -> AnswerGuide:
        return AnswerGuide(self._compiled, self._vocabulary, self._rules, mark=self._mark)

    def _answer(
        self, num_streams: int, guide: Callable[[int], TokenGuide] | None, lengths: Sequence[int]
    ) -> tuple[list[int], float]:
        """The lengths of all answers, and the seconds they took together."""
        scheduler = Scheduler(self._engine, max_sequences=num_streams, clock=time.perf_counter)
        prompts = self._fixed_prompts or [random_tokens(PROMPT_TOKENS, self._vocabulary.num_tokens) for _ in lengths]
        found = [0] * len(lengths)
        waiting: Iterator[int] = iter(range(len(lengths)))

        def begin() -> None:
            number = next(waiting, None)
            if number is not None:
                scheduler.add(
                    GenerationId(number),
                    Generation(
                        prompt=prompts[number],
                        draws=(Draw(temperature=TEMPERATURE, top_p=TOP_P, seed=number),),
                        max_tokens=lengths[number],
                        stop_tokens=self._stop_tokens if guide is not None else frozenset(),
                        guides=(guide(number),) if guide is not None else (),
                        cache_key=CacheKey(
                            tenant=TenantId("bench"), user_id=None, model="", profile="", fingerprint=""
                        ),
                    ),
                )

        started = time.perf_counter()
        for _ in range(num_streams):
            begin()
        while updates := scheduler.step():
            for number, progress in updates:
                if isinstance(progress, TokenDrawn):
                    found[number] += 1
                elif isinstance(progress, ResultEnded):
                    assert progress.reason != "failed", progress.error
                    begin()
        seconds = time.perf_counter() - started
        stats = scheduler.stats()
        if guide is not None:
            self.forced_ratio = stats.tokens_forced / sum(found)
            self.guided_step_s = stats.step_seconds / stats.steps
        else:
            self.step_s = stats.step_seconds / stats.steps
        scheduler.close()
        return found, seconds


def _timed(work: Callable[P, R], seconds: list[float]) -> Callable[P, R]:
    """The same work, its time noted: of its thread, because waiting for the GIL would look as if masks were dear."""

    def timed(*arguments: P.args, **named: P.kwargs) -> R:
        started = time.thread_time()
        result = work(*arguments, **named)
        seconds.append(time.thread_time() - started)
        return result

    return timed


if __name__ == "__main__":
    sys.exit(main())

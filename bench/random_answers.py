"""Answers of a model with random weights under public schemas: does every one have its form?

    python -m bench.random_answers [--answers 10000] [--seed 0] [--schemas FOLDER]

The model has the shipped one's shape and writes noise wherever nothing holds it. Requests go through the whole back
end, eight at a time: a response format, with thinking or without, or a strict tool that must be called. Values are
judged by the validator, not by what made the masks. FOLDER holds MaskBench's schemas
(https://github.com/guidance-ai/jsonschemabench) in `maskbench`, the official test suite's
(https://github.com/json-schema-org/JSON-Schema-Test-Suite) in `suite`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, assert_never

import msgspec

from bench.random_weights import write_checkpoint
from bench.results import Recorder
from bench.shapes import Fields
from deepserve.backends.embedded import EmbeddedBackend
from deepserve.backends.tokens.model import shipped_folder
from deepserve.config import Settings
from deepserve.core.answer import Result, collect
from deepserve.core.errors import DeepserveError, InvalidField
from deepserve.core.messages import Json, Message, Text, ToolCall
from deepserve.core.request import Request, RequestId, ResponseFormat, Thinking, Tool, ToolChoice
from deepserve.core.sampling import Sampling
from deepserve.core.schema import check_schema

SCHEMAS: Final = Path(__file__).parents[2] / "shared" / "data" / "json-schema"
NUM_STREAMS: Final = 8
MAX_TOKENS: Final = 256
MAX_THINKING_TOKENS: Final = 24
MOST_SHOWN: Final = 20

Kind = Literal["format", "format after thinking", "strict tool"]
KINDS: Final[tuple[Kind, ...]] = ("format", "format after thinking", "strict tool")


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """One answer that is wanted. place: of the schema, for whoever looks for it."""

    place: str
    schema: Mapping[str, Json]
    kind: Kind
    seed: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """refusal: the schema cannot be enforced. fault: what is wrong with an answer that was given."""

    wish: Wish
    num_tokens: int = 0
    is_cut: bool = False
    refusal: str | None = None
    fault: str | None = None


def main() -> int:
    parser = argparse.ArgumentParser(description="Hold answers of random weights against their schemas.")
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schemas", type=Path, default=SCHEMAS)
    asked, _ = parser.parse_known_args()
    recorder = Recorder("Answers of random weights under public schemas")
    if not asked.schemas.is_dir():
        recorder.note(f"skipped: there are no schemas in {asked.schemas}")
        return recorder.finish()
    with tempfile.TemporaryDirectory() as name:
        backend = random_backend(Path(name), msgspec.json.decode((shipped_folder() / "config.json").read_bytes()))
        started = time.perf_counter()
        outcomes = asyncio.run(answers(backend, wishes(asked.schemas, seed=asked.seed), asked.answers))
        seconds = time.perf_counter() - started
    record(recorder, outcomes, seconds)
    return recorder.finish()


def record(recorder: Recorder, outcomes: Sequence[Outcome], seconds: float) -> None:
    given = [outcome for outcome in outcomes if outcome.refusal is None]
    faulty = [outcome for outcome in given if outcome.fault is not None]
    refused = {outcome.wish.place for outcome in outcomes if outcome.refusal is not None}
    num_tokens = sum(outcome.num_tokens for outcome in given)
    recorder.add(
        "answers that miss their schema",
        len(faulty),
        "",
        details=f"of {len(given):,}, {num_tokens / len(given):.0f} tokens each, {num_tokens / seconds:,.0f} tok/s",
        at_most=0,
    )
    is_cut = [outcome.is_cut for outcome in given]
    recorder.add("answers that the limit ends", 100 * sum(is_cut) / len(given), "%", at_most=1)
    recorder.note(f"{len({outcome.wish.place for outcome in given})} schemas; {len(refused)} refused in some form")
    for outcome in faulty[:MOST_SHOWN]:
        recorder.note(f"{outcome.wish.kind} {outcome.wish.place} seed {outcome.wish.seed}: {outcome.fault}")


def random_backend(folder: Path, shape: Fields) -> EmbeddedBackend:
    """Noise that reads and writes the shipped model's tokens."""
    model = folder / "mini-random"
    write_checkpoint(model, shape)
    for name in ("tokenizer.json", "generation_config.json"):
        shutil.copy(shipped_folder() / name, model / name)
    return EmbeddedBackend.load(Settings(model_path=model, cache_bytes=256 << 20, max_concurrency=NUM_STREAMS))


def schemas(folder: Path) -> list[tuple[str, Json]]:
    """Place and schema, sorted."""
    found = [
        (f"maskbench/{file.stem}", json.loads(file.read_text())["schema"])
        for file in sorted((folder / "maskbench").glob("*.json"))
    ]
    for file in sorted((folder / "suite").glob("*.json")):
        for number, group in enumerate(json.loads(file.read_text())):
            found.append((f"suite/{file.stem}/{number}", group["schema"]))
    return found


def wishes(folder: Path, *, seed: int) -> Iterator[Wish]:
    """Without end, in an order drawn from the seed."""
    draw = random.Random(seed)
    known = [(place, schema) for place, schema in schemas(folder) if isinstance(schema, Mapping)]
    while True:
        place, schema = draw.choice(known)
        yield Wish(place=place, schema=schema, kind=draw.choice(KINDS), seed=draw.getrandbits(40))


async def answers(backend: EmbeddedBackend, wanted: Iterator[Wish], num_answers: int) -> list[Outcome]:
    """So many answers, and the refusals met on the way."""
    outcomes: list[Outcome] = []
    num_left = num_answers

    async def work() -> None:
        nonlocal num_left
        while num_left > 0:
            num_left -= 1
            outcome = await ask(backend, next(wanted))
            num_left += outcome.refusal is not None
            outcomes.append(outcome)

    await backend.start()
    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(NUM_STREAMS):
                workers.create_task(work())
    finally:
        await backend.close()
    return outcomes


async def ask(backend: EmbeddedBackend, wish: Wish) -> Outcome:
    try:
        async with aclosing(backend.answer(request_of(wish))) as events:
            answer = await collect(events)
    except InvalidField as error:
        return Outcome(wish=wish, refusal=error.message)
    except DeepserveError as error:
        return Outcome(wish=wish, fault=error.message)
    (result,) = answer.results
    is_cut = result.finished.reason == "length"
    return Outcome(
        wish=wish,
        num_tokens=answer.usage.reasoning_tokens + answer.usage.answer_tokens,
        is_cut=is_cut,
        fault=None if is_cut else fault_of(wish, result),
    )


def request_of(wish: Wish) -> Request:
    request = Request(
        id=RequestId(f"{wish.seed}"),
        model="deepseek-v4-flash",
        arrived_at=datetime(2026, 11, 1, 12, tzinfo=UTC),
        messages=(Message(role="user", parts=(Text(f"Number {wish.seed}"),)),),
        thinking=Thinking(enabled=False),
        sampling=Sampling(temperature=1.0, seed=wish.seed),
        max_output_tokens=MAX_TOKENS,
    )
    form = ResponseFormat(kind="json_schema", schema=wish.schema, strict=True)
    match wish.kind:
        case "format":
            return msgspec.structs.replace(request, response_format=form)
        case "format after thinking":
            thinking = Thinking(enabled=True, effort="low", budget_tokens=wish.seed % MAX_THINKING_TOKENS)
            return msgspec.structs.replace(request, response_format=form, thinking=thinking)
        case "strict tool":
            tools = (Tool(name="tool", parameters=wish.schema, strict=True),)
            return msgspec.structs.replace(request, tools=tools, tool_choice=ToolChoice(mode="required"))
        case kind:
            assert_never(kind)


def fault_of(wish: Wish, result: Result) -> str | None:
    """What is wrong with a finished answer."""
    calls = [part.arguments for part in result.parts if isinstance(part, ToolCall)]
    texts = ["".join(part.text for part in result.parts if isinstance(part, Text))]
    is_called = wish.kind == "strict tool"
    if bool(calls) is not is_called or bool(texts[0]) is is_called:
        return f"{len(calls)} calls and the text {texts[0][:80]!r}"
    for text in calls if is_called else texts:
        try:
            value = json.loads(text)
        except ValueError as error:
            return f"{error}: {text[:80]!r}"
        report = check_schema(wish.schema, value)
        if report.verdict != "valid":
            return f"{report.verdict} ({'; '.join((*report.problems[:2], *report.unjudged))}): {text[:200]}"
    return None


if __name__ == "__main__":
    sys.exit(main())

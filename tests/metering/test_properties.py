"""What must hold of every ledger, whatever was answered."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from uuid import uuid4

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from deepserve.backends.script import Reply, Rule, Script, When
from deepserve.backends.scripted import ScriptedBackend
from deepserve.catalog.price_table import load_prices
from deepserve.config import Settings
from deepserve.core.cost import usd_of
from deepserve.core.errors import BackendFailure
from deepserve.core.events import Event, Failed, Finished, UsageReported
from deepserve.core.usage import Usage
from deepserve.dialects.chat.upstream_answer import AnswerDecoder
from deepserve.metering.audit import audit
from deepserve.store.database import open_database
from deepserve.store.ledger_record import LedgerRecord
from deepserve.store.tables import ledger as ledger_table
from tests.metering.setup import FLASH, PRO, Saying, hear, metered, request, said, started, told
from tests.server.live import PATIENCE_S, live_server

COUNTS = st.integers(0, 200_000)
USAGES = st.builds(Usage, hit_tokens=COUNTS, miss_tokens=COUNTS, reasoning_tokens=COUNTS, answer_tokens=COUNTS)
ARRIVALS = st.datetimes(datetime(2026, 4, 20), datetime(2027, 1, 31), timezones=st.just(UTC))
PROVIDERS = st.sampled_from(["deepseek", "deepserve", "openrouter", "deepinfra", "together", "fireworks", "unknown"])


@st.composite
def answers(draw: st.DrawFn) -> Sequence[Event]:
    """With usage once or often, good and bad ends."""
    events: list[Event] = [started(draw(PROVIDERS), model=draw(st.sampled_from([None, FLASH, PRO]))), *said()]
    events += [UsageReported(usage=usage) for usage in draw(st.lists(USAGES, max_size=3))]
    events.append(Finished(reason="stop") if draw(st.booleans()) else Failed(error=BackendFailure("no")))
    return events


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(answers(), ARRIVALS), min_size=1, max_size=6))
def test_the_sum_of_the_ledger_is_that_of_what_was_told(given_: Sequence[tuple[Sequence[Event], datetime]]) -> None:
    gateway, ledger = metered(Saying(*(events for events, _ in given_)))
    total = Decimal(0)
    for _, arrived_at in given_:
        heard = hear(gateway, request("x" * 100_000, arrived_at=arrived_at))
        if any(isinstance(event, UsageReported) for event in heard):
            cost = told(heard)
            total += Decimal(0) if cost is None else cost.total_usd
    assert usd_of(sum(row.total_pico_usd for row in ledger.kept)) == total
    assert not list(audit(ledger.kept, load_prices()))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(answers(), ARRIVALS), min_size=1, max_size=4), st.integers(1, 10**6))
def test_pricing_again_gives_the_same_and_finds_what_was_changed(
    given_: Sequence[tuple[Sequence[Event], datetime]], more: int
) -> None:
    gateway, ledger = metered(Saying(*(events for events, _ in given_)))
    for _, arrived_at in given_:
        hear(gateway, request("x" * 100_000, arrived_at=arrived_at))
    assert not list(audit(ledger.kept, load_prices()))
    for name in ("hit_pico_usd", "miss_pico_usd", "output_pico_usd"):
        changed = [msgspec.structs.replace(row, **{name: getattr(row, name) + more}) for row in ledger.kept]
        assert len(list(audit(changed, load_prices()))) == len(changed)


NUMBERS = st.one_of(st.none(), st.integers(-5, 5_000), st.integers(-(10**12), 10**12))


@given(prompt=NUMBERS, hit=NUMBERS, cached=NUMBERS, written=NUMBERS, output=NUMBERS, reasoning=NUMBERS, outer=NUMBERS)
def test_hit_and_miss_are_the_prompt_whatever_an_upstream_says(
    prompt: int | None,
    hit: int | None,
    cached: int | None,
    written: int | None,
    output: int | None,
    reasoning: int | None,
    outer: int | None,
) -> None:
    """And reasoning is part of the output; nothing is negative; whatever had to be changed is called an estimate."""
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "prompt_cache_hit_tokens": hit,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
        "reasoning_tokens": outer,
    }
    body = {"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}], "usage": usage}
    decoder = AnswerDecoder(provider="p", title="P", call_id=str)
    decoder.whole(json.dumps(body).encode())
    read = decoder.usage
    assert read is not None
    assert read.hit_tokens + read.miss_tokens == read.prompt_tokens == max(prompt or 0, 0)
    assert read.reasoning_tokens + read.answer_tokens == read.output_tokens == max(output or 0, 0)
    assert min(read.hit_tokens, read.miss_tokens, read.reasoning_tokens, read.answer_tokens) >= 0
    assert read.cache_write_tokens <= read.miss_tokens
    told_hit, told_reasoning = hit or cached or 0, reasoning or outer or 0
    if not read.is_estimated:
        assert (read.hit_tokens, read.reasoning_tokens) == (told_hit, told_reasoning)
    assert (decoder.doubt is not None) == read.is_estimated


# Over real sockets.

Post = Callable[[str, object], httpx.Response]

TEXTS = st.lists(st.sampled_from(["a", "bb", "ccc "]), min_size=1, max_size=40).map(" ".join)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> LedgerRecord:
    return LedgerRecord(open_database(tmp_path_factory.mktemp("ledger")))


@pytest.fixture(scope="module")
def post(record: LedgerRecord) -> Iterator[Post]:
    assert record._engine is not None
    rules = (
        Rule(when=When(contains="broken"), reply=Reply(text="no no", failure="backend_failure", fail_after_pieces=1)),
        Rule(when=When(contains="cached"), reply=Reply(text="from the cache", reasoning="so it is", hit_tokens=1)),
    )
    with (
        live_server(ScriptedBackend(Script(rules=rules)), Settings(), database=record._engine) as server,
        httpx.Client(base_url=server.address, timeout=PATIENCE_S) as client,
    ):
        yield lambda path, body: client.post(path, json=body)


def _cost(post: Post, dialect: str, text: str) -> Decimal:
    """What the client of a dialect is told that its answer has cost."""
    messages = [{"role": "user", "content": text}]
    slug = "deepseek/deepseek-v4-pro"
    match dialect:
        case "openrouter" | "openrouter stream":
            body = {"model": slug, "messages": messages, "stream": "stream" in dialect}
            path = "/api/v1/chat/completions"
        case "messages" | "messages stream":
            body = {"model": slug, "messages": messages, "max_tokens": 99, "stream": "stream" in dialect}
            path = "/api/v1/messages"
        case "responses" | "responses stream":
            body = {"model": "deepseek-v4-pro", "input": text, "stream": "stream" in dialect}
            path = "/api/v1/responses"
        case "completions":
            body, path = {"model": slug, "prompt": text}, "/api/v1/completions"
        case "oxen":
            body, path = {"model": "deepseek-v4-pro", "messages": messages}, "/api/ai/chat/completions"
        case _:
            task = {"taskType": "textInference", "taskUUID": str(uuid4())}
            asked = {"model": "deepseek:v4@pro", "messages": messages, "numberResults": 3, "includeCost": True}
            return _runware(post, {**task, **asked})
    answer = post(path, body)
    if answer.status_code != 200:
        return Decimal(0)
    found = [
        json.loads(line, parse_float=Decimal)
        for line in answer.text.splitlines()
        for line in [line.removeprefix("data: ")]
        if line.startswith("{")
    ]
    usages = [one.get("usage") or one.get("response", {}).get("usage") or {} for one in found]
    costs = [Decimal(usage["cost"]) for usage in usages if "cost" in usage]
    return costs[-1] if costs else Decimal(0)


def _runware(post: Post, task: dict[str, object]) -> Decimal:
    answer = post("/v1", [task])
    found = json.loads(answer.text, parse_float=Decimal)
    return sum((Decimal(item["cost"]) for item in found.get("data", [])), Decimal(0))


DIALECTS = (
    *("openrouter", "openrouter stream", "messages", "messages stream"),
    *("responses", "responses stream", "completions", "oxen", "runware"),
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(st.tuples(st.sampled_from(DIALECTS), TEXTS), min_size=1, max_size=5))
def test_what_clients_are_told_in_every_dialect_is_what_the_ledger_has(
    post: Post, record: LedgerRecord, asked: list[tuple[str, str]]
) -> None:
    assert record._engine is not None
    with record._engine.begin() as connection:
        connection.execute(delete(ledger_table))
    said = sum((_cost(post, dialect, text) for dialect, text in asked), Decimal(0))
    rows = list(record.rows())
    assert len(rows) == len(asked)
    assert usd_of(sum(row.total_pico_usd for row in rows)) == said
    assert not list(audit(rows, load_prices()))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("text", ["hello there", "broken please", "cached please"])
def test_each_dialect_tells_what_its_row_has(post: Post, record: LedgerRecord, dialect: str, text: str) -> None:
    assert record._engine is not None
    with record._engine.begin() as connection:
        connection.execute(delete(ledger_table))
    said = _cost(post, dialect, text)
    [row] = record.rows()
    assert usd_of(row.total_pico_usd) == said
    assert (said > 0) == ("broken" not in text)
    assert row.dialect == {"openrouter stream": "openrouter", "completions": "openrouter"}.get(
        dialect, dialect.removesuffix(" stream")
    )

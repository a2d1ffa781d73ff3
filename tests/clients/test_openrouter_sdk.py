"""The unmodified OpenRouter SDK for Python."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from openrouter import OpenRouter, errors

from deepserve.config import Settings, WaitLimits
from deepserve.core.tenant import Budgets, Grant, RateLimits, TenantId
from deepserve.store.database import open_database
from deepserve.store.keys import KeyStore
from tests.server.live import LiveServer, live_server, scripted

MODEL = "deepseek/deepseek-v4-pro"
DATED = "deepseek/deepseek-v4-pro-20260423"
MESSAGES: Any = [{"role": "user", "content": "weather please"}]  # Any: as in the SDK's own examples
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


def client_of(live: LiveServer) -> OpenRouter:
    return OpenRouter(api_key="sk-or-local", server_url=live.address + "/api/v1", retry_config=None)


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with live_server() as server:
        yield server


@pytest.fixture(scope="module")
def client(live: LiveServer) -> Iterator[OpenRouter]:
    with client_of(live) as client:
        yield client


def test_a_question_and_its_answer(client: OpenRouter) -> None:
    answer = client.chat.send(model=MODEL, messages=MESSAGES)
    assert answer.model == DATED
    assert answer.id.startswith("gen-")
    choice = answer.choices[0]
    assert choice.finish_reason == "stop"
    assert choice.message.content == "You said: weather please"
    assert isinstance(choice.message.reasoning, str)
    assert choice.message.reasoning.startswith("The user said")
    assert choice.message.reasoning_details is not None
    assert choice.message.reasoning_details[0].type == "reasoning.text"
    usage = answer.usage
    assert usage is not None
    assert isinstance(usage.cost, float)
    assert usage.cost > 0
    assert usage.cost_details is not None


def test_a_stream_says_what_the_whole_answer_says(client: OpenRouter) -> None:
    whole = client.chat.send(model=MODEL, messages=MESSAGES)
    text, reasoning, usages, finishes = "", "", [], []
    with client.chat.send(model=MODEL, messages=MESSAGES, stream=True) as stream:
        for chunk in stream:
            assert chunk.model == DATED
            delta = chunk.choices[0].delta
            text += delta.content or ""
            reasoning += delta.reasoning or ""
            finishes.append(chunk.choices[0].finish_reason)
            usages.append(chunk.usage)
    assert text == whole.choices[0].message.content
    assert reasoning == whole.choices[0].message.reasoning
    assert finishes[-2:] == ["stop", "stop"]
    assert finishes[:-2] == [None] * (len(finishes) - 2)
    assert usages[-1] is not None
    assert usages[-1] == whole.usage


def test_a_tool_loop_keeps_the_reasoning(client: OpenRouter) -> None:
    first = client.chat.send(model=MODEL, messages=MESSAGES, tools=TOOLS)
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    assert message.tool_calls
    call = message.tool_calls[0]
    assert json.loads(call.function.arguments) == {"city": "example"}
    history = [*MESSAGES, message, {"role": "tool", "tool_call_id": call.id, "content": "21 C"}]
    second = client.chat.send(model=MODEL, messages=history, tools=TOOLS)
    assert second.choices[0].message.content == "The tool answered: 21 C"


def test_a_schema_and_a_forced_call_while_thinking(client: OpenRouter) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}}
    message = client.chat.send(model=MODEL, messages=MESSAGES, response_format=wanted).choices[0].message
    assert json.loads(str(message.content)) == {"city": "example"}
    assert message.reasoning
    forced: Any = {"type": "function", "function": {"name": "get_weather"}}
    answer = client.chat.send(model=MODEL, messages=MESSAGES, tools=TOOLS, tool_choice=forced)
    assert answer.choices[0].message.tool_calls
    assert answer.choices[0].message.reasoning


def test_errors_are_the_sdks_own(client: OpenRouter) -> None:
    with pytest.raises(errors.BadRequestResponseError, match="nobody/nothing is not a valid model ID"):
        client.chat.send(model="nobody/nothing", messages=MESSAGES)
    with pytest.raises(errors.BadRequestResponseError, match="temperature"):
        client.chat.send(model=MODEL, messages=MESSAGES, temperature=3)
    with pytest.raises(errors.NotFoundResponseError, match="No allowed providers"):
        client.chat.send(model=MODEL, messages=MESSAGES, provider={"only": ["fireworks"]})


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        ("too_many_requests", errors.TooManyRequestsResponseError),
        ("overloaded", errors.ServiceUnavailableResponseError),
        ("engine_failure", errors.InternalServerResponseError),
        ("backend_failure", errors.BadGatewayResponseError),
    ],
)
def test_failures_have_their_own_classes(failure: str, error: type[Exception]) -> None:
    with live_server(scripted(failure=failure)) as live, client_of(live) as client, pytest.raises(error):
        client.chat.send(model=MODEL, messages=MESSAGES)


def test_a_failure_in_the_middle_is_an_event() -> None:
    backend = scripted(text="a b c", failure="backend_failure", fail_after_pieces=2)
    with (
        live_server(backend) as live,
        client_of(live) as client,
        client.chat.send(model=MODEL, messages=MESSAGES, stream=True) as stream,
    ):
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "a b"
    error = chunks[-1].error
    assert error is not None
    assert error.code == 502
    assert chunks[-1].choices[0].finish_reason == "error"


def test_the_catalogue(client: OpenRouter) -> None:
    page = client.models.list()
    assert page is not None
    listed = page.result
    assert [model.id for model in listed.data] == ["deepseek/deepseek-v4-pro", "deepseek/deepseek-v4-flash"]
    assert listed.total_count == 2
    assert client.models.count().data.count == 2
    model = client.models.get(author="deepseek", slug="deepseek-v4-pro:nitro").data
    assert (model.canonical_slug, model.name) == (DATED, "DeepSeek: DeepSeek V4 Pro")
    endpoints = client.endpoints.list(author="deepseek", slug="deepseek-v4-flash-20260423").data
    assert endpoints.id == "deepseek/deepseek-v4-flash"
    assert [endpoint.tag for endpoint in endpoints.endpoints] == ["deepserve"]
    assert client.providers.list().data[0].slug == "deepserve"
    assert len(client.endpoints.list_zdr_endpoints().data) == 2
    with pytest.raises(errors.NotFoundResponseError):
        client.models.get(author="nobody", slug="nothing")


def test_the_price_that_is_listed_is_the_price_that_is_charged(client: OpenRouter) -> None:
    page = client.models.list(q="v4 flash")
    assert page is not None
    (model,) = page.result.data
    answer = client.chat.send(model=model.id, messages=MESSAGES)
    usage = answer.usage
    assert usage is not None
    pricing = model.pricing
    pairs = [(pricing.prompt, pricing.completion)]
    pairs += [(peak.prompt or "", peak.completion or "") for peak in pricing.overrides or []]  # whatever hour it is
    costs = [usage.prompt_tokens * float(prompt) + usage.completion_tokens * float(out) for prompt, out in pairs]
    assert any(usage.cost == pytest.approx(cost) for cost in costs)


@pytest.mark.filterwarnings("ignore:warning. .. DEPRECATED:DeprecationWarning")  # the SDK's own, at its own fields
def test_what_a_key_used_is_the_sum_of_its_answers(scripted_server: str) -> None:
    with OpenRouter(api_key="sk-or-local", server_url=scripted_server + "/api/v1", retry_config=None) as client:
        before = client.api_keys.get_current_key_metadata().data.usage
        answer = client.chat.send(model=MODEL, messages=MESSAGES)
        record = found_generation(client, answer.id)
        key = client.api_keys.get_current_key_metadata().data
        assert answer.usage is not None
        assert (record.id, record.model, record.finish_reason) == (answer.id, DATED, "stop")
        assert record.total_cost == answer.usage.cost
        assert (record.native_tokens_prompt, record.tokens_completion) == (
            answer.usage.prompt_tokens,
            answer.usage.completion_tokens,
        )
        assert key.usage - before == pytest.approx(record.total_cost)
        assert key.usage_daily <= key.usage_monthly <= key.usage
        assert client.credits.get_credits().data.total_usage == pytest.approx(key.usage)
        with pytest.raises(errors.NotFoundResponseError, match="not found"):
            client.generations.get_generation(id="gen-1-0000000000000000000000")


def found_generation(client: OpenRouter, name: str) -> Any:  # Any: the SDK's record
    """The record is written by another thread, so that it may be asked for too early."""
    for _ in range(500):
        with contextlib.suppress(errors.NotFoundResponseError):
            return client.generations.get_generation(id=name).data
    raise AssertionError(name)


@pytest.mark.filterwarnings("ignore:warning. .. DEPRECATED:DeprecationWarning")  # the SDK's own, at its own fields
def test_what_a_budget_leaves_is_read_by_the_sdk(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    keys = KeyStore(database, random_hex=secrets.token_hex, now=lambda: datetime.now(UTC))
    grant = Grant(budgets=Budgets(usd_per_day=Decimal("0.5")), limits=RateLimits(requests_per_minute=1))
    made = keys.create(TenantId("acme"), grant=grant)
    settings = Settings(waiting=WaitLimits(wait_s=0))
    with (
        live_server(settings=settings, lookups=(keys,), database=database) as live,
        OpenRouter(api_key=made.secret, server_url=live.address + "/api/v1", retry_config=None) as client,
    ):
        client.chat.send(model=MODEL, messages=MESSAGES)
        key = client.api_keys.get_current_key_metadata().data
        assert key.limit == 0.5
        assert key.limit_reset == "daily"
        assert key.effective_budget is not None
        assert key.effective_budget.spend_usd == pytest.approx(key.usage)
        credits_ = client.credits.get_credits().data
        assert credits_.total_credits - credits_.total_usage == pytest.approx(0.5 - key.usage)
        with pytest.raises(errors.TooManyRequestsResponseError, match="1 requests a minute"):
            client.chat.send(model=MODEL, messages=MESSAGES)
        keys.change(made.id, name="", grant=Grant(budgets=Budgets(usd_per_day=Decimal(0))), expires_at=None)
    with (
        live_server(settings=settings, lookups=(keys,), database=database) as live,
        OpenRouter(api_key=made.secret, server_url=live.address + "/api/v1", retry_config=None) as client,
        pytest.raises(errors.PaymentRequiredResponseError, match="Insufficient Balance"),
    ):
        client.chat.send(model=MODEL, messages=MESSAGES)
    database.dispose()

"""Who could answer, who was asked and who did, for clients that ask for it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from deepserve.catalog.listings import load_listings
from deepserve.catalog.models import load_models
from deepserve.catalog.price_table import load_prices
from deepserve.config import Limits
from deepserve.core.answer import Collector
from deepserve.core.errors import BackendFailure, DeepserveError, error_classes
from deepserve.core.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    FailedAttempt,
    Finished,
    Started,
    TextBlock,
    UsageReported,
)
from deepserve.core.provider import Endpoint, ServedBy
from deepserve.core.request import RequestId
from deepserve.core.tenant import LOCAL_TENANT, Tenant, TenantId
from deepserve.core.usage import Usage
from deepserve.dialects.chat.openrouter.exchange import openrouter_decoder
from deepserve.dialects.exchange import Arrival, Caller, Exchange
from deepserve.dialects.openrouter.errors import OpenRouterErrors
from deepserve.dialects.openrouter.metadata import failed_routing, wants_metadata
from deepserve.dialects.openrouter.routing import Directory
from deepserve.dialects.openrouter.slugs import Slugs
from deepserve.dialects.vendor_errors import form_of
from tests.backends.fleet.setup import FLASH, PRO
from tests.dialects.chat.openrouter.setup import AT, HEAD

ASKS = {"x-openrouter-metadata": "Enabled"}
ACME = Tenant(id=TenantId("acme"), name="Acme")


def _attempt(provider: str, code: str, model: str = "deepseek-v4-pro") -> FailedAttempt:
    return FailedAttempt(provider=provider, model=model, code=code, began_at=AT, ended_at=AT + timedelta(seconds=1))


def _error(tenant: Tenant = LOCAL_TENANT, **headers: str) -> Any:  # Any: JSON
    error = BackendFailure("down")
    error.earlier = (_attempt("one", "overloaded"), _attempt("two", "backend_failure"))
    caller = Caller(tenant=tenant, headers={name.replace("_", "-"): value for name, value in headers.items()})
    return json.loads(OpenRouterErrors().encode(error, request_id="x", caller=caller))


@pytest.mark.parametrize(
    ("headers", "is_wanted"),
    [
        (ASKS, True),
        ({"x-openrouter-experimental-metadata": "enabled"}, True),
        ({"x-openrouter-metadata": "disabled"}, False),
        ({"x-openrouter-metadata": "yes"}, False),
        ({}, False),
    ],
)
def test_it_is_told_to_those_who_ask(headers: dict[str, str], is_wanted: bool) -> None:
    assert wants_metadata(headers) is is_wanted


def test_an_error_says_whose_request_it_was_once_a_key_has() -> None:
    assert "user_id" not in _error()
    named = _error(ACME)["user_id"]
    assert named.startswith("user_")
    assert "acme" not in named
    assert named == _error(ACME)["user_id"] != _error(Tenant(id=TenantId("other")))["user_id"]
    assert list(_error(ACME)) == ["error", "user_id"]


def test_an_error_lists_who_was_asked_and_what_they_said() -> None:
    body = _error(x_openrouter_metadata="enabled")
    told = body["openrouter_metadata"]
    assert told["attempts"] == [
        {"provider": "one", "model": "deepseek-v4-pro", "status": 503},
        {"provider": "two", "model": "deepseek-v4-pro", "status": 502},
    ]
    assert (told["requested"], told["strategy"], told["attempt"]) == ("deepseek-v4-pro", "direct", 2)
    assert told["endpoints"]["total"] == 2
    assert not any(end["selected"] for end in told["endpoints"]["available"])
    assert "openrouter_metadata" not in _error()


def _asked(**fields: Any) -> Exchange:  # Any: JSON
    ends = {PRO: (_end("one"), _end("two")), FLASH: (_end("one"),)}
    directory = Directory(
        slugs=Slugs(load_listings().openrouter, load_models()),
        default_model=lambda: PRO,
        prices=load_prices(),
        keeps_prompts=False,
        endpoints=ends.get,
    )
    body = {
        "model": "deepseek/deepseek-v4-pro",
        "models": ["deepseek/deepseek-v4-flash"],
        "messages": [{"role": "user", "content": "hi"}],
        **fields,
    }
    arrival = Arrival(id=RequestId("0" * 32), at=AT, tenant=ACME, headers=ASKS)
    return openrouter_decoder(directory=directory, limits=Limits())(json.dumps(body).encode(), arrival)


def _end(name: str) -> Endpoint:
    return Endpoint(
        provider=name,
        kind=name,
        names=(name,),
        is_own=False,
        region=None,
        collects_data=True,
        context_tokens=1000,
        max_output_tokens=1000,
    )


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_answer_says_who_was_asked_before_it_and_who_could_have_been(is_stream: bool) -> None:
    served_by = ServedBy(provider="one", model="m", fingerprint="")
    started = Started(
        served_by=served_by,
        model=FLASH,
        earlier=(_attempt("one", "overloaded"), _attempt("two", "backend_failure")),
    )
    events: list[Event] = [
        started,
        BlockOpened(index=0, block=TextBlock()),
        BlockDelta(index=0, text="hello"),
        BlockClosed(index=0),
        UsageReported(usage=Usage(miss_tokens=1, answer_tokens=1)),
        Finished(reason="stop"),
    ]
    exchange = _asked(stream=is_stream)
    if is_stream:
        writer = exchange.open_stream(HEAD)
        raw = b"".join(writer.encode(event) for event in events) + writer.finish()
        frames = [json.loads(line[6:]) for line in raw.decode().split("\n\n") if line.startswith("data: {")]
        assert ["openrouter_metadata" in frame for frame in frames] == [False] * (len(frames) - 1) + [True]
        told = frames[-1]["openrouter_metadata"]
    else:
        collector = Collector()
        for event in events:
            collector.add(event)
        told = json.loads(exchange.encode_answer(collector.answer(), HEAD))["openrouter_metadata"]
    pro, flash = "deepseek/deepseek-v4-pro-20260423", "deepseek/deepseek-v4-flash-20260423"
    assert (told["requested"], told["strategy"], told["attempt"]) == (pro, "fallback", 3)
    assert [(one["provider"], one["model"], one["status"]) for one in told["attempts"]] == [
        ("one", pro, 503),
        ("two", pro, 502),
        ("one", flash, 200),
    ]
    assert [(one["provider"], one["model"], one["selected"]) for one in told["endpoints"]["available"]] == [
        ("one", pro, False),
        ("two", pro, False),
        ("one", flash, True),
    ]
    assert "user_id" in json.loads(exchange.encode_error(BackendFailure("late")))


def test_where_nobody_was_asked_there_is_nothing_to_tell() -> None:
    assert failed_routing(()) is None


def test_an_attempt_has_the_status_that_its_error_would_have_had() -> None:
    for cls in error_classes():
        told = failed_routing((_attempt("one", cls.code),))
        assert told is not None
        bare = cls.__new__(cls)
        assert isinstance(bare, DeepserveError)
        assert told.attempts[0].status == form_of(bare).status

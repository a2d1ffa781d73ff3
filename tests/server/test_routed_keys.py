"""Keys with scopes and limits where the server chooses the model, asks twice, or asks a judge first."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from deepserve.backends.script import Reply, Rule, Script, When
from deepserve.backends.scripted import ScriptedBackend
from deepserve.catalog.presets import AUTO
from deepserve.catalog.price_table import load_prices
from deepserve.core.tenant import Budgets, Grant, RateLimits, TenantId
from deepserve.routing.difficulty import ModelEstimator
from deepserve.routing.router import Router
from deepserve.store.database import Database, open_database
from deepserve.store.keys import KeyStore, NewKey
from deepserve.store.spending import read_spending
from tests.server.live import PATIENCE_S, LiveServer, live_server

FLASH, PRO = "deepseek-v4-flash", "deepseek-v4-pro"
SCRIPT = Script(
    rules=(
        Rule(when=When(model=PRO), reply=Reply(text="from Pro")),
        Rule(when=When(model=FLASH), reply=Reply(text="from Flash")),
    )
)


class Asking:
    def __init__(self, live: LiveServer, database: Database) -> None:
        self._live = live
        self.database = database
        self._keys = _store(database)

    def key(self, **members: Any) -> NewKey:  # Any: members of a grant
        return self._keys.create(TenantId("acme"), grant=Grant(**members))

    def __call__(self, key: NewKey, **headers: str) -> httpx.Response:
        body = {"model": AUTO, "messages": [{"role": "user", "content": "What is this?"}], "max_tokens": 500}
        named = {f"x-deepserve-{name.replace('_', '-')}": value for name, value in headers.items()}
        named["authorization"] = f"Bearer {key.secret}"
        return httpx.post(self._live.address + "/chat/completions", json=body, headers=named, timeout=PATIENCE_S)


def _store(database: Database) -> KeyStore:
    return KeyStore(database, random_hex=secrets.token_hex, now=lambda: datetime.now(UTC))


@pytest.fixture(params=["signs", "judge"])
def ask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Asking]:
    """Difficulty is found by signs, or by asking a model first."""
    database = open_database(tmp_path)
    estimator = ModelEstimator() if request.param == "judge" else None
    router = Router(load_prices(), estimator=estimator)
    with live_server(ScriptedBackend(SCRIPT), lookups=(_store(database),), router=router, database=database) as live:
        yield Asking(live, database)
    database.dispose()


def test_a_choice_keeps_to_the_models_of_the_key(ask: Asking) -> None:
    for models, text in (((AUTO,), "from Pro"), ((AUTO, PRO, FLASH), "from Pro"), ((AUTO, FLASH), "from Flash")):
        answer = ask(ask.key(models=frozenset(models)), difficulty="hard")
        assert answer.json()["choices"][0]["message"]["content"] == text
    assert ask(ask.key(models=frozenset((FLASH,))), difficulty="hard").status_code == 403
    asked = ask(ask.key(models=frozenset((AUTO, FLASH))), model=PRO)
    assert asked.status_code == 400
    assert f"choose from: {FLASH}" in asked.text


def test_a_request_that_needs_several_answers_takes_one_place(ask: Asking) -> None:
    """A judge, or a second attempt, would otherwise wait for the very request that waits for it."""
    key = ask.key(limits=RateLimits(max_concurrent=1, requests_per_minute=2))
    answer = ask(key, test="^from Pro$")
    assert answer.json()["choices"][0]["message"]["content"] == "from Pro"
    assert answer.headers["x-ratelimit-remaining-requests"] == "1"
    assert ask(key).headers["x-ratelimit-remaining-requests"] == "0"
    spending = read_spending(ask.database, [key.id], now=datetime.now(UTC))[key.id]
    assert spending.num_attempts >= 3
    assert spending.reserved_month_usd == 0


@pytest.mark.parametrize("ask", ["signs"], indirect=True)
def test_the_first_answer_is_given_where_there_is_no_money_for_the_second(ask: Asking) -> None:
    free = ask.key(budgets=Budgets(usd_per_day=Decimal(1)))
    assert "from Pro" in ask(free, test="^from Pro$").text
    # Enough for an answer at Pro's price, as is reserved before anybody has chosen; not for what Flash took on top.
    price = load_prices().price_at(PRO, datetime.now(UTC))
    assert price is not None
    tight = ask.key(budgets=Budgets(usd_per_day=_cost_of_longest(ask, price.miss, price.output)))
    answer = ask(tight, test="^from Pro$")
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "from Flash"
    assert "budget_exhausted" in answer.headers["x-deepserve-route"]


def _cost_of_longest(ask: Asking, miss: Decimal, output: Decimal) -> Decimal:
    """Of the request at these prices, with all the output that it may have."""
    prompt_tokens: int = ask(ask.key()).json()["usage"]["prompt_tokens"]
    return (prompt_tokens * miss + 500 * output) / 1_000_000

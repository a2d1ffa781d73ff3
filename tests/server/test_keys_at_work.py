"""Keys with scopes, budgets and limits, as clients of every dialect meet them over HTTP."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import select

from deepserve.catalog.price_table import load_prices
from deepserve.config import Settings, WaitLimits
from deepserve.core.tenant import Budgets, Grant, KeyId, RateLimits, Tenant, TenantId
from deepserve.server import known_keys
from deepserve.store.database import Database, open_database
from deepserve.store.keys import KeyStore, NewKey
from deepserve.store.spending import read_spending
from deepserve.store.tables import ledger, reservations
from tests.server.live import PATIENCE_S, Gate, LiveServer, live_server, request_bytes, scripted
from tests.server.runware.setup import Client

Json = Any
"""Bodies as clients write and read them."""

FLASH = "deepseek-v4-flash"
HELLO = [{"role": "user", "content": "hello"}]
_TENANT = TenantId("acme")


def _task() -> Json:
    return [{"taskType": "textInference", "taskUUID": str(uuid4()), "model": "deepseek:v4@flash", "messages": HELLO}]


_CHAT = {"model": FLASH, "messages": HELLO}

ADDRESSES: dict[str, tuple[str, Json]] = {
    "chat": ("/chat/completions", _CHAT),
    "messages": ("/anthropic/v1/messages", {**_CHAT, "max_tokens": 100}),
    "responses": ("/v1/responses", {"model": FLASH, "input": "hello"}),
    "completions": ("/beta/completions", {"model": FLASH, "prompt": "hello"}),
    "openrouter": ("/api/v1/chat/completions", {"model": "deepseek/deepseek-v4-flash", "messages": HELLO}),
    "oxen": ("/api/ai/chat/completions", _CHAT),
    "runware": ("/v1", None),
}
"""One of each dialect."""


class Site:
    """A server with keys, which may be changed while it runs."""

    def __init__(self, live: LiveServer, database: Database) -> None:
        self.live = live
        self.database = database
        self.keys = KeyStore(database, random_hex=secrets.token_hex, now=lambda: datetime.now(UTC))

    def key(self, **members: Any) -> NewKey:  # Any: members of a grant
        return self.keys.create(_TENANT, grant=Grant(**members))

    def ask(self, key: NewKey, dialect: str = "chat", *, path: str | None = None, **changes: Json) -> httpx.Response:
        address, body = ADDRESSES[dialect]
        body = _task() if body is None else {**body, **changes}
        headers = {"authorization": f"Bearer {key.secret}"}
        return httpx.post(self.live.address + (path or address), json=body, headers=headers, timeout=PATIENCE_S)

    def get(self, path: str, key: NewKey | None = None) -> httpx.Response:
        headers = {} if key is None else {"authorization": f"Bearer {key.secret}"}
        return httpx.get(self.live.address + path, headers=headers, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    database = open_database(tmp_path_factory.mktemp("keys"))
    keys = KeyStore(database, random_hex=secrets.token_hex, now=lambda: datetime.now(UTC))
    with live_server(
        scripted(text="word " * 9_000), Settings(waiting=WaitLimits(wait_s=0)), lookups=(keys,), database=database
    ) as live:
        yield Site(live, database)
    database.dispose()


def _price_of_words(number: int) -> Decimal:
    """Of output, which the scripted back end counts in words."""
    price = load_prices().price_at(FLASH, datetime.now(UTC))
    assert price is not None
    return price.output * number / 1_000_000


def _kind(dialect: str, answer: httpx.Response) -> str:
    """What clients of the dialect tell errors apart by."""
    body = answer.json()
    match dialect:
        case "runware":
            return str(body["errors"][0]["code"])
        case "openrouter":
            assert body["error"]["code"] == answer.status_code
            return str(body["error"]["metadata"]["error_type"])
        case "responses":
            return str(body["error"]["code"])
        case _:
            return str(body["error"]["type"])


@pytest.mark.parametrize(
    ("dialect", "kind"),
    [
        ("chat", "permission_error"),
        ("messages", "permission_error"),
        ("responses", "permission_denied"),
        ("completions", "permission_error"),
        ("openrouter", "permission_denied"),
        ("oxen", "unauthorized"),
        ("runware", "insufficientPermissions"),
    ],
)
def test_a_key_is_refused_what_it_is_not_for_in_every_dialects_own_shape(site: Site, dialect: str, kind: str) -> None:
    other_model = site.ask(site.key(models=frozenset(("deepseek-v4-pro",))), dialect)
    assert (other_model.status_code, _kind(dialect, other_model)) == (403, kind)
    assert "It may use: deepseek-v4-pro." in other_model.text
    other_dialect = site.ask(site.key(dialects=frozenset(ADDRESSES) - {dialect}), dialect)
    assert (other_dialect.status_code, _kind(dialect, other_dialect)) == (403, kind)
    assert f"the API `{dialect}`" in other_dialect.text
    assert site.ask(site.key(dialects=frozenset((dialect,)), models=frozenset((FLASH,))), dialect).status_code == 200


@pytest.mark.parametrize(
    ("dialect", "kind"),
    [
        ("chat", "unknown_error"),
        ("messages", "billing_error"),
        ("responses", "insufficient_quota"),
        ("completions", "unknown_error"),
        ("openrouter", "payment_required"),
        ("oxen", "insufficient_credits"),
        ("runware", "insufficientCredits"),
    ],
)
def test_a_spent_budget_is_told_in_every_dialects_own_shape(site: Site, dialect: str, kind: str) -> None:
    answer = site.ask(site.key(budgets=Budgets(usd_per_day=Decimal("0.000001"))), dialect)
    assert (answer.status_code, _kind(dialect, answer)) == (402, kind)
    assert "Insufficient Balance: this key may spend $0.000001 a day" in answer.text
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize(
    ("dialect", "kind", "limit"),
    [
        ("chat", "rate_limit_reached_error", "x-ratelimit-limit-requests"),
        ("messages", "rate_limit_error", "anthropic-ratelimit-requests-limit"),
        ("responses", "rate_limit_exceeded", "x-ratelimit-limit-requests"),
        ("completions", "rate_limit_reached_error", "x-ratelimit-limit-requests"),
        ("openrouter", "rate_limit_exceeded", None),
        ("oxen", "rate_limited", "x-ratelimit-limit-requests"),
        ("runware", "rateLimitExceeded", None),
    ],
)
def test_a_rate_is_told_with_the_answer_and_its_end_with_a_time(
    site: Site, dialect: str, kind: str, limit: str | None
) -> None:
    key = site.key(limits=RateLimits(requests_per_minute=1))
    first, second = site.ask(key, dialect), site.ask(key, dialect)
    assert first.status_code == 200
    assert (second.status_code, _kind(dialect, second)) == (429, kind)
    assert 1 <= int(second.headers["retry-after"]) <= 60
    if limit is not None:
        remaining = limit.replace("-limit-requests", "-remaining-requests").replace(
            "-requests-limit", "-requests-remaining"
        )
        assert first.headers[limit] == second.headers[limit] == "1"
        assert first.headers[remaining] == second.headers[remaining] == "0"
    if dialect == "openrouter":
        assert second.headers["x-ratelimit-limit"] == "1"
        assert "x-ratelimit-limit" not in first.headers


def test_answers_of_keys_without_limits_say_nothing_of_any(site: Site) -> None:
    answer = site.ask(site.key())
    assert answer.status_code == 200
    assert not [name for name in answer.headers if "ratelimit" in name]


@pytest.mark.parametrize(
    ("dialect", "end"),
    [
        ("chat", '"type":"unknown_error"'),
        ("messages", '"type":"billing_error"'),
        ("responses", '"code":"insufficient_quota"'),
        ("completions", '"type":"unknown_error"'),
        ("openrouter", '"error_type":"payment_required"'),
        ("oxen", '"type":"insufficient_credits"'),
    ],
)
def test_a_budget_that_ends_in_mid_stream_ends_the_stream_with_its_error(site: Site, dialect: str, end: str) -> None:
    """Of 9,000 words 5,000 are paid for."""
    budget = _price_of_words(5_000)
    key = site.key(budgets=Budgets(usd_per_day=budget))
    more: Json = {"max_tokens": 100_000} if dialect in ("messages", "completions") else {}
    answer = site.ask(key, dialect, stream=True, **more)
    assert answer.status_code == 200
    num_told = 5 if dialect == "responses" else 1  # so often that dialect's events repeat a text
    assert 4_000 < answer.text.count("word") / num_told < 5_100
    assert end in answer.text.replace('": "', '":"')
    assert "Insufficient Balance" in answer.text
    spending = read_spending(site.database, [key.id], now=datetime.now(UTC))[key.id]
    assert budget / 2 < spending.total_usd <= budget
    with site.database.connect() as connection:
        rows = connection.execute(select(ledger.c.outcome).where(ledger.c.key_id == key.id)).scalars().all()
        assert rows == ["budget_exhausted"]
        assert connection.execute(select(reservations).where(reservations.c.key_id == key.id)).all() == []


def test_what_is_spent_is_the_sum_of_what_clients_were_told(site: Site) -> None:
    key = site.key(budgets=Budgets(usd_per_month=Decimal(1)), limits=RateLimits(max_concurrent=2))
    told = sum(Decimal(str(site.ask(key, "openrouter").json()["usage"]["cost"])) for _ in range(3))
    spending = read_spending(site.database, [key.id], now=datetime.now(UTC))[key.id]
    assert told == spending.month_usd > 0
    assert spending.num_attempts == 3


# What is shown


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/models", "data.id"),
        ("/anthropic/v1/models", "data.id"),
        ("/api/v1/models", "data.id"),
        ("/api/ai/models", "data.id"),
        ("/api/evaluations/models", "models.name"),
    ],
)
def test_lists_show_the_models_that_the_key_may_use(site: Site, path: str, names: str) -> None:
    members, name = names.split(".")

    def shown(key: NewKey) -> str:
        answer = site.get(path, key)
        assert answer.status_code == 200
        return " ".join(str(item[name]) for item in answer.json()[members])

    assert "pro" in shown(site.key())
    only_flash = shown(site.key(models=frozenset((FLASH,))))
    assert "flash" in only_flash
    assert "pro" not in only_flash


def test_single_models_are_found_only_by_keys_that_may_use_them(site: Site) -> None:
    key = site.key(models=frozenset((FLASH,)))
    for path in ("/models/deepseek-v4-pro", "/anthropic/v1/models/deepseek-v4-pro", "/api/ai/models/deepseek-v4-pro"):
        assert site.get(path, key).status_code == 404
        assert site.get(path, site.key()).status_code == 200
    listed = site.ask(key, "runware").json()
    assert "data" in listed


def test_runwares_search_finds_the_models_that_the_key_may_use(site: Site) -> None:
    task = [{"taskType": "modelSearch", "taskUUID": str(uuid4())}]
    key = site.key(models=frozenset((FLASH,)))
    headers = {"authorization": f"Bearer {key.secret}"}
    found = httpx.post(site.live.address + "/v1", json=task, headers=headers).json()["data"][0]["results"]
    assert found
    assert all("flash" in one["air"] for one in found)


def test_what_concerns_everybody_is_for_administrators(site: Site) -> None:
    assert site.get("/metrics", site.key()).status_code == 403
    assert "deepserve keys set" in site.get("/metrics", site.key()).text
    answer = site.get("/metrics", site.key(is_admin=True))
    assert answer.status_code == 200
    assert "deepserve_" in answer.text


def test_tools_that_a_client_calls_itself_are_scoped_like_others(site: Site) -> None:
    body = {"query": {"q": "x"}}
    headers = {"authorization": f"Bearer {site.key(tools=frozenset()).secret}"}
    answer = httpx.post(site.live.address + "/v1/tools/search", json=body, headers=headers)
    assert answer.status_code == 403
    assert "the server's tool `web_search`" in answer.text


def test_a_tool_that_the_key_is_not_for_is_refused(site: Site) -> None:
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    answer = site.ask(site.key(tools=frozenset()), "messages", tools=tools)
    assert answer.status_code == 403
    assert "the server's tool `web_search`" in answer.text


# Accounts


def test_the_balance_is_what_the_tightest_budget_leaves(site: Site) -> None:
    assert site.get("/user/balance", site.key()).json() == {"is_available": True, "balance_infos": []}
    rich = site.key(budgets=Budgets(usd_per_day=Decimal("12.349"), usd_per_month=Decimal(100)))
    assert site.get("/user/balance", rich).json() == {
        "is_available": True,
        "balance_infos": [
            {"currency": "USD", "total_balance": "12.34", "granted_balance": "12.34", "topped_up_balance": "0.00"}
        ],
    }
    poor = site.get("/v1/user/balance", site.key(budgets=Budgets(usd_per_day=Decimal(0)))).json()
    assert poor["is_available"] is False
    assert poor["balance_infos"][0]["total_balance"] == "0.00"


def test_openrouters_key_tells_its_budgets_and_what_they_leave(site: Site) -> None:
    key = site.key(
        budgets=Budgets(usd_per_day=Decimal(2), usd_per_month=Decimal(1)), limits=RateLimits(requests_per_minute=7)
    )
    cost = Decimal(str(site.ask(key, "openrouter").json()["usage"]["cost"]))
    told = json.loads(site.get("/api/v1/key", key).text, parse_float=Decimal)["data"]
    assert [told[name] for name in ("limit", "limit_reset", "usage", "usage_daily")] == [1, "monthly", cost, cost]
    assert told["limit_remaining"] == 1 - cost
    assert told["rate_limit"]["requests"] == 7
    assert told["effective_budget"] == told["budgets"][1]
    assert [one["reset_interval"] for one in told["budgets"]] == ["daily", "monthly"]
    account = json.loads(site.get("/api/v1/credits", key).text, parse_float=Decimal)["data"]
    assert account["total_credits"] - account["total_usage"] == 1 - cost
    free = site.get("/api/v1/key", site.key()).json()["data"]
    assert [free[name] for name in ("limit", "limit_remaining", "budgets", "usage")] == [None, None, [], 0]


def test_runwares_account_tells_its_keys_and_what_it_has_used(site: Site) -> None:
    key = site.key(budgets=Budgets(usd_per_day=Decimal(3)))
    task = [{"taskType": "accountManagement", "taskUUID": str(uuid4()), "operation": "getDetails"}]
    headers = {"authorization": f"Bearer {key.secret}"}
    told = httpx.post(site.live.address + "/v1", json=task, headers=headers).json()["data"][0]
    assert told["balance"] == {"amount": 3, "freeBalance": 0, "currency": "USD"}
    assert key.secret[:12] + "..." in [one["apiKey"] for one in told["apiKeys"]]
    assert key.secret not in json.dumps(told)
    assert told["usage"]["today"] == told["usage"]["total"]
    refused = httpx.post(site.live.address + "/v1", json=[{**task[0], "operation": "x"}], headers=headers)
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["parameter"] == "operation"


# Beside answers


def test_tokens_are_counted_for_those_alone_who_may_ask(site: Site) -> None:
    path, key = "/anthropic/v1/messages/count_tokens", site.key(models=frozenset(("deepseek-v4-pro",)))
    assert site.ask(key, "messages", path=path).status_code == 403
    assert site.ask(key, "messages", path=path, model="deepseek-v4-pro").status_code == 200


def test_counts_go_by_the_rate_of_the_key(site: Site) -> None:
    for dialect, path in (
        ("messages", "/anthropic/v1/messages/count_tokens"),
        ("responses", "/v1/responses/input_tokens"),
    ):
        key = site.key(limits=RateLimits(max_concurrent=1, requests_per_minute=1))
        assert site.ask(key, dialect, path=path).status_code == 200
        refused = site.ask(key, dialect, path=path)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 50
        assert site.ask(key, dialect).status_code == 429


def test_a_repetition_is_for_those_alone_who_may_ask(site: Site) -> None:
    """Answers are kept for the tenant, of which another key may have asked first."""
    may, may_not = site.key(), site.key(models=frozenset(("deepseek-v4-pro",)))

    def ask(key: NewKey) -> httpx.Response:
        headers = {"authorization": f"Bearer {key.secret}", "idempotency-key": "the same"}
        return httpx.post(f"{site.live.address}/v1/chat/completions", json=_CHAT, headers=headers, timeout=PATIENCE_S)

    assert ask(may).status_code == 200
    assert ask(may).headers["idempotent-replayed"] == "true"
    refused = ask(may_not)
    assert (refused.status_code, _kind("chat", refused)) == (403, "permission_error")


def test_work_for_later_is_refused_when_it_is_handed_in(site: Site) -> None:
    key = site.key(models=frozenset(("deepseek-v4-pro",)))
    assert site.ask(key, "responses", background=True).status_code == 403
    task = {**_task()[0], "deliveryMethod": "async"}
    headers = {"authorization": f"Bearer {key.secret}"}
    assert httpx.post(site.live.address + "/v1", json=[task], headers=headers).status_code == 403


def test_a_connection_that_is_open_does_not_outlive_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose it is was asked once, at the beginning of a connection that may last for days."""
    monkeypatch.setattr(known_keys, "_FRESH_S", 0.0)
    tenants = {"one": Tenant(id=_TENANT, key=KeyId("key-1"), grant=Grant())}

    class Keys:
        def find(self, key: str) -> Tenant | None:
            return tenants.get(key)

    with live_server(lookups=(Keys(),)) as live, contextlib.closing(Client(live)) as client:
        client.log_in("one")
        assert "data" in client.ask(_task()[0])
        del tenants["one"]
        (error,) = client.ask(_task()[0])["errors"]
        assert error["code"] == "invalidApiKey"


def test_a_client_that_leaves_frees_its_place_and_pays_for_what_was_said(tmp_path: Path) -> None:
    database, gate = open_database(tmp_path), Gate()
    keys = KeyStore(database, random_hex=secrets.token_hex, now=lambda: datetime.now(UTC))
    backend = scripted(text="one two three four", delay_s=1.0, gate=gate)
    grant = Grant(limits=RateLimits(max_concurrent=1), budgets=Budgets(usd_per_day=Decimal(1)))
    key = keys.create(_TENANT, grant=grant)
    with live_server(backend, Settings(waiting=WaitLimits(wait_s=0)), lookups=(keys,), database=database) as live:
        site = Site(live, database)
        body = json.dumps({**_CHAT, "stream": True}).encode()
        with live.connect() as client:
            client.sendall(request_bytes(body, headers=f"authorization: Bearer {key.secret}\r\n"))
            assert gate.is_reached.wait(PATIENCE_S)
            assert site.ask(key).status_code == 429
            client.shutdown(socket.SHUT_RDWR)
        assert gate.was_cancelled.wait(PATIENCE_S)
        gate.open()
        deadline = time.monotonic() + PATIENCE_S
        while (answer := site.ask(key)).status_code == 429:
            assert time.monotonic() < deadline
        assert answer.status_code == 200
        spending = read_spending(database, [key.id], now=datetime.now(UTC))[key.id]
        assert spending.num_attempts == 2
        with database.connect() as connection:
            assert "client_left" in connection.execute(select(ledger.c.outcome)).scalars().all()
    database.dispose()

"""The choice of the model, as clients of every dialect meet it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from deepserve.backends.script import Reply, Rule, Script, When
from deepserve.backends.scripted import ScriptedBackend
from deepserve.catalog.presets import AUTO, load_presets
from deepserve.catalog.price_table import load_prices
from deepserve.config import Settings
from deepserve.core.request import RequestId
from deepserve.core.tenant import LOCAL_TENANT
from deepserve.routing.difficulty import ModelEstimator
from deepserve.routing.router import Router
from deepserve.store.database import open_database
from deepserve.store.ledger_record import LedgerRecord
from tests.server.live import Gate, LiveServer, live_server

FLASH, PRO = "deepseek-v4-flash", "deepseek-v4-pro"
TURN = [{"role": "user", "content": "What is this?"}]
BY_MODEL = Script(
    rules=(
        Rule(when=When(model=PRO, is_thinking=True), reply=Reply(reasoning="hm", text="Pro, thinking")),
        Rule(when=When(model=PRO), reply=Reply(text="Pro")),
        Rule(when=When(model=FLASH, is_thinking=True), reply=Reply(reasoning="hm", text="Flash, thinking")),
        Rule(when=When(model=FLASH), reply=Reply(text="Flash")),
    )
)


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server(ScriptedBackend(BY_MODEL), router=Router(load_prices())) as running:
        yield running


def chat(server: LiveServer, model: str = AUTO, headers: Mapping[str, str] = {}, **fields: object) -> httpx.Response:
    body = {"model": model, "messages": TURN, **fields}
    return httpx.post(f"{server.address}/v1/chat/completions", json=body, headers=headers)


def text_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    text = response.json()["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


def test_an_answer_says_which_rule_chose_what(server: LiveServer) -> None:
    response = chat(server)
    assert text_of(response) == "Flash"
    assert response.json()["model"] == AUTO
    assert response.headers["x-deepserve-route"] == (
        f"model={FLASH}; thinking=off; rule=usual; preset={AUTO}; why=no rule before it decided"
    )


def test_an_answer_whose_model_the_client_chose_has_no_route(server: LiveServer) -> None:
    response = chat(server, FLASH, {"x-deepserve-difficulty": "no such thing"})
    assert text_of(response) == "Flash, thinking"
    assert "x-deepserve-route" not in response.headers


@pytest.mark.parametrize(
    ("model", "headers", "text", "rule"),
    [
        (AUTO, {"x-deepserve-difficulty": "hard"}, "Pro, thinking", "hard"),
        (AUTO, {"x-deepserve-knowledge": "broad"}, "Pro, thinking", "knowledge"),
        (AUTO, {"x-deepserve-model": PRO}, "Pro, thinking", "asked-for"),
        (AUTO, {"x-deepserve-self-host": "1"}, "Flash", "single-server"),
        (AUTO, {"x-deepserve-residency": "eu"}, "Flash", "usual"),
        (AUTO, {"x-deepserve-max-cost-usd": "0.005", "x-deepserve-difficulty": "hard"}, "Flash, thinking", "hard"),
        ("auto:coding-agent", {"x-deepserve-difficulty": "hard"}, "Pro, thinking", "hard"),
        ("auto:support-triage", {"x-deepserve-difficulty": "hard"}, "Flash", "usual"),
        ("auto:long-document", {}, "Pro", "usual"),
        ("auto:reasoning", {}, "Pro, thinking", "usual"),
        ("auto:seed-router", {}, "Flash, thinking", "usual"),
    ],
)
def test_headers_and_presets_decide(
    server: LiveServer, model: str, headers: Mapping[str, str], text: str, rule: str
) -> None:
    response = chat(server, model, headers)
    assert text_of(response) == text
    assert f"rule={rule};" in response.headers["x-deepserve-route"]


def test_what_the_body_says_about_thinking_goes_before_the_lane(server: LiveServer) -> None:
    response = chat(server, "auto:reasoning", thinking={"type": "disabled"})
    assert text_of(response) == "Pro"
    assert "thinking=as asked" in response.headers["x-deepserve-route"]
    assert text_of(chat(server, "auto:code-review", reasoning_effort="low")) == "Flash, thinking"


def test_streams_say_it_too(server: LiveServer) -> None:
    response = chat(server, "auto:in-context-rag", stream=True)
    assert f"model={PRO}" in response.headers["x-deepserve-route"]
    lines = [line for line in response.text.splitlines() if line.startswith("data: {")]
    assert "".join(json.loads(line[6:])["choices"][0]["delta"].get("content") or "" for line in lines) == "Pro"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/anthropic/v1/messages", {"messages": TURN, "max_tokens": 100}),
        ("/v1/responses", {"input": "What is this?"}),
        ("/beta/completions", {"prompt": "def f"}),
    ],
)
def test_every_dialect_of_the_vendor_routes(server: LiveServer, path: str, body: dict[str, Any]) -> None:
    headers = {"x-deepserve-difficulty": "hard"}
    response = httpx.post(server.address + path, json={"model": AUTO, **body}, headers=headers)
    assert response.status_code == 200, response.text
    # Plain completions do not think, whatever the lane says.
    thinking, text = ("as asked", "Pro") if "completions" in path else ("high", "Pro, thinking")
    assert response.headers["x-deepserve-route"].startswith(f"model={PRO}; thinking={thinking}; rule=hard")
    assert f'"{text}"' in response.text
    refused = httpx.post(
        server.address + path, json={"model": AUTO, **body}, headers={"x-deepserve-difficulty": "extreme"}
    )
    assert refused.status_code == 400
    assert "x-deepserve-difficulty" in refused.text


def test_unknown_presets_and_wishes_that_nobody_meets_are_clear_errors(server: LiveServer) -> None:
    unknown = chat(server, "auto:magic")
    assert unknown.status_code == 400
    assert all(row.id in unknown.json()["error"]["message"] for row in load_presets().rows)
    dear = chat(server, headers={"x-deepserve-max-cost-usd": "0.0000001"})
    assert dear.status_code == 400
    assert "price-ceiling" in dear.json()["error"]["message"]
    foreign = chat(server, headers={"x-deepserve-model": "gpt-4"})
    assert foreign.status_code == 400
    assert "gpt-4" in foreign.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/models", "/anthropic/v1/models"])
def test_model_lists_show_the_presets_after_the_models(server: LiveServer, path: str) -> None:
    listed = [item["id"] for item in httpx.get(server.address + path).json()["data"]]
    assert listed == [PRO, FLASH, *(row.id for row in load_presets().rows)]
    one = httpx.get(f"{server.address}{path}/auto:coding-agent").json()
    assert one["id"] == "auto:coding-agent"
    assert "0.001 to 0.005 USD per request" in one["note"]


def test_strict_mode_lists_what_the_vendor_lists(server: LiveServer) -> None:
    listed = httpx.get(f"{server.address}/v1/models", headers={"x-deepserve-strict": "1"}).json()["data"]
    assert [item["id"] for item in listed] == [PRO, FLASH]


def test_dialects_whose_answers_carry_prices_know_no_presets(server: LiveServer) -> None:
    response = httpx.post(f"{server.address}/api/v1/chat/completions", json={"model": AUTO, "messages": TURN})
    assert response.status_code == 400
    assert AUTO in response.text


def test_tokens_are_counted_for_the_usual_lane(server: LiveServer) -> None:
    path = f"{server.address}/anthropic/v1/messages/count_tokens"
    counted = [httpx.post(path, json={"model": model, "messages": TURN}).json() for model in (AUTO, FLASH)]
    assert counted[0] == counted[1]


def test_one_key_with_two_wishes_is_two_requests(server: LiveServer) -> None:
    key = {"idempotency-key": "twice"}
    assert text_of(chat(server, headers=key)) == "Flash"
    assert text_of(chat(server, headers=key)) == "Flash"
    assert chat(server, headers={**key, "x-deepserve-difficulty": "hard"}).status_code >= 400


def test_a_held_answer_waits_behind_keep_alives_and_names_what_failed() -> None:
    gate = Gate()
    rules = (
        Rule(when=When(model=FLASH), reply=Reply(text="no json", delay_s=1.0)),
        Rule(when=When(model=PRO), reply=Reply(text='{"ok": true}')),
    )
    backend = ScriptedBackend(Script(rules=rules), sleep=gate.sleep)
    with live_server(backend, Settings(keep_alive_s=0.01), router=Router(load_prices())) as server:
        body = {
            "model": "auto:coding-agent",
            "messages": [{"role": "user", "content": "What is this? json"}],
            "response_format": {"type": "json_object"},
            "stream": True,
        }
        text = ""
        with httpx.stream("POST", f"{server.address}/v1/chat/completions", json=body, timeout=10) as response:
            for line in response.iter_lines():
                assert "no json" not in line
                if line.startswith(": "):
                    gate.open()
                elif line.startswith("data: {"):
                    text += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
    assert json.loads(text) == {"ok": True}


def test_an_escalated_answer_says_what_failed(server: LiveServer) -> None:
    response = chat(server, headers={"x-deepserve-test": "Pro"})
    assert text_of(response) == "Pro, thinking"
    assert "rule=escalated" in response.headers["x-deepserve-route"]
    assert "the text does not match x-deepserve-test" in response.headers["x-deepserve-route"]


def test_the_record_has_the_model_that_answered_and_the_rule(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    judge = Rule(when=When(model=FLASH, contains="this"), reply=Reply(text="hard"))
    backend = ScriptedBackend(Script(rules=(judge, *BY_MODEL.rules)))
    router = Router(load_prices(), estimator=ModelEstimator())
    with live_server(backend, Settings(), router=router, database=database) as server:
        response = chat(server)
    assert text_of(response) == "Pro, thinking"
    record = LedgerRecord(database)
    found = record.find(LOCAL_TENANT.id, RequestId(response.headers["x-request-id"]))
    assert found is not None
    assert (found.model, found.num_attempts) == (PRO, 2)
    assert found.route == response.headers["x-deepserve-route"]
    assert "deepseek-v4-flash judges it so" in found.route
    attempts = [(row.number, row.model, row.route, row.dialect) for row in record.rows()]
    assert attempts == [(1, FLASH, None, "chat"), (2, PRO, found.route, "chat")], (
        "the judge's answer is an attempt, too"
    )
    assert found.cost_pico_usd == sum(row.total_pico_usd for row in record.rows()) > 0

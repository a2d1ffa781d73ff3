"""A server whose database does not take rows, as clients of each dialect see it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from deepserve.config import LedgerLimits, Settings
from deepserve.store.database import open_database
from deepserve.store.ledger_record import LedgerRecord
from tests.server.live import PATIENCE_S, LiveServer, live_server

HI = [{"role": "user", "content": "hi"}]
TASK = {"taskType": "textInference", "taskUUID": "6f0c1f1e-52a9-4d6c-9f57-0d1c7a7c9b11", "model": "deepseek:v4@pro"}

QUESTIONS: dict[str, tuple[str, Any]] = {  # Any: JSON
    "chat": ("/chat/completions", {"model": "deepseek-v4-pro", "messages": HI}),
    "streamed": ("/chat/completions", {"model": "deepseek-v4-pro", "messages": HI, "stream": True}),
    "completions": ("/beta/completions", {"model": "deepseek-v4-pro", "prompt": "hi"}),
    "messages": ("/anthropic/v1/messages", {"model": "deepseek-v4-pro", "messages": HI, "max_tokens": 9}),
    "responses": ("/v1/responses", {"model": "deepseek-v4-pro", "input": "hi"}),
    "openrouter": ("/api/v1/chat/completions", {"model": "deepseek/deepseek-v4-pro", "messages": HI}),
    "oxen": ("/api/ai/chat/completions", {"model": "deepseek-v4-pro", "messages": HI}),
    "runware": ("/v1", [{**TASK, "messages": HI}]),
}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    other = sqlite3.connect(folder / "deepserve.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def live(folder: Path) -> Iterator[LiveServer]:
    settings = Settings(state_dir=folder, ledger=LedgerLimits(refuse_after_s=0.05, wait_s=0.1))
    with live_server(settings=settings, database=open_database(folder)) as server:
        yield server


@pytest.mark.parametrize("dialect", QUESTIONS)
def test_who_was_accepted_gets_an_answer_and_who_comes_then_a_clear_refusal(
    live: LiveServer, folder: Path, dialect: str
) -> None:
    path, body = QUESTIONS[dialect]
    with httpx.Client(base_url=live.address, timeout=PATIENCE_S) as client:
        with locked(folder):
            # The row of the first is in a file; once it has waited there for too long, nobody is let in.
            first = client.post("/chat/completions", json=QUESTIONS["chat"][1])
            while client.post("/chat/completions", json=QUESTIONS["chat"][1]).status_code == 200:
                pass
            refused = client.post(path, json=body)
        assert first.status_code == 200
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert "cannot be recorded" in refused.text
        while client.post("/chat/completions", json=QUESTIONS["chat"][1]).status_code == 503:
            pass
    record = LedgerRecord(open_database(folder))
    while not record.attempts(first.headers["request-id"]):
        pass
    assert all(row.outcome == "stop" for row in record.rows())


@pytest.mark.parametrize("given", [None, "mine-1"])
def test_the_id_of_an_answer_finds_its_row(live: LiveServer, folder: Path, given: str | None) -> None:
    """A client's own `x-request-id` comes back as it is; the row is known by ours, which `request-id` tells."""
    headers = {} if given is None else {"x-request-id": given}
    with httpx.Client(base_url=live.address, headers=headers, timeout=PATIENCE_S) as client:
        # A busy machine may be late with earlier rows, by the short times of this server.
        while (response := client.post("/chat/completions", json=QUESTIONS["chat"][1])).status_code == 503:
            pass
    assert response.status_code == 200
    own = response.headers["request-id"]
    assert response.headers["x-request-id"] == (given or own)
    record = LedgerRecord(open_database(folder))
    while not (rows := record.attempts(own)):
        pass
    [row] = rows
    assert row.model == "deepseek-v4-pro"


def test_an_answer_that_has_ended_can_be_looked_up_at_once(live: LiveServer) -> None:
    """Its row may still be in the journal: whoever asks brings it into the database first."""
    path, body = QUESTIONS["openrouter"]
    with httpx.Client(base_url=live.address, timeout=PATIENCE_S) as client:
        for _ in range(5):
            while (response := client.post(path, json=body)).status_code == 503:
                pass
            answer = response.json()
            found = client.get("/api/v1/generation", params={"id": answer["id"]})
            assert found.status_code == 200, found.text
            assert found.json()["data"]["tokens_completion"] == answer["usage"]["completion_tokens"]

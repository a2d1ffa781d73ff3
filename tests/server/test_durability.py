"""A real server that is killed at any moment: whatever answer had ended is in the ledger."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import httpx

from deepserve.store.database import open_database
from deepserve.store.ledger import Ledger
from deepserve.store.ledger_record import LedgerRecord
from tests.conftest import running_server

CALLERS = 8
LIVES = 2

QUESTION = {"model": "deepseek-v4-flash", "messages": [{"role": "user", "content": "hello"}]}


class Callers:
    """Clients that ask one thing after the other, and note the ids of answers that they have seen to their end."""

    def __init__(self, base: str) -> None:
        self.seen: list[str] = []
        self._base = base
        self._is_over = threading.Event()
        self._reached = threading.Condition()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, num_answers: int) -> None:
        with self._reached:
            assert self._reached.wait_for(lambda: len(self.seen) >= num_answers, timeout=60)

    def join(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        is_stream = number % 2 == 1
        with httpx.Client(base_url=self._base, timeout=10) as client:
            while not self._is_over.is_set():
                try:
                    answer = client.post("/v1/chat/completions", json={**QUESTION, "stream": is_stream})
                except httpx.TransportError:
                    return  # the server is dead
                end = "data: [DONE]" if is_stream else '"finish_reason":"stop"'
                if answer.status_code == 200 and end in answer.text:
                    with self._reached:
                        self.seen.append(answer.headers["x-request-id"])
                        self._reached.notify()


def test_no_row_of_an_answer_that_ended_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    chance = random.Random(1)
    seen: list[str] = []
    for _ in range(LIVES):
        with running_server("--backend", "scripted", state_dir=tmp_path, is_killed=True) as base:
            callers = Callers(base)
            # Somewhere in the middle of the answers that follow this one.
            callers.wait_for(chance.randrange(30, 150))
        callers.join()
        seen += callers.seen
    database = open_database(tmp_path)
    Ledger(database, state_dir=tmp_path).close()  # as the next server, it takes what the last one left
    rows = {row.request_id: row for row in LedgerRecord(database).rows()}
    assert not list(tmp_path.glob("ledger-*"))
    missing = [request_id for request_id in seen if request_id not in rows]
    assert missing == []
    assert len(seen) >= 30 * LIVES
    assert all(rows[request_id].outcome == "stop" and rows[request_id].total_pico_usd > 0 for request_id in seen)

"""The load whose answers are timed, and the upstream that stands behind the gateways."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from bench.gateway import body
from bench.http_load import LoadFailed
from bench.mock_upstream import NUM_EVENTS, Upstream
from bench.timed_load import measure_times, quantile, question
from typing_extensions import override

from tests.server.live import HELLO, live_server, scripted


def test_answers_events_and_ids_are_told_with_their_times() -> None:
    with live_server(scripted(text="one two three")) as live:
        asked = question(live.port, "/v1/chat/completions", json.dumps({**HELLO, "stream": True}).encode())
        load = measure_times(live.port, asked, connections=2, requests=4)
    assert load.num_answers == len(load.first_event_ms) == len(set(load.ids)) == 4
    # A role, three words, an end, and the terminator.
    assert load.num_events == 4 * 6
    assert load.answer_ms == sorted(load.answer_ms)
    assert 0 < load.answer_ms[-1] <= 1e3 * load.seconds


def test_requests_at_a_rate_take_their_time() -> None:
    with live_server(scripted(text="one")) as live:
        asked = question(live.port, "/v1/chat/completions", json.dumps(HELLO).encode())
        load = measure_times(live.port, asked, connections=2, requests=6, rate=40)
    assert load.num_answers == 6
    assert load.seconds >= 5 / 40


def test_a_refusal_measures_nothing() -> None:
    with live_server() as live, pytest.raises(LoadFailed, match="400 Bad Request"):
        measure_times(live.port, question(live.port, "/v1/chat/completions", b"{}"), connections=1, requests=1)


def test_a_share_of_the_times_lies_below_a_quantile() -> None:
    assert [quantile([1.0, 2.0, 3.0, 4.0], share) for share in (0, 0.5, 0.99, 1)] == [1, 3, 4, 4]


@contextmanager
def mock_upstream() -> Iterator[int]:
    """In a thread of its own; yields its port."""
    ends: list[asyncio.Future[None]] = []
    ports: queue.Queue[int] = queue.Queue()
    stopping = threading.Event()

    class Counted(Upstream):
        @override
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # what TCP gives
            super().connection_made(transport)
            self.ended = asyncio.get_running_loop().create_future()
            ends.append(self.ended)

        @override
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self.ended.set_result(None)

    async def serve() -> None:
        async with await asyncio.get_running_loop().create_server(Counted, "127.0.0.1", 0) as server:
            ports.put(server.sockets[0].getsockname()[1])
            await asyncio.to_thread(stopping.wait)
        await asyncio.gather(*ends)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        yield ports.get()
    finally:
        stopping.set()
        thread.join()


def test_the_mock_upstream_answers_whole_and_in_as_many_events_as_are_asked_for() -> None:
    with mock_upstream() as port:

        def load(num_bytes: int, *, is_stream: bool) -> tuple[int, int]:
            asked = question(port, "/v1/chat/completions", body(num_bytes, is_stream=is_stream, is_paced=False))
            found = measure_times(port, asked, connections=2, requests=4)
            return found.num_answers, found.num_events

        assert load(2_000, is_stream=False) == (4, 0)
        assert load(400_000, is_stream=False) == (4, 0)
        # Besides: a role, an end, the usage, and the terminator.
        assert load(2_000, is_stream=True) == (4, 4 * (NUM_EVENTS + 4))

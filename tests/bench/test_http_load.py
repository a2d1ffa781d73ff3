"""The load that servers are measured under."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from bench.http_load import Load, LoadFailed, cpu_seconds_of, measure_load

from tests.server.live import HELLO, live_server, scripted


def test_every_event_of_every_stream_is_counted() -> None:
    with live_server(scripted(text="one two three")) as live:
        streamed = json.dumps({**HELLO, "stream": True}).encode()
        # A role, three words, an end, and the terminator.
        assert measure_load(live.port, "/v1/chat/completions", lambda: streamed, connections=3, requests=2) == Load(
            6, 36
        )
        whole = json.dumps(HELLO).encode()
        assert measure_load(live.port, "/v1/chat/completions", lambda: whole, connections=1, requests=2) == Load(2, 0)


def test_a_load_that_is_refused_measures_nothing() -> None:
    with live_server() as live, pytest.raises(LoadFailed, match="400 Bad Request"):
        measure_load(live.port, "/v1/chat/completions", lambda: b"{}", connections=1, requests=1)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the time of other processes is read from /proc")
def test_the_time_of_a_process_is_counted() -> None:
    before, began = cpu_seconds_of(os.getpid()), time.process_time()
    while time.process_time() - began < 0.1:
        pass
    assert 0.08 <= cpu_seconds_of(os.getpid()) - before < 1.0

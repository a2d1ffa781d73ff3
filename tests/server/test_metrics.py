"""What Prometheus reads."""

from __future__ import annotations

from deepserve.core.events import BlockOpened, ServerToolResultBlock
from deepserve.core.server_tool import SearchResults, ToolFault
from deepserve.server.metrics import Metrics
from tests.dialects.chat.decoding import body, decode


def test_the_back_ends_numbers_are_read_anew_at_every_scrape() -> None:
    numbers = {"cache_bytes": 1.0}
    metrics = Metrics(["m"], clock=lambda: 0.0, gauges=lambda: numbers)
    assert b"deepserve_engine_cache_bytes 1.0" in metrics.render()
    numbers["cache_bytes"] = 2.0
    assert b"deepserve_engine_cache_bytes 2.0" in metrics.render()


def test_calls_of_the_servers_tools_are_counted_by_how_they_ended() -> None:
    metrics = Metrics(["deepseek-v4-flash"], clock=lambda: 0.0)
    request = decode(body()).request
    metrics.on_accepted(request)
    for output in (SearchResults(query="q"), ToolFault(code="timed_out", message="m")):
        block = ServerToolResultBlock(call_id="c", tool="web_search", output=output)
        metrics.on_event(request, BlockOpened(index=0, block=block))
    shown = metrics.render().decode()
    assert 'deepserve_server_tool_calls_total{outcome="result",tool="web_search"} 1.0' in shown
    assert 'deepserve_server_tool_calls_total{outcome="timed_out",tool="web_search"} 1.0' in shown


def test_a_back_end_without_numbers_changes_nothing() -> None:
    assert b"deepserve_engine" not in Metrics(["m"], clock=lambda: 0.0).render()

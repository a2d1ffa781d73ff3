"""Traces, as a collector on loopback gets them from a whole server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from deepserve.backends.backend import Backend
from deepserve.backends.script import Reply, Rule, Script, ScriptedCall, When
from deepserve.backends.scripted import ScriptedBackend
from deepserve.backends.selection import select_backend
from deepserve.config import Settings, TelemetrySettings, UpstreamSettings
from deepserve.core.errors import ConfigurationError
from deepserve.routing.router import Router
from deepserve.server.telemetry_opening import open_telemetry
from deepserve.tools.toolbox import EMPTY, Toolbox
from tests.backends.upstream.setup import GOOD, USAGE
from tests.outgoing.receiver import Respond, answer
from tests.server.collector import Collector, collecting
from tests.server.live import HELLO, LiveServer, live_server
from tests.server.test_upstreams import misbehaving
from tests.tools.scripted_tool import ScriptedTool, ran

INTERNAL, SERVER, CLIENT = 1, 2, 3
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "the tide is high"


@contextmanager
def traced(
    backend: Backend | None = None,
    *,
    includes_content: bool = False,
    toolbox: Toolbox = EMPTY,
    router: Router | None = None,
) -> Iterator[tuple[LiveServer, Collector]]:
    """Spans have come when the block has ended and `ended` was asked for; the collector stays until then."""
    with collecting() as collector:
        wanted = TelemetrySettings(traces_url=collector.url, includes_content=includes_content)
        telemetry = open_telemetry(Settings(telemetry=wanted), {})
        with live_server(backend, telemetry=telemetry, toolbox=toolbox, router=router) as live:
            yield live, collector


@contextmanager
def behind(*members: Sequence[bytes | Respond]) -> Iterator[tuple[Backend, list[Any]]]:  # Any: receivers
    """A back end in front of upstreams `one` and `two`."""
    if not members:
        return
    with misbehaving(*members[0]) as one, misbehaving(*members[-1]) as two:
        upstreams = tuple(
            UpstreamSettings(id=name, kind="oxen", address=f"http://{at.host}/v1", num_retries=0, key_variable="PATH")
            for name, at in (("one", one), ("two", two))[: len(members)]
        )
        yield select_backend(Settings(backend="upstream", upstreams=upstreams)), [one, two]


def test_a_request_is_a_span_with_the_conventions_names() -> None:
    with traced() as (live, collector):
        response = live.post(temperature=0.5, seed=7, max_tokens=100)
    [span] = collector.spans
    usage = response.json()["usage"]
    assert (span.name, span.kind, span.service) == ("chat deepseek-v4-flash", SERVER, "deepserve")
    assert span.trace_id == response.headers["x-request-id"]
    assert span.parent_id == ""
    assert span.ended_ns >= span.began_ns
    assert span.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "deepserve",
        "gen_ai.request.model": "deepseek-v4-flash",
        "gen_ai.request.max_tokens": 100,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stream": False,
        "gen_ai.response.model": "deepseek-v4-flash",
        "gen_ai.response.id": response.headers["x-request-id"],
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.time_to_first_chunk": span.attributes["gen_ai.response.time_to_first_chunk"],
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "gen_ai.usage.cache_read.input_tokens": usage["prompt_cache_hit_tokens"],
        "gen_ai.usage.reasoning.output_tokens": usage["completion_tokens_details"]["reasoning_tokens"],
        "deepserve.request.id": response.headers["x-request-id"],
        "deepserve.dialect": "chat",
        "deepserve.served_by": response.headers["x-deepserve-served-by"],
        "deepserve.num_failed_attempts": 0,
        "deepserve.cost_usd": span.attributes["deepserve.cost_usd"],
    }


def test_every_name_of_the_conventions_is_one_of_theirs() -> None:
    attributes = pytest.importorskip("opentelemetry.semconv._incubating.attributes.gen_ai_attributes")
    known = {value for name, value in vars(attributes).items() if name.startswith("GEN_AI_")}
    tool = ScriptedTool(ran)
    with traced(_calling(), toolbox=Toolbox({"code_interpreter": tool}), includes_content=True) as (live, collector):
        _ask_with_tool(live)
    used = {name for span in collector.spans for name in span.attributes if name.startswith("gen_ai.")}
    assert len(used) > 12
    assert used <= known


def test_an_upstream_call_is_a_child_and_hears_of_the_trace() -> None:
    with behind([answer(503)], [GOOD]) as (backend, (one, two)), traced(backend) as (live, collector):
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "v=1", "x-request-id": "job-7"}
        response = httpx.post(f"{live.address}/v1/chat/completions", json=HELLO, headers=headers)
        assert response.status_code == 200
    [own] = collector.of_kind(SERVER)
    first, second = collector.of_kind(CLIENT)
    assert {span.trace_id for span in collector.spans} == {TRACE}
    assert own.parent_id == SPAN
    assert first.parent_id == second.parent_id == own.span_id
    assert own.attributes["deepserve.client_request.id"] == "job-7"
    assert own.attributes["deepserve.num_failed_attempts"] == 1
    assert [span.attributes["deepserve.upstream"] for span in (first, second)] == ["one", "two"]
    assert (first.status, first.attributes["error.type"]) == (2, "overloaded")
    assert second.status == 0
    assert second.attributes["gen_ai.usage.input_tokens"] == USAGE["prompt_tokens"]
    for receiver, span in ((one, first), (two, second)):
        [received] = receiver.received
        assert received.headers["traceparent"] == f"00-{TRACE}-{span.span_id}-01"
        assert received.headers["tracestate"] == "v=1"
        assert received.headers["x-request-id"] == response.headers["x-ds-trace-id"]


def test_a_trace_that_nobody_keeps_is_handed_on_and_not_recorded() -> None:
    with behind([GOOD]) as (backend, (one, _)), traced(backend) as (live, collector):
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-00"}
        assert httpx.post(f"{live.address}/v1/chat/completions", json=HELLO, headers=headers).status_code == 200
        [received] = one.received
        assert received.headers["traceparent"].startswith(f"00-{TRACE}-")
        assert received.headers["traceparent"].endswith("-00")
    assert collector.spans == []


def test_without_a_collector_a_clients_trace_passes_unchanged() -> None:
    with behind([GOOD]) as (backend, (one, _)), live_server(backend) as live:
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
        assert httpx.post(f"{live.address}/v1/chat/completions", json=HELLO, headers=headers).status_code == 200
        assert one.received[0].headers["traceparent"] == f"00-{TRACE}-{SPAN}-01"


def test_a_failure_is_told_and_a_clients_fault_is_no_error_of_ours() -> None:
    with behind([answer(500)]) as (backend, _), traced(backend) as (live, collector):
        assert live.post("/v1/chat/completions").status_code == 502
    [own] = collector.of_kind(SERVER)
    assert (own.status, own.attributes["error.type"]) == (2, "backend_failure")
    context: dict[str, Any] = {
        "messages": [{"role": "user", "content": "word " * 20_000}],
        "max_tokens": 1_048_576,
    }  # Any: JSON
    with traced() as (live, collector):
        assert live.post(**context).status_code == 400
    for span in collector.spans:
        assert (span.status, span.attributes["error.type"]) == (0, "context_overflow")


def _calling() -> ScriptedBackend:
    call = ScriptedCall(name="code_interpreter", arguments='{"code": "1 + 1"}')
    rules = (
        Rule(when=When(contains="sum", last_role="user"), reply=Reply(reasoning="I compute.", tool_calls=(call,))),
        Rule(reply=Reply(text=SECRET)),
    )
    return ScriptedBackend(Script(rules=rules))


def _ask_with_tool(live: LiveServer) -> None:
    response = live.post(
        "/v1/responses",
        model="deepseek-v4-flash",
        input="the sum",
        tools=[{"type": "code_interpreter", "container": {"type": "auto"}}],
    )
    assert response.status_code == 200, response.text
    assert SECRET in response.text


def test_a_tool_that_the_server_runs_is_a_child() -> None:
    tool = ScriptedTool(ran)
    with traced(_calling(), toolbox=Toolbox({"code_interpreter": tool})) as (live, collector):
        _ask_with_tool(live)
    [own] = collector.of_kind(SERVER)
    [run] = collector.of_kind(INTERNAL)
    assert run.name == "execute_tool code_interpreter"
    assert (run.trace_id, run.parent_id) == (own.trace_id, own.span_id)
    assert run.attributes["gen_ai.operation.name"] == "execute_tool"
    assert own.began_ns <= run.began_ns <= run.ended_ns <= own.ended_ns


def test_content_is_told_only_where_it_is_asked_for() -> None:
    for includes_content in (False, True):
        with traced(
            ScriptedBackend(Script(rules=(Rule(reply=Reply(reasoning="Hm.", text=SECRET)),))),
            includes_content=includes_content,
        ) as (
            live,
            collector,
        ):
            live.post(messages=[{"role": "user", "content": "Sing!"}])
        [span] = collector.spans
        if not includes_content:
            assert SECRET not in str(span)
            assert "Sing!" not in str(span)
            continue
        assert json.loads(span.attributes["gen_ai.input.messages"]) == [
            {"role": "user", "parts": [{"type": "text", "content": "Sing!"}]}
        ]
        assert json.loads(span.attributes["gen_ai.output.messages"]) == [
            {
                "role": "assistant",
                "parts": [{"type": "reasoning", "content": "Hm."}, {"type": "text", "content": SECRET}],
                "finish_reason": "stop",
            }
        ]


def test_the_environment_turns_traces_on_and_off() -> None:
    assert open_telemetry(Settings(), {}) is None
    off = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}
    assert open_telemetry(Settings(), off) is None
    assert open_telemetry(Settings(), {**off, "OTEL_SDK_DISABLED": "", "OTEL_TRACES_EXPORTER": "none"}) is None
    with pytest.MonkeyPatch.context() as patch, collecting() as collector:
        endpoint = collector.url.removesuffix("/v1/traces")
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        patch.setenv("OTEL_SERVICE_NAME", "gateway-3")
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_SERVICE_NAME": "gateway-3"}
        with live_server(telemetry=open_telemetry(Settings(), environment)) as live:
            assert live.post().status_code == 200
        assert [span.service for span in collector.spans] == ["gateway-3"]


def test_what_records_traces_is_not_imported_unless_they_are_wanted() -> None:
    program = (
        "import sys, deepserve.cli.serve, deepserve.server.run; "
        "from deepserve.config import Settings; from deepserve.server.telemetry_opening import open_telemetry; "
        "assert open_telemetry(Settings(), {}) is None; "
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_missing_installation_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    wanted = Settings(telemetry=TelemetrySettings(traces_url="http://127.0.0.1:9/v1/traces"))
    with pytest.raises(ConfigurationError, match=r"deepserve\[otel\]"):
        open_telemetry(wanted, {})
    assert open_telemetry(Settings(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}) is None
    assert "deepserve[otel]" in caplog.text

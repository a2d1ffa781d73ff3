"""The addresses of the Messages API, and what real clients do there."""

import json
from typing import Any

import httpx
import pytest

from deepserve.config import Settings
from deepserve.server.messages import PREFIXES
from tests.server.live import PATIENCE_S, Gate, LiveServer, live_server, read_until, request_bytes, scripted

ASK: dict[str, Any] = {  # Any: JSON
    "model": "deepseek-v4-pro",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "hello"}],
}
VERSION = {"anthropic-version": "2023-06-01"}


def _post(live: LiveServer, path: str, value: Any = ASK, **headers: str) -> httpx.Response:  # Any: JSON
    return httpx.post(live.address + path, json=value, headers=headers, timeout=PATIENCE_S)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_prefix_serves_the_same(live: LiveServer, prefix: str) -> None:
    answer = _post(live, f"{prefix}/messages?beta=true", **VERSION)
    assert answer.json()["content"][-1] == {"type": "text", "text": "You said: hello"}
    assert _post(live, f"{prefix}/messages/count_tokens").json() == {"input_tokens": 2}
    models = live.get(f"{prefix}/models", **VERSION).json()
    assert models["first_id"] == "deepseek-v4-pro"
    assert live.get(f"{prefix}/models/deepseek-v4-flash", **VERSION).json()["type"] == "model"


def test_shared_addresses_tell_clients_apart_by_their_header(live: LiveServer) -> None:
    assert live.get("/v1/models").json()["object"] == "list"
    assert "object" not in live.get("/v1/models", **VERSION).json()
    assert "object" not in live.get("/anthropic/v1/models").json()


def test_models_come_in_pages(live: LiveServer) -> None:
    def page(query: str) -> tuple[list[str], bool]:
        value = live.get(f"/anthropic/v1/models?{query}").json()
        return [model["id"] for model in value["data"]], value["has_more"]

    pro, flash = "deepseek-v4-pro", "deepseek-v4-flash"
    assert page("") == ([pro, flash], False)
    assert page("limit=1") == ([pro], True)
    assert page(f"limit=1&after_id={pro}") == ([flash], False)
    assert page(f"limit=1&before_id={flash}") == ([pro], False)
    assert page(f"after_id={flash}") == ([], False)
    for query in ("limit=0", "limit=x", "limit=1001", "after_id=x"):
        answer = live.get(f"/anthropic/v1/models?{query}")
        assert (answer.status_code, answer.json()["type"]) == (400, "error")


def test_a_base_address_can_be_looked_at_without_a_key() -> None:
    """Claude Code does so first, without a key, and takes a refusal for a server that is not there."""
    with live_server(settings=Settings(api_keys=("sk-right",))) as live:
        for path in ("/anthropic", "/anthropic/"):
            assert httpx.head(live.address + path).status_code == 200
            assert live.get(path).json()["status"] == "ok"
        assert _post(live, "/anthropic/v1/messages").status_code == 401
        assert live.get("/anthropic/v1/models").status_code == 401


@pytest.mark.parametrize("path", ["/anthropic/v1/messages", "/v1/messages", "/messages", "/anthropic/nothing"])
def test_failures_outside_the_dialect_have_its_shape(live: LiveServer, path: str) -> None:
    answer = live.get(path)
    assert answer.status_code in (404, 405)
    value = answer.json()
    assert value["type"] == "error"
    assert value["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]
    malformed = httpx.post(live.address + path, content=b"{")
    assert malformed.json()["type"] == "error"


def test_headers_say_what_was_ignored(live: LiveServer) -> None:
    system = [{"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.a1b;"}]
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        answer = _post(live, path, {**ASK, "system": system, "service_tier": "auto"})
        assert answer.headers["x-deepserve-ignored"] == "system[0], service_tier"


def test_a_verdict_on_a_strict_tool_is_announced(live: LiveServer) -> None:
    tool = {"name": "f", "strict": True, "input_schema": {"type": "object", "required": ["a"], "properties": {}}}
    answer = _post(live, "/v1/messages", {**ASK, "tools": [tool]})
    assert answer.headers["x-deepserve-validated"] == "tool:f=valid"
    assert "x_deepserve_validated" not in answer.json()
    stream = _post(live, "/v1/messages", {**ASK, "tools": [tool], "stream": True})
    assert '"x_deepserve_validated":"tool:f=valid"' in stream.text


def test_a_repeated_request_is_answered_from_memory(live: LiveServer) -> None:
    first = _post(live, "/v1/messages", **{"idempotency-key": "messages-1"})
    again = _post(live, "/v1/messages", **{"idempotency-key": "messages-1"})
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == first.json()


def test_whoever_waits_hears_pings() -> None:
    gate = Gate()
    backend = scripted(gate=gate, text="late", first_delay_s=1)
    with live_server(backend, Settings(keep_alive_s=0.02)) as live, live.connect() as connection:
        connection.sendall(request_bytes({**ASK, "stream": True}, path="/anthropic/v1/messages"))
        before = read_until(connection, b'event: ping\ndata: {"type":"ping"}\n\n')
        assert b"message_start" not in before
        gate.open()
        rest = read_until(connection, b"message_stop")
    assert b"event: message_start" in rest


def test_a_late_error_has_the_dialects_shape() -> None:
    gate = Gate()
    backend = scripted(gate=gate, text="late", first_delay_s=1, failure="engine_failure")
    with live_server(backend, Settings(keep_alive_s=0.02)) as live, live.connect() as connection:
        connection.sendall(request_bytes(ASK, path="/anthropic/v1/messages"))
        read_until(connection, b"\r\n\r\n")
        gate.open()
        assert b'"type":"api_error"' in read_until(connection, b"request_id")


def test_the_body_of_claude_code(live: LiveServer) -> None:
    """What 2.1.197 sends, shortened: nothing of it is refused, and the loop goes on."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"command": {"type": "string"}, "timeout": {"type": "number", "exclusiveMinimum": 0}},
        "required": ["command"],
        "additionalProperties": False,
    }
    mark = {"cache_control": {"type": "ephemeral"}}
    user_id = json.dumps({"device_id": "d", "account_uuid": "", "session_id": "s"})
    value: dict[str, Any] = {
        "model": "deepseek-v4-pro",
        "max_tokens": 32_000,
        "stream": True,
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "high"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "metadata": {"user_id": user_id},
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197.abc; cc_entrypoint=sdk-cli;"},
            {"type": "text", "text": "You are a coding agent.", **mark},
        ],
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "<reminder>"}, {"type": "text", "text": "list", **mark}],
            },
            {"role": "system", "content": "The working folder is /tmp."},
        ],
        "tools": [{"name": "Bash", "description": "Run a command.", "input_schema": schema}],
    }
    headers = {**VERSION, "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14", "x-app": "cli"}
    first = _post(live, "/anthropic/v1/messages?beta=true", value, **headers)
    assert first.status_code == 200
    assert first.headers["content-type"].startswith("text/event-stream")
    whole = _post(live, "/anthropic/v1/messages?beta=true", {**value, "stream": False}, **headers).json()
    assert [block["type"] for block in whole["content"]] == ["thinking", "tool_use"]
    result = {"type": "tool_result", "tool_use_id": whole["content"][1]["id"], "content": "a.txt", **mark}
    value["messages"] += [{"role": "assistant", "content": whole["content"]}, {"role": "user", "content": [result]}]
    second = _post(live, "/anthropic/v1/messages?beta=true", {**value, "stream": False}, **headers)
    assert second.json()["content"][-1]["text"] == "The tool answered: a.txt"
    assert second.headers["x-deepserve-reasoning"] == "sent=1 restored=0 missing=0"
    ignored = second.headers["x-deepserve-ignored"].split(", ")
    assert set(ignored) == {
        "system[0]",
        "system[].cache_control",
        "messages[].content[].cache_control",
        "context_management",
    }

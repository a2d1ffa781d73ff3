"""What stands in the log of requests, and what does not."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from deepserve.config import Settings
from deepserve.core.tenant import Tenant, TenantId
from deepserve.server.log_format import JsonLines, TextLines, set_up_logging
from deepserve.server.request_log import REQUESTS
from tests.server.live import HELLO, live_server, scripted

KEY = "sk-very-secret"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger=REQUESTS.name)
    return caplog


def _fields(lines: list[logging.LogRecord]) -> list[tuple[str, Mapping[str, Any]]]:  # Any: fields' values
    return [(line.getMessage(), line.fields) for line in lines if line.name == REQUESTS.name]  # type: ignore[attr-defined] # ours


def test_an_answer_has_one_line_without_content_or_keys(log: pytest.LogCaptureFixture) -> None:
    settings = Settings(api_keys=(KEY,))
    with live_server(scripted(reasoning="Hm.", text="Secret words", hit_tokens=1), settings) as live:
        response = httpx.post(
            f"{live.address}/v1/chat/completions",
            json=HELLO,
            headers={"authorization": f"Bearer {KEY}", "x-request-id": "job-7"},
        )
    [(message, fields)] = _fields(log.records)
    usage = response.json()["usage"]
    assert message == "request answered"
    assert fields["request_id"] == response.headers["x-ds-trace-id"] == response.headers["request-id"]
    assert fields["client_request_id"] == response.headers["x-request-id"] == "job-7"
    assert (fields["dialect"], fields["model"], fields["outcome"]) == ("chat", "deepseek-v4-flash", "stop")
    assert fields["served_by"] == response.headers["x-deepserve-served-by"]
    assert fields["hit_tokens"] + fields["miss_tokens"] == usage["prompt_tokens"]
    assert fields["reasoning_tokens"] + fields["answer_tokens"] == usage["completion_tokens"]
    assert fields["duration_ms"] >= fields["first_token_ms"] >= 0
    shown = TextLines().format(log.records[-1]) + JsonLines().format(log.records[-1])
    for private in (KEY, "hello", "Secret words", "Hm."):
        assert private not in shown


def test_a_failure_has_one_line_too(log: pytest.LogCaptureFixture) -> None:
    with live_server(scripted(text="Hello", failure="overloaded")) as live:
        assert live.post().status_code == 503
    [(message, fields)] = _fields(log.records)
    assert (message, fields["outcome"]) == ("request failed", "overloaded")


def test_what_is_refused_at_the_door_has_a_line(log: pytest.LogCaptureFixture) -> None:
    with live_server() as live:
        assert live.get("/nowhere?key=secret").status_code == 404
        assert live.post(model="gpt-9").status_code == 400
        assert live.get("/health").status_code == 200
    told = _fields(log.records)
    assert [(message, fields["path"], fields["outcome"]) for message, fields in told] == [
        ("request refused", "other", "route_not_found"),
        ("request refused", "/chat/completions", "unknown_model"),
    ]


def test_nothing_is_told_where_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with live_server() as live:
        live.post()
        live.get("/nowhere")
    assert _fields(caplog.records) == []


def test_json_lines_are_objects(log: pytest.LogCaptureFixture) -> None:
    with live_server() as live:
        live.post()
    line = json.loads(JsonLines().format(log.records[-1]))
    assert (line["level"], line["logger"], line["message"]) == ("info", "deepserve.requests", "request answered")
    assert line["time"].endswith("+00:00")
    assert line["model"] == "deepseek-v4-flash"
    try:
        raise ValueError("broken")
    except ValueError:
        record = REQUESTS.makeRecord("x", logging.ERROR, "f", 1, "It %s", ("broke",), sys.exc_info())
    failed = json.loads(JsonLines().format(record))
    assert failed["message"] == "It broke"
    assert "ValueError: broken" in failed["exception"]


def test_text_lines_cannot_be_forged() -> None:
    record = REQUESTS.makeRecord(
        "x", logging.INFO, "f", 1, "request", (), None, extra={"fields": {"path": '/a\nb "c"'}}
    )
    line = TextLines().format(record)
    assert "\n" not in line
    assert line.endswith(r'path="/a\nb \"c\""')


def test_the_format_can_change_while_the_server_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    handler, level = logging.StreamHandler(), root.level
    monkeypatch.setattr(root, "handlers", [handler])
    try:
        set_up_logging(Settings(log_format="json", log_level="info"))
        assert isinstance(handler.formatter, JsonLines)
        assert root.level == logging.INFO
        assert not logging.getLogger("alembic.runtime").isEnabledFor(logging.INFO)
        set_up_logging(Settings(log_level="error"))
        assert isinstance(handler.formatter, TextLines)
        assert root.handlers == [handler]
    finally:
        root.setLevel(level)


def test_a_client_that_names_its_request_gets_the_name_back_also_with_an_error() -> None:
    with live_server() as live:
        for sent, is_kept in (("mine/1", True), ("two words", False)):
            response = live.get("/nowhere", **{"x-request-id": sent})
            assert (response.headers["x-request-id"] == sent) is is_kept
            assert response.headers["x-ds-trace-id"] != sent


def test_tenants_are_named(log: pytest.LogCaptureFixture) -> None:
    class Keys:
        def find(self, key: str) -> Tenant | None:
            return Tenant(id=TenantId("acme"), name="Acme")

    with live_server(lookups=(Keys(),)) as live:
        httpx.post(f"{live.address}/v1/chat/completions", json=HELLO, headers={"authorization": "Bearer x"})
    [(_, fields)] = _fields(log.records)
    assert fields["tenant"] == "acme"

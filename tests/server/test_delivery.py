"""Answers under way: waiting clients hear something, clients that leave free their place, ends are always said."""

import json
import socket
from collections.abc import AsyncGenerator

import httpx
import pytest
from typing_extensions import override

from deepserve.backends.scripted import ScriptedBackend
from deepserve.config import Limits, Settings
from deepserve.core.events import Event, PastReasoning, Started
from deepserve.core.request import Request
from deepserve.dialects.chat.stream import StreamEncoder
from deepserve.server.delivery import answer_headers
from tests.server.live import (
    HELLO,
    PATIENCE_S,
    Gate,
    LiveServer,
    live_server,
    read_all,
    read_until,
    request_bytes,
    scripted,
)

QUICK = Settings(keep_alive_s=0.02)
STREAM = {**HELLO, "stream": True}


def test_a_waiting_stream_gets_comments_and_then_its_answer() -> None:
    gate = Gate()
    with live_server(scripted(gate=gate, text="done", first_delay_s=1), QUICK) as live, live.connect() as connection:
        connection.sendall(request_bytes(STREAM, headers="connection: close\r\n"))
        head = read_until(connection, b": keep-alive\n\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"x-deepserve-served-by: deepserve/scripted" in head
        gate.open()
        rest = read_all(connection)
    assert b'"content":"done"' in rest
    assert rest.rstrip().endswith(b"data: [DONE]\n\n\r\n0")


def test_a_stream_that_pauses_gets_comments_too() -> None:
    gate = Gate()
    with live_server(scripted(gate=gate, text="a b", delay_s=1), QUICK) as live, live.connect() as connection:
        connection.sendall(request_bytes(STREAM))
        begun = read_until(connection, b": keep-alive\n\n")
        assert b'"role":"assistant"' in begun
        gate.open()
        read_until(connection, b"[DONE]")


def test_a_waiting_whole_answer_gets_blank_lines_and_is_still_json() -> None:
    gate = Gate()
    backend = scripted(gate=gate, text='{"a":1}', first_delay_s=1)
    value = {**HELLO, "response_format": {"type": "json_object"}}
    with live_server(backend, QUICK) as live, live.connect() as connection:
        connection.sendall(request_bytes(value, headers="connection: close\r\n"))
        head = read_until(connection, b"\r\n\r\n1\r\n\n\r\n")
        assert b"content-length" not in head
        gate.open()
        rest = read_all(connection)
    body = json.loads(rest[rest.index(b"{") : rest.rindex(b"}") + 1])
    assert body["choices"][0]["message"]["content"] == '{"a":1}'
    assert body["x_deepserve_validated"] == "json_object=valid"


def test_a_quick_whole_answer_has_no_blank_lines(live: LiveServer) -> None:
    answer = live.post()
    assert answer.content.startswith(b"{")
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_a_late_error_comes_as_a_body_with_status_200() -> None:
    gate = Gate()
    with live_server(scripted(gate=gate, failure="overloaded", first_delay_s=1), QUICK) as live:
        with live.connect() as connection:
            connection.sendall(request_bytes(headers="connection: close\r\n"))
            read_until(connection, b"\n\r\n1\r\n\n")
            gate.open()
            rest = read_all(connection)
        assert b'{"error":{"message":"Scripted: the server is overloaded."' in rest
        with live.connect() as connection:
            connection.sendall(request_bytes(STREAM, headers="connection: close\r\n"))
            rest = read_all(connection)
    assert rest.startswith(b"HTTP/1.1 503")


def test_a_late_error_of_a_stream_is_an_event_and_the_end() -> None:
    gate = Gate()
    backend = scripted(gate=gate, failure="overloaded", first_delay_s=1)
    with live_server(backend, QUICK) as live, live.connect() as connection:
        connection.sendall(request_bytes(STREAM, headers="connection: close\r\n"))
        read_until(connection, b": keep-alive\n\n")
        gate.open()
        rest = read_all(connection)
    assert b'data: {"error":' in rest
    assert b"data: [DONE]\n\n" in rest


def test_an_early_error_of_a_stream_has_its_own_status() -> None:
    with live_server(scripted(failure="overloaded")) as live:
        answer = live.post(stream=True)
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/json")


def test_a_failure_in_the_middle_ends_with_an_error_and_a_terminator() -> None:
    with live_server(scripted(text="a b c", failure="engine_failure", fail_after_pieces=1)) as live:
        streamed = live.post(stream=True).text
        whole = live.post()
    frames = streamed.strip().split("\n\n")
    assert '"finish_reason":"insufficient_system_resource"' in frames[-3]
    assert frames[-2].startswith('data: {"error":')
    assert frames[-1] == "data: [DONE]"
    assert (whole.status_code, whole.json()["error"]["code"]) == (500, "internal_error")


@pytest.mark.parametrize("value", [HELLO, STREAM])
@pytest.mark.parametrize("delay", ["first_delay_s", "delay_s"])
def test_a_client_that_leaves_cancels_its_answer(value: dict[str, object], delay: str) -> None:
    gate = Gate()
    backend = scripted(gate=gate, text="a b", **{delay: 1})
    with live_server(backend) as live:
        connection = live.connect()
        connection.sendall(request_bytes(value))
        assert gate.is_reached.wait(PATIENCE_S)
        connection.close()
        assert gate.was_cancelled.wait(PATIENCE_S)
        gate.open()
        metrics = live.get("/metrics").text
    assert backend.num_cancelled == 1
    assert backend.num_running == 0
    assert 'outcome="client_left"' in metrics


def test_a_client_that_does_not_read_loses_its_answer() -> None:
    """Its answer would otherwise be held in memory for ever, and so would its connection with what is unsent."""
    backend = scripted(text="x" * 20_000_000, piece_characters=100_000)
    with live_server(backend, Settings(limits=Limits(send_timeout_s=0.05))) as live:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", live.port))
        with connection:
            connection.sendall(request_bytes({**STREAM, "thinking": {"type": "disabled"}}))
            read_until(connection, b"200 OK")
            held = set(live.server.server_state.connections)
            while 'outcome="client_left"' not in live.get("/metrics").text:
                pass
            while held & live.server.server_state.connections:
                live.get("/health")
    assert backend.num_cancelled == 1


def test_an_answer_without_progress_is_given_up() -> None:
    gate = Gate()
    settings = Settings(keep_alive_s=0.02, request_timeout_s=0.05)
    with live_server(scripted(gate=gate, text="a", first_delay_s=1), settings) as live:
        try:
            whole = live.post()
            streamed = live.post(stream=True)
        finally:
            gate.open()
    assert json.loads(whole.text)["error"]["code"] == "timeout"
    assert '"code":"timeout"' in streamed.text
    assert streamed.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("value", [HELLO, STREAM])
def test_a_stopping_server_ends_what_is_in_flight_with_a_word(value: dict[str, object]) -> None:
    gate = Gate()
    settings = Settings(keep_alive_s=0.02, shutdown_grace_s=0.1)
    with live_server(scripted(gate=gate, text="a b", delay_s=1), settings) as live, live.connect() as connection:
        connection.sendall(request_bytes(value))
        read_until(connection, b"\n\r\n")
        live.stop()
        rest = read_all(connection)
        gate.open()
    assert b"The server is shutting down" in rest
    assert rest.endswith(b"0\r\n\r\n")
    assert (b"data: [DONE]" in rest) is ("stream" in value)


def test_a_stopping_server_lets_short_answers_finish() -> None:
    gate = Gate()
    with live_server(scripted(gate=gate, text="done", first_delay_s=1)) as live, live.connect() as connection:
        connection.sendall(request_bytes())
        assert gate.is_reached.wait(PATIENCE_S)
        live.stop()
        gate.open()
        assert b'"content":"done"' in read_all(connection)


def test_answers_in_flight_do_not_hold_up_others() -> None:
    gate = Gate()
    with live_server(scripted(gate=gate, text="a", first_delay_s=1)) as live:
        connections = [live.connect() for _ in range(8)]
        for connection in connections:
            connection.sendall(request_bytes(STREAM))
        assert gate.is_reached.wait(PATIENCE_S)
        assert live.get("/health").status_code == 200
        gate.open()
        for connection in connections:
            read_until(connection, b"[DONE]")
            connection.close()


def test_a_large_body_is_decoded_like_a_small_one(live: LiveServer) -> None:
    long = "word " * 100_000
    answer = live.post(messages=[{"role": "user", "content": long}], max_tokens=3, thinking={"type": "disabled"})
    assert answer.json()["choices"][0]["message"]["content"] == "You said: word"


def test_a_fault_of_the_back_end_is_one_requests_fault(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(ScriptedBackend):
        @override
        async def answer(self, request: Request) -> AsyncGenerator[Event]:
            async for event in super().answer(request):
                yield event
                raise ZeroDivisionError("secret")

    with live_server(Broken()) as live:
        answer = live.post()
        assert live.get("/health").status_code == 200
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("late", [False, True])
def test_a_fault_of_the_encoder_ends_a_stream_with_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, late: bool
) -> None:
    def broken(self: StreamEncoder, event: Event) -> bytes:
        if late and isinstance(event, Started):
            return encode(self, event)
        raise ZeroDivisionError("secret")

    encode = StreamEncoder.encode
    monkeypatch.setattr(StreamEncoder, "encode", broken)
    with live_server() as live:
        answer = live.post(stream=True)
    assert answer.status_code == (200 if late else 500)
    assert "secret" not in answer.text
    assert "secret" in caplog.text
    assert answer.text.endswith("data: [DONE]\n\n") is late


def test_keep_alive_connections_are_reused(live: LiveServer) -> None:
    with httpx.Client() as client:
        for _ in range(3):
            assert client.post(live.address + "/chat/completions", json=STREAM).status_code == 200


def test_what_is_not_enforced_is_told_in_a_header_that_nothing_can_break() -> None:
    past = PastReasoning(sent=0, restored=0, missing=0)
    assert b"x-deepserve-relaxed" not in dict(answer_headers("a/b", past))
    relaxed = ("tools[0].parameters/properties/n\r\nset-cookie: é: uniqueItems", "x" * 5_000)
    told = dict(answer_headers("a/b", past, relaxed))[b"x-deepserve-relaxed"]
    assert told.startswith(b"tools[0].parameters/properties/n??set-cookie: ?: uniqueItems; xxx")
    assert len(told) == 1_000

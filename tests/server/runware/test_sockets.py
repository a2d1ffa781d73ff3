"""Tasks over WebSocket: logins, broken clients, broken connections."""

from __future__ import annotations

import json
import logging
from uuid import uuid4

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from deepserve.config import Limits, Settings, SocketLimits
from deepserve.server.runware import socket as socket_module
from tests.server.live import Gate, LiveServer, live_server, read_until, scripted
from tests.server.runware.setup import Client, Json, post, question, task_of

KEYS = Settings(api_keys=("sk-canary-one", "sk-canary-two"))


def closed_with(client: Client) -> int:
    """The code that the server closes with; what it says before is skipped."""
    try:
        while True:
            client.receive()
    except ConnectionClosed as closed:
        return -1 if closed.rcvd is None else closed.rcvd.code


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/v1?sdk=js&version=1.3.2"])
def test_a_session_from_login_to_answer(live: LiveServer, path: str) -> None:
    client = Client(live, path)
    client.log_in()
    assert client.ask({"taskType": "ping", "ping": True}) == {"data": [{"taskType": "ping", "pong": True}]}
    task = task_of(numberResults=2)
    frame = client.ask(task)
    assert list(frame) == ["data"]
    assert [(item["resultIndex"], item["text"]) for item in frame["data"]] == [(0, "You said: hi"), (1, "You said: hi")]
    client.close()


def test_results_and_errors_come_in_frames_of_their_own(live: LiveServer) -> None:
    """SDKs that see `errors` in a frame look at nothing else in it."""
    client = Client(live)
    client.log_in()
    good, bad = task_of(), task_of(settings={"topK": 1})
    client.send(good, bad)
    frames = [client.receive(), client.receive()]
    assert sorted(key for frame in frames for key in frame) == ["data", "errors"]
    (error,) = next(frame["errors"] for frame in frames if "errors" in frame)
    assert (error["taskUUID"], error["code"]) == (bad["taskUUID"], "unsupportedParameter")
    client.close()


def test_a_task_for_later_is_acknowledged_and_then_told_once(live: LiveServer) -> None:
    client = Client(live)
    client.log_in()
    task = task_of(deliveryMethod="async")
    assert client.ask(task) == {"data": [{"taskType": "textInference", "taskUUID": task["taskUUID"]}]}
    (item,) = client.receive()["data"]
    assert (item["status"], item["text"]) == ("success", "You said: hi")
    assert client.ask(question(task)) == {"data": [item]}
    client.close()


def test_the_same_task_is_not_begun_twice(live: LiveServer) -> None:
    client = Client(live)
    client.log_in()
    task = task_of()
    client.ask(task)
    (error,) = client.ask(task)["errors"]
    assert (error["code"], error["taskUUID"]) == ("conflictTaskUUID", task["taskUUID"])
    client.close()


@pytest.mark.parametrize(
    ("task", "code"),
    [
        (task_of(taskType="imageInference"), "unsupportedTaskType"),
        (task_of(taskType="accountManagement"), "missingOperation"),
        (task_of(taskType=None), "missingTaskType"),
        (task_of(taskType=["x"]), "invalidTaskType"),
        (task_of(deliveryMethod="stream"), "unsupportedDeliveryMethod"),
        (task_of(taskType="getResponse"), "taskFailedOrNotFound"),
        (task_of(taskType="getResponse", taskUUID="x"), "invalidTaskUUID"),
    ],
)
def test_tasks_that_cannot_be_served_are_refused_under_their_id(live: LiveServer, task: Json, code: str) -> None:
    client = Client(live)
    client.log_in()
    (error,) = client.ask(task)["errors"]
    assert (error["code"], error["taskUUID"]) == (code, task["taskUUID"])
    client.close()


@pytest.mark.parametrize(
    "frame",
    ["", "{", "hello", "[]", "[1]", "[[]]", "null", "3", '"x"', "[" * 100_000, '[{"a":1,"a":2}]', b"\x00\xff", b"[{]"],
)
def test_frames_that_are_no_tasks_are_refused_and_the_connection_holds(live: LiveServer, frame: str | bytes) -> None:
    client = Client(live)
    client.log_in()
    client.socket.send(frame)
    assert client.receive()["errors"][0]["code"] in ("invalidJSON", "invalidTasks", "missingTasks")
    assert client.ask(task_of())["data"]
    client.close()


def test_a_message_in_many_fragments_is_one_message(live: LiveServer) -> None:
    client = Client(live)
    client.log_in()
    client.socket.send(list(json.dumps([task_of()])))
    assert client.receive()["data"][0]["text"] == "You said: hi"
    client.close()


def test_text_that_is_no_text_ends_only_that_connection(live: LiveServer) -> None:
    client, other = Client(live), Client(live)
    other.log_in()
    client.socket.send(b"\xff\xfe", text=True)
    assert closed_with(client) == 1007
    assert other.ask(task_of())["data"]
    other.close()


def test_bytes_that_are_no_frames_end_only_that_connection(live: LiveServer) -> None:
    client, other = Client(live), Client(live)
    other.log_in()
    client.socket.socket.sendall(b"\xff" * 64)
    with pytest.raises(ConnectionClosed):
        client.receive()
    assert other.ask(task_of())["data"]
    other.close()


def test_a_message_that_is_too_large_ends_the_connection() -> None:
    with live_server(settings=Settings(sockets=SocketLimits(message_bytes=1000))) as live:
        client = Client(live)
        client.log_in()
        client.socket.send("x" * 2000)
        assert closed_with(client) == 1009


# Who comes in


@pytest.mark.parametrize("headers", [{"origin": "https://evil.example"}, {"host": "evil.example"}])
def test_foreign_pages_are_refused_at_the_handshake(live: LiveServer, headers: dict[str, str]) -> None:
    with pytest.raises(InvalidStatus) as raised:
        Client(live, **headers)
    assert raised.value.response.status_code == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example", ""])
def test_foreign_pages_without_a_key_are_refused_at_the_handshake_where_there_are_keys(origin: str) -> None:
    """They were let in until the login: any page could hold connections open in its visitors' names."""
    with live_server(settings=KEYS) as live:
        with pytest.raises(InvalidStatus) as raised:
            Client(live, origin=origin)
        assert raised.value.response.status_code == 403
        client = Client(live, origin=origin, authorization="Bearer sk-canary-one")
        assert client.ask(task_of())["data"]
        client.close()


@pytest.mark.parametrize("origin", ["http://localhost:3000", "https://my.example", ""])
def test_own_pages_may_log_in_after_the_handshake(origin: str) -> None:
    own = f"origin: {origin}\r\n" if origin else ""
    with live_server(settings=KEYS) as live, live.connect() as connection:
        connection.sendall(
            f"GET /v1 HTTP/1.1\r\nhost: my.example\r\n{own}connection: upgrade\r\nupgrade: websocket\r\n"
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n".encode()
        )
        assert read_until(connection, b"\r\n").startswith(b"HTTP/1.1 101")


@pytest.mark.parametrize("path", ["/v2", "/chat/completions", "/v1/chat/completions"])
def test_other_addresses_take_no_sockets(live: LiveServer, path: str) -> None:
    with pytest.raises(InvalidStatus) as raised:
        Client(live, path)
    assert raised.value.response.status_code == 403


def test_nothing_is_done_before_the_login(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with live_server(settings=KEYS) as live:
        client = Client(live)
        for task in (task_of(), {"taskType": "ping", "ping": True}, question(task_of())):
            body = client.ask(task)
            assert body["errors"] == [body["error"]]
            assert (body["error"]["code"], body["error"]["taskType"]) == ("missingApiKey", "authentication")
            assert "taskUUID" not in body["error"]
        client.log_in("sk-canary-one")
        assert client.ask(task_of())["data"]
        client.close()
    told = [record.getMessage() for record in caplog.records if record.name != "websockets.client"]
    assert told
    assert not any("sk-canary" in line for line in told)


@pytest.mark.parametrize(("key", "code"), [("sk-wrong", "invalidApiKey"), ("", "missingApiKey"), (7, "missingApiKey")])
def test_a_wrong_key_is_told_to_every_kind_of_client(key: Json, code: str) -> None:
    with live_server(settings=KEYS) as live:
        client = Client(live)
        body = client.ask({"taskType": "authentication", "apiKey": key})
        assert body["errors"] == [body["error"]]
        assert body["error"]["code"] == code
        assert (body["error"]["taskType"], body["error"]["parameter"]) == ("authentication", "apiKey")
        assert client.ask({"taskType": "ping", "ping": True}) == body
        client.close()


def test_a_key_in_the_handshake_is_as_good_as_a_login() -> None:
    with live_server(settings=KEYS) as live:
        client = Client(live, authorization="Bearer sk-canary-one")
        assert client.ask(task_of())["data"]
        client.close()
        with pytest.raises(InvalidStatus):
            Client(live, authorization="Bearer sk-wrong")


def test_who_does_not_log_in_has_to_leave() -> None:
    sockets = SocketLimits(login_s=0.05)
    with live_server(settings=Settings(api_keys=("sk-canary-one",), sockets=sockets)) as live:
        assert closed_with(Client(live)) == 4401


def test_talking_does_not_put_off_the_login() -> None:
    sockets = SocketLimits(login_s=0.3)
    with live_server(settings=Settings(api_keys=("sk-canary-one",), sockets=sockets)) as live:
        client = Client(live)
        try:
            while True:
                client.ask({"taskType": "ping", "ping": True})
        except ConnectionClosed as closed:
            code = None if closed.rcvd is None else closed.rcvd.code
        assert code == 4401


def test_a_large_message_before_the_login_is_not_read() -> None:
    with live_server(settings=KEYS) as live:
        client = Client(live)
        login = {"taskType": "authentication", "apiKey": "sk-canary-one", "padding": "x" * 70_000}
        assert client.ask(login)["error"]["code"] == "missingApiKey"
        client.log_in("sk-canary-one")
        assert client.ask(task_of(messages=[{"role": "user", "content": "x" * 70_000}]))["data"]
        client.close()


def test_who_says_nothing_for_long_is_let_go() -> None:
    with live_server(settings=Settings(sockets=SocketLimits(idle_s=0.05))) as live:
        client = Client(live)
        client.log_in()
        assert closed_with(client) == 1001


def test_unfinished_tasks_of_a_connection_are_bounded() -> None:
    gate = Gate()
    settings = Settings(sockets=SocketLimits(num_tasks=1))
    with live_server(scripted(gate=gate, text="x", first_delay_s=1), settings) as live:
        client = Client(live)
        client.log_in()
        first, second = task_of(), task_of()
        client.send(first, second)
        (error,) = client.receive()["errors"]
        assert (error["code"], error["taskUUID"]) == ("rateLimitExceeded", second["taskUUID"])
        gate.open()
        assert client.receive()["data"][0]["taskUUID"] == first["taskUUID"]
        assert client.ask(second)["data"]
        client.close()


# Connections that break


def test_what_was_accepted_is_told_to_the_session_that_comes_back() -> None:
    gate = Gate()
    with live_server(scripted(gate=gate, text="kept", first_delay_s=1)) as live:
        client = Client(live)
        name = client.log_in()
        whole, later = task_of(), task_of(deliveryMethod="async")
        client.send(whole, later)
        assert client.receive()["data"][0]["taskUUID"] == later["taskUUID"]
        client.cut()
        gate.open()
        back = Client(live)
        assert back.log_in(session=name) == name
        items = [back.receive()["data"][0], back.receive()["data"][0]]
        assert {item["taskUUID"]: item["text"] for item in items} == {
            whole["taskUUID"]: "kept",
            later["taskUUID"]: "kept",
        }
        assert back.ask(later)["errors"][0]["code"] == "conflictTaskUUID"
        back.close()


def test_what_was_accepted_outlives_a_connection_that_was_reset() -> None:
    gate = Gate()
    with live_server(scripted(gate=gate, text="kept", first_delay_s=1)) as live:
        client = Client(live)
        name = client.log_in()
        tasks = [task_of() for _ in range(20)]
        client.send(*tasks)
        gate.is_reached.wait()
        client.reset()
        gate.open()
        back = Client(live)
        back.log_in(session=name)
        told = [item["taskUUID"] for _ in tasks for item in back.receive()["data"]]
        assert sorted(told) == sorted(task["taskUUID"] for task in tasks)
        back.close()


def test_what_was_accepted_can_be_asked_for_without_the_session() -> None:
    gate = Gate()
    with live_server(scripted(gate=gate, text="kept", first_delay_s=1)) as live:
        client = Client(live)
        client.log_in()
        task = task_of()
        client.send(task)
        gate.is_reached.wait()
        client.cut()
        gate.open()
        while (body := post(live, question(task)).json())["data"][0]["status"] == "processing":
            pass
        assert body["data"][0]["text"] == "kept"


def test_a_session_belongs_to_one_tenant_and_an_unknown_one_begins_anew() -> None:
    gate = Gate()
    with live_server(scripted(gate=gate, text="secret", first_delay_s=1), KEYS) as live:
        client = Client(live)
        name = client.log_in("sk-canary-one")
        client.send(task_of())
        gate.is_reached.wait()
        client.cut()
        thief = Client(live)
        assert thief.log_in("sk-canary-two", session=name) != name
        gate.open()
        assert thief.ask({"taskType": "ping", "ping": True}) == {"data": [{"taskType": "ping", "pong": True}]}
        thief.close()
        owner = Client(live)
        assert owner.log_in("sk-canary-one", session=str(uuid4())) != name
        owner.close()
        owner = Client(live)
        assert owner.log_in("sk-canary-one", session=name) == name
        assert owner.receive()["data"][0]["text"] == "secret"
        owner.close()


def test_a_session_that_is_resumed_leaves_its_old_connection(live: LiveServer) -> None:
    old, new = Client(live), Client(live)
    name = old.log_in()
    assert new.log_in(session=name) == name
    assert closed_with(old) == 1001
    assert new.ask(task_of())["data"]
    new.close()


def test_a_result_that_no_frame_can_hold_is_fetched_by_post() -> None:
    settings = Settings(sockets=SocketLimits(frame_bytes=700), limits=Limits(body_bytes=100_000))
    with live_server(scripted(text="x" * 400), settings) as live:
        client = Client(live)
        client.log_in()
        several, large = task_of(numberResults=2), task_of(messages=[{"role": "user", "content": "y"}])
        frames = [client.ask(several), client.receive()]
        assert [len(frame["data"]) for frame in frames] == [1, 1]
        client.close()
    with live_server(scripted(text="x" * 800), settings) as live:
        client = Client(live)
        client.log_in()
        (error,) = client.ask(large)["errors"]
        assert (error["code"], error["taskUUID"]) == ("maxFrameSizeExceeded", large["taskUUID"])
        assert post(live, question(large)).json()["data"][0]["text"] == "x" * 800
        client.close()


def test_a_slow_answer_can_be_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_module, "PATIENCE_S", 0.01)
    gate = Gate()
    with live_server(scripted(gate=gate, text="late", first_delay_s=1)) as live:
        client = Client(live)
        client.log_in()
        task = task_of()
        (error,) = client.ask(task)["errors"]
        assert (error["code"], error["taskUUID"]) == ("requestTimeout", task["taskUUID"])
        gate.open()
        while (frame := client.ask(question(task)))["data"][0]["status"] == "processing":
            pass
        assert frame["data"][0]["text"] == "late"
        client.close()


def test_a_server_that_stops_closes_its_sockets() -> None:
    with live_server() as live:
        client = Client(live)
        client.log_in()
    assert closed_with(client) == 1012

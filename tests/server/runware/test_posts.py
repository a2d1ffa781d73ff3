"""Tasks over HTTP."""

from __future__ import annotations

import asyncio
import json
import threading

import httpx
import pytest

from deepserve.config import Settings
from deepserve.server.runware import endpoint
from tests.outgoing.receiver import Receiver
from tests.server.live import PATIENCE_S, Gate, LiveServer, live_server, scripted
from tests.server.runware.setup import Json, post, question, task_of

KEYS = Settings(api_keys=("sk-one", "sk-two"))


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/"])
def test_a_task_is_answered_at_every_base_address(live: LiveServer, path: str) -> None:
    task = task_of()
    answer = post(live, task, path=path)
    assert answer.status_code == 200
    (item,) = answer.json()["data"]
    assert (item["taskType"], item["taskUUID"], item["text"]) == ("textInference", task["taskUUID"], "You said: hi")
    assert isinstance(item["seed"], int)
    assert "errors" not in answer.json()
    assert answer.headers["x-deepserve-served-by"] == "deepserve/scripted"


def test_tasks_of_one_request_do_not_harm_each_other(live: LiveServer) -> None:
    good, bad, other = task_of(), task_of(settings={"topK": 1}), task_of(numberResults=2)
    answer = post(live, good, bad, other)
    assert answer.status_code == 200
    body = answer.json()
    uuids = [item["taskUUID"] for item in body["data"]]
    assert uuids == [good["taskUUID"], other["taskUUID"], other["taskUUID"]]
    assert [(error["taskUUID"], error["code"]) for error in body["errors"]] == [
        (bad["taskUUID"], "unsupportedParameter")
    ]


def test_a_request_of_nothing_but_errors_has_the_status_of_the_first(live: LiveServer) -> None:
    answer = post(live, task_of(model="gpt"), task_of(messages=[]))
    assert answer.status_code == 404
    assert [error["code"] for error in answer.json()["errors"]] == ["modelNotFound", "invalidMessages"]
    assert "data" not in answer.json()


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{", "invalidJSON"), (b"[]", "missingTasks"), (b"[1]", "invalidTasks"), (b"[[]]", "invalidTasks")],
)
def test_bodies_without_tasks_are_refused(live: LiveServer, body: bytes, code: str) -> None:
    answer = httpx.post(live.address + "/v1", content=body, timeout=PATIENCE_S)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == code


def test_an_unknown_type_of_task_is_refused_by_name(live: LiveServer) -> None:
    answer = post(live, task_of(taskType="imageInference"))
    assert answer.status_code == 400
    (error,) = answer.json()["errors"]
    assert (error["code"], error["taskType"]) == ("unsupportedTaskType", "imageInference")


# Ids


def test_an_id_is_taken_once_for_each_tenant_in_any_spelling() -> None:
    with live_server(settings=KEYS) as live:
        task = task_of()
        assert post(live, task, authorization="Bearer sk-one").status_code == 200
        again = {**task, "taskUUID": task["taskUUID"].upper()}
        for other in (task, again, {**task, "deliveryMethod": "stream"}, {**task, "deliveryMethod": "async"}):
            answer = post(live, other, authorization="Bearer sk-one")
            assert answer.status_code == 400
            assert answer.json()["errors"][0]["code"] == "conflictTaskUUID"
        assert post(live, task, authorization="Bearer sk-two").status_code == 200


def test_an_accepted_id_is_taken_for_those_who_wait_too(live: LiveServer) -> None:
    task = task_of(deliveryMethod="async")
    assert post(live, task).json() == {"data": [{"taskType": "textInference", "taskUUID": task["taskUUID"]}]}
    for other in (task, {**task, "deliveryMethod": "sync"}, {**task, "deliveryMethod": "stream"}):
        assert post(live, other).json()["errors"][0]["code"] == "conflictTaskUUID"


@pytest.mark.parametrize("delivery", ["sync", "stream"])
@pytest.mark.parametrize(("failure", "status"), [("overloaded", 503), ("too_many_requests", 429)])
def test_a_start_that_failed_does_not_take_the_id(delivery: str, failure: str, status: int) -> None:
    """SDKs send the same task again after such a failure."""
    with live_server(scripted(text="x", failure=failure)) as live:
        task = task_of(deliveryMethod=delivery)
        for _ in range(2):
            answer = post(live, task)
            assert answer.status_code == status
            assert answer.headers["retry-after"] == "2"
            assert answer.json()["error"]["taskUUID"] == task["taskUUID"]


def test_a_refused_task_does_not_take_the_id(live: LiveServer) -> None:
    task = task_of(settings={"temperature": 9})
    assert post(live, task).status_code == 400
    assert post(live, {**task, "settings": {}}).status_code == 200


def test_a_failure_in_the_middle_takes_the_id_and_can_be_asked_for() -> None:
    with live_server(scripted(text="a b c", failure="engine_failure", fail_after_pieces=1)) as live:
        task = task_of()
        answer = post(live, task)
        assert answer.status_code == 500
        assert post(live, task).json()["errors"][0]["code"] == "conflictTaskUUID"
        assert post(live, question(task)).json()["errors"] == answer.json()["errors"]


# Streams


def events_of(answer: httpx.Response) -> list[Json]:
    *events, done, _ = answer.text.split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


def test_a_single_task_is_streamed(live: LiveServer) -> None:
    answer = post(live, task_of(deliveryMethod="stream", includeCost=True))
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer)
    assert "".join(event["delta"].get("text", "") for event in events) == "You said: hi"
    assert events[-1]["finishReason"] == "stop"
    assert events[-1]["cost"] > 0


def test_a_stream_needs_a_request_of_its_own(live: LiveServer) -> None:
    answer = post(live, task_of(deliveryMethod="stream"), task_of())
    assert len(answer.json()["data"]) == 1
    assert answer.json()["errors"][0]["code"] == "unsupportedDeliveryMethod"


def test_a_refused_stream_is_an_error_that_every_client_reads(live: LiveServer) -> None:
    answer = post(live, task_of(deliveryMethod="stream", settings={"topP": 7}))
    assert answer.status_code == 400
    assert answer.json()["errors"] == [answer.json()["error"]]
    assert answer.json()["error"]["message"]


def test_a_stream_whose_client_leaves_is_cancelled() -> None:
    gate = Gate()
    with live_server(scripted(gate=gate, text="a b c", delay_s=1)) as live:
        body = json.dumps([task_of(deliveryMethod="stream")]).encode()
        with live.connect() as connection:
            head = f"POST /v1 HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            assert gate.is_reached.wait(PATIENCE_S)
        assert gate.was_cancelled.wait(PATIENCE_S)
        gate.open()


# Results that are asked for


def test_a_client_that_leaves_a_whole_answer_can_ask_for_it_later() -> None:
    gate = Gate()
    with live_server(scripted(gate=gate, text="at last", first_delay_s=1)) as live:
        task = task_of(numberResults=2)
        body = json.dumps([task]).encode()
        with live.connect() as connection:
            head = f"POST /v1 HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            assert gate.is_reached.wait(PATIENCE_S)
        running = post(live, question(task)).json()["data"]
        assert [(item["resultIndex"], item["status"]) for item in running] == [(0, "processing"), (1, "processing")]
        assert not any("text" in item for item in running)
        gate.open()
        items = polled(live, task)
        assert [(item["status"], item["text"]) for item in items] == [("success", "at last")] * 2


def polled(live: LiveServer, task: Json, **headers: str) -> list[Json]:
    """As a client polls, for as long as it takes."""
    while True:
        body = post(live, question(task), **headers).json()
        assert "errors" not in body, body
        if all(item["status"] != "processing" for item in body["data"]):
            return list(body["data"])


def test_a_task_for_later_is_acknowledged_and_polled(live: LiveServer) -> None:
    task = task_of(deliveryMethod="async", includeCost=True, numberResults=2, seed=5)
    assert post(live, task).status_code == 200
    items = polled(live, task)
    assert [(item["resultIndex"], item["status"], item["seed"]) for item in items] == [
        (0, "success", 5),
        (1, "success", 6),
    ]
    assert all(item["text"] == "You said: hi" and item["cost"] > 0 for item in items)
    details = post(live, question(task, "getTaskDetails")).json()["data"]
    assert details == [
        {**question(task, "getTaskDetails"), "request": [task], "response": {"data": items}},
    ]


def test_a_task_for_later_that_fails_says_why() -> None:
    with live_server(scripted(text="x", failure="invalid_field")) as live:
        task = task_of(deliveryMethod="async")
        assert post(live, task).status_code == 200
        body: Json = {"data": [{"status": "processing"}]}
        while "data" in body:
            body = post(live, question(task)).json()
        (error,) = body["errors"]
        assert (error["code"], error["taskUUID"]) == ("invalidMessages", task["taskUUID"])


def test_results_belong_to_one_tenant_and_unknown_tasks_are_not_found() -> None:
    with live_server(settings=KEYS) as live:
        now, later = task_of(), task_of(deliveryMethod="async")
        one, two = {"authorization": "Bearer sk-one"}, {"authorization": "Bearer sk-two"}
        post(live, now, **one)
        post(live, later, **one)
        polled(live, later, **one)
        for task in (now, later):
            assert len(polled(live, task, **one)) == 1
            for kind in ("getResponse", "getTaskDetails"):
                answer = post(live, question(task, kind), **two)
                assert answer.status_code == 404
                assert answer.json()["errors"][0]["code"] == "taskFailedOrNotFound"
        assert post(live, question(task_of()), **one).status_code == 404


def test_a_slow_answer_is_given_up_but_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "PATIENCE_S", 0.01)
    gate = Gate()
    with live_server(scripted(gate=gate, text="late", first_delay_s=1)) as live:
        task = task_of()
        answer = post(live, task)
        assert answer.status_code == 504
        assert answer.json()["errors"][0]["code"] == "requestTimeout"
        gate.open()
        assert polled(live, task)[0]["text"] == "late"


def test_a_waiting_client_hears_blanks_until_the_answer_comes() -> None:
    gate = Gate()
    with (
        live_server(scripted(gate=gate, text="late", first_delay_s=1), Settings(keep_alive_s=0.01)) as live,
        httpx.stream("POST", live.address + "/v1", json=[task_of()], timeout=PATIENCE_S) as answer,
    ):
        pieces = answer.iter_raw()
        assert next(pieces).strip() == b""
        gate.open()
        body = b"".join(pieces)
    assert json.loads(body)["data"][0]["text"] == "late"


def test_the_models_of_this_server_can_be_searched(live: LiveServer) -> None:
    (item,) = post(live, task_of(taskType="modelSearch", search="flash")).json()["data"]
    assert item["totalResults"] == 1
    assert item["results"][0]["air"] == "deepseek:v4@flash"


# Keys


def test_a_key_may_come_in_a_task_of_the_body() -> None:
    login = {"taskType": "authentication", "apiKey": "sk-one"}
    with live_server(settings=KEYS) as live:
        greeting, item = post(live, login, task_of()).json()["data"]
        assert greeting["taskType"] == "authentication"
        assert greeting["connectionSessionUUID"]
        assert item["text"]
        assert "text/event-stream" in post(live, login, task_of(deliveryMethod="stream")).headers["content-type"]
        assert post(live, login, task_of(), authorization="Bearer sk-one").status_code == 200


@pytest.mark.parametrize(
    ("login", "header"),
    [(None, ""), ("sk-wrong", ""), ("", ""), (7, ""), (None, "Bearer sk-wrong"), ("sk-two", "Bearer sk-one")],
)
def test_without_the_right_key_nothing_is_told(login: Json, header: str) -> None:
    logins = [] if login is None else [{"taskType": "authentication", "apiKey": login}]
    headers = {"authorization": header} if header else {}
    with live_server(settings=KEYS) as live:
        answer = post(live, *logins, task_of(), **headers)
    assert answer.status_code == 401
    (error,) = answer.json()["errors"]
    assert (error["code"], error["parameter"], error["taskType"]) == ("invalidApiKey", "apiKey", "authentication")


@pytest.mark.parametrize("path", ["/v1/models", "/chat/completions", "/%76%31", "//v1", "/v1/responses"])
def test_the_key_may_be_in_the_body_at_the_base_addresses_only(path: str) -> None:
    login = {"taskType": "authentication", "apiKey": "sk-one"}
    with live_server(settings=KEYS) as live:
        assert post(live, login, task_of(), path=path).status_code == 401
        assert live.get("/v1").status_code == 401


def test_not_much_is_read_from_nobody() -> None:
    body = json.dumps([task_of(messages=[{"role": "user", "content": "x" * 4_200_000}])])
    with live_server(settings=KEYS) as live:
        answer = httpx.post(live.address + "/v1", content=body, timeout=PATIENCE_S)
    assert answer.status_code == 413
    assert answer.json()["errors"][0]["code"] == "maxRequestSizeExceeded"


# Webhooks


def test_a_webhook_is_called_once_for_each_result() -> None:
    called = threading.Event()

    async def run() -> None:
        async with Receiver() as receiver:
            settings = Settings(outgoing_allowed=(receiver.host,), outgoing_http=True)
            await asyncio.to_thread(submit, receiver, settings)

    def submit(receiver: Receiver, settings: Settings) -> None:
        with live_server(settings=settings) as live:
            task = task_of(webhookURL=receiver.url + "?token=t", numberResults=2)
            assert post(live, task).json()["data"] == [{"taskType": "textInference", "taskUUID": task["taskUUID"]}]
            pause = threading.Event()
            while len(receiver.received) < 2:
                pause.wait(0.01)
            bodies = sorted((json.loads(one.body) for one in receiver.received), key=lambda one: one["resultIndex"])
            assert [(body["resultIndex"], body["text"]) for body in bodies] == [
                (0, "You said: hi"),
                (1, "You said: hi"),
            ]
            assert len({one.headers["x-runware-delivery"] for one in receiver.received}) == 2
            assert [item["status"] for item in polled(live, task)] == ["success", "success"]
            called.set()

    asyncio.run(asyncio.wait_for(run(), PATIENCE_S * 2))
    assert called.is_set()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/x", "https://10.0.0.1/", "https://127.1/", "ftp://example.com", "nowhere"]
)
def test_a_webhook_that_may_not_be_called_is_refused_at_once(live: LiveServer, url: str) -> None:
    answer = post(live, task_of(webhookURL=url))
    assert answer.status_code == 400
    (error,) = answer.json()["errors"]
    assert (error["code"], error["parameter"]) == ("invalidWebhookURL", "webhookURL")


# Dry runs


def test_a_dry_run_checks_and_prices_and_begins_nothing(live: LiveServer) -> None:
    task = task_of(includeCost=True, includeUsage=True, settings={"maxTokens": 1000}, numberResults=2, seed=4)
    (item,) = post(live, task, **{"x-runware-dry-run": "1"}).json()["data"]
    assert (item["text"], item["usage"]["completionTokens"], item["seed"]) == ("", 2000, 4)
    assert item["cost"] == item["usage"]["costBreakdown"]["total"] > 0
    refused = post(live, {**task, "seed": -1}, **{"x-runware-dry-run": "1"})
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["code"] == "invalidSeed"
    real = post(live, task).json()["data"]
    assert sum(one["cost"] for one in real) < item["cost"]

"""The addresses of the Responses API: what is kept, work in the background, and whatever a client may send."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepserve.config import Settings
from tests.conftest import running_server
from tests.server.live import PATIENCE_S, Gate, LiveServer, live_server, scripted

HELLO: dict[str, Any] = {"model": "deepseek-v4-flash", "input": "hello"}  # Any: JSON


def ask(live: LiveServer, headers: dict[str, str] | None = None, **fields: object) -> httpx.Response:
    return httpx.post(live.address + "/v1/responses", json={**HELLO, **fields}, headers=headers, timeout=PATIENCE_S)


def ended(base: str, name: str) -> dict[str, Any]:
    """The response once it has ended; work in the background of a test takes moments."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        response: dict[str, Any] = httpx.get(f"{base}/v1/responses/{name}", timeout=PATIENCE_S).json()
        if response["status"] not in ("queued", "in_progress"):
            return response
    raise AssertionError("the response has not ended")


# Kept responses.


def test_responses_and_work_in_the_background_outlive_the_server(tmp_path: Path) -> None:
    script = tmp_path / "slow.toml"
    script.write_text('[[rules]]\nwhen = { contains = "slow" }\nreply = { text = "late", first_delay_s = 3600 }\n')
    slow = {**HELLO, "input": "slow work", "background": True}
    with running_server("--backend", "scripted", "--script", str(script), state_dir=tmp_path) as base:
        first = httpx.post(f"{base}/responses", json=HELLO).json()
        later = httpx.post(f"{base}/responses", json=slow).json()
    with running_server("--backend", "scripted", state_dir=tmp_path) as base:
        assert httpx.get(f"{base}/responses/{first['id']}").json() == first
        second = httpx.post(f"{base}/responses", json={**HELLO, "previous_response_id": first["id"]})
        assert second.json()["usage"]["input_tokens"] > first["usage"]["input_tokens"]
        found = ended(base, later["id"])
        assert (found["status"], found["output"][-1]["content"][0]["text"]) == ("completed", "You said: slow work")


def test_a_server_without_room_keeps_nothing_and_says_so() -> None:
    with live_server(settings=Settings(kept_responses=0)) as live:
        response = ask(live).json()
        assert response["store"] is False
        assert live.get(f"/responses/{response['id']}").status_code == 404


def test_pages_of_input_items(live: LiveServer) -> None:
    items = [{"role": "user", "content": f"word {number}"} for number in range(5)]
    name = ask(live, input=items).json()["id"]
    address = f"/responses/{name}/input_items"
    newest = live.get(f"{address}?limit=2").json()
    assert [item["content"][0]["text"] for item in newest["data"]] == ["word 4", "word 3"]
    assert (newest["has_more"], newest["first_id"]) == (True, newest["data"][0]["id"])
    rest = live.get(f"{address}?limit=3&after={newest['last_id']}").json()
    assert [item["content"][0]["text"] for item in rest["data"]] == ["word 2", "word 1", "word 0"]
    assert rest["has_more"] is False
    assert live.get(f"{address}?order=asc").json()["data"][0]["content"][0]["text"] == "word 0"
    for query in ("limit=0", "limit=101", "limit=x", "order=up", "after=nothing"):
        refused = live.get(f"{address}?{query}")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, query.partition("=")[0])


def test_failures_have_the_shape_of_the_dialect_even_before_it_was_asked(live: LiveServer) -> None:
    unknown = live.get("/responses/resp_1")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["message"] == "Response with id 'resp_1' not found."
    assert live.get("/v1/responses").status_code == 405
    assert live.get("/v1/responses").json()["error"]["code"] == "method_not_allowed"
    refused = live.get(f"/responses/{ask(live).json()['id']}?stream=true")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "stream")


def test_strict_mode_is_the_vendors(live: LiveServer) -> None:
    strict = {"x-deepserve-strict": "1"}
    answer = ask(live, strict, background=True, previous_response_id="resp_1", tools=[{"type": "odd"}])
    assert (answer.status_code, answer.json()["status"], answer.json()["store"]) == (200, "completed", False)
    assert live.get(f"/responses/{answer.json()['id']}").status_code == 404
    error = ask(live, strict, model="x").json()["error"]
    assert (error["param"], error["code"]) == (None, "invalid_request_error")


def test_a_repeated_request_gets_the_same_response(live: LiveServer) -> None:
    headers = {"idempotency-key": "one"}
    first, second = ask(live, headers), ask(live, headers)
    assert second.headers["idempotent-replayed"] == "true"
    assert (first.json()["id"], first.json()["output"]) == (second.json()["id"], second.json()["output"])


def test_a_client_that_waits_hears_comments_until_the_first_event() -> None:
    gate = Gate()
    with live_server(scripted(gate=gate, text="x", first_delay_s=1.0), Settings(keep_alive_s=0.01)) as live:
        body = {**HELLO, "stream": True}
        with httpx.stream("POST", f"{live.address}/responses", json=body, timeout=PATIENCE_S) as answer:
            lines = answer.iter_lines()
            assert next(lines) == ": keep-alive"
            gate.open()
            told = [line for line in lines if line.startswith("event: ")]
        assert (told[0], told[-1]) == ("event: response.created", "event: response.completed")


# Work in the background.


def test_work_in_the_background_is_answered_at_once_and_found_when_it_has_ended() -> None:
    gate = Gate()
    with live_server(scripted(gate=gate, text="done", first_delay_s=1.0)) as live:
        accepted = ask(live, background=True, metadata={"a": "b"})
        response = accepted.json()
        assert (accepted.status_code, response["status"], response["background"]) == (200, "queued", True)
        assert (response["output"], response["metadata"]) == ([], {"a": "b"})
        assert gate.is_reached.wait(PATIENCE_S)
        assert live.get(f"/responses/{response['id']}").json()["status"] == "in_progress"
        assert live.get(f"/responses/{response['id']}/input_items").json()["data"][0]["content"][0]["text"] == "hello"
        gate.open()
        found = ended(live.address, response["id"])
        assert (found["status"], found["id"], found["background"]) == ("completed", response["id"], True)
        assert found["output"][-1]["content"][0]["text"] == "done"
        again = ask(live, previous_response_id=response["id"])
        assert again.json()["previous_response_id"] == response["id"]
        cancelled = httpx.post(f"{live.address}/responses/{response['id']}/cancel").json()
        assert cancelled["status"] == "completed"


def test_work_in_the_background_can_be_cancelled() -> None:
    gate = Gate()
    backend = scripted(gate=gate, text="done", first_delay_s=1.0)
    with live_server(backend) as live:
        name = ask(live, background=True).json()["id"]
        assert gate.is_reached.wait(PATIENCE_S)
        cancelled = httpx.post(f"{live.address}/responses/{name}/cancel").json()
        assert cancelled["status"] == "cancelled"
        assert gate.was_cancelled.wait(PATIENCE_S)
        assert live.get(f"/responses/{name}").json() == cancelled
        gate.open()


def test_work_that_is_deleted_is_cancelled_and_gone() -> None:
    gate = Gate()
    with live_server(scripted(gate=gate, text="done", first_delay_s=1.0)) as live:
        name = ask(live, background=True).json()["id"]
        assert gate.is_reached.wait(PATIENCE_S)
        assert httpx.delete(f"{live.address}/responses/{name}").json()["deleted"] is True
        assert gate.was_cancelled.wait(PATIENCE_S)
        assert live.get(f"/responses/{name}").status_code == 404
        assert httpx.delete(f"{live.address}/responses/{name}").status_code == 404
        gate.open()


def test_work_that_fails_says_why() -> None:
    with live_server(scripted(text="a b", failure="engine_failure", fail_after_pieces=1)) as live:
        failed = ended(live.address, ask(live, background=True).json()["id"])
        assert (failed["status"], failed["error"]["message"]) == ("failed", "Scripted: the engine failed.")


def test_what_is_wrong_is_said_before_the_work_is_taken(live: LiveServer) -> None:
    for fields, param in (
        ({"store": False}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"temperature": 3}, "temperature"),
    ):
        refused = ask(live, background=True, **fields)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_repeated_work_in_the_background_is_done_once(live: LiveServer) -> None:
    headers = {"idempotency-key": "work"}
    first, second = ask(live, headers, background=True), ask(live, headers, background=True)
    assert second.headers["idempotent-replayed"] == "true"
    assert first.json()["id"] == second.json()["id"]
    ended(live.address, first.json()["id"])
    assert ask(live, headers, background=True).json()["status"] == "completed"
    other = ask(live, headers, background=True, input="else")
    assert (other.status_code, other.json()["error"]["param"]) == (400, "idempotency-key")


# Followed in a stream.


def follow(live: LiveServer, **headers: str) -> AbstractContextManager[httpx.Response]:
    body = {**HELLO, "background": True, "stream": True}
    return httpx.stream("POST", f"{live.address}/responses", json=body, headers=headers, timeout=PATIENCE_S)


def told(answer: httpx.Response) -> Iterator[dict[str, Any]]:  # Any: JSON
    return (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: "))


def test_a_stream_follows_work_in_the_background_to_the_response_that_is_kept() -> None:
    gate = Gate()
    with live_server(scripted(gate=gate, text="all done", first_delay_s=1.0)) as live, follow(live) as answer:
        events = told(answer)
        first, second = next(events), next(events)
        assert (first["type"], second["type"]) == ("response.created", "response.queued")
        name = first["response"]["id"]
        assert gate.is_reached.wait(PATIENCE_S)
        assert live.get(f"/responses/{name}").json()["status"] == "in_progress"
        gate.open()
        rest = list(events)
        assert [event["sequence_number"] for event in (first, second, *rest)] == list(range(len(rest) + 2))
        assert "".join(event["delta"] for event in rest if event["type"].endswith("text.delta")) == "all done"
        assert (rest[0]["type"], rest[-1]["type"]) == ("response.in_progress", "response.completed")
        kept = live.get(f"/responses/{name}").json()
        assert (kept["status"], kept["background"]) == ("completed", True)
        assert kept["output"] == rest[-1]["response"]["output"]
        assert kept["usage"] == rest[-1]["response"]["usage"]


def test_a_client_that_stops_following_ends_nothing() -> None:
    gate = Gate()
    with live_server(scripted(gate=gate, text="done", first_delay_s=1.0)) as live:
        with follow(live) as answer:
            name = next(told(answer))["response"]["id"]
            assert gate.is_reached.wait(PATIENCE_S)
        gate.open()
        assert ended(live.address, name)["output"][-1]["content"][0]["text"] == "done"
        assert not gate.was_cancelled.is_set()


def test_a_followed_response_that_fails_says_so_in_the_stream_and_afterwards() -> None:
    with live_server(scripted(text="a b", failure="engine_failure", fail_after_pieces=1)) as live:
        with follow(live) as answer:
            last = list(told(answer))[-1]
        assert last["type"] == "response.failed"
        kept = live.get(f"/responses/{last['response']['id']}").json()
        assert (kept["status"], kept["error"]) == ("failed", last["response"]["error"])


@pytest.mark.parametrize("is_deleted", [False, True])
def test_the_stream_of_cancelled_work_ends_with_an_error(is_deleted: bool) -> None:
    gate = Gate()
    with live_server(scripted(gate=gate, text="done", first_delay_s=1.0)) as live, follow(live) as answer:
        events = told(answer)
        name = next(events)["response"]["id"]
        assert gate.is_reached.wait(PATIENCE_S)
        if is_deleted:
            httpx.delete(f"{live.address}/responses/{name}")
        else:
            httpx.post(f"{live.address}/responses/{name}/cancel")
        last = list(events)[-1]
        assert (last["type"], last["code"], last["param"]) == ("error", "server_error", None)
        assert last["message"] == (
            f"The response was cancelled. What became of the response is told at /responses/{name}."
        )
        gate.open()


def test_a_server_that_closes_ends_the_stream_and_not_the_response() -> None:
    gate = Gate()
    with live_server(scripted(gate=gate, text="done", first_delay_s=1.0)) as live, follow(live) as answer:
        events = told(answer)
        assert next(events)["type"] == "response.created"
        assert gate.is_reached.wait(PATIENCE_S)
        live.stop()
        last = list(events)[-1]
        assert (last["type"], last["code"]) == ("error", "server_is_overloaded")
        assert last["message"].startswith("The server is shutting down.")
        gate.open()


def test_a_stream_is_told_once_for_each_idempotency_key(live: LiveServer) -> None:
    with follow(live, **{"idempotency-key": "followed"}) as answer:
        name = next(told(answer))["response"]["id"]
    ended(live.address, name)
    again = ask(live, {"idempotency-key": "followed"}, background=True, stream=True)
    assert (again.status_code, again.json()["error"]["param"]) == (400, "idempotency-key")
    assert name in again.json()["error"]["message"]


def test_a_kept_response_is_not_streamed_again(live: LiveServer) -> None:
    name = ask(live).json()["id"]
    for query in ("stream=true", "starting_after=3"):
        refused = live.get(f"/responses/{name}?{query}")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, query.partition("=")[0])


# Anything at all.

_VALID: dict[str, Any] = {
    "model": "deepseek-v4-pro",
    "instructions": "i",
    "input": [
        {"role": "developer", "content": "d"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "t"}], "id": "x"},
        {
            "role": "user",
            "content": [{"type": "input_image", "image_url": "u"}, {"type": "input_file", "file_id": "f"}],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "s"}],
            "content": [{"type": "reasoning_text", "text": "r"}],
            "encrypted_content": "e",
        },
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": []}]},
        {"type": "function_call", "call_id": "c", "name": "f", "namespace": "n", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "k", "name": "p", "input": "i"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "o"}]},
        {"type": "custom_tool_call_output", "call_id": "k", "output": "o"},
        {"type": "web_search_call", "id": "w", "status": "completed"},
    ],
    "tools": [
        {"type": "function", "name": "f", "strict": True, "parameters": {"type": "object", "properties": {}}},
        {"type": "namespace", "name": "n", "description": "d", "tools": [{"type": "function", "name": "f"}]},
        {"type": "custom", "name": "p", "format": {"type": "grammar", "syntax": "lark", "definition": "d"}},
        {"type": "web_search"},
    ],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"format": {"type": "text"}, "verbosity": "low"},
    "include": ["reasoning.encrypted_content"],
    "metadata": {"a": "b"},
    "stream": True,
    "store": True,
    "background": False,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_logprobs": 2,
    "max_output_tokens": 10,
    "max_tool_calls": 1,
    "truncation": "auto",
    "user": "u",
}
_ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-(10**40), max_value=10**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["function_call", "item_reference", "compaction", "message", "custom", "namespace", "assistant"]),
    st.just({}),
    st.just([]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.sampled_from(["type", "id", "text", "role", "content"]), st.text(max_size=5), max_size=3),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in [(*path, key), *_places(item, (*path, key))]]


@st.composite
def _bodies(draw: st.DrawFn) -> dict[str, Any]:
    value = copy.deepcopy(_VALID)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(_places(value) or [("input",)]))
        holder = value
        for step in path[:-1]:
            holder = holder[step]
        if draw(st.booleans()) or path[-1] not in holder:
            holder[path[-1]] = draw(_ODD)
        else:
            del holder[path[-1]]
    return value


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client() as client:
        yield client


def test_the_body_to_mutate_is_valid(live: LiveServer) -> None:
    assert ask(live, **_VALID).status_code == 200


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(body=_bodies(), address=st.sampled_from(["", "/compact", "/input_tokens"]), is_strict=st.booleans())
def test_mutations_of_a_valid_body_are_never_the_servers_fault(
    live: LiveServer, client: httpx.Client, body: dict[str, Any], address: str, is_strict: bool
) -> None:
    headers = {"x-deepserve-strict": "1"} if is_strict else {}
    answer = client.post(live.address + "/v1/responses" + address, json=body, headers=headers)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        assert answer.json()["error"]["message"]
    elif not address and body.get("stream") is True:
        last = json.loads(answer.text.split("\n\n")[-2].partition("data: ")[2])
        assert last["type"] in ("response.completed", "response.incomplete")


# Compaction.


def test_a_model_that_calls_a_tool_instead_of_writing_a_summary_is_asked_again(live: LiveServer) -> None:
    """The scripted back end calls the first tool whenever there is one."""
    tools = [{"type": "function", "name": "f", "parameters": {"type": "object"}}]
    address = f"{live.address}/v1/responses/compact"
    with_tools = httpx.post(address, json={**HELLO, "tools": tools}).json()
    without = httpx.post(address, json=HELLO).json()
    assert [item["type"] for item in with_tools["output"]] == ["message", "compaction"]
    assert with_tools["usage"]["input_tokens"] > 2 * without["usage"]["input_tokens"]


def test_a_summary_that_did_not_fit_is_the_clients_to_mend(live: LiveServer) -> None:
    refused = httpx.post(f"{live.address}/responses/compact", json={**HELLO, "max_output_tokens": 1})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_output_tokens")

"""Oxen's API as its clients use it: the OpenAI SDK at `/api/ai`, and plain HTTP as in the service's own examples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from deepserve.catalog.models import load_models
from deepserve.config import Limits, Settings
from deepserve.core.errors import RequestError
from deepserve.core.request import RequestId
from deepserve.dialects.chat.oxen.exchange import oxen_decoder
from deepserve.dialects.exchange import Arrival
from tests.dialects.chat.decoding import ARRIVED_AT
from tests.server.live import LiveServer, live_server, scripted

MODEL = "deepseek-v4-pro"
MESSAGES: Any = [{"role": "user", "content": "Hello, what can you do?"}]  # Any: as the SDK's own examples do


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with live_server() as server:
        yield server


@pytest.fixture(scope="module")
def client(live: LiveServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=live.address + "/api/ai", api_key="sk-local", max_retries=0) as client:
        yield client


def test_a_question_and_its_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=0.7, max_tokens=1024)
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == MODEL
    assert answer.choices[0].message.content == "You said: Hello, what can you do?"
    assert (answer.choices[0].message.model_extra or {})["reasoning_content"]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert (answer.usage.model_extra or {})["cost"] > 0


def test_a_stream_says_what_the_whole_answer_says(client: OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=MESSAGES)
    text, usage = "", None
    for chunk in client.chat.completions.create(
        model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    ):
        text += chunk.choices[0].delta.content or ""
        usage = chunk.usage or usage
    assert text == whole.choices[0].message.content
    assert usage == whole.usage


def test_errors_have_a_class_and_a_text(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="Model not found: bad-model-name"):
        client.chat.completions.create(model="bad-model-name", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError, match="Messages array cannot be empty"):
        client.chat.completions.create(model=MODEL, messages=[])
    with pytest.raises(openai.BadRequestError, match="temperature") as caught:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=3)
    assert caught.value.type == "invalid_params"


def test_a_failure_in_the_middle_of_a_stream_is_raised() -> None:
    with live_server(scripted(text="a b c", failure="engine_failure", fail_after_pieces=2)) as live:
        client = OpenAI(base_url=live.address + "/api/ai", api_key="x", max_retries=0)
        stream = client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        with client, pytest.raises(openai.APIError, match="the engine failed"):
            list(stream)


def test_without_a_key_the_long_shape_says_so() -> None:
    with live_server(settings=Settings(api_keys=("sk-one",))) as live:
        answer = live.post("/api/ai/chat/completions")
        assert live.get("/api/authorize", authorization="Bearer sk-one").json()["user"]["email"]
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == answer.json()["status_message"] == "unauthenticated"


def test_no_model_is_the_short_shape(live: LiveServer) -> None:
    answer = httpx.post(live.address + "/api/ai/chat/completions", json={"messages": MESSAGES})
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": {"message": "You must specify a model to call"}},
    )


def test_models_are_listed_found_and_described(live: LiveServer, client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["deepseek-v4-pro", "deepseek-v4-flash"]
    item = live.get("/api/ai/models/deepseek-v4-flash").json()
    assert item["id"] == client.models.retrieve("deepseek-v4-flash").id
    assert item["json_request_schema"] == item["request_schema"]
    assert item["pricing"]["input_cost_per_token"] > item["pricing"]["cached_input_cost_per_token"] > 0
    found = live.get("/api/ai/models/search?search=flash").json()["data"]
    assert [model["id"] for model in found] == ["deepseek-v4-flash"]
    older = live.get("/api/evaluations/models").json()["models"]
    assert [(model["name"], model["model_type"]) for model in older] == [
        ("deepseek-v4-pro", "base"),
        ("deepseek-v4-flash", "base"),
    ]
    assert live.get(f"/api/evaluations/models/{older[1]['id']}").json()["model"]["name"] == "deepseek-v4-flash"
    missing = live.get("/api/ai/models/nothing")
    assert missing.status_code == 404
    assert missing.json()["error"]["title"] == "The requested resource could not be found"


def _violations(schema: dict[str, Any]) -> list[Any]:
    """Values that a field's description forbids."""
    found: list[Any] = []
    if "minimum" in schema:
        found.append(schema["minimum"] - 1)
    if "exclusiveMinimum" in schema:
        found.append(schema["exclusiveMinimum"])
    if "maximum" in schema:
        found.append(schema["maximum"] + 1)
    if "enum" in schema:
        found.append("nonsense")
    if schema.get("type") in ("integer", "number", "boolean", "object", "array"):
        found.append("nonsense")
    if schema.get("type") == "string":
        found.append(17)
    return found


def test_the_request_schema_forbids_what_the_decoder_refuses(live: LiveServer) -> None:
    decode = oxen_decoder(names=load_models(), limits=Limits())
    arrival = Arrival(id=RequestId("0" * 32), at=ARRIVED_AT)
    schema = live.get(f"/api/ai/models/{MODEL}").json()["request_schema"]
    properties = schema["properties"]
    assert schema["basic"] == ["temperature", "max_tokens", "stream"]
    assert [field["x-order"] for field in properties.values()] == list(range(len(properties)))
    num_tried = 0
    for name, field in properties.items():
        body = {"model": MODEL, "messages": MESSAGES, "logprobs": True}
        if "default" in field:
            decode(json.dumps({**body, name: field["default"]}).encode(), arrival)
        if field.get("nullable"):
            decode(json.dumps({**body, name: None}).encode(), arrival)
        for value in _violations(field):
            num_tried += 1
            with pytest.raises(RequestError):
                decode(json.dumps({**body, name: value}).encode(), arrival)
    assert num_tried > 50


def test_text_models_are_refused_by_the_queue(live: LiveServer) -> None:
    answer = live.post("/api/ai/queue", model=MODEL, prompt="a fox")
    assert answer.status_code == 415
    assert ":unsupported_media_type" in answer.json()["error"]["message"]
    assert live.post("/api/ai/queue", model="nothing").json() == {"error": {"message": "Model not found: nothing"}}
    assert live.get("/api/ai/queue").json() == {"count": 0, "generations": []}
    assert live.get("/api/ai/queue/0c3ad9d4-91f6-4d9c-98a9-5a7e0c0b8a11").status_code == 404


def test_events_beat_until_the_listener_leaves(live: LiveServer) -> None:
    with httpx.stream("GET", live.address + "/api/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert next(stream.iter_raw()) == b": keep-alive\n\n"


def test_the_history_tells_what_answers_cost(scripted_server: str) -> None:
    with OpenAI(base_url=scripted_server + "/api/ai", api_key="x", max_retries=0) as client:
        answer = client.chat.completions.create(model=MODEL, messages=MESSAGES)
    for _ in range(500):  # the record is written by another thread
        found = httpx.get(f"{scripted_server}/api/ai/generations/{answer.id}")
        if found.status_code == 200:
            break
    row = found.json()["generation"]
    assert row["status"] == "succeeded"
    assert answer.usage is not None
    assert float(row["cost"]) == (answer.usage.model_extra or {})["cost"]
    page = httpx.get(f"{scripted_server}/api/ai/generations?page_size=1").json()
    assert page["count"] == len(page["generations"]) == 1
    assert page["total_pages"] == page["total_entries"] >= 1

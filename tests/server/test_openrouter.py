"""What OpenRouter's addresses say besides answers, and to whom."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deepserve.config import Settings
from tests.server.live import LiveServer, live_server, scripted

CATALOGUES = (
    *("/api/v1/models", "/api/v1/models/count", "/api/ai/models", "/api/ai/models/search?search=pro"),
    *("/api/evaluations/models", "/api/evaluations/models/search?search=pro"),
)
MODEL = "deepseek/deepseek-v4-pro"


@pytest.mark.parametrize("path", CATALOGUES)
def test_catalogues_are_read_without_a_key(path: str) -> None:
    with live_server(settings=Settings(api_keys=("sk-one",))) as live:
        assert live.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/api/v1/key", "/api/v1/credits", "/api/v1/generation?id=x", "/api/ai/generations"])
def test_what_concerns_somebody_needs_a_key(path: str) -> None:
    with live_server(settings=Settings(api_keys=("sk-one",))) as live:
        answer = live.get(path)
    assert answer.status_code == 401
    assert answer.json()["error"]["message"]


def test_models_are_filtered_and_paged(live: LiveServer) -> None:
    def found(query: str) -> list[str]:
        return [model["id"].removeprefix("deepseek/deepseek-v4-") for model in live.get(query).json()["data"]]

    assert found("/api/v1/models?q=Flash") == ["flash"]
    assert found("/api/v1/models?supported_parameters=tools,min_p") == ["pro", "flash"]
    assert found("/api/v1/models?supported_parameters=top_a") == []
    assert found("/api/v1/models?output_modalities=image") == []
    assert found("/api/v1/models?context=1000000000") == []
    assert found("/api/v1/models?model_authors=openai") == []
    assert found("/api/v1/models?max_price=0.2") == ["flash"]
    page = live.get("/api/v1/models?limit=1").json()
    assert page["total_count"] == 2
    assert found(page["links"]["next"]) == ["flash"]
    assert live.get("/api/v1/models?category=legal").headers["x-deepserve-ignored"] == "category"
    assert live.get("/api/v1/models?limit=none").status_code == 400


def test_every_answer_names_its_generation_in_a_header(live: LiveServer) -> None:
    for is_stream in (False, True):
        answer = live.post("/api/v1/chat/completions", model=MODEL, stream=is_stream)
        assert answer.headers["x-generation-id"] in answer.text


def test_anthropics_and_openais_dialects_are_spoken_there_too(live: LiveServer) -> None:
    message = live.post("/api/v1/messages", model=MODEL, max_tokens=64).json()
    assert message["type"] == "message"
    response = live.post("/api/v1/responses", model=MODEL, messages=None, input="hi").json()
    assert response["object"] == "response"


def last_usage(text: str, *path: str) -> Any:  # Any: JSON
    """The usage in the last event of a stream that has one at this path."""
    frames = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    for name in path:
        frames = [frame[name] for frame in frames if name in frame]
    return [frame["usage"] for frame in frames if "usage" in frame][-1]


def test_messages_cost_what_chat_costs_and_elsewhere_nothing_is_said(live: LiveServer) -> None:
    chat = live.post("/api/v1/chat/completions", model=MODEL).json()["usage"]
    usage = live.post("/api/v1/messages", model=MODEL, max_tokens=64).json()["usage"]
    assert (usage["cost"], usage["is_byok"], usage["cost_details"]) == (chat["cost"], False, chat["cost_details"])
    streamed = live.post("/api/v1/messages", model=MODEL, max_tokens=64, stream=True).text
    assert last_usage(streamed) == usage
    plain = live.post("/anthropic/v1/messages", model="deepseek-v4-pro", max_tokens=64).json()["usage"]
    assert set(usage) - set(plain) == {"cost", "is_byok", "cost_details"}


def test_responses_cost_what_chat_costs_and_elsewhere_nothing_is_said(live: LiveServer) -> None:
    chat = live.post("/api/v1/chat/completions", model=MODEL).json()["usage"]
    response = live.post("/api/v1/responses", model=MODEL, messages=None, input="hello").json()
    usage = response["usage"]
    assert (usage["cost"], usage["is_byok"]) == (chat["cost"], False)
    assert usage["cost_details"] == {
        "upstream_inference_input_cost": chat["cost_details"]["upstream_inference_prompt_cost"],
        "upstream_inference_output_cost": chat["cost_details"]["upstream_inference_completions_cost"],
        "upstream_inference_cost": None,
    }
    streamed = live.post("/api/v1/responses", model=MODEL, messages=None, input="hello", stream=True).text
    assert last_usage(streamed, "response") == usage
    assert live.get(f"/api/v1/responses/{response['id']}").json()["usage"] == usage
    plain = live.post("/v1/responses", model="deepseek-v4-pro", messages=None, input="hello").json()["usage"]
    assert set(usage) - set(plain) == {"cost", "is_byok", "cost_details"}


def test_plain_completions_cost_what_chat_costs(live: LiveServer) -> None:
    whole = live.post("/api/v1/completions", model=MODEL, messages=None, prompt="Once upon").json()
    assert whole["id"].startswith("gen-")
    assert whole["model"] == "deepseek/deepseek-v4-pro-20260423"
    assert whole["usage"]["cost"] > 0
    text = live.post("/api/v1/completions", model=MODEL, messages=None, prompt="Once upon", stream=True).text
    frames = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert "".join(frame["choices"][0]["text"] for frame in frames) == whole["choices"][0]["text"]
    assert frames[-1]["usage"] == whole["usage"]
    refused = live.post("/api/v1/completions", model=MODEL, prompt="x", provider={"only": ["other"]})
    assert (refused.status_code, refused.json()["error"]["availability"]["excluded_by"]) == (404, ["allowed_providers"])


def test_a_full_server_says_when_to_come_back() -> None:
    with live_server(scripted(failure="too_many_requests")) as live:
        answer = live.post("/api/v1/chat/completions", model=MODEL)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert answer.json()["error"]["availability"] == {
        "code": "capacity_exhausted",
        "retryable": True,
        "requested_models": [],
        "retry_after": 2.0,
        "docs_url": "https://openrouter.ai/docs/api-reference/errors",
    }


def test_an_unknown_address_has_the_shape_of_the_dialect(live: LiveServer) -> None:
    answer = live.get("/api/v1/presets")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, 404)

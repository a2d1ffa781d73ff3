"""Every address, and every header that an answer carries."""

import json
import re
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import msgspec
import pytest
from typing_extensions import override

from deepserve.backends.scripted import ScriptedBackend
from deepserve.config import Settings
from deepserve.core.events import Event, PastReasoning, Started
from deepserve.core.request import Request
from deepserve.server.app import PREFIXES
from tests.server.live import HELLO, LiveServer, live_server, scripted


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_prefix_serves_the_same(live: LiveServer, prefix: str) -> None:
    answer = live.post(f"{prefix}/chat/completions")
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "You said: hello"
    assert [model["id"] for model in live.get(f"{prefix}/models").json()["data"]] == [
        "deepseek-v4-pro",
        "deepseek-v4-flash",
    ]
    assert live.get(f"{prefix}/models/deepseek-v4-pro").json()["id"] == "deepseek-v4-pro"


def test_an_answer_names_itself_and_who_really_served(live: LiveServer) -> None:
    answer = live.post(foo=1)
    trace = answer.headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", trace)
    assert answer.headers["x-ds-trace-id"] == trace
    assert answer.json()["id"].replace("-", "") == trace
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", answer.json()["id"])
    assert answer.headers["x-deepserve-served-by"] == "deepserve/scripted"
    assert answer.headers["x-deepserve-ignored"] == "foo"
    assert answer.headers["x-deepserve-reasoning"] == "sent=0 restored=0 missing=0"
    assert answer.headers["content-type"] == "application/json"
    assert "deprecation" not in answer.headers
    assert "server" not in answer.headers


def test_two_answers_never_share_an_id(live: LiveServer) -> None:
    assert len({live.post().json()["id"] for _ in range(5)}) == 5


def test_retired_names_are_served_with_a_warning(live: LiveServer) -> None:
    answer = live.post(model="deepseek-chat")
    assert answer.json()["model"] == "deepseek-v4-flash"
    assert "reasoning_content" not in answer.json()["choices"][0]["message"]
    assert answer.headers["deprecation"] == "@1784908740"
    assert answer.headers["x-deepserve-deprecated"] == "deepseek-chat is retired; use deepseek-v4-flash"


def test_strict_mode_is_asked_for_by_header_or_setting(live: LiveServer) -> None:
    value = {**HELLO, "model": "deepseek-chat"}
    url = live.address + "/chat/completions"
    assert httpx.post(url, json=value, headers={"x-deepserve-strict": "1"}).status_code == 400
    assert httpx.post(url, json=value, headers={"x-deepserve-strict": "0"}).status_code == 200
    answer = httpx.post(url, json=value, headers={"x-deepserve-strict": "maybe"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-deepserve-strict")
    with live_server(settings=Settings(is_strict=True)) as strict:
        answer = strict.post(model="deepseek-chat")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, None)
        lenient = httpx.post(strict.address + "/chat/completions", json=value, headers={"x-deepserve-strict": "0"})
        assert lenient.status_code == 200


def test_names_of_ignored_fields_cannot_break_the_headers(live: LiveServer) -> None:
    odd: dict[str, Any] = {"a\r\nset-cookie: x": 1, "ü": 2, "long" * 5000: 3}  # Any: JSON
    answer = live.post(**odd)
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    assert len(answer.headers["x-deepserve-ignored"]) <= 1024


def test_a_form_content_type_is_taken_as_what_curl_means(live: LiveServer) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = httpx.post(live.address + "/chat/completions", content=json.dumps(HELLO), headers=headers)
    assert answer.status_code == 200


def test_models_tell_the_truth(live: LiveServer) -> None:
    item = live.get("/models").json()["data"][0]
    assert item["served_by"] == {
        "provider": "deepserve",
        "model": "scripted",
        "fingerprint": "fp_deepserve_scripted_1",
    }
    assert (item["context_window"], item["max_output_tokens"]) == (131072, 131072)
    assert item["object"] == "model"
    assert item["created"] == 1776988800
    assert item["effort"] == {"supported_levels": ["low", "high", "max"], "default_level": "high"}
    strict = live.get("/models", **{"x-deepserve-strict": "1"}).json()["data"][0]
    assert "created" not in strict


def test_aliases_can_be_looked_up_and_unknown_names_cannot(live: LiveServer) -> None:
    assert live.get("/v1/models/deepseek-chat").json()["id"] == "deepseek-v4-flash"
    answer = live.get("/v1/models/gpt")
    assert answer.status_code == 404
    assert "deepseek-v4-pro" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/nothing", "The nearest address is"),
        ("/beta/v1/", "POST to /beta/v1/chat/completions"),
        ("/beta", "POST to /beta/chat/completions"),
        ("/v1/files", "does not serve files yet"),
        ("/chat/completions/", "/chat/completions"),
    ],
)
def test_unknown_addresses_say_where_to_go(live: LiveServer, path: str, said: str) -> None:
    answer = live.post(path)
    assert answer.status_code == 404
    assert said in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/"])
def test_a_chat_request_at_the_base_address_is_told_where_to_go(live: LiveServer, path: str) -> None:
    """Tasks are posted there, in Runware's dialect; a client with half an address means something else."""
    answer = live.post(path)
    assert answer.status_code == 400
    assert "POST to /chat/completions" in answer.json()["error"]["message"]


def test_a_wrong_method_names_the_right_one(live: LiveServer) -> None:
    answer = live.get("/chat/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    answer = httpx.request("OPTIONS", live.address + "/chat/completions")
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert httpx.head(live.address + "/models").status_code == 200


def test_health_and_readiness(live: LiveServer) -> None:
    assert live.get("/health").json() == {"status": "ok"}
    assert live.get("/ready").status_code == 200
    live.closing.is_draining = True
    try:
        assert live.get("/ready").status_code == 503
        assert live.get("/health").status_code == 200
    finally:
        live.closing.is_draining = False


def test_capacity_errors_say_when_to_come_back() -> None:
    with live_server(scripted(failure="too_many_requests")) as live:
        answer = live.post()
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert answer.json()["error"]["type"] == "rate_limit_reached_error"


def test_verdicts_are_announced_in_a_header(live: LiveServer) -> None:
    answer = live.post(response_format={"type": "json_object"})
    assert answer.headers["x-deepserve-validated"] == "json_object=valid"
    assert "x_deepserve_validated" not in answer.json()
    with live_server(scripted(text="no json")) as other:
        answer = other.post(response_format={"type": "json_object"})
    assert answer.headers["x-deepserve-validated"] == "json_object=invalid"
    assert "x-deepserve-validated" not in live.post().headers


def test_metrics_count_what_was_answered() -> None:
    with live_server(scripted(reasoning="a b", text="c d e", hit_tokens=1)) as live:
        live.post(model="deepseek-v4-pro")
        live.post(messages=[])
        text = live.get("/metrics").text
        second = live.get("/metrics").text
    assert 'deepserve_requests_total{model="deepseek-v4-pro",outcome="stop"} 1.0' in text
    for kind, count in {"hit": 1, "miss": 1, "reasoning": 2, "answer": 3}.items():
        assert f'deepserve_tokens_total{{kind="{kind}",model="deepseek-v4-pro"}} {count}.0' in text
    assert "deepserve_active_requests 0.0" in text
    assert "deepserve_queue_depth 0.0" in text
    assert 'deepserve_time_to_first_token_seconds_count{model="deepseek-v4-pro"} 1.0' in text
    assert 'deepserve_time_per_output_token_seconds_count{model="deepseek-v4-pro"} 1.0' in text
    assert 'deepserve_http_responses_total{status="400"} 1.0' in text
    assert 'deepserve_http_responses_total{status="200"} 2.0' in second


def test_the_back_end_has_the_last_word_on_past_reasoning() -> None:
    class Remembering(ScriptedBackend):
        @override
        async def answer(self, request: Request) -> AsyncGenerator[Event]:
            async for event in super().answer(request):
                if isinstance(event, Started):
                    past = PastReasoning(sent=1, restored=2, missing=3)
                    event = msgspec.structs.replace(event, past_reasoning=past)
                yield event

    with live_server(Remembering()) as live:
        for is_stream in (False, True):
            answer = live.post(stream=is_stream)
            assert answer.headers["x-deepserve-reasoning"] == "sent=1 restored=2 missing=3"

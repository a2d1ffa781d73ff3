"""Answers of this service, whole and streamed, byte for byte where clients look."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from deepserve.core import errors
from deepserve.core.errors import ContextOverflow, DeepserveError, error_classes
from deepserve.dialects.openrouter.errors import TYPES, encode_error, status_of, wire_error
from deepserve.dialects.openrouter.ids import request_id_of, spell
from tests.dialects.chat.decoding import WEATHER
from tests.dialects.chat.openrouter.setup import HEAD, answer, decode, stream

THOUGHT = {"reasoning": "Well now.", "text": "Hello there"}


def test_a_whole_answer_has_every_member_that_clients_demand() -> None:
    assert answer(decode(), **THOUGHT, hit_tokens=1) == {
        "id": "gen-1782907200-0296tiiBY0ZRZUheGrlXSf",
        "object": "chat.completion",
        "created": 1782907200,
        "model": "deepseek/deepseek-v4-pro-20260423",
        "provider": "deepserve",
        "system_fingerprint": "fp_deepserve_scripted_1",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hello there",
                    "refusal": None,
                    "reasoning": "Well now.",
                    "reasoning_details": [
                        {"text": "Well now.", "type": "reasoning.text", "format": "unknown", "index": 0}
                    ],
                },
                "logprobs": None,
                "finish_reason": "stop",
                "native_finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 2,
            "completion_tokens": 4,
            "total_tokens": 6,
            "cost": 0.000003918625,  # a hit at 0.003625, a miss at 0.435, 4 tokens at 0.87 dollars a million
            "is_byok": False,
            "prompt_tokens_details": {
                "cached_tokens": 1,
                "cache_write_tokens": 0,
                "audio_tokens": 0,
                "video_tokens": 0,
            },
            "cost_details": {
                "upstream_inference_prompt_cost": 0.000000438625,
                "upstream_inference_completions_cost": 0.00000348,
                "upstream_inference_cost": None,
            },
            "completion_tokens_details": {"reasoning_tokens": 2, "image_tokens": 0, "audio_tokens": 0},
        },
    }


def test_a_stream_says_what_the_whole_answer_says() -> None:
    whole = answer(decode(), **THOUGHT)
    chunks = stream(decode(stream=True), **THOUGHT)
    choices = [chunk["choices"][0] for chunk in chunks]
    message = whole["choices"][0]["message"]
    assert "".join(choice["delta"]["content"] or "" for choice in choices) == message["content"]
    assert "".join(choice["delta"].get("reasoning", "") for choice in choices) == message["reasoning"]
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 2) + ["stop"] * 2
    assert ["usage" in chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1]["usage"] == whole["usage"]
    for chunk in chunks:
        assert {name: chunk[name] for name in ("id", "model", "provider", "created")} == {
            name: whole[name] for name in ("id", "model", "provider", "created")
        }


@pytest.mark.parametrize("fields", [{"include_reasoning": False}, {"reasoning": {"exclude": True}}])
def test_an_excluded_trace_is_billed_and_not_told(fields: dict[str, Any]) -> None:
    whole = answer(decode(**fields), **THOUGHT)
    assert whole["choices"][0]["message"]["reasoning"] is None
    assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] == 2
    assert all("reasoning" not in chunk["choices"][0]["delta"] for chunk in stream(decode(**fields), **THOUGHT))


def test_tool_calls_whole_and_streamed() -> None:
    (choice,) = answer(decode(tools=[WEATHER]))["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    (call,) = choice["message"]["tool_calls"]
    deltas = [chunk["choices"][0]["delta"] for chunk in stream(decode(tools=[WEATHER], stream=True))]
    pieces = [piece for delta in deltas for piece in delta.get("tool_calls", ())]
    assert pieces[0]["id"] == call["id"]
    assert "".join(piece["function"]["arguments"] for piece in pieces) == call["function"]["arguments"]


def test_log_probabilities_of_the_text_are_told() -> None:
    (choice,) = answer(decode(logprobs=True, top_logprobs=1), **THOUGHT)["choices"]
    assert "".join(token["token"] for token in choice["logprobs"]["content"]) == "Hello there"
    assert choice["logprobs"]["refusal"] is None


def test_several_results_end_with_one_usage() -> None:
    chunks = stream(decode(n=2, stream=True), **THOUGHT)
    ends = [chunk["choices"][0]["index"] for chunk in chunks if chunk["choices"][0]["finish_reason"]]
    assert ends == [0, 1, 1]
    assert sum("usage" in chunk for chunk in chunks) == 1


def test_a_failure_in_the_middle_is_one_last_event_free_of_charge() -> None:
    chunks = stream(decode(stream=True), text="a b c", failure="backend_failure", fail_after_pieces=2)
    usages = [chunk["usage"] for chunk in chunks if "usage" in chunk]
    assert [usage["cost"] for usage in usages] == [0]
    finishes = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert finishes == [None] * (len(chunks) - 1) + ["error"]
    assert chunks[-1]["error"]["code"] == 502
    assert chunks[-1]["error"]["metadata"]["error_type"] == "provider_unavailable"


def test_what_is_raised_before_the_beginning_is_one_event_too() -> None:
    writer = decode(stream=True).open_stream(HEAD)
    frames = writer.finish(errors.Overloaded("full")).decode().split("\n\n")
    assert len(frames) == 3
    assert '"code":503' in frames[0]


def _example(cls: type[DeepserveError]) -> DeepserveError:
    if cls is ContextOverflow:
        return ContextOverflow(limit_tokens=10, prompt_tokens=8, requested_tokens=4)
    return cls("the reason")


@pytest.mark.parametrize("cls", error_classes())
def test_every_error_has_a_type_and_a_number(cls: type[DeepserveError]) -> None:
    """Fails when a class is added to the tree and forgotten here."""
    assert cls in TYPES
    error = _example(cls)
    assert wire_error(error).code == status_of(error)
    # The official SDK repeats 5xx for up to an hour: nothing that a client must fix may be one.
    is_clients = issubclass(cls, errors.RequestError | errors.AccessError)
    assert (status_of(error) < 500) or not is_clients


def test_an_error_has_the_members_of_the_service() -> None:
    assert encode_error(errors.InvalidField("bad", field="top_p")) == (
        b'{"error":{"message":"bad","code":400,"metadata":{"error_type":"invalid_request","field":"top_p"}}}'
    )
    full = wire_error(errors.TooManyRequests("full", retry_after_s=3))
    assert full.availability
    assert (full.availability.code, full.availability.retryable) == ("capacity_exhausted", True)


@pytest.mark.parametrize("digits", ["0" * 32, "f" * 32, "0123456789ab4cde8f0123456789abcd"])
def test_an_id_leads_back_to_its_request(digits: str) -> None:
    assert request_id_of(spell(1, int(digits, 16))) == digits


@pytest.mark.parametrize("text", ["", "gen-1-short", "gen-1-" + "z" * 22, "gen-x-" + "0" * 22, "01234567"])
def test_other_texts_are_no_ids(text: str) -> None:
    assert request_id_of(text) is None


def test_amounts_are_exact() -> None:
    """0.1 + 0.2 of a cent must not become 0.30000000000000004."""
    whole = answer(decode(), **THOUGHT)
    assert Decimal(repr(whole["usage"]["cost"])) == Decimal("0.00000435")

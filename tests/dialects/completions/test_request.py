"""Bodies of completion requests: what is read, refused and ignored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deepserve.catalog.models import load_models
from deepserve.config import Limits
from deepserve.core.errors import DeepserveError, InvalidField, MissingField, UnknownModel, UnsupportedFeature
from deepserve.core.request import Infill, RequestId
from deepserve.core.sampling import Sampling
from deepserve.core.tenant import LOCAL_TENANT
from deepserve.dialects.completions.fields import DOCUMENTED, EXTENSIONS, IGNORED, REFUSED
from deepserve.dialects.completions.request import CompletionRequest, decode_request
from tests.dialects.chat.decoding import ARRIVED_AT


def decode(*, is_strict: bool = False, **fields: Any) -> CompletionRequest:  # Any: JSON
    value = {"model": "deepseek-v4-pro", "prompt": "def f():", **fields}
    return decode_request(
        json.dumps(value).encode(),
        names=load_models(),
        limits=Limits(),
        request_id=RequestId("0123456789abcdef0123456789abcdef"),
        arrived_at=ARRIVED_AT,
        tenant=LOCAL_TENANT,
        is_strict=is_strict,
    )


def refusal(*, is_strict: bool = False, **fields: Any) -> DeepserveError:  # Any: JSON
    with pytest.raises(DeepserveError) as caught:
        decode(is_strict=is_strict, **fields)
    return caught.value


def test_every_documented_field_is_read() -> None:
    completion = decode(
        suffix="return x",
        echo=True,
        max_tokens=4096,
        stop=["\n\n", "#"],
        stream=True,
        stream_options={"include_usage": True},
        temperature=0.5,
        top_p=0.9,
    )
    request = completion.request
    assert request.infill == Infill(prompt="def f():", suffix="return x", echo=True)
    assert (request.messages, request.thinking.enabled) == ((), False)
    assert (request.max_output_tokens, request.stop) == (4096, ("\n\n", "#"))
    assert request.sampling == Sampling(temperature=0.5, top_p=0.9)
    assert completion.is_stream
    assert completion.include_usage
    assert completion.ignored == ()


def test_what_other_services_have_is_honoured_in_tolerant_mode_and_named_in_strict() -> None:
    fields: dict[str, Any] = {"n": 2, "seed": 7, "logit_bias": {"5": -1}, "user": "u", "top_k": 3, "min_p": 0.1}
    fields |= {"frequency_penalty": 1, "presence_penalty": -1, "repetition_penalty": 1.5, "top_a": 0.2}
    request = decode(**fields).request
    assert request.sampling == Sampling(
        seed=7,
        logit_bias={5: -1.0},
        top_k=3,
        min_p=0.1,
        frequency_penalty=1.0,
        presence_penalty=-1.0,
        repetition_penalty=1.5,
        top_a=0.2,
    )
    assert (request.num_results, request.user_id) == (2, "u")
    strict = decode(is_strict=True, **fields)
    assert set(strict.ignored) == set(fields)
    assert strict.request.sampling == Sampling()


@pytest.mark.parametrize(("sent", "read"), [(None, None), (0, 0), (20, 20)])
def test_log_probabilities_are_asked_for_by_a_number(sent: int | None, read: int | None) -> None:
    assert decode(logprobs=sent).request.sampling.num_top_logprobs == read


def test_no_suffix_and_an_empty_one_are_two_requests() -> None:
    assert decode(suffix=None).infill.suffix is None
    assert decode(suffix="").infill.suffix == ""


def test_a_prompt_in_a_list_is_a_prompt() -> None:
    assert decode(prompt=["only"]).infill.prompt == "only"


@pytest.mark.parametrize(
    ("fields", "cls", "field", "said"),
    [
        ({"prompt": ["a", "b"]}, UnsupportedFeature, "prompt", "2 prompts"),
        ({"prompt": []}, UnsupportedFeature, "prompt", "0 prompts"),
        ({"prompt": [0, 1]}, UnsupportedFeature, "prompt", "token ids"),
        ({"prompt": [[0, 1]]}, UnsupportedFeature, "prompt", "token ids"),
        ({"prompt": None}, InvalidField, "prompt", "invalid type: null, expected a string"),
        ({"prompt": 3}, InvalidField, "prompt", "expected a string"),
        ({"suffix": 3}, InvalidField, "suffix", "expected a string"),
        ({"echo": 1}, InvalidField, "echo", "expected a boolean"),
        ({"echo": True, "logprobs": 0}, UnsupportedFeature, "echo", "Leave one of them out"),
        ({"logprobs": 21}, InvalidField, "logprobs", "[0, 20]"),
        ({"logprobs": -1}, InvalidField, "logprobs", "expected u8"),
        ({"logprobs": True}, InvalidField, "logprobs", "expected u8"),
        ({"max_tokens": 0}, InvalidField, "max_tokens", "[1, 393216]"),
        ({"n": 17}, InvalidField, "n", "[1, 16]"),
        ({"stop": [""]}, InvalidField, "stop", "empty string"),
        ({"temperature": 3}, InvalidField, "temperature", "[0, 2]"),
        ({"user": "é" * 300}, InvalidField, "user", "512 bytes"),
        ({"model": "gpt"}, UnknownModel, "model", "gpt"),
        *(({name: [2]}, UnsupportedFeature, name, "not supported") for name in REFUSED),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    fields: dict[str, Any], cls: type[DeepserveError], field: str, said: str
) -> None:
    error = refusal(**fields)
    assert type(error) is cls
    assert error.field == field
    assert said in error.message


def test_a_body_without_a_prompt_or_that_is_no_json_is_refused_in_the_vendors_words() -> None:
    raw = {"names": load_models(), "limits": Limits(), "request_id": RequestId("r")}
    rest = {"arrived_at": ARRIVED_AT, "tenant": LOCAL_TENANT}
    with pytest.raises(MissingField, match="missing field `prompt`"):
        decode_request(b'{"model": "deepseek-v4-pro"}', **raw, **rest)  # type: ignore[arg-type]  # one dict, many types
    with pytest.raises(DeepserveError, match="Failed to parse the request body as JSON"):
        decode_request(b"{", **raw, **rest)  # type: ignore[arg-type]  # as above


def test_strict_mode_keeps_the_vendors_limit_and_its_shape_of_a_prompt() -> None:
    assert "[1, 4096]" in refusal(is_strict=True, max_tokens=4097).message
    assert decode(max_tokens=4097).request.max_output_tokens == 4097
    assert "expected a string" in refusal(is_strict=True, prompt=["a"]).message
    assert decode().request.default_output_tokens == 4096


@pytest.mark.parametrize("name", [name for name in IGNORED if "." not in name])
def test_fields_without_effect_are_named(name: str) -> None:
    fields: dict[str, Any] = {name: {"a": 1}}
    assert decode(**fields).ignored == (name,)


def test_unknown_fields_are_named_and_one_result_of_one_is_nothing_to_refuse() -> None:
    assert decode(whatever=1, best_of=1).ignored == ("whatever", "best_of")
    streamed = decode(stream=True, stream_options={"continuous_usage_stats": True})
    assert streamed.ignored == ("stream_options.continuous_usage_stats",)


def test_each_field_is_in_one_table() -> None:
    tables = [DOCUMENTED, EXTENSIONS, frozenset(IGNORED), frozenset(REFUSED)]
    assert sum(map(len, tables)) == len(frozenset().union(*tables))

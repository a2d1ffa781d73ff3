"""Fields: honoured, refused by name, or named as ignored."""

from typing import Any

import pytest

from deepserve.config import Limits
from deepserve.core.errors import MalformedBody, UnknownModel, UnsupportedFeature
from deepserve.core.request import Thinking
from deepserve.core.sampling import Sampling
from deepserve.dialects.responses.fields import DOCUMENTED, EXTENSIONS, IGNORED, PARTLY_READ, REFUSED
from tests.dialects.responses.decoding import WEATHER, Shelf, body, decode, refusal

_EXAMPLES: dict[str, Any] = {
    "image": {"context_compression": "auto"},
    "include": ["file_search_call.results"],
    "prompt_cache_key": "k",
    "reasoning.summary": "auto",
    "reasoning.generate_summary": "auto",
    "safety_identifier": "s",
    "text.verbosity": "low",
    "tools[].format": {"type": "grammar", "syntax": "lark", "definition": "x"},
    "truncation": "auto",
}


@pytest.mark.parametrize("name", IGNORED)
def test_every_field_of_the_table_is_accepted_and_named(name: str) -> None:
    value = _EXAMPLES.get(name, {"a": 1})
    outer, _, inner = name.partition(".")
    match outer:
        case "tools[]":
            tool = {"type": "custom", "name": "x", inner: value} if inner == "format" else {"type": inner}
            fields: dict[str, Any] = {"tools": [tool]}
        case _:
            fields = {outer: {inner: value} if inner else value}
    assert decode(body(**fields)).ignored == (name,)


@pytest.mark.parametrize("name", REFUSED)
def test_every_refused_field_is_refused_by_name_and_ignored_in_strict_mode(name: str) -> None:
    error = refusal(body(**{name: {"id": "x"}}))
    assert isinstance(error, UnsupportedFeature)
    assert error.field == name
    assert decode(body(**{name: {"id": "x"}}), is_strict=True).ignored == (name,)


def test_the_tables_do_not_contradict_each_other() -> None:
    known = DOCUMENTED | EXTENSIONS
    assert not known & (IGNORED.keys() | REFUSED.keys())
    assert not IGNORED.keys() & REFUSED.keys()
    assert IGNORED.keys() >= PARTLY_READ


def test_unknown_fields_are_named_at_any_depth() -> None:
    asked = decode(
        body(
            client_metadata={"a": 1},
            reasoning={"effort": "low", "context": "auto"},
            tools=[{**WEATHER, "defer_loading": True}],
            input=[{"role": "user", "content": [{"type": "input_text", "text": "x", "odd": 1}], "phase": "final"}],
        )
    )
    assert asked.ignored == (
        "input[].phase",
        "input[].content[].odd",
        "reasoning.context",
        "tools[].defer_loading",
        "client_metadata",
    )


@pytest.mark.parametrize(
    ("reasoning", "thinking"),
    [
        (None, Thinking()),
        ({"effort": None}, Thinking()),
        ({"effort": "none"}, Thinking(enabled=False)),
        ({"effort": "minimal"}, Thinking(effort="low")),
        ({"effort": "medium"}, Thinking(effort="high")),
        ({"effort": "xhigh"}, Thinking(effort="high")),
        ({"effort": "max"}, Thinking(effort="max")),
        ({"effort": "ultra"}, Thinking(effort="max")),
    ],
)
def test_efforts(reasoning: object, thinking: Thinking) -> None:
    assert decode(body(reasoning=reasoning)).request.thinking == thinking


def test_an_alias_decides_about_thinking_unless_an_effort_is_given() -> None:
    assert not decode(body(model="deepseek-chat")).request.thinking.enabled
    assert decode(body(model="deepseek-chat", reasoning={"effort": "low"})).request.thinking.enabled
    assert isinstance(refusal(body(model="deepseek-chat"), is_strict=True), UnknownModel)


def test_sampling_fields_apply_when_given() -> None:
    asked = decode(body(temperature=0.5, top_p=0.9, top_k=3, seed=7, presence_penalty=1, top_logprobs=2))
    assert asked.request.sampling == Sampling(
        temperature=0.5, top_p=0.9, top_k=3, seed=7, presence_penalty=1, num_top_logprobs=2
    )
    included = decode(body(include=["message.output_text.logprobs"]))
    assert included.request.sampling.num_top_logprobs == 0
    assert decode(body(top_logprobs=0)).request.sampling.num_top_logprobs is None
    strict = decode(body(temperature=0.5, top_k=3, reasoning={"effort": "low"}), is_strict=True)
    assert strict.request.sampling == Sampling()
    assert strict.ignored == ("temperature", "top_k")


def test_the_end_user_narrows_caches_in_both_modes() -> None:
    assert decode(body(user="u")).request.user_id == "u"
    assert decode(body(user="u"), is_strict=True).request.user_id == "u"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"model": None}, "model"),
        ({"model": "gpt-6"}, "but you passed gpt-6"),
        ({"input": 3}, "input: invalid type: integer `3`, expected a sequence"),
        ({"temperature": 3}, "the valid range of temperature is [0, 2]"),
        ({"max_output_tokens": 0}, "the valid range of max_output_tokens is [1, 393216]"),
        ({"top_logprobs": 21}, "the valid range of top_logprobs is [0, 20]"),
        ({"reasoning": {"effort": "huge"}}, "unknown variant `huge`"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "missing field `schema`"),
        ({"text": {"format": {"type": "json_schema", "name": "a b", "schema": {}}}}, "does not match pattern"),
        ({"text": {"format": {"type": "yaml"}}}, "unknown variant `yaml`"),
        ({"metadata": {"a": 1}}, "expected a string"),
        ({"metadata": {str(key): "x" for key in range(17)}}, "at most 16 pairs"),
        ({"metadata": {"a": "x" * 513}}, "Invalid metadata"),
        ({"user": "x" * 600}, "at most 512 bytes"),
        ({"background": True, "store": False}, "`background` needs `store`"),
        ({"truncation": "some"}, "unknown variant `some`"),
        ({"stream": 1}, "stream: invalid type"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_place(fields: dict[str, Any], text: str) -> None:
    assert text in refusal(body(**fields)).message


def test_a_body_that_is_not_json_is_refused_in_the_vendors_words() -> None:
    error = refusal(b"{")
    assert isinstance(error, MalformedBody)
    assert error.message.startswith("Failed to parse the request body as JSON: ")


def test_nothing_to_say_is_refused_and_instructions_alone_are_enough() -> None:
    assert "missing field `input`" in refusal({"model": "deepseek-v4-flash"}).message
    asked = decode({"model": "deepseek-v4-flash", "instructions": "say hi"})
    assert [message.role for message in asked.request.messages] == ["system"]


def test_too_many_items_are_refused() -> None:
    items = [{"role": "user", "content": "x"}] * 3
    assert "at most 2 are read" in refusal(body(input=items), limits=Limits(messages=2)).message


def test_json_mode_is_served() -> None:
    asked = decode(body(text={"format": {"type": "json_object"}}))
    assert asked.request.response_format.kind == "json_object"


def test_responses_are_kept_unless_the_client_or_the_server_says_no() -> None:
    assert decode(body()).is_kept
    assert decode(body(store=None)).is_kept
    assert not decode(body(store=False)).is_kept
    assert not decode(body(), shelf=Shelf(can_keep=False)).is_kept

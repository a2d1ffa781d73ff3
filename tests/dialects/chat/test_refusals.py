"""Every text that clients of the vendor match on, word for word, and who gets it.

The texts were seen publicly from api.deepseek.com; `COLUMN` stands for the position, which has its own test.
"""

import json
import re
from typing import Any

import pytest

from deepserve.config import Limits
from deepserve.core.errors import InvalidField, MalformedBody, MissingField, UnknownModel
from tests.dialects.chat.decoding import HELLO, WEATHER, body, decode, refusal

_BODY = "Failed to deserialize the JSON body into the target type: "
_CALLS = [{"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}]
_CALL_TURN = {"role": "assistant", "content": "", "reasoning_content": "", "tool_calls": _CALLS}
_FORCED = {"type": "function", "function": {"name": "get_weather"}}
_UNANSWERED = (
    "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
    "(insufficient tool messages following tool_calls message)"
)
_ROLES = "`system`, `user`, `assistant`, `tool`, `latest_reminder`"


def _messages(*messages: dict[str, Any]) -> dict[str, Any]:
    return body(messages=[*HELLO, *messages])


# In both modes: nothing sensible could be served.
BOTH = [
    (
        body(model="gpt"),
        "The supported API model names are deepseek-v4-pro or deepseek-v4-flash, but you passed gpt.",
    ),
    (body(max_tokens=0), "Invalid max_tokens value, the valid range of max_tokens is [1, 393216]"),
    (body(max_tokens=393_217), "Invalid max_tokens value, the valid range of max_tokens is [1, 393216]"),
    (body(temperature=2.1), "Invalid temperature value, the valid range of temperature is [0, 2]"),
    (body(temperature=-0.1), "Invalid temperature value, the valid range of temperature is [0, 2]"),
    (body(top_p=0), "Invalid top_p value, the valid range of top_p is (0, 1.0]"),
    (body(top_p=1.01), "Invalid top_p value, the valid range of top_p is (0, 1.0]"),
    (
        body(top_logprobs=2),
        "Invalid top_logprobs and logprobs value, logprobs must be set to true if top_logprobs is used.",
    ),
    (
        body(logprobs=True, top_logprobs=21),
        "Invalid top_logprobs value, the valid range of top_logprobs is [0, 20].",
    ),
    (
        body(logprobs=True, top_logprobs=-1),
        _BODY + "top_logprobs: invalid value: integer `-1`, expected u8 at line 1 column COLUMN",
    ),
    (body(stop=["x"] * 17), "Stop string array too long: 17"),
    (
        body(reasoning_effort="x"),
        _BODY + "reasoning_effort: unknown variant `x`, expected one of `none`, `minimal`, `low`, `medium`, `high`, "
        "`xhigh`, `max` at line 1 column COLUMN",
    ),
    (
        body(reasoning_effort=3),
        "Failed to parse the request body as JSON: reasoning_effort: expected value at line 1 column COLUMN",
    ),
    (
        body(messages=[{"role": "boss", "content": ""}]),
        _BODY + f"messages[0].role: unknown variant `boss`, expected one of {_ROLES} at line 1 column COLUMN",
    ),
    (
        _messages({"role": "tool", "tool_call_id": "a", "content": ""}),
        "Messages with role 'tool' must be a response to a preceding message with 'tool_calls'",
    ),
    (
        _messages(_CALL_TURN, {"role": "tool", "tool_call_id": "b", "content": ""}),
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id', "
        "The following tool_call_ids did not have response messages: a",
    ),
    (_messages(_CALL_TURN), _UNANSWERED),
    (_messages(_CALL_TURN, *HELLO), _UNANSWERED),
    (
        _messages(_CALL_TURN, {"role": "tool", "content": ""}),
        _BODY + "messages[2]: missing field `tool_call_id` at line 1 column COLUMN",
    ),
    ({"messages": HELLO}, _BODY + "missing field `model` at line 1 column COLUMN"),
    ({"model": "deepseek-v4-pro"}, _BODY + "missing field `messages` at line 1 column COLUMN"),
    (body(messages=[]), "Empty input messages"),
    (body(tools=[WEATHER, WEATHER]), "Tool names must be unique."),
    (body(stream="yes"), _BODY + 'stream: invalid type: string "yes", expected a boolean at line 1 column COLUMN'),
    (
        body(messages="hi"),
        _BODY + 'messages: invalid type: string "hi", expected a sequence at line 1 column COLUMN',
    ),
    (body(max_tokens=-1), "Invalid max_tokens value, the valid range of max_tokens is [1, 393216]"),
]

# Only on request: otherwise these are served.
STRICT_ONLY = [
    (
        body(messages=[{"role": "developer", "content": "x"}]),
        _BODY + f"messages[0].role: unknown variant `developer`, expected one of {_ROLES} at line 1 column COLUMN",
    ),
    (
        body(messages=[{"role": "system", "content": [{"type": "text", "text": "x"}]}]),
        _BODY + "messages[0]: invalid type: sequence, expected a string at line 1 column COLUMN",
    ),
    (
        body(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]),
        _BODY + "messages[0]: unknown variant `image_url`, expected `text` at line 1 column COLUMN",
    ),
    (
        body(messages=[{"role": "user", "content": "hi"}], response_format={"type": "json_object"}),
        "Prompt must contain the word 'json' in some form to use 'response_format' of type 'json_object'.",
    ),
    (
        _messages({**_CALL_TURN, "reasoning_content": None}, {"role": "tool", "tool_call_id": "a", "content": ""}),
        "The `reasoning_content` in the thinking mode must be passed back to the API.",
    ),
    (_messages({"role": "assistant", "content": None}), re.compile(r".*content or tool_calls must be set.*")),
    (
        _messages({"role": "assistant", "reasoning_content": "hm"}),
        _BODY + "messages[1]: missing field `content` at line 1 column COLUMN",
    ),
    (
        body(model="deepseek-chat"),
        "The supported API model names are deepseek-v4-pro or deepseek-v4-flash, but you passed deepseek-chat.",
    ),
    (body(stream_options={"include_usage": True}), "stream_options should be set along with stream = true"),
    (
        body(top_logprobs=0),
        "Invalid top_logprobs and logprobs value, logprobs must be set to true if top_logprobs is used.",
    ),
    (
        body(reasoning_effort="ultra"),
        re.compile(r".*reasoning_effort: unknown variant `ultra`, expected one of `none`.*"),
    ),
    (body(tools=[]), re.compile(r"Invalid 'tools': empty array.*")),
    (
        body(response_format={"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}),
        "This response_format type is unavailable now",
    ),
    (body(tools=[WEATHER], tool_choice="required"), "Thinking mode does not support this tool_choice"),
    (body(tools=[WEATHER], tool_choice=_FORCED), "Thinking mode does not support this tool_choice"),
    (
        body(
            tools=[WEATHER],
            tool_choice={"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [_FORCED]}},
        ),
        _BODY + "tool_choice.type: unknown variant `allowed_tools`, expected `function` at line 1 column COLUMN",
    ),
]


def _same(actual: str, expected: str | re.Pattern[str]) -> bool:
    if isinstance(expected, re.Pattern):
        return expected.fullmatch(actual) is not None
    return re.sub(r"column \d+$", "column COLUMN", actual) == expected


@pytest.mark.parametrize("is_strict", [False, True])
@pytest.mark.parametrize(("value", "text"), BOTH)
def test_what_cannot_be_served_is_refused_in_the_vendors_words(
    value: dict[str, Any], text: str, is_strict: bool
) -> None:
    assert _same(refusal(value, is_strict=is_strict).message, text), refusal(value, is_strict=is_strict).message


@pytest.mark.parametrize(("value", "text"), STRICT_ONLY)
def test_strict_mode_refuses_what_is_otherwise_served(value: dict[str, Any], text: str | re.Pattern[str]) -> None:
    assert _same(refusal(value, is_strict=True).message, text), refusal(value, is_strict=True).message
    decode(value)


@pytest.mark.parametrize("choice", ["required", _FORCED])
def test_strict_mode_forces_calls_where_the_vendor_does(choice: object) -> None:
    value = body(tools=[WEATHER], tool_choice=choice, thinking={"type": "disabled"})
    assert decode(value, is_strict=True).request.tool_choice == decode(value).request.tool_choice


def test_the_trace_is_only_demanded_where_the_vendor_demands_it() -> None:
    bare = {**_CALL_TURN, "reasoning_content": None}
    answered = _messages(bare, {"role": "tool", "tool_call_id": "a", "content": ""})
    decode({**answered, "thinking": {"type": "disabled"}}, is_strict=True)
    decode({**answered, "messages": [*answered["messages"], *HELLO]}, is_strict=True)
    empty = _messages(_CALL_TURN, {"role": "tool", "tool_call_id": "a", "content": ""})
    decode(empty, is_strict=True)


def test_the_column_is_where_the_value_ends() -> None:
    raw = b'{"model":"deepseek-v4-pro","messages":[{"role":"user","content":"x"}],"reasoning_effort":"x"}'
    assert refusal(raw).message.endswith(f" at line 1 column {len(raw) - 1}")
    raw = b'{"model":"deepseek-v4-pro",\n"messages":[{"role":"boss","content":"x"}]}'
    assert refusal(raw).message.endswith(" at line 2 column 26")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "EOF while parsing a value at line 1 column 0"),
        (b"{", "input data was truncated at line 1 column 1"),
        (b'{"model":}', "invalid character at line 1 column 10"),
        (b"\xff\xfe", "invalid character at line 1 column 1"),
        (b"nope", "invalid character at line 1 column 4"),
        (rb'{"a":"\\\ud83d\ude00 \ud83d"}', "lone leading surrogate in hex escape at line 1 column 27"),
        (rb'{"a":"\ude00"}', "invalid utf-16 surrogate pair at line 1 column 13"),
        (b'{"a":1e999}', "number out of range at line 1 column 11"),
        (b"[" * 65 + b"]" * 65, "the JSON is nested deeper than 64 levels"),
        (b"[" + b"1," * 100_001 + b"1]", "the JSON has more than 100000 members"),
    ],
)
def test_what_is_not_json_is_refused_with_its_place(raw: bytes, text: str) -> None:
    error = refusal(raw)
    assert isinstance(error, MalformedBody)
    assert error.message == f"Failed to parse the request body as JSON: {text}"


@pytest.mark.parametrize("end", [b"", b"\\"])
def test_a_string_without_an_end_is_read_once(end: bytes) -> None:
    """Looking for the end anew at each escaped quote took quadratic time: 4 MB would keep a core busy for hours."""
    assert isinstance(refusal(b'"' + b'\\"' * 2_000_000 + end), MalformedBody)


def test_a_key_that_stands_twice_is_not_dropped_in_silence() -> None:
    raw = b'{"model":"deepseek-v4-pro","messages":[{"role":"user","content":"a","content":"b"}]}'
    error = refusal(raw)
    assert error.message == _BODY + "duplicate field `content` at line 1 column 77"


@pytest.mark.parametrize("value", [b"[]", b"3", b'"x"', b"null", b"true"])
def test_a_body_that_is_no_object_is_refused(value: bytes) -> None:
    assert isinstance(refusal(value), InvalidField)


@pytest.mark.parametrize(
    ("fields", "limits", "field"),
    [
        ({"messages": HELLO * 3}, Limits(messages=2), "messages"),
        ({"tools": [WEATHER, {**WEATHER, "function": {"name": "b"}}]}, Limits(tools=1), "tools"),
        ({"stop": ["a", "b"]}, Limits(stop_strings=1), "stop"),
        ({"stop": "ab"}, Limits(stop_string_bytes=1), "stop"),
        ({"stop": ""}, Limits(), "stop"),
        ({"logit_bias": {"1": 1, "2": 2}}, Limits(logit_bias_entries=1), "logit_bias"),
        ({"logit_bias": {"x": 1}}, Limits(), "logit_bias"),
        ({"logit_bias": {"1": 101}}, Limits(), "logit_bias"),
        ({"n": 3}, Limits(num_results=2), "n"),
        ({"user_id": "ab"}, Limits(user_id_bytes=1), "user_id"),
        ({"user": "ab"}, Limits(user_id_bytes=1), "user"),
        ({"tools": [{"type": "function", "function": {"name": "a" * 129}}]}, Limits(), "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, Limits(), "tools[0].function.name"),
        ({"tools": [{"type": "web_search"}]}, Limits(), "tools[0].type"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, Limits(), "tool_choice"),
        ({"seed": 2**63}, Limits(), "seed"),
        ({"temperature": True}, Limits(), "temperature"),
        ({"max_tokens": 1.5}, Limits(), "max_tokens"),
        ({"min_p": 1.5}, Limits(), "min_p"),
        ({"frequency_penalty": 3}, Limits(), "frequency_penalty"),
        ({"repetition_penalty": 0}, Limits(), "repetition_penalty"),
        ({"functions": []}, Limits(), "functions"),
        ({"guided_grammar": "root ::= x"}, Limits(), "guided_grammar"),
    ],
)
def test_every_limit_names_its_field(fields: dict[str, Any], limits: Limits, field: str) -> None:
    error = refusal(body(**fields), limits=limits)
    assert isinstance(error, InvalidField)
    assert error.field == field


def test_a_missing_field_is_named_with_its_whole_path() -> None:
    error = refusal(body(messages=[{"role": "user"}]))
    assert isinstance(error, MissingField)
    assert error.field == "messages[0].content"


def test_an_unknown_model_is_its_own_error() -> None:
    assert isinstance(refusal(body(model="gpt")), UnknownModel)


def test_a_refusal_never_quotes_a_whole_prompt() -> None:
    secret = "x" * 5000
    assert len(refusal(body(messages=[{"role": secret, "content": ""}])).message) < 500


_STRICT_TOOL = {
    "type": "object",
    "properties": {"a": {"type": "string", "format": "email"}},
    "required": ["a"],
    "additionalProperties": False,
}


def _strict_tool(parameters: object, **function: object) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "t", "strict": True, "parameters": parameters, **function}}


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"type": "object", "properties": {}}, "An object with no properties is not allowed."),
        (None, "An object with no properties is not allowed."),
        ({**_STRICT_TOOL, "additionalProperties": {}}, "invalid type: map, expected a boolean"),
        ({**_STRICT_TOOL, "additionalProperties": True}, "additionalProperties must be false"),
        ({**_STRICT_TOOL, "required": []}, "must be in `required`"),
        ({**_STRICT_TOOL, "properties": {"a": {}}}, "missing field `type`"),
        ({**_STRICT_TOOL, "properties": {"a": {"anyOf": [{}]}}}, "missing field `type`"),
        ({**_STRICT_TOOL, "properties": {"a": {"type": ["string", "null"]}}}, "unknown variant"),
        ({**_STRICT_TOOL, "properties": {"a": {"type": "string", "format": "date"}}}, "unknown variant `date`"),
        ({**_STRICT_TOOL, "properties": {"a": {"type": "string", "minLength": 1}}}, "unsupported keyword"),
        ({**_STRICT_TOOL, "properties": {"a": {"type": "array"}}}, "missing field `items`"),
        ({"anyOf": [_STRICT_TOOL]}, "not allowed at the root"),
    ],
)
def test_strict_tools_are_checked_at_beta_addresses_in_strict_mode(parameters: object, text: str) -> None:
    value = body(tools=[_strict_tool(parameters)])
    assert text in refusal(value, is_strict=True, is_beta=True).message
    decode(value)
    decode(value, is_strict=True)


def test_strict_and_loose_tools_do_not_mix_at_beta_addresses() -> None:
    value = body(tools=[_strict_tool(_STRICT_TOOL), WEATHER])
    assert "All functions" in refusal(value, is_strict=True, is_beta=True).message
    decode(body(tools=[_strict_tool(_STRICT_TOOL)]), is_strict=True, is_beta=True)
    recursive = {
        **_STRICT_TOOL,
        "properties": {"a": {"anyOf": [{"$ref": "#/$def/n"}, {"type": "null"}]}},
        "$def": {"n": {"type": "integer", "minimum": 1}},
    }
    decode(body(tools=[_strict_tool(recursive)]), is_strict=True, is_beta=True)


def test_json_dumps_and_the_decoder_agree_on_positions_in_unicode() -> None:
    """Columns count bytes, as the vendor's parser does."""
    raw = json.dumps(body(messages=[{"role": "ß", "content": ""}]), ensure_ascii=False).encode()
    end = raw.index("ß".encode()) + 3
    assert refusal(raw).message.endswith(f"column {end}")

"""What a request body means."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from deepserve.core.errors import UnsupportedFeature
from deepserve.core.events import PastReasoning
from deepserve.core.messages import File, Image, Message, OtherPart, Reasoning, Refusal, Text, ToolCall, ToolResult
from deepserve.core.request import Request, ResponseFormat, Thinking, Tool, ToolChoice
from deepserve.core.sampling import KNOBS, Sampling
from deepserve.dialects.chat.fields import IGNORED, REFUSED
from deepserve.dialects.chat.upstream_flavour import DEEPSERVE
from deepserve.dialects.chat.upstream_request import encode_upstream_request
from tests.dialects.chat.decoding import HELLO, WEATHER, body, decode, refusal

OFF = Thinking(enabled=False)


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({}, Thinking()),
        ({"thinking": None, "reasoning_effort": None}, Thinking()),
        ({"thinking": {"type": "enabled"}}, Thinking()),
        ({"thinking": {"type": "adaptive"}}, Thinking()),
        ({"thinking": {"type": "disabled"}}, OFF),
        ({"thinking": False}, OFF),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, Thinking(budget_tokens=9)),
        ({"reasoning_effort": "none"}, OFF),
        ({"reasoning_effort": "minimal"}, Thinking(effort="low")),
        ({"reasoning_effort": "low"}, Thinking(effort="low")),
        ({"reasoning_effort": "medium"}, Thinking(effort="high")),
        ({"reasoning_effort": "high"}, Thinking(effort="high")),
        ({"reasoning_effort": "xhigh"}, Thinking(effort="high")),
        ({"reasoning_effort": "max"}, Thinking(effort="max")),
        ({"reasoning_effort": "ultra"}, Thinking(effort="max")),
        ({"reasoning_effort": "max", "thinking": {"type": "disabled"}}, OFF),
        ({"reasoning": {"effort": "max"}}, Thinking(effort="max")),
        ({"reasoning": {"enabled": False}}, OFF),
        ({"reasoning": {"max_tokens": 7, "exclude": True}}, Thinking(budget_tokens=7, exclude=True)),
        ({"chat_template_kwargs": {"thinking": False}}, OFF),
        ({"chat_template_kwargs": {"enable_thinking": False}}, OFF),
        ({"chat_template_kwargs": {"thinking": True, "reasoning_effort": "max"}}, Thinking(effort="max")),
        ({"enable_thinking": False}, OFF),
        ({"include_reasoning": False}, Thinking(exclude=True)),
        ({"output_config": {"effort": "low"}}, Thinking(effort="low")),
        ({"model": "deepseek-chat"}, OFF),
        ({"model": "deepseek-reasoner"}, Thinking()),
        ({"model": "deepseek-chat", "thinking": {"type": "enabled"}}, Thinking()),
        ({"model": "deepseek-reasoner", "thinking": {"type": "disabled"}}, OFF),
    ],
)
def test_every_spelling_of_thinking_is_understood(fields: dict[str, Any], thinking: Thinking) -> None:
    assert decode(body(**fields)).request.thinking == thinking


def test_contradictions_about_thinking_are_settled_and_named() -> None:
    chat = decode(body(reasoning_effort="max", reasoning={"effort": "low"}, enable_thinking=True))
    assert chat.request.thinking.effort == "max"
    assert chat.ignored == ("reasoning.effort",)
    chat = decode(body(thinking={"type": "enabled"}, enable_thinking=False))
    assert chat.request.thinking == OFF
    assert chat.ignored == ("thinking.type",)


def test_strict_mode_knows_only_the_vendors_spellings() -> None:
    chat = decode(body(enable_thinking=False, reasoning={"enabled": False}), is_strict=True)
    assert chat.request.thinking == Thinking()
    assert set(chat.ignored) == {"enable_thinking", "reasoning"}


@pytest.mark.parametrize(
    ("fields", "default"),
    [({"thinking": {"type": "disabled"}}, 8192), ({}, 65536), ({"reasoning_effort": "max"}, 131072)],
)
def test_the_default_limit_follows_the_thinking(fields: dict[str, Any], default: int) -> None:
    request = decode(body(**fields)).request
    assert (request.max_output_tokens, request.default_output_tokens) == (None, default)


def test_the_smaller_of_two_limits_counts() -> None:
    assert decode(body(max_tokens=9, max_completion_tokens=5)).request.max_output_tokens == 5
    assert decode(body(max_completion_tokens=5)).request.max_output_tokens == 5


@pytest.mark.parametrize("name", KNOBS)
def test_every_knob_of_the_core_can_be_set(name: str) -> None:
    """Fails when a knob is added to the core and forgotten here."""
    value = 1 if KNOBS[name].integer else 0.5
    assert getattr(decode(body(**{name: value})).request.sampling, name) == value


def test_sampling_fields_apply_while_thinking_and_zero_is_not_absent() -> None:
    sampling = decode(body(temperature=0, seed=-3, logit_bias={"12": -1.5}, top_k=-1)).request.sampling
    assert sampling == Sampling(temperature=0, seed=-3, logit_bias={12: -1.5}, top_k=0)
    assert decode(body()).request.sampling == Sampling()


def test_strict_mode_ignores_what_the_vendor_ignores_and_says_so() -> None:
    fields: dict[str, Any] = {"temperature": 0.5, "top_p": 0.5, "presence_penalty": 1, "n": 2, "seed": 1, "min_p": 0.1}
    thinking = decode(body(**fields), is_strict=True)
    assert thinking.request.sampling == Sampling()
    assert thinking.request.num_results == 1
    assert set(thinking.ignored) == set(fields)
    plain = decode(body(**fields, thinking={"type": "disabled"}), is_strict=True)
    assert plain.request.sampling == Sampling(temperature=0.5, top_p=0.5)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_log_probabilities(fields: dict[str, Any], expected: int | None) -> None:
    assert decode(body(**fields)).request.sampling.num_top_logprobs == expected


def test_every_ignored_field_is_named_to_the_client() -> None:
    for path in IGNORED:
        if path == "messages[].name":
            continue  # has its own test below
        name, _, inner = path.partition(".")
        fields = {name: {inner: True}, "stream": True} if inner else {name: "x"}
        assert path in decode(body(**fields)).ignored


def test_every_refused_field_is_refused_by_name_and_ignored_in_strict_mode() -> None:
    for name in REFUSED:
        error = refusal(body(**{name: "x"}))
        assert (type(error), error.field) == (UnsupportedFeature, name)
        assert name in decode(body(**{name: "x"}), is_strict=True).ignored


def test_unknown_fields_are_named_and_null_ones_are_nothing() -> None:
    message = {"role": "user", "content": "x", "extra": 1, "annotations": [], "audio": None}
    chat = decode(body(messages=[message], foo={"bar": 1}, nothing=None, thinking={"type": "enabled", "x": 1}))
    assert set(chat.ignored) == {"foo", "messages[].extra", "thinking.x"}


def test_members_of_nested_objects_are_not_dropped_in_silence() -> None:
    """Unknown members of tools, parts, calls and the response format used to vanish without a word."""
    call = {"index": 0, "id": "c", "type": "function", "extra": 1, "function": {"name": "f", "arguments": "", "x": 1}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "name": "Ada", "content": [{"type": "text", "text": "json", "cache_control": {}}]},
        {"role": "assistant", "name": "Bot", "content": "", "reasoning_content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "", "name": "f"},
    ]
    tool = {"type": "function", "cache_control": {}, "function": {"name": "f", "returns": {"type": "string"}}}
    fields = {"messages": messages, "tools": [tool], "response_format": {"type": "json_object", "strict": True}}
    for is_strict in (False, True):
        messages[0]["content"] = "json" if is_strict else messages[0]["content"]
        assert set(decode(body(**fields), is_strict=is_strict).ignored) == {
            "messages[].name",
            "messages[].tool_calls[].extra",
            "messages[].tool_calls[].function.x",
            "tools[].cache_control",
            "tools[].function.returns",
            "response_format.strict",
            *(() if is_strict else ("messages[].content[].cache_control",)),
        }


def test_of_two_names_for_the_end_user_the_loser_is_named() -> None:
    chat = decode(body(user_id="a", user="b"))
    assert (chat.request.user_id, chat.ignored) == ("a", ("user",))
    assert decode(body(user="b")).request.user_id == "b"


def test_a_thinking_budget_without_effect_is_named() -> None:
    chat = decode(body(thinking={"type": "disabled", "budget_tokens": 9}))
    assert (chat.request.thinking.budget_tokens, chat.ignored) == (None, ("thinking.budget_tokens",))
    chat = decode(body(thinking={"type": "enabled", "budget_tokens": 9}, thinking_budget=5))
    assert (chat.request.thinking.budget_tokens, chat.ignored) == (9, ("thinking_budget",))


def test_strict_mode_names_what_only_tolerant_mode_reads() -> None:
    turn = {"role": "assistant", "content": "x", "reasoning": "t"}
    fields = {"messages": [*HELLO, turn], "thinking": {"type": "enabled", "budget_tokens": 9}}
    assert decode(body(**fields)).ignored == ()
    chat = decode(body(**fields), is_strict=True)
    assert chat.request.messages[-1].reasoning is None
    assert set(chat.ignored) == {"messages[].reasoning", "thinking.budget_tokens"}


def test_stream_options_are_ignored_without_a_stream() -> None:
    chat = decode(body(stream_options={"include_usage": True}))
    assert (chat.is_stream, chat.ignored) == (False, ("stream_options",))
    chat = decode(body(stream=True, stream_options={"include_usage": True}))
    assert (chat.is_stream, chat.include_usage, chat.ignored) == (True, True, ())


def test_a_whole_conversation_is_read() -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    chat = decode(
        body(
            messages=[
                {"role": "developer", "content": "rules"},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                    "name": "n",
                },
                {"role": "assistant", "content": None, "reasoning_content": "", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "r"}]},
                {"role": "latest_reminder", "content": "soon"},
                {"role": "assistant", "content": "x", "reasoning": "t", "prefix": True},
            ],
            tools=[WEATHER],
        )
    )
    assert chat.request.messages == (
        Message(role="system", parts=(Text("rules"),)),
        Message(role="user", parts=(Text("a"), Text("b")), name="n"),
        Message(role="assistant", parts=(Reasoning(text=""), ToolCall(id="c1", name="f", arguments="{}"))),
        Message(role="tool", parts=(ToolResult(call_id="c1", content=(Text("r"),)),)),
        Message(role="latest_reminder", parts=(Text("soon"),)),
        Message(role="assistant", parts=(Reasoning(text="t"), Text("x")), prefix=True),
    )


def test_traces_are_found_under_every_name() -> None:
    turns: list[dict[str, Any]] = [
        {"role": "assistant", "content": "x", "reasoning_content": "t"},
        {"role": "assistant", "content": "x", "reasoning": "t"},
        {"role": "assistant", "content": "x", "reasoning_details": [{"type": "reasoning.text", "text": "t"}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "x"}]},
    ]
    for turn in turns:
        [_, message] = decode(body(messages=[*HELLO, turn])).request.messages
        assert (message.reasoning, message.text) == ("t", "x")


def test_several_thinking_parts_keep_their_order() -> None:
    """Each used to be put in front of the others, so that the trace was read backwards."""
    parts = [
        {"type": "thinking", "thinking": "a", "signature": "s"},
        {"type": "text", "text": "x"},
        {"type": "thinking", "thinking": "b"},
    ]
    [_, message] = decode(body(messages=[*HELLO, {"role": "assistant", "content": parts}])).request.messages
    assert message.parts == (Reasoning(text="a", signature="s"), Reasoning(text="b"), Text("x"))


def test_missing_traces_are_counted_where_the_prompt_would_show_them() -> None:
    history = [
        *HELLO,
        {"role": "assistant", "content": "a"},
        *HELLO,
        {"role": "assistant", "content": "b", "reasoning_content": "t"},
        *HELLO,
    ]
    chat = decode(body(messages=history))
    assert chat.past_reasoning == PastReasoning(sent=1)
    chat = decode(body(messages=history, tools=[WEATHER]))
    assert chat.past_reasoning == PastReasoning(sent=1, missing=1)


def test_parts_that_are_not_text_are_kept_and_named() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
        {"type": "image_url", "image_url": "https://x/z.png"},
        {"type": "file", "file": {"file_id": "f", "filename": "n"}},
        {"type": "input_audio", "input_audio": {"data": ""}},
        {"type": "refusal", "refusal": "no"},
    ]
    chat = decode(body(messages=[{"role": "user", "content": parts}]))
    assert chat.request.messages[0].parts == (
        Image(url="https://x/y.png", detail="low"),
        Image(url="https://x/z.png"),
        File(file_id="f", filename="n"),
        OtherPart(kind="input_audio", value=parts[3]),
        Refusal("no"),
    )
    assert set(chat.ignored) == {
        "messages[].content[].image_url",
        "messages[].content[].file",
        "messages[].content[].input_audio",
    }


WAIT = {"type": "function", "function": {"name": "wait"}}
NAMED_CHOICE = {"type": "function", "function": {"name": "get_weather"}}


def _allowing(mode: str) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [NAMED_CHOICE, NAMED_CHOICE]}}


def test_tools_and_their_choice() -> None:
    strict = {"type": "function", "function": {"name": "s", "strict": True}}
    request = decode(body(tools=[WEATHER, strict], tool_choice="none", parallel_tool_calls=False)).request
    assert request.tools == (
        Tool(name="get_weather", description="weather", parameters=WEATHER["function"]["parameters"]),  # type: ignore[index]  # a JSON literal
        Tool(name="s", strict=True),
    )
    assert request.tool_choice == ToolChoice(mode="none", is_parallel=False)
    assert decode(body(tools=[])).request.tools == ()


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("none", ToolChoice(mode="none")),
        ("auto", ToolChoice()),
        ("required", ToolChoice(mode="required")),
        (NAMED_CHOICE, ToolChoice(mode="named", names=("get_weather",))),
        (_allowing("auto"), ToolChoice(names=("get_weather",))),
        (_allowing("required"), ToolChoice(mode="required", names=("get_weather",))),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_weather"}]},
            ToolChoice(names=("get_weather",)),
        ),
    ],
)
def test_every_choice_among_tools_is_understood(choice: object, expected: ToolChoice) -> None:
    request = decode(body(tools=[WEATHER, WAIT], tool_choice=choice)).request
    assert request.tool_choice == expected
    assert len(request.tools) == 2, "a list of allowed tools takes none out of the prompt"


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
NAMED = {"name": "answer", "schema": SCHEMA}
ENFORCED = ResponseFormat(kind="json_schema", schema=SCHEMA, strict=True)


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({"response_format": {"type": "text"}}, ResponseFormat()),
        ({"response_format": {"type": "json_object"}}, ResponseFormat(kind="json_object")),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, ENFORCED),
        (
            {"response_format": {"type": "json_schema", "json_schema": NAMED}},
            ResponseFormat(kind="json_schema", name="answer", schema=SCHEMA),
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {**NAMED, "strict": True}}},
            ResponseFormat(kind="json_schema", name="answer", schema=SCHEMA, strict=True),
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA, "description": "Counts."}}},
            ResponseFormat(kind="json_schema", schema={**SCHEMA, "description": "Counts."}),
        ),
        ({"guided_json": SCHEMA}, ENFORCED),
        ({"guided_json": json.dumps(SCHEMA)}, ENFORCED),
        ({"guided_regex": "[a-c]+"}, ResponseFormat(kind="regex", pattern="[a-c]+")),
        ({"guided_choice": ["yes", "no", "yes"]}, ResponseFormat(kind="choice", choices=("yes", "no"))),
        ({"structured_outputs": {"json": SCHEMA}}, ENFORCED),
        ({"structured_outputs": {"regex": "[a-c]+"}}, ResponseFormat(kind="regex", pattern="[a-c]+")),
        ({"structured_outputs": {"choice": ["yes"]}}, ResponseFormat(kind="choice", choices=("yes",))),
        ({"structured_outputs": {"json_object": True}}, ResponseFormat(kind="json_object")),
        ({"structured_outputs": {"json_object": False}}, ResponseFormat()),
        ({"structured_outputs": True}, ResponseFormat()),
        ({"response_format": {"type": "text"}, "guided_choice": ["a"]}, ResponseFormat(kind="choice", choices=("a",))),
    ],
)
def test_every_form_of_an_answer_is_understood(fields: dict[str, Any], form: ResponseFormat) -> None:
    chat = decode(body(**fields))
    assert chat.request.response_format == form
    assert chat.ignored == ()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"response_format": {"type": "json_object"}, "guided_json": SCHEMA}, "guided_json"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"guided_regex": "a", "structured_outputs": {"json_object": True}}, "structured_outputs"),
        ({"structured_outputs": {"json": SCHEMA, "regex": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"grammar": "root ::= x"}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag"),
        ({"response_format": {"type": "grammar", "grammar": "root ::= x"}}, "response_format.type"),
        ({"response_format": {"type": "python"}}, "response_format.type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[1, 2]"}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": ["a", ""]}, "guided_choice"),
    ],
)
def test_forms_that_contradict_or_say_nothing_are_refused(fields: dict[str, Any], field: str) -> None:
    assert refusal(body(**fields)).field == field


def test_strict_mode_knows_one_form_and_no_flag_but_at_beta_addresses() -> None:
    flagged = {"type": "function", "function": {"name": "s", "strict": True}}
    chat = decode(body(tools=[flagged], guided_json=SCHEMA, structured_outputs={"regex": "a"}), is_strict=True)
    assert chat.request.response_format == ResponseFormat()
    assert not chat.request.tools[0].strict
    assert set(chat.ignored) == {"guided_json", "structured_outputs", "tools[].function.strict"}
    chat = decode(body(response_format={"type": "json_object", "schema": SCHEMA}), is_strict=True)
    assert chat.request.response_format == ResponseFormat(kind="json_object")
    assert chat.ignored == ("response_format.schema",)


def test_arguments_in_history_may_be_anything() -> None:
    def turn(arguments: object) -> dict[str, Any]:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
        answer = {"role": "tool", "tool_call_id": "c", "content": None}
        return body(messages=[*HELLO, {"role": "assistant", "tool_calls": [call]}, answer])

    assert decode(turn("not json")).request.messages[1].tool_calls[0].arguments == "not json"
    assert decode(turn({"a": 1})).request.messages[1].tool_calls[0].arguments == '{"a":1}'
    assert decode(turn("{}")).request.messages[2].tool_results[0].content == ()


def test_legacy_names_are_served_and_their_end_is_known() -> None:
    chat = decode(body(model=" DeepSeek-Chat "))
    assert (chat.request.model, chat.request.requested_model) == ("deepseek-v4-flash", " DeepSeek-Chat ")
    assert chat.model.retired_at == datetime(2026, 7, 24, 15, 59, tzinfo=UTC)
    early = datetime(2026, 7, 1, tzinfo=UTC)
    assert decode(body(model="deepseek-chat"), is_strict=True, arrived_at=early).request.model == "deepseek-v4-flash"


def test_the_word_json_is_found_in_any_message() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": "{}"}, "type": "function"}
    history = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "reasoning_content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "as JSON"},
    ]
    chat = decode(body(messages=history, response_format={"type": "json_object"}), is_strict=True)
    assert chat.request.response_format == ResponseFormat(kind="json_object")


def _varied() -> list[Request]:
    return [
        decode(value).request
        for value in (
            body(),
            body(thinking={"type": "disabled"}, temperature=0.5, max_tokens=5, stop=["a", "b"], user_id="u"),
            body(reasoning_effort="max", n=3, seed=1, logit_bias={"3": 1.0}, logprobs=True, top_logprobs=4),
            body(
                tools=[WEATHER], tool_choice="none", parallel_tool_calls=False, response_format={"type": "json_object"}
            ),
            *(
                body(tools=[WEATHER], tool_choice=choice)
                for choice in ("required", _allowing("auto"), _allowing("required"), NAMED_CHOICE)
            ),
            body(response_format={"type": "json_schema", "json_schema": {**NAMED, "strict": True}}),
            body(guided_regex="a+"),
            body(guided_choice=["a", "b"]),
            body(
                reasoning={"max_tokens": 4, "exclude": True},
                **{name: KNOBS[name].high for name in KNOBS if name != "top_k"},
            ),
            body(
                messages=[
                    {"role": "system", "content": "s", "name": "n"},
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "t"},
                            {"type": "image_url", "image_url": {"url": "u", "detail": "low"}},
                            {"type": "file", "file": {"file_id": "f"}},
                            {"type": "odd", "x": 1},
                        ],
                    },
                    {
                        "role": "assistant",
                        "content": "c",
                        "reasoning_content": "",
                        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{"}}],
                    },
                    {"role": "tool", "tool_call_id": "1", "content": "r"},
                    {"role": "assistant", "content": "go", "prefix": True},
                ]
            ),
        )
    ]


@pytest.mark.parametrize("request_", _varied())
def test_a_request_survives_the_way_through_another_server_of_ours(request_: Request) -> None:
    sent = encode_upstream_request(request_, DEEPSERVE, model=request_.model, user=request_.user_id, is_stream=False)
    again = decode(sent.body).request
    # Traces are always asked for: who does not want them is not sent them.
    thinking = msgspec.structs.replace(request_.thinking, exclude=False)
    assert again == msgspec.structs.replace(request_, thinking=thinking)
    assert sent.left_out == ()

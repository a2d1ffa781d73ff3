"""The scripted back end does what its docstring says, and the same every time."""

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest

from deepserve.backends.script import Reply, Rule, Script, ScriptedCall, When, load_script
from deepserve.backends.scripted import ScriptedBackend, count_pieces, split_pieces
from deepserve.config import Settings
from deepserve.core.answer import Answer, Result, collect
from deepserve.core.errors import (
    BackendFailure,
    ConfigurationError,
    ContextOverflow,
    DeepserveError,
    EngineFailure,
    InvalidField,
    Overloaded,
    TooManyRequests,
    UnsupportedFeature,
)
from deepserve.core.events import BlockDelta, Event, Failed, Finished, Started, UsageReported
from deepserve.core.messages import Reasoning, Text, ToolCall
from deepserve.core.request import Infill, Request, Thinking
from tests.dialects.chat.decoding import HELLO, WEATHER, body, decode


def _request(**fields: Any) -> Request:  # Any: JSON
    return decode(body(**fields)).request


def _events(request: Request, backend: ScriptedBackend) -> list[Event]:
    async def run() -> list[Event]:
        return [event async for event in backend.answer(request)]

    return asyncio.run(run())


def _answer(request: Request, reply: Reply | None = None) -> Answer:
    script = Script() if reply is None else Script(rules=(Rule(reply=reply),))
    return asyncio.run(collect(ScriptedBackend(script).answer(request)))


def _only(request: Request, reply: Reply | None = None) -> Result:
    [result] = _answer(request, reply).results
    return result


REPLY = Reply(reasoning="let me see", text="one two three")


def test_without_a_script_it_echoes_and_thinks() -> None:
    assert _only(_request()).parts == (
        Reasoning(text="The user said: Hello, json! I will answer that."),
        Text("You said: Hello, json!"),
    )


def test_without_a_script_it_calls_the_first_tool_and_reads_its_result() -> None:
    result = _only(_request(tools=[WEATHER]))
    call = result.parts[-1]
    assert isinstance(call, ToolCall)
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "example"})
    assert result.finished.reason == "tool_calls"
    turn = {
        "role": "assistant",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}],
    }
    answered = [*HELLO, turn, {"role": "tool", "tool_call_id": "c", "content": "21 C"}]
    assert _only(_request(messages=answered, tools=[WEATHER])).parts[-1] == Text("The tool answered: 21 C")


def test_without_a_script_arguments_have_the_types_of_the_schema() -> None:
    parameters = {
        "type": "object",
        "properties": {
            "n": {"type": "integer"},
            "e": {"enum": ["x", "y"]},
            "o": {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]},
            "l": {"type": "array"},
            "optional": {"type": "string"},
        },
        "required": ["n", "e", "o", "l"],
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    [call] = [part for part in _only(_request(tools=[tool])).parts if isinstance(part, ToolCall)]
    assert json.loads(call.arguments) == {"n": 1, "e": "x", "o": {"b": True}, "l": []}


def test_without_a_script_json_mode_gives_an_object() -> None:
    result = _only(_request(response_format={"type": "json_object"}))
    text = result.parts[-1]
    assert isinstance(text, Text)
    assert json.loads(text.text) == {"echo": "Hello, json!"}


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ("auto", []),
        ("required", ["get_weather"]),
        ({"type": "function", "function": {"name": "wait"}}, ["wait"]),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "wait"}]}, ["wait"]),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "wait"}]}, []),
        ("none", []),
    ],
)
def test_without_a_script_it_calls_what_it_must_and_may(choice: object, called: list[str]) -> None:
    """After a tool's result, where it would not call by itself."""
    turn = {
        "role": "assistant",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}],
    }
    answered = [*HELLO, turn, {"role": "tool", "tool_call_id": "c", "content": "21 C"}]
    tools = [WEATHER, {"type": "function", "function": {"name": "wait"}}]
    result = _only(_request(messages=answered, tools=tools, tool_choice=choice))
    assert [part.name for part in result.parts if isinstance(part, ToolCall)] == called


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"guided_json": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}, '{"n": 1}'),
        ({"guided_choice": ["yes", "no"]}, "yes"),
    ],
)
def test_without_a_script_it_answers_in_the_form_that_is_asked_for(fields: dict[str, Any], text: str) -> None:
    assert _only(_request(**fields)).parts[-1] == Text(text)


def test_a_pattern_needs_a_rule() -> None:
    with pytest.raises(UnsupportedFeature, match="give it a rule"):
        _answer(_request(guided_regex="a+"))
    assert _only(_request(guided_regex="a+"), Reply(text="aaa")).parts == (Text("aaa"),)


def test_tools_are_left_alone_when_the_client_says_none() -> None:
    assert isinstance(_only(_request(tools=[WEATHER], tool_choice="none")).parts[-1], Text)


def test_a_trace_is_sent_only_while_thinking_and_within_its_budget() -> None:
    assert _only(_request(thinking={"type": "disabled"}), REPLY).parts == (Text("one two three"),)
    cut = _only(_request(thinking={"type": "enabled", "budget_tokens": 2}), REPLY)
    assert cut.parts[0] == Reasoning(text="let me")


def test_an_answer_that_the_client_began_is_past_its_thinking() -> None:
    begun = {"role": "assistant", "content": "zero", "prefix": True}
    assert _only(_request(messages=[*HELLO, begun]), REPLY).parts == (Text("one two three"),)
    thought = {"role": "assistant", "content": "", "reasoning_content": "so", "prefix": True}
    assert _only(_request(messages=[*HELLO, thought]), REPLY).parts[0] == Reasoning(text="let me see")


def test_the_limit_counts_reasoning_and_answer_together() -> None:
    result = _only(_request(max_tokens=4), REPLY)
    assert result.parts == (Reasoning(text="let me see"), Text("one"))
    assert result.finished.reason == "length"
    result = _only(_request(max_tokens=3), REPLY)
    assert result.parts == (Reasoning(text="let me see"),)
    assert result.finished.reason == "length"


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it() -> None:
    result = _only(_request(stop=["zzz", " thr", "two"]), REPLY)
    assert result.parts[-1] == Text("one ")
    assert (result.finished.reason, result.finished.stop_string) == ("stop_string", "two")


def test_stop_strings_are_not_looked_for_in_the_trace() -> None:
    assert _only(_request(stop=["see"]), REPLY).parts[0] == Reasoning(text="let me see")


def test_usage_is_disjoint_and_counts_every_result() -> None:
    answer = _answer(_request(n=3), Reply(reasoning="a b", text="c", hit_tokens=1))
    assert len(answer.results) == 3
    assert (answer.usage.hit_tokens, answer.usage.reasoning_tokens, answer.usage.answer_tokens) == (1, 6, 3)


def test_log_probabilities_are_stable_and_as_many_as_asked_for() -> None:
    result = _only(_request(logprobs=True, top_logprobs=2), REPLY)
    assert [token.token for token in result.text_logprobs] == ["one", " two", " three"]
    assert [token.token for token in result.reasoning_logprobs] == ["let", " me", " see"]
    assert result.text_logprobs[0].logprob == -math.log(2)
    assert len(result.text_logprobs[0].top) == 2
    assert _only(_request(logprobs=True), REPLY).text_logprobs[0].top == ()
    assert _only(_request(), REPLY).text_logprobs == ()


def test_only_one_call_is_made_when_parallel_ones_are_not_wanted() -> None:
    reply = Reply(tool_calls=(ScriptedCall(name="a"), ScriptedCall(name="b")))
    calls = _only(_request(tools=[WEATHER]), reply).parts
    assert [call.id[:8] for call in calls if isinstance(call, ToolCall)] == ["call_00_", "call_01_"]
    assert all(len(call.id) == 32 for call in calls if isinstance(call, ToolCall))
    assert len(_only(_request(tools=[WEATHER], parallel_tool_calls=False), reply).parts) == 1


def test_pieces_join_to_the_text() -> None:
    for text in ("  a  b\n\nc ", "", " ", "a\u00a0b\x1cc\u200b", "a b"):
        assert "".join(split_pieces(text)) == text
        assert len(split_pieces(text)) == count_pieces(text)
    assert split_pieces("abcde", characters=2) == ["ab", "cd", "e"]
    events = _events(_request(), ScriptedBackend(Script(rules=(Rule(reply=Reply(text="abcde", piece_characters=2)),))))
    assert [event.text for event in events if isinstance(event, BlockDelta)] == ["ab", "cd", "e"]


@pytest.mark.parametrize(
    ("failure", "cls"),
    [
        ("overloaded", Overloaded),
        ("too_many_requests", TooManyRequests),
        ("engine_failure", EngineFailure),
        ("backend_failure", BackendFailure),
        ("invalid_field", InvalidField),
    ],
)
def test_failures_come_before_the_stream_or_in_its_middle(failure: Any, cls: type[DeepserveError]) -> None:
    with pytest.raises(cls):
        _answer(_request(), Reply(text="a", failure=failure))
    backend = ScriptedBackend(Script(rules=(Rule(reply=Reply(text="a b c", failure=failure, fail_after_pieces=2)),)))
    events = _events(_request(), backend)
    assert [event.text for event in events if isinstance(event, BlockDelta)] == ["a", " b"]
    assert isinstance(events[-1], Failed)
    assert isinstance(events[-1].error, cls)
    assert isinstance(events[-2], UsageReported)


def test_a_prompt_beyond_the_context_is_refused_with_the_counts() -> None:
    backend = ScriptedBackend(context_tokens=10)
    with pytest.raises(ContextOverflow) as caught:
        _events(_request(max_tokens=8), backend)
    assert (caught.value.limit_tokens, caught.value.prompt_tokens, caught.value.requested_tokens) == (10, 3, 8)
    events = _events(_request(max_tokens=7), backend)
    assert isinstance(events[-1], Finished)
    assert asyncio.run(backend.count(_request())) == 3


@pytest.mark.parametrize(("suffix", "text"), [(None, " and so on after: x y"), ("z", "something in between")])
def test_plain_completions_are_answered(suffix: str | None, text: str) -> None:
    request = Request(
        id=_request().id,
        model=_request().model,
        arrived_at=_request().arrived_at,
        infill=Infill(prompt="x y", suffix=suffix),
        thinking=Thinking(enabled=False),
    )
    events = _events(request, ScriptedBackend())
    assert "".join(event.text for event in events if isinstance(event, BlockDelta)) == text
    started = events[0]
    assert isinstance(started, Started)
    assert started.prompt_usage is not None
    assert started.prompt_usage.prompt_tokens == (2 if suffix is None else 3)


def test_the_first_matching_rule_answers() -> None:
    script = Script(
        rules=(
            Rule(when=When(model="deepseek-v4-pro"), reply=Reply(text="pro")),
            Rule(when=When(contains="weather", has_tools=False), reply=Reply(text="no tools")),
            Rule(when=When(last_role="tool"), reply=Reply(text="result")),
            Rule(when=When(is_json=True), reply=Reply(text="{}")),
            Rule(when=When(is_thinking=False), reply=Reply(text="quick")),
            Rule(reply=Reply(text="else")),
        )
    )

    def said(**fields: Any) -> str:
        answer = asyncio.run(collect(ScriptedBackend(script).answer(_request(**fields))))
        return "".join(part.text for part in answer.results[0].parts if isinstance(part, Text))

    weather = [{"role": "user", "content": "the weather"}]
    assert said(model="deepseek-v4-pro") == "pro"
    assert said(messages=weather) == "no tools"
    assert said(messages=weather, tools=[WEATHER]) == "else"
    assert said(response_format={"type": "json_object"}) == "{}"
    assert said(thinking={"type": "disabled"}) == "quick"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.toml", '[[rules]]\n[rules.when]\ncontains = "x"\n[rules.reply]\ntext = "y"\n'),
        ("s.json", '{"rules":[{"when":{"contains":"x"},"reply":{"text":"y"}}]}'),
    ],
)
def test_scripts_are_read_from_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    expected = Script(rules=(Rule(when=When(contains="x"), reply=Reply(text="y")),))
    assert load_script(tmp_path / name) == expected
    assert isinstance(ScriptedBackend.load(Settings(script_path=tmp_path / name)), ScriptedBackend)


@pytest.mark.parametrize("text", ["", "{", '{"rules":[{}]}', '{"rules":[{"reply":{"texts":"typo"}}]}', '{"rule":[]}'])
def test_a_script_with_a_fault_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broken.json"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"broken\.json"):
        load_script(file)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_script(tmp_path / "missing.toml")


def test_it_says_that_no_model_runs() -> None:
    for model in ScriptedBackend().models():
        assert model.served_by.label == "deepserve/scripted"
        assert "No model runs" in model.note


def test_the_same_request_gets_the_same_events() -> None:
    request = _request(n=2, tools=[WEATHER], logprobs=True)
    assert _events(request, ScriptedBackend()) == _events(request, ScriptedBackend())


def test_it_is_ready_between_start_and_close() -> None:
    async def life() -> list[bool]:
        backend = ScriptedBackend()
        seen = [backend.is_ready()]
        await backend.start()
        seen.append(backend.is_ready())
        await backend.close()
        return [*seen, backend.is_ready()]

    assert asyncio.run(life()) == [False, True, False]

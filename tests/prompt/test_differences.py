"""Every row of the table of differences in docs/prompt-format.md, shown to be one, and shown to be ours.

A row that is no longer a difference fails here, and so does a row without a test.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from deepserve.core.errors import UnsupportedFeature
from deepserve.core.messages import File, Image, Message, OtherPart, Text, ToolCall
from deepserve.core.request import Tool, ToolChoice
from deepserve.prompt.encoder import encode
from deepserve.prompt.profile import MINI, load_profile
from deepserve.prompt.segments import Special, Stage
from deepserve.prompt.segments import Text as TextSegment
from deepserve.prompt.special_tokens import ASSISTANT, DSML, END_THINK, EOS, THINK, USER
from tests.prompt.requests import OFF, QUICK, WEATHER, Answer, assistant, decode, request, result, user
from tests.prompt.test_decoder import CLOSE, OPEN, feed_segments, invoke, parameter
from tests.prompt.test_decoder_oracle import vendor_answer

DOCUMENT = Path(__file__).parents[2] / "docs" / "prompt-format.md"

Check = Callable[[ModuleType], None]
CHECKS: dict[str, Check] = {}


def shows(row: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        CHECKS[row] = check
        return check

    return register


def rows() -> list[str]:
    table = DOCUMENT.read_text(encoding="utf-8").partition("| id | where |")[2].splitlines()[2:]
    return [line.split("`")[1] for line in table if line.startswith("| `")]


def test_the_table_and_the_checks_name_the_same_differences() -> None:
    assert sorted(rows()) == sorted(CHECKS)


@pytest.mark.parametrize("row", rows())
def test_a_row_of_the_table_says_what_is_so(recipe: ModuleType, row: str) -> None:
    CHECKS[row](recipe)


# Encoding


def rendered(recipe: ModuleType, *messages: Any, **options: Any) -> str:
    conversation = recipe.Conversation(list(messages), thinking_mode=False, **options)
    prompt: str = recipe.DeepseekV4Encoding().render_conversation(conversation).prompt
    return prompt


def refusal(recipe: ModuleType, **body: Any) -> str:
    """The error text with which the package's front door refuses a request."""
    with pytest.raises((recipe.ConversionError, ValueError)) as refused:
        recipe.ChatCompletionRequest({"model": "DeepSeek-V4-Pro", **body}).convert(recipe.ConversionOptions())
    return str(getattr(refused.value, "body", refused.value))


FUNCTION = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


@shows("call-order")
def calls_stay_in_order(recipe: ModuleType) -> None:
    theirs = rendered(
        recipe,
        recipe.UserMessage("u"),
        recipe.AssistantMessage("", None, [recipe.ToolCall("b", "first", "{}"), recipe.ToolCall("a", "second", "{}")]),
        recipe.ToolMessage("1", "b"),
        recipe.ToolMessage("2", "a"),
    )
    calls = (ToolCall(id="b", name="first"), ToolCall(id="a", name="second"))
    asked = request(user("u"), assistant(calls=calls), result("b", "1"), result("a", "2"), thinking=OFF)
    ours = encode(asked, MINI).text
    assert theirs.index("second") < theirs.index("first")
    assert ours.index("first") < ours.index("second")
    assert ours.endswith(f"<tool_result>1</tool_result>\n\n<tool_result>2</tool_result>{ASSISTANT}{END_THINK}")


@shows("orphan-results")
def orphans_come_last(recipe: ModuleType) -> None:
    def order(text: str) -> str:
        tail = text.rpartition(EOS)[2]
        return tail.replace("<tool_result>", "").replace("</tool_result>", "").replace("\n\n", "").replace(USER, "|")

    calls = [recipe.ToolCall(str(number), "f", "{}") for number in (1, 2, 3)]
    theirs = rendered(
        recipe,
        recipe.UserMessage("u"),
        recipe.AssistantMessage("", None, calls),
        *(recipe.ToolMessage(letter, number) for letter, number in (("x", "9"), ("c", "3"), ("b", "2"), ("a", "1"))),
    )
    assert order(theirs).startswith("|bcxa")
    answer = assistant(calls=[ToolCall(id=str(number), name="f") for number in (1, 2, 3)])
    mixed = (result("9", "x"), result("3", "c"), result("2", "b"), result("1", "a"))
    assert order(encode(request(user("u"), answer, *mixed, thinking=OFF), MINI).text).startswith("|abcx")
    split = (result("3", "c"), user("mid"), result("2", "b"), result("1", "a"))
    assert order(encode(request(user("u"), answer, *split, thinking=OFF), MINI).text).startswith("|cmid|ab")


@shows("strict-keywords")
def strict_schemas_keep_their_keywords(recipe: ModuleType) -> None:
    schema = {"title": "t", "type": "object", "properties": {}, "additionalProperties": False, "required": []}
    schema["properties"] = {"a": {"title": "t", "type": "string"}}
    schema["required"] = ["a"]
    body = {
        "model": "DeepSeek-V4-Pro",
        "messages": [{"role": "user", "content": "u"}],
        "tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters": schema}}],
    }
    converted = recipe.ChatCompletionRequest(body).convert(recipe.ConversionOptions()).conversation
    assert "title" not in recipe.DeepseekV4Encoding().render_conversation(converted).prompt
    tool = Tool(name="f", strict=True, parameters=schema)
    text = encode(request(user("u"), tools=(tool,)), MINI).text
    assert '"parameters": {"type": "object", "properties": {"a": {"type": "string", "title": "t"}}' in text
    assert '"required": ["a"], "title": "t"}' in text


@shows("prefix-with-tools")
def prefixes_go_with_tools(recipe: ModuleType) -> None:
    messages = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "x", "prefix": True}]
    assert "should not be used with prefix" in refusal(recipe, messages=messages, tools=[FUNCTION])
    prompt = encode(request(user("u"), assistant("x", prefix=True), tools=(WEATHER,)), MINI)
    assert prompt.text.endswith(f"{ASSISTANT}{THINK}{END_THINK}x")


@shows("forced-while-thinking")
def thinking_and_forced_calls_go_together(recipe: ModuleType) -> None:
    messages = [{"role": "user", "content": "u"}]
    answer = refusal(recipe, messages=messages, tools=[FUNCTION], tool_choice="required")
    assert "Thinking mode does not support this tool_choice" in answer
    prompt = encode(request(user("u"), tools=(WEATHER,), tool_choice=ToolChoice(mode="required")), MINI)
    assert prompt.text.endswith(f"{ASSISTANT}{THINK}")
    assert prompt.constraint is not None
    assert prompt.constraint.kind == "required_tool_call"


@shows("unseen-parts")
def unseen_parts_are_named(recipe: ModuleType) -> None:
    parts = [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]
    assert "input_audio" in refusal(recipe, messages=[{"role": "user", "content": parts}])
    message = Message(role="user", parts=(Image(url="data:,"), File(file_id="f"), OtherPart(kind="input_audio")))
    text = encode(request(message, thinking=OFF), MINI).text
    assert "[Unsupported Image]\n\n[Unsupported File]\n\n[Unsupported input_audio]" in text


@shows("quick-tasks")
def tasks_have_their_tokens(recipe: ModuleType) -> None:
    profile = load_profile("0731")
    endings = {
        "query": f"{USER}u<｜query｜>",
        "authority": f"{USER}u<｜authority｜>",
        "domain": f"{USER}u<｜domain｜>",
        "read_url": f"{USER}u<｜read_url｜>",
        "action": f"{USER}u{ASSISTANT}{END_THINK}<｜action｜>",
    }
    for task, ending in endings.items():
        message: Any = Message(role="user", parts=(Text("u"),), task=task)  # type: ignore[arg-type]
        prompt = encode(request(message, thinking=OFF), profile)
        assert prompt.text.endswith(ending)
        assert prompt.start.stage == "text_continued"
        with pytest.raises(UnsupportedFeature):
            encode(request(message, thinking=OFF), MINI)
        history = request(message, assistant("Search", reasoning="r"), user("v"), thinking=QUICK, tools=(WEATHER,))
        opener = ending.replace(END_THINK, THINK)
        assert f"{opener}Search{EOS}{USER}v" in encode(history, profile).text
    titled = Message(role="assistant", parts=(Text("x"),), task="title")
    assert encode(request(user("u"), titled, thinking=OFF), profile).text.count(f"x{EOS}<｜title｜>") == 1
    theirs = rendered(recipe, recipe.UserMessage("u"))
    assert "<｜query｜>" not in theirs


@shows("developer-tools")
def developers_are_not_a_role(recipe: ModuleType) -> None:
    assert "developer" in refusal(recipe, messages=[{"role": "developer", "content": "x", "tools": [FUNCTION]}])
    turn = Message(role="user", parts=(Text("u"),), tools=(WEATHER,))
    assert f"{USER}u\n\n## Tools" in encode(request(turn), MINI).text


# Decoding

STRING = ' string="true"'


def compare(
    recipe: ModuleType, text: str, theirs: Answer, ours: Answer, *, stage: Stage = "text", is_cut: bool = False
) -> None:
    told = vendor_answer(recipe, text, stage, True, None)
    assert (told.reasoning, told.text, told.calls) == (theirs.reasoning, theirs.text, theirs.calls)
    for size in (None, 1, 4):
        read = decode(text, stage=stage, size=size, is_cut=is_cut)
        assert (read.reasoning, read.text, read.calls) == (ours.reasoning, ours.text, ours.calls)


def call(name: str, arguments: str) -> Answer:
    return Answer(None, None, [[name, arguments]])


@shows("chat-continuation")
def a_continuation_keeps_newlines(recipe: ModuleType) -> None:
    assert vendor_answer(recipe, "\nx", "text", True, None).text == "x"
    prompt = encode(request(user("u"), assistant("Once", prefix=True), thinking=OFF), MINI)
    assert decode("\nx", stage=prompt.start.stage).text == "\nx"


@shows("marks-by-id")
def marks_are_ids(recipe: ModuleType) -> None:

    text = f"a</think>b\n\n{OPEN}{invoke('f')}{CLOSE}"
    assert vendor_answer(recipe, text, "text", True, None).calls == [["f", "{}"]]
    assert feed_segments(TextSegment(text)).text == text


@shows("second-think")
def a_second_opening_is_not_shown(recipe: ModuleType) -> None:
    compare(recipe, "<think>x</think>y", Answer("<think>x", "y", []), Answer("x", "y", []), stage="reasoning")
    compare(recipe, "<think>x</think>y", Answer(None, "<think>xy", []), Answer("x", "y", []))


@shows("other-specials")
def other_special_tokens_are_dropped(recipe: ModuleType) -> None:

    assert vendor_answer(recipe, f"a{USER}b", "text", True, None).text == f"a{USER}b"
    assert feed_segments(TextSegment("a"), Special(USER), TextSegment("b")).text == "ab"


@shows("partial-tag-newlines")
def newlines_before_a_tag_are_trimmed(recipe: ModuleType) -> None:
    theirs, ours = Answer("r\n</thi\n", None, []), Answer("r\n</thi", None, [])
    compare(recipe, "r\n</thi\n</think>", theirs, ours, stage="reasoning")


@shows("truncated-tag")
def a_truncated_tag_leaves_the_arguments(recipe: ModuleType) -> None:
    text = f'{OPEN}<{DSML}invoke name="f">\n<{DSML}parameter name="a" string="true">x</{DSML}pa'
    compare(recipe, text, call("f", '{"a": "x"'), call("f", '{"a": "x'), is_cut=True)


@shows("unknown-closing")
def an_unknown_tag_is_part_of_a_value(recipe: ModuleType) -> None:
    text = f"{OPEN}{invoke('f', parameter('a', f'x</{DSML}y>z'))}{CLOSE}"
    compare(recipe, text, call("f", '{"a": "x"}'), call("f", f'{{"a": "x</{DSML}y>z"}}'))


@shows("attributes")
def attributes_are_read_by_name(recipe: ModuleType) -> None:
    missing = f"{OPEN}{invoke('f', parameter('a', '5').replace(STRING, ''))}{CLOSE}"
    with pytest.raises(ValueError, match="delimiter"):
        json.loads(vendor_answer(recipe, missing, "text", True, None).calls[0][1])
    assert decode(missing).calls == [["f", '{"a": "5"}']]
    swapped = parameter("a", "5").replace(f'name="a"{STRING}', 'string="false" name="a"')
    compare(recipe, f"{OPEN}{invoke('f', swapped)}{CLOSE}", call("f", "{}"), call("f", '{"a": 5}'))


@shows("open-call")
def an_open_call_ends_where_the_next_begins(recipe: ModuleType) -> None:
    first = f'<{DSML}invoke name="f">\n{parameter("a", "v")}'
    text = f"{OPEN}{first}\n{invoke('g', parameter('a', 'w'))}{CLOSE}"
    ours = Answer(None, None, [["f", '{"a": "v"}'], ["g", '{"a": "w"}']])
    compare(recipe, text, call("f", '{"a": "v", "a": "w"}'), ours)


@shows("bars")
def odd_bars_are_read(recipe: ModuleType) -> None:
    text = f"{OPEN}{invoke('f', parameter('a', 'v'))}{CLOSE}"
    for odd in (text.replace("｜", "｜｜"), text.replace("｜", "|")):
        compare(recipe, odd, Answer(None, odd, []), call("f", '{"a": "v"}'))


@shows("quoted-names")
def names_are_escaped(recipe: ModuleType) -> None:
    text = OPEN + invoke("f", parameter('a"b', "v")) + CLOSE
    compare(recipe, text, call("f", '{"a"b": "v"}'), call("f", '{"a\\"b": "v"}'))


@shows("stray-closing")
def a_stray_closing_tag_is_dropped(recipe: ModuleType) -> None:
    compare(recipe, f"a</{DSML}tool_calls>b", Answer(None, f"a</{DSML}tool_calls>b", []), Answer(None, "ab", []))
    assert decode(f"a</{DSML}tool_calls>b").damage == "a closing tag without a tool block"


@shows("json-fences")
def fences_are_kept(recipe: ModuleType) -> None:
    fenced = '```json\n{"a": 1}\n```'
    assert vendor_answer(recipe, fenced, "text", False, None, wants_json=True).text == '{"a": 1}'
    assert decode(fenced).text == fenced

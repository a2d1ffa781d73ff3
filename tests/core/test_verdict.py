"""Answers that nothing constrained are judged when they are finished."""

from datetime import UTC, datetime

import pytest

from deepserve.core.messages import Message, Text, ToolCall
from deepserve.core.request import Request, RequestId, ResponseFormat, Tool
from deepserve.core.verdict import is_judged, judge

_WEATHER = Tool(
    name="weather",
    strict=True,
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)


def _request(*, is_json: bool = False, tools: tuple[Tool, ...] = (), begun: str | None = None) -> Request:
    last = () if begun is None else (Message(role="assistant", parts=(Text(begun),), prefix=True),)
    return Request(
        id=RequestId("r"),
        model="m",
        arrived_at=datetime(2026, 1, 1, tzinfo=UTC),
        messages=(Message(role="user", parts=(Text("hi"),)), *last),
        tools=tools,
        response_format=ResponseFormat(kind="json_object" if is_json else "text"),
    )


@pytest.mark.parametrize(
    ("text", "verdict"), [('{"a":1}', "valid"), ("[1]", "invalid"), ("", "invalid"), ('{"a":', "invalid")]
)
def test_json_mode_wants_an_object(text: str, verdict: str) -> None:
    [judgement] = judge(_request(is_json=True), [Text(text)])
    assert judgement.label == f"json_object={verdict}"


def test_a_continued_object_is_judged_whole() -> None:
    [judgement] = judge(_request(is_json=True, begun='{"a":'), [Text(" 1}")])
    assert judgement.verdict == "valid"


@pytest.mark.parametrize(
    ("arguments", "verdict"), [('{"city":"Rome"}', "valid"), ("{}", "invalid"), ("not json", "invalid")]
)
def test_arguments_of_a_strict_tool_keep_its_schema(arguments: str, verdict: str) -> None:
    [judgement] = judge(_request(tools=(_WEATHER,)), [ToolCall(id="1", name="weather", arguments=arguments)])
    assert judgement.label == f"tool:weather={verdict}"


def test_nothing_is_judged_that_nobody_asked_for() -> None:
    loose = Tool(name="weather", parameters=_WEATHER.parameters)
    assert not is_judged(_request(tools=(loose,)))
    assert judge(_request(tools=(loose,)), [ToolCall(id="1", name="weather", arguments="x"), Text("y")]) == ()


def test_a_call_in_json_mode_is_no_missing_object() -> None:
    assert judge(_request(is_json=True), [ToolCall(id="1", name="other")]) == ()

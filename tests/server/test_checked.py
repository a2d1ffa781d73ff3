"""What clients see of answers that were checked, repaired or asked for again."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from deepserve.backends.checked import CheckedBackend
from deepserve.backends.script import Reply, Rule, Script, When
from deepserve.backends.scripted import ScriptedBackend
from deepserve.config import CheckPolicy
from tests.server.live import live_server

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
OFF: dict[str, Any] = {"thinking": {"type": "disabled"}}


def checked(first: str, again: str = "", *, policy: CheckPolicy = "retry") -> CheckedBackend:
    rules = (Rule(when=When(contains="was refused"), reply=Reply(text=again)), Rule(reply=Reply(text=first)))
    return CheckedBackend(ScriptedBackend(Script(rules=rules)), policy=policy)


def events_of(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def text_of(answer: httpx.Response) -> str:
    choices = [choice for event in events_of(answer) for choice in event.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.mark.parametrize(
    ("first", "again", "label"),
    [
        ('{"city": "Rome"}', "", "checked=valid"),
        ('```\n{"city": "Rome"}\n```', "", "checked=repaired"),
        ("Rome", '{"city": "Rome"}', "checked=valid, retried=1"),
        ("Rome", '```\n{"city": "Rome"}\n```', "checked=repaired, retried=1"),
    ],
)
def test_whole_and_streamed_answers_say_in_a_header_what_was_done(first: str, again: str, label: str) -> None:
    with live_server(checked(first, again)) as live:
        whole = live.post(response_format=FORMAT, **OFF)
        streamed = live.post(response_format=FORMAT, stream=True, **OFF)
    message = whole.json()["choices"][0]["message"]
    assert json.loads(message["content"]) == {"city": "Rome"}
    assert whole.headers.get_list("x-deepserve-validated") == [f"json_schema=valid, {label}"]
    assert text_of(streamed) == message["content"]
    assert streamed.headers["x-deepserve-validated"] == label


def test_the_usage_that_a_client_sees_holds_every_try() -> None:
    with live_server(checked("no", '{"city": "Rome"}')) as live:
        twice = live.post(response_format=FORMAT, **OFF).json()["usage"]
    with live_server(checked('{"city": "Rome"}')) as live:
        once = live.post(response_format=FORMAT, **OFF).json()["usage"]
    assert twice["prompt_tokens"] > 2 * once["prompt_tokens"]
    assert twice["completion_tokens"] == once["completion_tokens"] + 1


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/chat/completions", {"response_format": FORMAT, **OFF}),
        (
            "/anthropic/v1/messages",
            {"max_tokens": 50, "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        ),
    ],
)
def test_an_answer_that_stays_wrong_is_a_typed_error_in_each_dialect(path: str, fields: dict[str, Any]) -> None:
    with live_server(checked("no", "never")) as live:
        whole = live.post(path, **fields)
        streamed = live.post(path, stream=True, **fields)
    assert whole.status_code == 502
    assert whole.json()["error"]["code"] == "unfit_answer"
    assert "does not have the form that was asked for" in whole.json()["error"]["message"]
    assert "unfit_answer" in streamed.text
    assert "never" not in streamed.text


def test_damaged_markup_is_a_typed_error_and_never_text() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    with live_server(checked("I look.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke>")) as live:
        whole = live.post(tools=[tool], **OFF)
        streamed = live.post(tools=[tool], stream=True, **OFF)
    assert (whole.status_code, whole.json()["error"]["code"]) == (502, "damaged_tool_call")
    assert text_of(streamed) == "I look."
    assert "damaged_tool_call" in streamed.text
    assert "DSML" not in streamed.text

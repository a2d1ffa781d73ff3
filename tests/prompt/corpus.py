"""Random conversations in the Chat wire format, for comparing renderings with the vendor's package."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from deepserve.core.messages import Image, Message, Part, Reasoning, Text, ToolCall, ToolResult
from deepserve.core.request import Effort, Request, ResponseFormat, Thinking, Tool, ToolChoice
from tests.prompt.requests import request

# Bodies are JSON as clients send it, hence Any throughout.
Body = dict[str, Any]

WORDS = (
    "the weather in Köln is 21 °C", "今天天气很好", "json", "Привет", "😀🐋", "a\tb", "\n\n", "\n", " ", "  ", "\r\n",
    "<think>", "</think>", "<｜User｜>", "<｜end▁of▁sentence｜>", "｜DSML｜", "<｜DSML｜tool_calls>",
    "</｜DSML｜parameter>", "<tool_result>", '{"a": [1, 2.50]}', "\\n \"quoted\" 'text'", "e\u0301\u200d\u2028\x7f\x00",
    "## Tools", "$&",
)  # fmt: skip


def random_text(rng: random.Random) -> str:
    if rng.random() < 0.08:
        return ""
    return "".join(rng.choice(WORDS) + rng.choice(("", " ", ". ")) for _ in range(rng.randint(1, 5)))


def random_content(rng: random.Random) -> str | list[Body]:
    if rng.random() < 0.75:
        return random_text(rng)
    return [{"type": "text", "text": random_text(rng)} for _ in range(rng.randint(1, 3))]


def random_value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(9 if depth < 3 else 6)
    match kind:
        case 0 | 1:
            return random_text(rng)
        case 2:
            return rng.choice((0, -1, 7, 2**31, 2**63, 2**64 - 1, -(2**63)))
        case 3:
            return rng.choice((0.5, 1.0, -0.0, 1e-7, 1e-5, 123456.789, 1e15, 1e16, 1e22, -2.5e-9, rng.random()))
        case 4:
            return rng.choice((True, False))
        case 5:
            return None
        case 6 | 7:
            return {random_text(rng): random_value(rng, depth + 1) for _ in range(rng.randint(0, 3))}
        case _:
            return [random_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]


def random_arguments(rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.1:
        huge = '{"a": [18446744073709551616, -9223372036854775809, 1e25, 10000000000000000000000000, -0]}'
        odd = ("", "[]", "null", "not json", '{"a": NaN}', '{"a": 1e999}', '"x"', "{} {}", ' {"a":1}\n', huge)
        return rng.choice(odd)
    if roll < 0.2:
        return "{}"
    value = {rng.choice(string.ascii_lowercase): random_value(rng) for _ in range(rng.randint(1, 4))}
    separators = rng.choice(((",", ":"), (", ", ": "), (" ,\n", " : ")))
    return json.dumps(value, ensure_ascii=rng.random() < 0.5, separators=separators)


def random_tool(rng: random.Random, name: str) -> Body:
    function: Body = {"name": name}
    if rng.random() < 0.8:
        function["description"] = random_text(rng)
    if rng.random() < 0.9:
        names = rng.sample(string.ascii_lowercase, rng.randint(0, 3))
        properties = {key: {"type": "string", "description": random_text(rng)} for key in names}
        function["parameters"] = {"type": "object", "properties": properties, "x": random_value(rng)}
    return {"type": "function", "function": function}


def random_body(rng: random.Random, *, is_orderly: bool) -> Body:
    """A request. Orderly ones keep to the protocol that the vendor's server enforces."""
    thinks = rng.random() < 0.5
    tools = [random_tool(rng, f"tool_{index}") for index in range(rng.choice((0, 0, 1, 2, 3)))]
    messages: list[Body] = [
        {"role": "system", "content": random_content(rng)} for _ in range(rng.choice((0, 1, 1, 2, 3)))
    ]
    counter = 0
    for _ in range(rng.randint(1, 5)):
        for _ in range(rng.choice((1, 1, 1, 2))):
            messages.append({"role": "user", "content": random_content(rng)})
        if rng.random() < 0.15:
            messages.append({"role": "latest_reminder", "content": random_text(rng)})
            if rng.random() < 0.5:
                messages.append({"role": "user", "content": random_content(rng)})
        if rng.random() < 0.1:
            messages.append({"role": "system", "content": random_content(rng)})
        for _ in range(rng.choice((0, 0, 1, 2))):
            calls = [
                {
                    "id": f"call_{counter + index:03d}",
                    "type": "function",
                    "function": {"name": rng.choice(("tool_0", "other")), "arguments": random_arguments(rng)},
                }
                for index in range(rng.choice((1, 1, 2, 3)))
            ]
            counter += len(calls)
            messages.append(random_answer(rng) | {"tool_calls": calls})
            results = [{"role": "tool", "tool_call_id": call["id"], "content": random_content(rng)} for call in calls]
            rng.shuffle(results)
            messages += results
        if rng.random() < 0.8:
            messages.append(random_answer(rng))
            if not is_orderly and rng.random() < 0.1:
                messages.append(random_answer(rng))
    body: Body = {"model": "DeepSeek-V4-Pro", "messages": messages}
    body["thinking"] = {"type": "enabled" if thinks else "disabled"}
    if thinks:
        body["reasoning_effort"] = rng.choice(("low", "high", "max"))
    if tools:
        body["tools"] = tools
        choice = rng.choice(("auto", "none", *(() if thinks else ("required", "named"))))
        named = {"type": "function", "function": {"name": rng.choice(tools)["function"]["name"]}}
        body["tool_choice"] = named if choice == "named" else choice
    elif rng.random() < 0.5:
        messages.append(random_answer(rng) | {"prefix": True})
    if rng.random() < 0.2:
        messages[0]["content"] = "json"
        body["response_format"] = {"type": "json_object"}
    return body


def random_answer(rng: random.Random) -> Body:
    answer: Body = {"role": "assistant", "content": random_content(rng)}
    if rng.random() < 0.6:
        answer["reasoning_content"] = random_text(rng)
    return answer


def as_request(body: Mapping[str, Any]) -> Request:
    """The body as core values; not the dialect's reading, so that this test stands alone."""
    choice = body.get("tool_choice", "auto")
    kind = body.get("response_format", {}).get("type", "text")
    effort: Effort = body.get("reasoning_effort", "high")
    return request(
        *(as_message(message) for message in body["messages"]),
        tools=tuple(
            Tool(
                name=tool["function"]["name"],
                description=tool["function"].get("description", ""),
                parameters=tool["function"].get("parameters"),
                strict=tool["function"].get("strict", False),
            )
            for tool in body.get("tools", ())
        ),
        tool_choice=ToolChoice(mode=cast(Literal["none", "auto", "required"], choice))
        if isinstance(choice, str)
        else ToolChoice(mode="named", names=(choice["function"]["name"],)),
        thinking=Thinking(enabled=body["thinking"]["type"] == "enabled", effort=effort),
        response_format=ResponseFormat(kind=kind),
    )


def as_message(message: Mapping[str, Any]) -> Message:
    parts = as_parts(message["content"])
    if message["role"] == "tool":
        parts = [ToolResult(call_id=message["tool_call_id"], content=tuple(parts))]  # type: ignore[arg-type]
    if "reasoning_content" in message:
        parts.insert(0, Reasoning(text=message["reasoning_content"]))
    for call in message.get("tool_calls", ()):
        function = call["function"]
        parts.append(ToolCall(id=call["id"], name=function["name"], arguments=function["arguments"]))
    return Message(role=message["role"], parts=tuple(parts), prefix=message.get("prefix", False))


def as_parts(content: str | Sequence[Mapping[str, Any]]) -> list[Part]:
    if isinstance(content, str):
        return [Text(content)]
    return [Text(part["text"]) if part["type"] == "text" else Image(url="") for part in content]

"""Whichever API a client speaks, and however it reads the answers: it need not send any thinking trace back.

Two questions with a tool between, through the official SDKs; everything the model said is sent back but its traces, and
arguments are written anew, as clients do that keep them parsed. Each answer says what became of the traces before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI

MODEL = "deepseek-v4-pro"
QUESTIONS = ("What is the weather in Paris?", "And in Rome?")
ANSWERS = ["The weather in Paris: 21 C, sunny.", "The weather in Rome: 21 C, sunny."]
NOTED = [
    "sent=0 restored=0 missing=0",  # the first question
    "sent=0 restored=1 missing=0",  # its tool's result
    "sent=0 restored=2 missing=0",  # the second question, after an answer
    "sent=0 restored=3 missing=0",
]
WEATHER = "21 C, sunny"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "Weather of a city", "parameters": PARAMETERS}

Json = Any  # what the SDKs accept instead of their own classes


def chat(server: str, prefix: str, note: Callable[[Any], None], *, streams: bool) -> Iterator[str]:
    messages: list[Json] = []
    tools: Json = [{"type": "function", "function": FUNCTION}]
    with OpenAI(base_url=server + prefix, api_key="sk-local", max_retries=0) as client:
        client._client.event_hooks = {"response": [note]}
        for question in QUESTIONS:
            messages.append({"role": "user", "content": question})
            while True:
                asked: Json = {"model": MODEL, "messages": messages, "tools": tools, "temperature": 0}
                if streams:
                    with client.chat.completions.stream(**asked) as stream:
                        message: Json = stream.get_final_completion().choices[0].message
                else:
                    message = client.chat.completions.create(**asked).choices[0].message
                calls = [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.function.name, "arguments": arguments},
                    }
                    for call in message.tool_calls or ()
                    for arguments in [json.dumps(json.loads(call.function.arguments), indent=1)]
                ]
                messages.append(
                    {"role": "assistant", "content": message.content, **({"tool_calls": calls} if calls else {})}
                )
                if not calls:
                    yield message.content
                    break
                messages += [{"role": "tool", "tool_call_id": call["id"], "content": WEATHER} for call in calls]


def messages(server: str, prefix: str, note: Callable[[Any], None], *, streams: bool) -> Iterator[str]:
    history: list[Json] = []
    tools: Json = [{"name": FUNCTION["name"], "description": FUNCTION["description"], "input_schema": PARAMETERS}]
    with Anthropic(base_url=server + prefix, api_key="sk-local", max_retries=0) as client:
        client._client.event_hooks = {"response": [note]}
        for question in QUESTIONS:
            history.append({"role": "user", "content": question})
            while True:
                asked: Json = {"model": MODEL, "max_tokens": 512, "messages": history, "tools": tools}
                asked["extra_body"] = {"temperature": 0}  # no argument of the SDK any more
                if streams:
                    with client.messages.stream(**asked) as stream:
                        answer: Json = stream.get_final_message()
                else:
                    answer = client.messages.create(**asked)
                kept = [block for block in answer.content if block.type != "thinking"]
                history.append({"role": "assistant", "content": kept})
                results = [
                    {"type": "tool_result", "tool_use_id": block.id, "content": WEATHER}
                    for block in kept
                    if block.type == "tool_use"
                ]
                if not results:
                    yield "".join(block.text for block in kept if block.type == "text")
                    break
                history.append({"role": "user", "content": results})


def responses(server: str, prefix: str, note: Callable[[Any], None], *, streams: bool) -> Iterator[str]:
    items: list[Json] = []
    tools: Json = [{"type": "function", "strict": False, **FUNCTION}]
    with OpenAI(base_url=server + prefix, api_key="sk-local", max_retries=0) as client:
        client._client.event_hooks = {"response": [note]}
        for question in QUESTIONS:
            items.append({"role": "user", "content": question})
            while True:
                asked: Json = {"model": MODEL, "input": items, "tools": tools, "temperature": 0, "store": False}
                if streams:
                    with client.responses.stream(**asked) as stream:
                        response: Json = stream.get_final_response()
                else:
                    response = client.responses.create(**asked)
                calls = [item for item in response.output if item.type == "function_call"]
                if not calls:
                    items.append({"role": "assistant", "content": response.output_text})
                    yield response.output_text
                    break
                for call in calls:
                    arguments = json.dumps(json.loads(call.arguments), indent=1)
                    said = {"call_id": call.call_id, "name": call.name, "arguments": arguments}
                    items.append({"type": "function_call", **said})
                    items.append({"type": "function_call_output", "call_id": call.call_id, "output": WEATHER})


PATHS = [
    (chat, ""),
    (chat, "/v1"),
    (chat, "/beta"),
    (chat, "/api/v1"),
    (chat, "/api/ai"),
    (messages, "/anthropic"),
    (messages, ""),
    (responses, ""),
    (responses, "/v1"),
    (responses, "/api/v1"),
]


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("converse", "prefix"), PATHS, ids=[f"{path.__name__} at {prefix}/" for path, prefix in PATHS])
def test_a_client_may_forget_every_trace(
    mini_server: str, converse: Callable[..., Iterator[str]], prefix: str, streams: bool
) -> None:
    noted: list[str] = []

    def note(response: Any) -> None:  # Any: the response class of whichever HTTP library the SDK uses
        noted.append(response.headers["x-deepserve-reasoning"])

    assert list(converse(mini_server, prefix, note, streams=streams)) == ANSWERS
    assert noted == NOTED

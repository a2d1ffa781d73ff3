"""Asks the server at DEEPSERVE_URL everything that the SDK can ask a text model, by WebSocket and by HTTP.

Run by test_runware_new_sdk.py with an interpreter that has runware-sdk; writes one line of JSON for each conversation.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from runware import RunOptions, RuntimeDependencies, Runware, RunwareError
from typing_extensions import override
from websockets.asyncio.client import ClientConnection, connect

SERVER = os.environ["DEEPSERVE_URL"]
KEYED_SERVER = os.environ["DEEPSERVE_KEYED_URL"]
MODEL = "deepseek:v4@flash"
TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def client_of(transport: str, *, server: str = SERVER, key: str = "any", **config: Any) -> Runware:  # Any: as the SDK
    address = f"{server}/v1"
    return Runware(
        api_key=key,
        transport=transport,
        http_base_url=address,
        ws_base_url=address.replace("http", "ws", 1),
        retry_delay=10,
        **config,
    )


def task_of(content: str = "Count to 3.", **fields: Any) -> dict[str, Any]:
    """With the type of the task and the model's AIR id, so that the SDK asks nobody else what they are."""
    messages = [{"role": "user", "content": content}]
    settings = {"maxTokens": 60}
    return {"taskType": "textInference", "model": MODEL, "messages": messages, "settings": settings, **fields}


async def several_results_later(client: Runware) -> None:
    heard: list[dict[str, Any]] = []
    task = task_of(numberResults=2, seed=7, includeCost=True, includeUsage=True)
    items = await client.run(task, RunOptions(on_result=heard.append))
    assert [item["seed"] for item in items] == [7, 8], items
    assert all(item["text"] and item["finishReason"] == "stop" for item in items), items
    assert all(item["usage"]["completionTokens"] > 0 for item in items), items
    assert all(item["cost"] > 0 for item in items), items
    assert len(heard) == 2, heard


async def a_whole_answer(client: Runware) -> None:
    settings = {"thinkingLevel": "high", "maxTokens": 200, "temperature": 0.0}
    (item,) = await client.run(task_of(settings=settings, deliveryMethod="sync"))
    assert item["text"], item
    assert "".join(item["reasoningContent"]), item


async def a_stream(client: Runware) -> None:
    settings = {"thinkingLevel": "high", "maxTokens": 200}
    stream = await client.stream(task_of(settings=settings, includeUsage=True, includeCost=True))
    texts = [piece async for piece in stream.text_stream]
    result = await stream.result()
    assert len(texts) > 1, texts
    assert "".join(texts) == result.text, (texts, result)
    assert result.reasoning_content, result
    assert result.finish_reason == "stop", result
    assert result.usage, result
    assert result.cost, result


async def a_tool_loop(client: Runware) -> None:
    task = task_of("What is the weather in Paris?", tools=[TOOL], toolChoice={"type": "tool", "name": "get_weather"})
    (asked,) = await client.run({**task, "deliveryMethod": "sync"})
    (call,) = asked["toolCalls"]
    assert call["name"] == "get_weather", asked
    assert isinstance(call["input"]["city"], str), asked
    messages = [
        *task["messages"],
        {"role": "assistant", "toolCalls": [call]},
        {"role": "tool", "id": call["id"], "content": "sunny"},
    ]
    (told,) = await client.run(task_of(messages=messages, tools=[TOOL]))
    assert told["text"], told


async def questions_about_tasks(client: Runware) -> None:
    task_uuid = str(uuid4())
    (item,) = await client.run(task_of(taskUUID=task_uuid))
    (again,) = await client.get_response({"taskUUID": task_uuid})
    assert again["text"] == item["text"], again
    (details,) = await client.get_task_details({"taskUUID": task_uuid})
    assert details["request"][0]["taskUUID"] == task_uuid, details
    (found,) = await client.model_search({"search": "deepseek"})
    assert MODEL in [model["air"] for model in found["results"]], found


async def what_is_wrong(client: Runware) -> None:
    for fields, code, parameter in (
        ({"model": "google:gemma@4"}, "notFound", "model"),
        ({"settings": {"temperature": 3}}, "validation", "settings.temperature"),
        ({"messages": []}, "validation", "messages"),
    ):
        for delivery in ("async", "sync"):
            error = await refusal(client.run(task_of(**fields, deliveryMethod=delivery)))
            assert (error.code, error.parameter) == (code, parameter), (error.code, error.parameter)


async def refusal(asked: Awaitable[object]) -> RunwareError:
    try:
        await asked
    except RunwareError as error:
        return error
    raise AssertionError("it was taken")


class Breaking(ClientConnection):
    """Is cut as soon as a task was sent."""

    @override
    async def send(self, message: Any, text: bool | None = None) -> None:  # Any: the SDK sends texts
        await super().send(message, text=text)
        if "textInference" in message:
            self.transport.abort()


async def a_connection_that_breaks() -> None:
    """The client comes back by itself, with its session, and hears what was accepted."""
    opened: list[ClientConnection] = []

    async def open_and_note(url: str) -> ClientConnection:
        opened.append(await connect(url, create_connection=ClientConnection if opened else Breaking))
        return opened[-1]

    async with client_of("websocket", dependencies=RuntimeDependencies(ws_connect=open_and_note)) as client:
        (item,) = await client.run(task_of("Count to 10."))
        assert item["text"], item
    assert len(opened) == 2, opened


async def a_wrong_key() -> None:
    for transport in ("websocket", "rest"):
        async with asyncio.timeout(5):
            client = client_of(transport, server=KEYED_SERVER, key="sk-wrong", max_retries=0)
            error = await refusal(asked_with(client))
            assert error.code == "auth", error.code
        async with client_of(transport, server=KEYED_SERVER, key="sk-right") as client:
            assert await client.run(task_of(deliveryMethod="sync"))


async def asked_with(client: Runware) -> None:
    async with client:
        await client.run(task_of())


async def tell(name: str, work: Awaitable[None]) -> None:
    try:
        await asyncio.wait_for(work, 60)
        told = {"name": name}
    except Exception:  # noqa: BLE001 - told to the test
        told = {"name": name, "error": traceback.format_exc()[-1500:]}
    sys.stdout.write(json.dumps(told) + "\n")


async def with_client(transport: str, talk: Callable[[Runware], Awaitable[None]]) -> None:
    async with client_of(transport) as client:
        await talk(client)


async def main() -> None:
    talks = (several_results_later, a_whole_answer, a_stream, a_tool_loop, questions_about_tasks, what_is_wrong)
    # Side by side, for the SDK waits a second before it asks for a result.
    await asyncio.gather(
        *(
            tell(f"{talk.__name__} by {transport}", with_client(transport, talk))
            for transport in ("websocket", "rest")
            for talk in talks
        ),
        tell("a_connection_that_breaks", a_connection_that_breaks()),
        tell("a_wrong_key", a_wrong_key()),
    )


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

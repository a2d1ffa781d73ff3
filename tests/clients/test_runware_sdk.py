"""The unmodified Runware SDK for Python: WebSocket for everything, HTTP for streams."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from runware import ITextInference, ITextInferenceTool, Runware, RunwareAPIError
from runware import utils as runware_utils

from deepserve.config import Settings
from tests.conftest import running_server
from tests.server.live import PATIENCE_S, LiveServer, live_server, scripted

Result = TypeVar("Result")

MODEL = "deepseek:v4@pro"
FIXED_PORT = 8080
"""The SDK knows one local address, and streams anything else to its vendor."""


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with live_server() as server:
        yield server


def socket_address(live: LiveServer) -> str:
    return live.address.replace("http", "ws", 1) + "/v1"


def run(url: str, talk: Callable[[Runware], Awaitable[Result]], *, key: str = "any") -> Result:
    async def session() -> Result:
        client = Runware(api_key=key, url=url)
        try:
            await client.connect()
            return await talk(client)
        finally:
            await client.disconnect()

    return asyncio.run(asyncio.wait_for(session(), PATIENCE_S * 2))


def task_of(**fields: Any) -> ITextInference:  # Any: what the SDK takes
    given = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], **fields}
    return ITextInference(**given)


def test_a_question_and_its_answer(live: LiveServer) -> None:
    settings = {"thinkingLevel": "high", "maxTokens": 64, "temperature": 0.5, "topP": 0.9}
    task = task_of(settings=settings, includeCost=True, includeUsage=True, seed=11)
    (item,) = run(socket_address(live), lambda client: client.textInference(task))
    assert (item.text, item.finishReason, item.seed) == ("You said: hello", "stop", 11)
    assert item.reasoningContent == ["The user said: hello I will answer that."]
    assert item.usage.totalTokens == item.usage.promptTokens + item.usage.completionTokens
    assert item.usage.thinkingTokens == item.usage.completionTokensDetails.reasoningTokens == 8
    assert item.cost == item.usage.costBreakdown.total > 0


def test_several_results_each_with_its_seed(live: LiveServer) -> None:
    items = run(socket_address(live), lambda client: client.textInference(task_of(numberResults=3, seed=5)))
    assert [(item.text, item.seed) for item in items] == [("You said: hello", seed) for seed in (5, 6, 7)]


def test_a_task_for_later_is_fetched(live: LiveServer) -> None:
    async def talk(client: Runware) -> Any:  # Any: the SDK's own types
        accepted = await client.textInference(task_of(deliveryMethod="async", numberResults=2))
        items = await client.getResponse(accepted.taskUUID, numberResults=2)
        return accepted.taskUUID, items, await client.getTaskDetails(accepted.taskUUID)

    task_uuid, items, details = run(socket_address(live), talk)
    assert [(item.text, item.status) for item in items] == [("You said: hello", "success")] * 2
    assert (details.taskUUID, details.request[0].model) == (task_uuid, MODEL)
    assert [item.text for item in details.response] == ["You said: hello"] * 2


async def streamed(client: Runware) -> list[Any]:  # Any: strings, then the SDK's own type
    task = task_of(deliveryMethod="stream", includeCost=True, includeUsage=True)
    return [piece async for piece in await client.textInference(task)]


def check_stream(pieces: list[Any]) -> None:  # Any: see above
    *texts, end = pieces
    assert len(texts) > 1
    assert "".join(texts) == end.text
    assert end.finishReason == "stop"
    assert end.usage.totalTokens > 0
    assert end.cost > 0


def test_a_stream_in_pieces(live: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    url = socket_address(live)
    monkeypatch.setitem(runware_utils._WS_TO_HTTP, url, live.address + "/v1")
    pieces = run(url, streamed)
    check_stream(pieces)
    assert pieces[-1].text == "You said: hello"


def test_a_stream_that_breaks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with live_server(scripted(text="a b c", failure="engine_failure", fail_after_pieces=1)) as live:
        url = socket_address(live)
        monkeypatch.setitem(runware_utils._WS_TO_HTTP, url, live.address + "/v1")
        with pytest.raises(RunwareAPIError, match="the engine failed"):
            run(url, streamed)


def test_the_sdk_as_it_is_with_the_port_it_knows(tmp_path: Path) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", FIXED_PORT)) == 0:
            pytest.skip(f"Port {FIXED_PORT} is in use by another program.")
    with running_server("--backend", "scripted", "--runware-port", str(FIXED_PORT), state_dir=tmp_path):
        check_stream(run(f"ws://localhost:{FIXED_PORT}", streamed))


def test_a_tool_loop(live: LiveServer) -> None:
    tool = ITextInferenceTool(
        toolType="function",
        name="get_weather",
        description="weather",
        schema={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    )
    call = {"id": "call_1", "name": "get_weather", "input": {"city": "Paris"}}
    messages = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "tools": [call]},
        {"role": "tool", "id": "call_1", "content": "sunny"},
    ]

    async def talk(client: Runware) -> Any:  # Any: the SDK's own types
        return [
            *await client.textInference(task_of(tools=[tool])),
            *await client.textInference(task_of(tools=[tool], messages=messages)),
        ]

    asked, told = run(socket_address(live), talk)
    assert (asked.text, asked.finishReason) == ("", "tool_calls")
    assert told.text == "The tool answered: sunny"


@pytest.mark.parametrize(
    ("fields", "code", "parameter"),
    [
        ({"messages": []}, "invalidMessages", "messages"),
        ({"model": "google:gemma@4"}, "modelNotFound", "model"),
        ({"settings": {"temperature": 3}}, "invalidTemperature", "settings.temperature"),
        ({"settings": {"topK": 3}}, "unsupportedParameter", "settings.topK"),
        ({"webhookURL": "http://127.0.0.1:9/hook"}, "invalidWebhookURL", "webhookURL"),
    ],
)
def test_what_is_wrong_is_raised_with_its_code(
    live: LiveServer, fields: dict[str, Any], code: str, parameter: str
) -> None:
    with pytest.raises(RunwareAPIError) as raised:
        run(socket_address(live), lambda client: client.textInference(task_of(**fields)))
    assert (raised.value.code, raised.value.error_data["parameter"]) == (code, parameter)


def test_a_wrong_key_is_told_at_once() -> None:
    with live_server(settings=Settings(api_keys=("sk-right",))) as live:
        url = socket_address(live)
        assert run(url, lambda client: client.textInference(task_of()), key="sk-right")[0].text
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # the SDK forgets the sockets of logins that failed
            with pytest.raises(ConnectionError, match="invalid"):
                run(url, lambda client: client.textInference(task_of()), key="sk-wrong")
            gc.collect()


def test_the_shipped_model_answers(mini_server: str) -> None:
    task = task_of(settings={"maxTokens": 8}, includeUsage=True, numberResults=2)
    url = mini_server.replace("http", "ws", 1)
    items = run(url, lambda client: client.textInference(task))
    assert all(1 <= item.usage.completionTokens <= 8 for item in items)
    assert len({item.seed for item in items}) == 2

"""Plays a recorded exchange without a server: request body in, response text out, through the scripted back end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from deepserve.backends.script import Script
from deepserve.backends.scripted import ScriptedBackend
from deepserve.core.answer import collect
from deepserve.core.errors import DeepserveError
from deepserve.core.events import Event
from deepserve.core.request import Request
from deepserve.dialects.exchange import AnswerHead
from deepserve.dialects.messages.errors import encode_error, form_of
from deepserve.dialects.messages.exchange import MessagesExchange
from deepserve.gateway import Gateway
from deepserve.tools.tool_loop import ToolLoop
from deepserve.tools.toolbox import EMPTY, Toolbox
from tests.dialects.messages.decoding import ARRIVED_AT, decode
from tests.tools.scripted_tool import ScriptedTool, page, ran

HEAD = AnswerHead(id="01234567-89ab-4cde-8f01-23456789abcd", created_at=ARRIVED_AT, model="deepseek-v4-pro")


TOOLBOX = Toolbox(
    {"web_search": ScriptedTool(), "web_fetch": ScriptedTool(page), "code_interpreter": ScriptedTool(ran)}
)
"""What the server runs in recordings with `tools`."""


def events_of(request: Request, script: Script, toolbox: Toolbox = EMPTY) -> list[Event]:
    async def run() -> list[Event]:
        return [event async for event in _gateway(script, toolbox).answer(request)]

    return asyncio.run(run())


def _gateway(script: Script, toolbox: Toolbox) -> Gateway:
    return Gateway(ScriptedBackend(script), tools=ToolLoop(toolbox))


def play(recorded: Mapping[str, Any]) -> tuple[int, str]:
    """Status and body that the exchange gives today. Any: JSON."""
    script = msgspec.convert(recorded.get("script", {}), Script)
    toolbox = TOOLBOX if recorded.get("tools") else EMPTY
    try:
        exchange = MessagesExchange(decode(recorded["request"], is_strict=recorded.get("strict", False)))
        if not exchange.is_stream:
            answer = asyncio.run(collect(_gateway(script, toolbox).answer(exchange.request)))
            return 200, exchange.encode_answer(answer, HEAD).decode()
        writer = exchange.open_stream(HEAD)
        frames = b"".join(writer.encode(event) for event in events_of(exchange.request, script, toolbox))
        return 200, (frames + writer.finish()).decode()
    except DeepserveError as error:
        return form_of(error).status, encode_error(error, request_id="0123456789abcdef0123456789abcdef").decode()

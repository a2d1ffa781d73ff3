"""Plays a recorded exchange without a server: request body in, response text out, through the scripted back end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from deepserve.backends.script import Script
from deepserve.backends.scripted import ScriptedBackend
from deepserve.core.answer import Answer, collect
from deepserve.core.errors import DeepserveError
from deepserve.core.events import Event
from deepserve.core.request import Request
from deepserve.dialects.chat.response import encode_answer
from deepserve.dialects.chat.stream import StreamEncoder
from deepserve.dialects.exchange import AnswerHead
from deepserve.dialects.vendor_errors import encode_error, form_of
from deepserve.gateway import Gateway
from tests.dialects.chat.decoding import ARRIVED_AT, decode

ID = "01234567-89ab-4cde-8f01-23456789abcd"


def events_of(request: Request, script: Script) -> list[Event]:
    async def run() -> list[Event]:
        return [event async for event in Gateway(ScriptedBackend(script)).answer(request)]

    return asyncio.run(run())


def answer_of(request: Request, script: Script) -> Answer:
    return asyncio.run(collect(Gateway(ScriptedBackend(script)).answer(request)))


def play(recorded: Mapping[str, Any]) -> tuple[int, str]:
    """Status and body that the exchange gives today. Any: JSON."""
    script = msgspec.convert(recorded.get("script", {}), Script)
    try:
        chat = decode(recorded["request"], is_strict=recorded.get("strict", False))
        head = AnswerHead(id=ID, created_at=ARRIVED_AT, model=chat.request.model)
        if not chat.is_stream:
            return 200, encode_answer(answer_of(chat.request, script), chat.request, head).decode()
        encoder = StreamEncoder(chat.request, head, include_usage=chat.include_usage)
        frames = b"".join(encoder.encode(event) for event in events_of(chat.request, script))
        return 200, (frames + encoder.finish()).decode()
    except DeepserveError as error:
        return form_of(error).status, encode_error(error).decode()

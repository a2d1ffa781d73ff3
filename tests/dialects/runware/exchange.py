"""Plays a recorded exchange without a server: a task in, its results or events out, through the scripted back end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from deepserve.backends.script import Script
from deepserve.backends.scripted import ScriptedBackend
from deepserve.catalog.price_table import load_prices
from deepserve.core.answer import collect
from deepserve.core.errors import DeepserveError
from deepserve.core.events import Event
from deepserve.core.request import Request
from deepserve.dialects.runware.errors import TaskRefused, error_body, status_of, wire_error
from deepserve.dialects.runware.response import encode_ended
from deepserve.dialects.runware.stream import StreamEncoder
from deepserve.dialects.runware.wire import encode
from deepserve.gateway import Gateway
from deepserve.metering.meter import Meter
from tests.dialects.runware.decoding import TASK_UUID, decode

METER = Meter(load_prices())


def events_of(request: Request, script: Script) -> list[Event]:
    async def run() -> list[Event]:
        return [event async for event in Gateway(ScriptedBackend(script), meter=METER).answer(request)]

    return asyncio.run(run())


def play(recorded: Mapping[str, Any]) -> tuple[int, str]:
    """Status and body that the exchange gives today: of a whole answer what is kept of it. Any: JSON."""
    script = msgspec.convert(recorded.get("script", {}), Script)
    try:
        inference = decode(**recorded["task"])
        if inference.delivery != "stream":
            answer = asyncio.run(collect(Gateway(ScriptedBackend(script), meter=METER).answer(inference.request)))
            return 200, encode(encode_ended(inference, answer.results, answer.usage, answer.cost)).decode()
        writer = StreamEncoder(inference)
        frames = b"".join(writer.encode(event) for event in events_of(inference.request, script))
        return 200, (frames + writer.finish()).decode()
    except (DeepserveError, TaskRefused) as error:
        return status_of(error), error_body(wire_error(error, task_type="textInference", task_uuid=TASK_UUID)).decode()

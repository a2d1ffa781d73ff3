"""Short ways to decode a request body in tests, and to play an exchange without a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from deepserve.backends.script import Script
from deepserve.backends.scripted import ScriptedBackend
from deepserve.catalog.models import load_models
from deepserve.config import Limits
from deepserve.core.answer import collect
from deepserve.core.errors import DeepserveError
from deepserve.core.events import Event
from deepserve.core.request import Request, RequestId
from deepserve.core.tenant import LOCAL_TENANT, TenantId
from deepserve.dialects.exchange import AnswerHead, Arrival, ErrorCodec
from deepserve.dialects.responses.errors import ResponsesErrors
from deepserve.dialects.responses.exchange import CompactExchange, Decoders, ResponsesExchange
from deepserve.dialects.responses.request import ResponsesRequest
from deepserve.gateway import Gateway
from deepserve.store.sealing import Sealer

ARRIVED_AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
DIGITS = "0123456789ab4cde8f0123456789abcd"
HEAD = AnswerHead(id="01234567-89ab-4cde-8f01-23456789abcd", created_at=ARRIVED_AT, model="deepseek-v4-flash")

WEATHER: dict[str, Any] = {  # Any: JSON
    "type": "function",
    "name": "get_weather",
    "description": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Shelf:
    """What was kept, in a dictionary."""

    def __init__(self, *, can_keep: bool = True) -> None:
        self.records: dict[tuple[TenantId, str], bytes] = {}
        self.can_keep = can_keep

    def find(self, tenant: TenantId, response_id: str) -> bytes | None:
        return self.records.get((tenant, response_id))

    def keep(self, tenant: TenantId, response_id: str, record: bytes) -> None:
        self.records[tenant, response_id] = record

    def put(self, response: Mapping[str, Any], items: list[dict[str, Any]]) -> None:
        record = json.dumps({"response": response, "input": items}).encode()
        self.keep(LOCAL_TENANT.id, response["id"], record)


SEALER = Sealer(bytes(32))


def body(**fields: object) -> dict[str, Any]:
    return {"model": "deepseek-v4-flash", "input": "Hello!", **fields}


def _arrival(*, is_strict: bool) -> Arrival:
    return Arrival(id=RequestId(DIGITS), at=ARRIVED_AT, is_strict=is_strict)


def decoders(shelf: Shelf | None = None, limits: Limits | None = None) -> Decoders:
    return Decoders(
        names=load_models(),
        limits=lambda: limits or Limits(),
        memory=shelf or Shelf(),
        sealing=SEALER,
        now=lambda: ARRIVED_AT,
    )


def exchange(
    value: Mapping[str, object] | bytes,
    *,
    is_strict: bool = False,
    shelf: Shelf | None = None,
    limits: Limits | None = None,
) -> ResponsesExchange:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return decoders(shelf, limits).response(raw, _arrival(is_strict=is_strict))


def compaction(value: Mapping[str, object]) -> CompactExchange:
    return decoders().compaction(json.dumps(value).encode(), _arrival(is_strict=False))


def decode(
    value: Mapping[str, object] | bytes,
    *,
    is_strict: bool = False,
    shelf: Shelf | None = None,
    limits: Limits | None = None,
) -> ResponsesRequest:
    return exchange(value, is_strict=is_strict, shelf=shelf, limits=limits).asked


def refusal(
    value: Mapping[str, object] | bytes,
    *,
    is_strict: bool = False,
    shelf: Shelf | None = None,
    limits: Limits | None = None,
) -> DeepserveError:
    """The error that the body is refused with."""
    try:
        decode(value, is_strict=is_strict, shelf=shelf, limits=limits)
    except DeepserveError as error:
        return error
    raise AssertionError("the body was accepted")


def events_of(request: Request, script: Script) -> list[Event]:
    async def run() -> list[Event]:
        return [event async for event in Gateway(ScriptedBackend(script), sealer=SEALER).answer(request)]

    return asyncio.run(run())


def whole(one: ResponsesExchange | CompactExchange, script: Script) -> bytes:
    answer = asyncio.run(collect(Gateway(ScriptedBackend(script), sealer=SEALER).answer(one.request)))
    return one.encode_answer(answer, HEAD)


def streamed(one: ResponsesExchange, script: Script) -> bytes:
    writer = one.open_stream(HEAD)
    frames = b"".join(writer.encode(event) for event in events_of(one.request, script))
    return frames + writer.finish()


def frames_of(stream: bytes) -> list[dict[str, Any]]:
    """The data of all events; the event name must be the type."""
    found: list[dict[str, Any]] = []
    for frame in stream.decode().split("\n\n")[:-1]:
        name, data = frame.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        found.append(value)
    return found


def play(recorded: Mapping[str, Any]) -> tuple[int, str]:
    """Status and body that a recorded exchange gives today."""
    script = msgspec.convert(recorded.get("script", {}), Script)
    is_strict = recorded.get("strict", False)
    errors: ErrorCodec = ResponsesErrors()
    try:
        one = exchange(recorded["request"], is_strict=is_strict)
        told = streamed(one, script) if one.is_stream else whole(one, script)
        return 200, told.decode()
    except DeepserveError as error:
        return errors.status(error), errors.encode(error, request_id=DIGITS, is_strict=is_strict).decode()

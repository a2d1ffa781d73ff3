"""Other dialects as this service speaks them: with models to fall back to, and wishes about providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from deepserve.config import Limits
from deepserve.core.answer import Answer
from deepserve.core.errors import DeepserveError, InvalidField
from deepserve.core.events import Event, PastReasoning, Started
from deepserve.core.messages import Json
from deepserve.core.model import ModelName
from deepserve.core.request import Request
from deepserve.dialects.body import JsonBody
from deepserve.dialects.exchange import AnswerHead, Arrival, Decode, Exchange, StreamWriter
from deepserve.dialects.node import Node
from deepserve.dialects.openrouter.provider import refuse_unmet_parameters
from deepserve.dialects.openrouter.routing import Directory, Route, read_route

_FIELDS: Final = ("models", "fallbacks", "provider")
_MARKS: Final = tuple(f'"{name}"'.encode() for name in _FIELDS)
"""A body without any of these has none of the fields."""

_MAX_FALLBACKS: Final = 3


def with_routing(decode: Decode, *, directory: Directory, limits: Callable[[], Limits]) -> Decode:
    """The dialect's decoder, for bodies that may have this service's routing in them."""

    def routed(raw: bytes, arrival: Arrival) -> Exchange:
        if not any(mark in raw for mark in _MARKS):
            return decode(raw, arrival)
        body = JsonBody(raw, limits())
        root = Node(body, body.value)
        fields = root.mapping()
        if all(fields.get(name) is None for name in _FIELDS):
            return decode(raw, arrival)
        route = read_route(Node(body, _with_models(root)), directory, at=arrival.at)
        own: dict[str, Json] = {name: value for name, value in fields.items() if name not in _FIELDS}
        own["model"] = route.slug.model.requested
        exchange = RoutedExchange(decode(msgspec.json.encode(own), arrival), route)
        if route.preferences.require_parameters:
            refuse_unmet_parameters(exchange.ignored)
        return exchange

    return routed


def _with_models(root: Node) -> Json:
    """`fallbacks`, which are objects, as `models`, which are names."""
    fallbacks = root.optional("fallbacks")
    if fallbacks is None:
        return root.value
    if root.optional("models") is not None:
        raise InvalidField("`fallbacks` and `models` say the same: send one of them.", field="fallbacks")
    names: list[Json] = [item.required("model").string() for item in fallbacks.items()]
    if len(names) > _MAX_FALLBACKS:
        raise InvalidField(f"At most {_MAX_FALLBACKS} models to fall back to are taken.", field="fallbacks")
    return {**root.mapping(), "models": names}


class RoutedExchange:
    """Implements `dialects.exchange.Exchange`: the dialect's own, for whichever model answers."""

    def __init__(self, inner: Exchange, route: Route) -> None:
        self._inner = inner
        self._ignored = tuple(dict.fromkeys((*inner.ignored, *route.ignored)))
        self._request = msgspec.structs.replace(
            inner.request,
            provider=route.preferences,
            fallback_models=tuple(slug.model.id for slug in route.fallbacks),
        )

    @property
    def request(self) -> Request:
        return self._request

    @property
    def model(self) -> ModelName:
        return self._inner.model

    @property
    def is_stream(self) -> bool:
        return self._inner.is_stream

    @property
    def ignored(self) -> tuple[str, ...]:
        return self._ignored

    @property
    def past_reasoning(self) -> PastReasoning:
        return self._inner.past_reasoning

    @property
    def keep_alive(self) -> bytes:
        return self._inner.keep_alive

    def open_stream(self, head: AnswerHead) -> StreamWriter:
        return _LateWriter(self._inner, head)

    def encode_answer(self, answer: Answer, head: AnswerHead, *, validated: str | None = None) -> bytes:
        return self._inner.encode_answer(answer, _named(head, answer.model), validated=validated)

    def encode_error(self, error: DeepserveError) -> bytes:
        return self._inner.encode_error(error)


class _LateWriter:
    """Begins to write once it is known which model answers: every frame may name it."""

    def __init__(self, exchange: Exchange, head: AnswerHead) -> None:
        self._exchange = exchange
        self._head = head
        self._writer: StreamWriter | None = None

    def encode(self, event: Event) -> bytes:
        return self._opened(event.model if isinstance(event, Started) else None).encode(event)

    def finish(self, error: DeepserveError | None = None) -> bytes:
        return self._opened(None).finish(error)

    def _opened(self, model: str | None) -> StreamWriter:
        if self._writer is None:
            self._writer = self._exchange.open_stream(_named(self._head, model))
        return self._writer


def _named(head: AnswerHead, model: str | None) -> AnswerHead:
    return head if model is None else msgspec.structs.replace(head, model=model)

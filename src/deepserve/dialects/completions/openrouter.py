"""Plain completions as OpenRouter speaks them: its model names and routing, ids, cost and errors."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from typing_extensions import override

from deepserve.config import Limits
from deepserve.core.answer import Answer
from deepserve.core.cost import Cost
from deepserve.core.errors import DeepserveError, UnsupportedFeature
from deepserve.core.usage import Usage
from deepserve.dialects.amounts import encode_amounts
from deepserve.dialects.completions.exchange import CompletionsExchange
from deepserve.dialects.completions.request import decode_root, read_root
from deepserve.dialects.completions.response import Service
from deepserve.dialects.completions.stream import StreamEncoder
from deepserve.dialects.exchange import AnswerHead, Arrival, Decode
from deepserve.dialects.node import Node
from deepserve.dialects.openrouter.errors import encode_error
from deepserve.dialects.openrouter.ids import generation_id
from deepserve.dialects.openrouter.provider import refuse_unmet_parameters
from deepserve.dialects.openrouter.routing import Chosen, Directory, read_route
from deepserve.dialects.openrouter.usage import encode_usage

_OWN_FIELDS = frozenset(("models", "provider"))
KEEP_ALIVE = b": OPENROUTER PROCESSING\n\n"


class OpenRouterCompletions(CompletionsExchange, frozen=True, kw_only=True):
    """dated_name: the model's name in the answer."""

    dated_name: str = ""

    @override
    def open_stream(self, head: AnswerHead) -> StreamEncoder:
        return super().open_stream(self._named(head))

    @override
    def encode_answer(self, answer: Answer, head: AnswerHead, *, validated: str | None = None) -> bytes:
        return super().encode_answer(answer, self._named(head), validated=validated)

    def _named(self, head: AnswerHead) -> AnswerHead:
        return AnswerHead(id=generation_id(head), created_at=head.created_at, model=self.dated_name)


def openrouter_completions_decoder(*, directory: Directory, limits: Limits) -> Decode:
    """How bodies are read."""
    service = _service(directory.slugs.dated_name)

    def decode(raw: bytes, arrival: Arrival) -> OpenRouterCompletions:
        root = read_root(raw, limits)
        route = read_route(root, directory, at=arrival.at)
        slug, ignored = route.slug, route.ignored
        if slug.is_online:
            raise UnsupportedFeature("Plain completions do not search: ask in a chat.", field="model")
        if arrival.is_strict:
            ignored += ("x-deepserve-strict",)
        completion = decode_root(
            Node(root.body, {**root.mapping(), "model": slug.model.requested}),
            msgspec.structs.replace(arrival, is_strict=False),
            names=Chosen(slug, directory.slugs),
            limits=limits,
            own_fields=_OWN_FIELDS,
        )
        # Usage is always sent.
        ignored += tuple(path for path in completion.ignored if not path.startswith(("stream_options", "usage")))
        if route.preferences.require_parameters:
            refuse_unmet_parameters(ignored)
        request = msgspec.structs.replace(
            completion.request,
            dialect="openrouter",
            provider=route.preferences,
            fallback_models=tuple(one.model.id for one in route.fallbacks),
        )
        return OpenRouterCompletions(
            asked=msgspec.structs.replace(
                completion, request=request, ignored=tuple(dict.fromkeys(ignored)), include_usage=True
            ),
            service=service,
            keep_alive=KEEP_ALIVE,
            dated_name=slug.dated_name,
        )

    return decode


def _usage(usage: Usage, cost: Cost | None) -> msgspec.Raw:
    return msgspec.Raw(encode_amounts(encode_usage(usage, cost)))


def _error(error: DeepserveError, _: bool) -> bytes:
    return encode_error(error)


def _service(name_of: Callable[[str], str]) -> Service:
    return Service(encode_usage=_usage, encode_error=_error, names_provider=True, name_of=name_of)

"""Services that speak Chat Completions."""

from __future__ import annotations

from collections.abc import Callable

from deepserve.backends.upstream import wire
from deepserve.backends.upstream.wire import named_server
from deepserve.catalog.providers import Provider
from deepserve.core.request import Request
from deepserve.dialects.chat.upstream_answer import AnswerDecoder
from deepserve.dialects.chat.upstream_flavour import UPSTREAM_FLAVOURS, UpstreamFlavour
from deepserve.dialects.chat.upstream_request import encode_upstream_request
from deepserve.dialects.completions import upstream_answer as completions_answer
from deepserve.dialects.completions import upstream_request as completions_request
from deepserve.dialects.upstream_request import UpstreamRequest


class ChatWire:
    """Implements `backends.upstream.wire.UpstreamWire`. Plain completions are the dialect's older sister there."""

    models_path = "/models"
    counts = False

    def __init__(self, provider: Provider, *, call_id: Callable[[int], str]) -> None:
        self._provider = provider
        self._flavour = UPSTREAM_FLAVOURS[provider.flavour]
        self._call_id = call_id
        self._completions = _completions_flavour(provider, self._flavour)

    def headers(self, key: str | None) -> dict[str, str]:
        return {} if key is None else {"Authorization": f"Bearer {key}"}

    def encode(self, request: Request, *, user: str | None, is_stream: bool) -> UpstreamRequest:
        model = self._provider.models[request.model]
        if request.infill is not None and self._completions is not None:
            return completions_request.encode_upstream_request(
                request, request.infill, self._completions, model=model, user=user, is_stream=is_stream
            )
        return encode_upstream_request(request, self._flavour, model=model, user=user, is_stream=is_stream)

    def decoder(self, request: Request, *, served_by: str | None) -> wire.AnswerDecoder:
        kind = AnswerDecoder if request.infill is None else completions_answer.AnswerDecoder
        return kind(
            provider=self._provider.id,
            title=self._provider.title,
            call_id=self._call_id,
            num_results=request.num_results,
            stop=request.stop,
            served_by=named_server(served_by, is_believed=self._flavour.names_server),
        )

    def encode_count(self, request: Request) -> UpstreamRequest:  # noqa: ARG002 - the protocol's
        raise AssertionError("the dialect has no address for it")

    def decode_count(self, body: bytes) -> int:  # noqa: ARG002 - the protocol's
        raise AssertionError("no such question is asked")


def _completions_flavour(provider: Provider, flavour: UpstreamFlavour) -> completions_request.CompletionsFlavour | None:
    found = provider.completions
    if found is None:
        return None
    return completions_request.CompletionsFlavour(
        path=found.path,
        has_suffix=found.has_suffix,
        needs_limit=found.needs_limit,
        knobs=flavour.knobs,
        has_several_results=flavour.has_several_results,
        user_field=flavour.user_field,
    )

"""Services that speak OpenAI's Responses."""

from __future__ import annotations

from collections.abc import Callable

from deepserve.backends.upstream.wire import named_server
from deepserve.catalog.providers import Provider
from deepserve.core.request import Request
from deepserve.dialects.responses.upstream_answer import AnswerDecoder
from deepserve.dialects.responses.upstream_flavour import RESPONSES_FLAVOURS
from deepserve.dialects.responses.upstream_request import encode_count_request, encode_upstream_request
from deepserve.dialects.upstream_count import decode_count
from deepserve.dialects.upstream_request import UpstreamRequest


class ResponsesWire:
    """Implements `backends.upstream.wire.UpstreamWire`."""

    models_path = "/models"
    counts = True

    def __init__(self, provider: Provider, *, call_id: Callable[[int], str]) -> None:
        self._provider = provider
        self._flavour = RESPONSES_FLAVOURS[provider.flavour]
        self._call_id = call_id

    def headers(self, key: str | None) -> dict[str, str]:
        return {} if key is None else {"Authorization": f"Bearer {key}"}

    def encode(self, request: Request, *, user: str | None, is_stream: bool) -> UpstreamRequest:
        model = self._provider.models[request.model]
        return encode_upstream_request(request, self._flavour, model=model, user=user, is_stream=is_stream)

    def decoder(self, request: Request, *, served_by: str | None) -> AnswerDecoder:  # noqa: ARG002 - the protocol's
        return AnswerDecoder(
            provider=self._provider.id,
            title=self._provider.title,
            call_id=self._call_id,
            served_by=named_server(served_by, is_believed=self._flavour.names_server),
        )

    def encode_count(self, request: Request) -> UpstreamRequest:
        return encode_count_request(request, self._flavour, model=self._provider.models[request.model])

    def decode_count(self, body: bytes) -> int:
        return decode_count(body, title=self._provider.title)

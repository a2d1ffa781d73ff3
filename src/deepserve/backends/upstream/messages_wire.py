"""Services that speak Anthropic's Messages."""

from __future__ import annotations

from collections.abc import Callable

from deepserve.backends.upstream.wire import named_server
from deepserve.catalog.providers import Provider
from deepserve.core.request import Request
from deepserve.dialects.messages.upstream_answer import AnswerDecoder
from deepserve.dialects.messages.upstream_flavour import MESSAGES_FLAVOURS
from deepserve.dialects.messages.upstream_request import encode_count_request, encode_upstream_request
from deepserve.dialects.upstream_count import decode_count
from deepserve.dialects.upstream_request import UpstreamRequest


class MessagesWire:
    """Implements `backends.upstream.wire.UpstreamWire`."""

    models_path = "/v1/models"
    counts = True

    def __init__(self, provider: Provider, *, call_id: Callable[[int], str]) -> None:
        self._provider = provider
        self._flavour = MESSAGES_FLAVOURS[provider.flavour]
        self._call_id = call_id

    def headers(self, key: str | None) -> dict[str, str]:
        names = {"anthropic-version": "2023-06-01"}  # the only one there is
        if key is not None and "x-api-key" in self._flavour.key_headers:
            names["x-api-key"] = key
        if key is not None and "authorization" in self._flavour.key_headers:
            names["Authorization"] = f"Bearer {key}"
        return names

    def encode(self, request: Request, *, user: str | None, is_stream: bool) -> UpstreamRequest:
        return encode_upstream_request(
            request,
            self._flavour,
            model=self._provider.models[request.model],
            user=user,
            is_stream=is_stream,
            most_output_tokens=self._provider.max_output_tokens,
        )

    def decoder(self, request: Request, *, served_by: str | None) -> AnswerDecoder:  # noqa: ARG002 - the protocol's
        return AnswerDecoder(
            provider=self._provider.id,
            title=self._provider.title,
            call_id=self._call_id,
            served_by=named_server(served_by, is_believed=self._flavour.names_server),
        )

    def encode_count(self, request: Request) -> UpstreamRequest:
        return encode_count_request(
            request,
            self._flavour,
            model=self._provider.models[request.model],
            most_output_tokens=self._provider.max_output_tokens,
        )

    def decode_count(self, body: bytes) -> int:
        return decode_count(body, title=self._provider.title)

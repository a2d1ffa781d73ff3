"""Services that speak Runware's tasks over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

from deepserve.backends.upstream.wire import named_server
from deepserve.catalog.providers import Provider
from deepserve.core.request import Request
from deepserve.dialects.runware.upstream_answer import AnswerDecoder
from deepserve.dialects.runware.upstream_flavour import RUNWARE_FLAVOURS
from deepserve.dialects.runware.upstream_request import encode_upstream_request
from deepserve.dialects.upstream_request import UpstreamRequest


class RunwareWire:
    """Implements `backends.upstream.wire.UpstreamWire`. new_uuid: every attempt is a task of its own."""

    models_path = "/models"
    counts = False

    def __init__(
        self, provider: Provider, *, call_id: Callable[[int], str], new_uuid: Callable[[], UUID] = uuid4
    ) -> None:
        self._provider = provider
        self._flavour = RUNWARE_FLAVOURS[provider.flavour]
        self._call_id = call_id
        self._new_uuid = new_uuid

    def headers(self, key: str | None) -> dict[str, str]:
        return {} if key is None else {"Authorization": f"Bearer {key}"}

    def encode(self, request: Request, *, user: str | None, is_stream: bool) -> UpstreamRequest:  # noqa: ARG002 - tasks have no user
        return encode_upstream_request(
            request,
            model=self._provider.models[request.model],
            task_uuid=str(self._new_uuid()),
            is_stream=is_stream,
            has_forms=request.model not in self._flavour.formless,
        )

    def decoder(self, request: Request, *, served_by: str | None) -> AnswerDecoder:
        return AnswerDecoder(
            provider=self._provider.id,
            title=self._provider.title,
            model=self._provider.models[request.model],
            call_id=self._call_id,
            served_by=named_server(served_by, is_believed=self._flavour.names_server),
        )

    def encode_count(self, request: Request) -> UpstreamRequest:  # noqa: ARG002 - the protocol's
        raise AssertionError("the dialect has no address for it")

    def decode_count(self, body: bytes) -> int:  # noqa: ARG002 - the protocol's
        raise AssertionError("no such question is asked")

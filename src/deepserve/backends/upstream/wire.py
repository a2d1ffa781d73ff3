"""How a service is spoken to, as far as the calls to it need to know: one class for each protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from deepserve.core.errors import DeepserveError
from deepserve.core.events import Event
from deepserve.core.provider import ServedBy
from deepserve.core.request import Request
from deepserve.core.usage import Usage
from deepserve.dialects.upstream_request import UpstreamRequest


class AnswerDecoder(Protocol):
    """Reads one answer: `chunk` for the data of each event or `whole` once, then `finish` once.

    usage  what the service reports; None: nothing so far
    doubt  what was wrong with that, which then is an estimate
    """

    has_begun: bool
    usage: Usage | None
    doubt: str | None

    @property
    def is_complete(self) -> bool:
        """Nothing that is to come can matter."""
        ...

    @property
    def has_all_ends(self) -> bool:
        """What may still come is usage, or the reason of a failure."""
        ...

    def chunk(self, value: bytes) -> Sequence[Event]:
        """Raises DeepserveError for a failure before anything was told."""
        ...

    def whole(self, body: bytes) -> Sequence[Event]:
        """The events of a body that is the whole answer, but for those of `finish`. Raises DeepserveError."""
        ...

    def finish(self, error: DeepserveError | None = None) -> list[Event]:
        """The terminal events. error: why nothing more came, where it was not the service's own end.

        Raises the error instead where nothing was told.
        """
        ...


class UpstreamWire(Protocol):
    """One service in its own protocol. Pure: it makes bodies and reads them, and calls nobody."""

    @property
    def models_path(self) -> str:
        """Where it lists its models."""
        ...

    @property
    def counts(self) -> bool:
        """The protocol has a question for the number of prompt tokens; a service may still not answer it."""
        ...

    def headers(self, key: str | None) -> dict[str, str]:
        """That say who asks."""
        ...

    def encode(self, request: Request, *, user: str | None, is_stream: bool) -> UpstreamRequest:
        """user: whose request it is, in a form the service may know. Raises UnsupportedFeature."""
        ...

    def decoder(self, request: Request, *, served_by: str | None) -> AnswerDecoder:
        """served_by: what the header `x-deepserve-served-by` says."""
        ...

    def encode_count(self, request: Request) -> UpstreamRequest:
        """That question. Raises UnsupportedFeature."""
        ...

    def decode_count(self, body: bytes) -> int:
        """Raises BackendFailure."""
        ...


def named_server(served_by: str | None, *, is_believed: bool) -> ServedBy | None:
    """Who answers behind a service that says so in a header. is_believed: it is one that means the same by it."""
    if not served_by or not is_believed:
        return None
    provider, _, model = served_by.partition("/")
    return ServedBy(provider=provider, model=model, fingerprint="")

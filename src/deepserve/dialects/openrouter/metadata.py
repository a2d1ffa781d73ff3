"""How a request was routed, for clients that ask by a header: who could answer, who was asked, who did.

openrouter.ai/docs, "Router Metadata". It is told with answers and, beside them, with errors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from deepserve.core import errors
from deepserve.core.events import FailedAttempt
from deepserve.core.provider import ServedBy
from deepserve.core.tenant import LOCAL_TENANT, Tenant
from deepserve.dialects.vendor_errors import FORMS

_HEADERS: Final = ("x-openrouter-metadata", "x-openrouter-experimental-metadata")
"""Today's name and the one before it."""

_OK: Final = 200
_UNKNOWN: Final = 500

_STATUSES: Final[Mapping[str, int]] = {
    cls.code: next(FORMS[one].status for one in cls.__mro__ if one in FORMS) for cls in errors.error_classes()
}
"""Code of an error -> the status that it would have had alone."""


class WireEndpoint(msgspec.Struct):
    provider: str
    model: str
    selected: bool


class WireEndpoints(msgspec.Struct):
    total: int
    available: list[WireEndpoint]


class WireAttempt(msgspec.Struct):
    provider: str
    model: str
    status: int


class WireRouting(msgspec.Struct, kw_only=True):
    """attempt: which of the attempts is the answer, counted from 1."""

    requested: str
    strategy: Literal["direct", "fallback"]
    region: None = None
    summary: str
    attempt: int
    is_byok: bool = False
    endpoints: WireEndpoints
    attempts: list[WireAttempt]


class RoutingNotes(msgspec.Struct, frozen=True, kw_only=True):
    """What a request's routing is told by.

    requested  the client's first model, by its name in answers
    offers     who may answer, and the model's name in answers, in the order in which they are asked
    name_of    how answers call a model, by its id
    """

    requested: str
    offers: tuple[tuple[str, str], ...]
    name_of: Callable[[str], str]

    def told(self, served_by: ServedBy, model: str, earlier: Sequence[FailedAttempt]) -> WireRouting:
        """model: by its name in answers."""
        attempts = _attempts(earlier, self.name_of)
        attempts.append(WireAttempt(served_by.provider, model, _OK))
        chosen = served_by.provider, model
        # Who answers may say itself who it is: then it stands for the one that was asked.
        offers = self.offers if chosen in self.offers else (*(one for one in self.offers if one[1] != model), chosen)
        return WireRouting(
            requested=self.requested,
            strategy="direct" if model == self.requested else "fallback",
            summary=_summary(attempts),
            attempt=len(attempts),
            endpoints=WireEndpoints(
                len(offers), [WireEndpoint(provider, name, (provider, name) == chosen) for provider, name in offers]
            ),
            attempts=attempts,
        )


def wants_metadata(headers: Mapping[str, str]) -> bool:
    """Names in lower case."""
    return any(headers.get(name, "").strip().lower() == "enabled" for name in _HEADERS)


def failed_routing(earlier: Sequence[FailedAttempt]) -> WireRouting | None:
    """Of a request that nobody answered; None where nobody was asked."""
    if not earlier:
        return None
    attempts = _attempts(earlier, str)
    tried = dict.fromkeys((attempt.provider, attempt.model) for attempt in attempts)
    return WireRouting(
        requested=attempts[0].model,
        strategy="direct" if len({attempt.model for attempt in attempts}) == 1 else "fallback",
        summary=_summary(attempts),
        attempt=len(attempts),
        endpoints=WireEndpoints(len(tried), [WireEndpoint(*one, selected=False) for one in tried]),
        attempts=attempts,
    )


def user_id(tenant: Tenant) -> str | None:
    """A name for the account that says nothing about it; None where no key has said whose it is."""
    if tenant.id == LOCAL_TENANT.id:
        return None
    return "user_" + hashlib.sha256(f"user {tenant.id}".encode()).hexdigest()[:27]


def _attempts(earlier: Sequence[FailedAttempt], name_of: Callable[[str], str]) -> list[WireAttempt]:
    return [
        WireAttempt(attempt.provider, name_of(attempt.model), _STATUSES.get(attempt.code, _UNKNOWN))
        for attempt in earlier
    ]


def _summary(attempts: Sequence[WireAttempt]) -> str:
    return "; ".join(f"{one.provider} {one.model}: {one.status}" for one in attempts)

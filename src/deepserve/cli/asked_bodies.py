"""Bodies of requests in files, read with the codecs that a server reads them with."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, assert_never

import msgspec

from deepserve.catalog.models import ModelCatalog
from deepserve.config import Limits
from deepserve.core.errors import ConfigurationError, RequestError
from deepserve.core.request import Request, RequestId
from deepserve.core.tenant import LOCAL_TENANT, TenantId
from deepserve.dialects.chat.exchange import chat_decoder
from deepserve.dialects.chat.flavour import DEEPSEEK
from deepserve.dialects.completions.exchange import completions_decoder
from deepserve.dialects.exchange import Arrival
from deepserve.dialects.messages.exchange import messages_decoder
from deepserve.dialects.responses.memory import Keeper
from deepserve.dialects.responses.request import decode_request

BodyDialect = Literal["chat", "messages", "responses", "completions"]


def decode_body(
    raw: bytes, dialect: BodyDialect | None, *, at: datetime, names: ModelCatalog, limits: Limits, source: str
) -> Request:
    """dialect: None is told by the members. Raises ConfigurationError that names the source and the fault."""
    arrival = Arrival(id=RequestId("0" * 32), at=at)
    try:
        match dialect or _told(raw):
            case "chat":
                return chat_decoder(DEEPSEEK, names=names, limits=limits, is_beta=True)(raw, arrival).request
            case "messages":
                return messages_decoder(names=names, limits=limits)(raw, arrival).request
            case "completions":
                return completions_decoder(names=names, limits=limits)(raw, arrival).request
            case "responses":
                nothing = _NothingKept()
                keeper = Keeper(nothing, nothing, LOCAL_TENANT.id, max_bytes=limits.body_bytes)
                return decode_request(raw, arrival, names=names, limits=limits, keeper=keeper).request
            case other:
                assert_never(other)
    except RequestError as error:
        field = "" if error.field is None else f" ({error.field})"
        raise ConfigurationError(
            f"{source} is not a request that a server would take: {error.message}{field}"
        ) from error


def _told(raw: bytes) -> BodyDialect:
    try:
        body = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return "chat"  # which says better what is wrong
    if not isinstance(body, dict):
        return "chat"
    if "input" in body:
        return "responses"
    if "messages" not in body and "prompt" in body:
        return "completions"
    return "messages" if "system" in body or "anthropic_version" in body else "chat"


class _NothingKept:
    """A file alone knows no earlier responses, and has no key to what was sealed."""

    can_keep = False

    def find(self, tenant: TenantId, response_id: str) -> bytes | None:  # noqa: ARG002 - the protocol's
        return None

    def keep(self, tenant: TenantId, response_id: str, record: bytes) -> None:
        """Nothing is answered, so there is nothing to keep."""

    def seal(self, tenant: TenantId, text: str) -> str:  # noqa: ARG002 - the protocol's
        return text

    def unseal(self, tenant: TenantId, sealed: str) -> str | None:  # noqa: ARG002 - the protocol's
        return None

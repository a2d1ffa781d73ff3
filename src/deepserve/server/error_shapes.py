"""Which dialect an address speaks, so that a failure before any dialect was asked still has the right shape."""

from __future__ import annotations

from collections.abc import Mapping

from deepserve.dialects.chat.exchange import ChatErrors
from deepserve.dialects.chat.oxen.errors import OxenErrors
from deepserve.dialects.exchange import ErrorCodec
from deepserve.dialects.messages.exchange import MessagesErrors
from deepserve.dialects.openrouter.errors import OpenRouterErrors
from deepserve.dialects.responses.errors import ResponsesErrors
from deepserve.dialects.runware.errors import RunwareErrors

_BY_PREFIX: tuple[tuple[str, ErrorCodec], ...] = (
    ("/beta/v1/responses", ResponsesErrors()),
    ("/beta/responses", ResponsesErrors()),
    ("/api/v1/responses", ResponsesErrors()),
    ("/api/v1/messages", MessagesErrors()),
    ("/api/v1", OpenRouterErrors()),
    ("/api/", OxenErrors()),
    ("/v1/responses", ResponsesErrors()),
    ("/v1/messages", MessagesErrors()),
    ("/anthropic", MessagesErrors()),
    ("/responses", ResponsesErrors()),
    ("/messages", MessagesErrors()),
    ("", ChatErrors()),
)
"""Beginnings of addresses, the longest first."""

_EXACT: Mapping[str, ErrorCodec] = {path: RunwareErrors() for path in ("", "/", "/v1", "/v1/")}
"""Base addresses, where tasks are posted."""


def error_codec(raw_path: str) -> ErrorCodec:
    exact = _EXACT.get(raw_path)
    if exact is not None:
        return exact
    return next(codec for prefix, codec in _BY_PREFIX if raw_path.startswith(prefix))

"""What an upstream is told so that its records can be found from ours: the request's id, and its place in a trace."""

from __future__ import annotations

from collections.abc import Mapping

from deepserve.core.request import Request
from deepserve.core.trace import REQUEST_ID


def links_of(request: Request) -> Mapping[str, str]:
    """Headers of one call. The id is ours, which is in our log and ledger; a client's own stays here."""
    linked = {REQUEST_ID: str(request.id)}
    return linked if request.trace is None else {**linked, **request.trace.headers()}

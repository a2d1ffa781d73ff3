"""What our own server tells of the connection that a request came by, besides what ASGI tells.

Under any other ASGI server there is nothing of it, and everything works as ASGI says.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Protocol

from starlette.types import Scope

_KEY = "deepserve.connection"


class Connection(Protocol):
    """Known by the requests that come by it, one after the other."""

    def abort(self) -> None:
        """Close at once; what is still unsent is dropped."""
        ...

    def has_all(self) -> bool:
        """Whether the request has come to its end, so that receiving it waits for nothing."""
        ...

    def when_lost(self, left: Callable[[], None]) -> None:
        """Call this once the client has gone; soon, where it has."""
        ...

    def forget(self, left: Callable[[], None]) -> None:
        """Do not call it any more."""
        ...


def set_connection(scope: MutableMapping[str, Any], connection: Connection) -> None:  # Any: ASGI's own type
    scope[_KEY] = connection


def connection_of(scope: Scope) -> Connection | None:
    found: Connection | None = scope.get(_KEY)
    return found

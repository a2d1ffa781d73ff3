"""Why a call to another server failed.

OutgoingError
├── InvalidUrl         it can never be called
├── AddressRefused     the policy forbids the address; the operator may allow it
├── ConnectionFailed   no address of the name took the connection, or it broke
│   ├── NotConnected   nothing was sent, so the call can safely be made again
│   └── BadCertificate
├── OutgoingTimedOut
└── InvalidAnswer      what came back is not HTTP
"""

from __future__ import annotations

from typing import ClassVar


class OutgoingError(Exception):
    """code: stable, for records and metrics. message: for the operator's log; users learn less (see `addresses`).

    address: `host:port` in numbers of the last connection that was tried; None when it did not come to that.
    """

    code: ClassVar[str] = "outgoing"

    def __init__(self, message: str, *, address: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.address = address


class InvalidUrl(OutgoingError):
    code = "invalid_url"


class AddressRefused(OutgoingError):
    code = "address_refused"


class ConnectionFailed(OutgoingError):
    code = "connection_failed"


class NotConnected(ConnectionFailed):
    """Has its parent's code: records do not tell them apart."""


class BadCertificate(ConnectionFailed):
    code = "bad_certificate"


class OutgoingTimedOut(OutgoingError):
    code = "timed_out"


class InvalidAnswer(OutgoingError):
    code = "invalid_answer"

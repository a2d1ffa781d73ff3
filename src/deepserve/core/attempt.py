"""One try at an answer that came to nothing, for the ledger: others were asked after it, or nobody was left."""

from __future__ import annotations

from datetime import datetime

import msgspec

from deepserve.core.usage import Usage


class FailedAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """provider, model: who was asked, for which canonical model. code: of the error it ended with.

    usage  what it consumed all the same, where that is known
    """

    provider: str
    model: str
    code: str
    began_at: datetime
    ended_at: datetime
    usage: Usage | None = None

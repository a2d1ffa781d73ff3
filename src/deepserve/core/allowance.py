"""What the limits of a key leave at a moment, as clients are told in headers."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """One limit. limit: of a minute; remaining: now.

    reset_s, resets_at: until all of it is there again, if nothing is used
    """

    limit: int
    remaining: int
    reset_s: float
    resets_at: datetime


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """What was left right after a request was counted. None: not limited."""

    requests: Quota | None = None
    tokens: Quota | None = None

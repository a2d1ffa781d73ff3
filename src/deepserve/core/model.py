"""A model's name as a client spells it, resolved."""

from __future__ import annotations

from datetime import datetime

import msgspec


class ModelName(msgspec.Struct, frozen=True, kw_only=True):
    """What a requested id means.

    id               canonical id, which the answer carries
    requested        the client's spelling
    thinking         the alias fixes thinking on or off; None leaves the dialect's default
    retired_at       from then on the vendor refuses the name; we answer with a deprecation header
    replacement      the id to use instead of a retired one
    is_automatic     the server chooses the model for each request
    """

    id: str
    requested: str
    thinking: bool | None = None
    retired_at: datetime | None = None
    replacement: str | None = None
    is_automatic: bool = False

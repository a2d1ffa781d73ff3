"""What a client may ask of the tools that search and fetch, in one spelling for all dialects.

`ServerTool.options` holds one of these as builtins (`encode`). Dialects build them, so what is wrong with a request is
said where the client's own spelling is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TypeVar

import msgspec

from deepserve.core.domains import DomainRules
from deepserve.core.messages import Json

MAX_RESULTS = 50
DEFAULT_RESULTS = 10


class UserLocation(msgspec.Struct, frozen=True, kw_only=True):
    """Roughly where the user is, for services that rank by it. country: two letters."""

    country: str | None = None
    region: str | None = None
    city: str | None = None
    timezone: str | None = None


class SearchOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """after, before: only pages dated from, and up to and including, these days. max_characters: of each snippet."""

    domains: DomainRules = DomainRules()
    max_results: int = DEFAULT_RESULTS
    max_characters: int = 1_000
    location: UserLocation = UserLocation()
    language: str | None = None
    after: date | None = None
    before: date | None = None


class FetchOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """max_characters: of the page's text; the server has a limit of its own."""

    domains: DomainRules = DomainRules()
    max_characters: int | None = None


Options = TypeVar("Options", SearchOptions, FetchOptions)


def encode(options: SearchOptions | FetchOptions) -> Mapping[str, Json]:
    """As `ServerTool.options` carries them."""
    plain: dict[str, Json] = msgspec.to_builtins(options)
    return plain


def decode(options: Mapping[str, Json], kind: type[Options]) -> Options:
    """What `encode` made. Raises msgspec.ValidationError for anything else, which is a dialect's fault."""
    return msgspec.convert(options, kind)

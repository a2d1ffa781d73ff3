"""How other services list the models: rows of `listings.toml`."""

from __future__ import annotations

import tomllib
from datetime import datetime
from importlib import resources

import msgspec


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a service's catalogue.

    model       canonical id of what stands behind it
    name        what the service's clients ask for
    dated_name  what its answers say
    names       other spellings; `hugging_face_id` is one too
    is_listed   shown in lists, not only found by name
    """

    model: str
    name: str
    dated_name: str
    title: str
    created_at: datetime
    summary: str
    hugging_face_id: str | None = None
    names: tuple[str, ...] = ()
    is_listed: bool = True

    def is_called(self, name: str) -> bool:
        """name: in lower case."""
        return name in (spelled.lower() for spelled in self._spellings())

    def _spellings(self) -> tuple[str, ...]:
        known = (self.name, self.dated_name, *self.names)
        return known if self.hugging_face_id is None else (*known, self.hugging_face_id)


class Listings(msgspec.Struct, frozen=True, kw_only=True):
    """The catalogues, each in the order its lists show."""

    openrouter: tuple[Listing, ...]
    oxen: tuple[Listing, ...]


def load_listings() -> Listings:
    """The catalogues that ship with the package."""
    text = resources.files("deepserve.catalog").joinpath("listings.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), Listings)

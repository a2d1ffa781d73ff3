"""Model names of this service: `author/model`, dated, with variants behind colons; and the plain names."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from deepserve.core.errors import DeepserveError, UnknownModel, UnsupportedFeature
from deepserve.core.model import ModelName

_ROUTING = frozenset(("nitro", "floor", "exacto", "extended"))
"""Ways to choose among providers. There is one, so it is the choice of all of them."""


class Names(Protocol):
    """The plain model names that exist."""

    def resolve(self, requested: str) -> ModelName: ...

    def unknown(self, requested: str) -> DeepserveError: ...


class Entry(Protocol):
    """A listing of the service's catalogue."""

    @property
    def model(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def dated_name(self) -> str: ...

    @property
    def created_at(self) -> datetime: ...

    @property
    def is_listed(self) -> bool: ...

    def is_called(self, name: str) -> bool: ...


class Slug(msgspec.Struct, frozen=True, kw_only=True):
    """A requested name, understood. dated_name is what the answer carries. is_online: after a search."""

    model: ModelName
    dated_name: str
    ignored: tuple[str, ...] = ()
    is_online: bool = False


class Slugs:
    """Implements `Names`, which the rest of the dialect asks, over the service's catalogue and the plain names."""

    def __init__(self, entries: Sequence[Entry], names: Names) -> None:
        self._entries = entries
        self._names = names

    def resolve(self, requested: str) -> ModelName:
        """For dialects that have no word for a search before the answer."""
        slug = self.read(requested)
        if slug.is_online:
            raise UnsupportedFeature(
                "The variant `:online` is for `/chat/completions`; declare a web search tool instead.", field="model"
            )
        return slug.model

    def unknown(self, requested: str) -> UnknownModel:
        return UnknownModel(f"{requested[:200]} is not a valid model ID", field="model")

    def read(self, requested: str) -> Slug:
        """Raises UnknownModel, and UnsupportedFeature for a variant that promises what this server does not have."""
        name, *variants = requested.strip().lower().split(":")
        if "@preset/" in name:
            raise UnsupportedFeature("Presets are not supported: send the fields themselves.", field="model")
        if set(variants) - _ROUTING - {"thinking", "free", "online"}:
            return self._plain(requested)  # a plain name may have a colon
        found = self._find(name, requested)
        model = found.model
        if "thinking" in variants:
            model = msgspec.structs.replace(model, thinking=True)
        ignored = ("model:free",) if "free" in variants else ()
        return Slug(model=model, dated_name=found.dated_name, ignored=ignored, is_online="online" in variants)

    def dated_name(self, model: str) -> str:
        """How answers call a model by its canonical id."""
        return next((entry.dated_name for entry in self._entries if entry.model == model), model)

    def _find(self, name: str, requested: str) -> Slug:
        for entry in self._entries:
            if entry.is_called(name):
                return Slug(model=ModelName(id=entry.model, requested=requested), dated_name=entry.dated_name)
        return self._plain(requested, name.removeprefix("deepseek/"))

    def _plain(self, requested: str, name: str | None = None) -> Slug:
        try:
            model = self._names.resolve(requested if name is None else name)
        except UnknownModel as error:
            raise self.unknown(requested) from error
        return Slug(model=msgspec.structs.replace(model, requested=requested), dated_name=self.dated_name(model.id))

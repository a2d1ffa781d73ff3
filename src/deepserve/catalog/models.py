"""The names under which models are asked for: rows of `models.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from datetime import datetime
from importlib import resources

import msgspec

from deepserve.catalog.presets import PresetCatalog, load_presets
from deepserve.core.errors import UnknownModel
from deepserve.core.model import ModelName

_SHOWN_CHARACTERS = 200
"""Of a name that is none: enough to recognise it, never a whole body sent back."""


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """released_at is when the vendor published the model; the model lists show it as `created`.

    mini  the model of our own that answers by default, where it ships
    """

    id: str
    display_name: str
    mini: str
    released_at: datetime
    source: str


class AliasRow(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    id: str
    source: str
    thinking: bool | None = None
    retired_at: datetime | None = None


class FamilyRow(msgspec.Struct, frozen=True, kw_only=True):
    """All names of another vendor's models that begin with `prefix` mean `id`."""

    prefix: str
    id: str
    source: str


class ModelCatalog(msgspec.Struct, frozen=True, kw_only=True):
    """Resolves requested ids; spelling ignores case and surrounding blanks, as the vendor's API does."""

    models: tuple[ModelRow, ...]
    aliases: tuple[AliasRow, ...]
    families: tuple[FamilyRow, ...] = ()
    presets: PresetCatalog = PresetCatalog(rows=())

    def without_presets(self) -> ModelCatalog:
        """For dialects that tell the price of an answer by the model that was asked for."""
        return msgspec.structs.replace(self, presets=PresetCatalog(rows=()))

    def resolve(self, requested: str) -> ModelName:
        """Raises UnknownModel with the names that exist, in the vendor's words, which clients match on."""
        wanted = requested.strip().lower()
        for model in self.models:
            if model.id == wanted:
                return ModelName(id=model.id, requested=requested)
        for alias in self.aliases:
            if alias.name == wanted:
                return ModelName(
                    id=alias.id,
                    requested=requested,
                    thinking=alias.thinking,
                    retired_at=alias.retired_at,
                    replacement=alias.id if alias.retired_at is not None else None,
                )
        preset = self.presets.resolve(requested)
        if preset is not None:
            return preset
        raise self.unknown(requested)

    def resolve_family(self, requested: str) -> ModelName | None:
        """What another vendor's model name means, for the dialects whose clients send one; the first row that fits."""
        wanted = requested.strip().lower()
        for family in self.families:
            if wanted.startswith(family.prefix):
                return ModelName(id=family.id, requested=requested)
        return None

    def unknown(self, requested: str) -> UnknownModel:
        """The refusal of a name that does not exist, or no longer does."""
        shown = requested if len(requested) <= _SHOWN_CHARACTERS else requested[:_SHOWN_CHARACTERS] + "…"
        return UnknownModel(
            f"The supported API model names are {_listed([model.id for model in self.models])}, "
            f"but you passed {shown}.",
            field="model",
        )


def _listed(names: Sequence[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def load_models() -> ModelCatalog:
    """The catalog that ships with the package."""
    text = resources.files("deepserve.catalog").joinpath("models.toml").read_text(encoding="utf-8")
    rows = tomllib.loads(text)
    return ModelCatalog(
        models=msgspec.convert(tuple(rows["model"]), tuple[ModelRow, ...]),
        aliases=msgspec.convert(tuple(rows["alias"]), tuple[AliasRow, ...]),
        families=msgspec.convert(tuple(rows["family"]), tuple[FamilyRow, ...]),
        presets=load_presets(),
    )

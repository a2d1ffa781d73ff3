"""Names that leave the choice of the model to the server: rows of `presets.toml`. `routing` makes the choice."""

from __future__ import annotations

import tomllib
from decimal import Decimal
from importlib import resources
from typing import Literal

import msgspec

from deepserve.core.errors import UnknownModel
from deepserve.core.model import ModelName
from deepserve.core.routing import CheckName

AUTO = "deepseek-v4-auto"
"""The name whose rules are the whole decision flow."""

_PREFIX = "auto:"
_SHOWN_CHARACTERS = 200

LaneThinking = Literal["off", "low", "high", "max"]


class LaneRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model and how it thinks; None leaves thinking to the request."""

    model: str
    thinking: LaneThinking | None = None


class PresetRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of application.

    rules     decision-flow: every rule decides; lanes: only what is hard or very long leaves the usual lane
    hard      None: no request is too hard for the usual lane
    checks    what an answer of the usual lane has to pass, or the hard lane answers instead
    cost_usd  the lowest and highest that one `unit` was expected to cost, without cached tokens; None: nobody said
    """

    id: str
    title: str
    rules: Literal["decision-flow", "lanes"]
    usual: LaneRow
    source: str
    hard: LaneRow | None = None
    checks: tuple[CheckName, ...] = ()
    cost_usd: tuple[Decimal, Decimal] | None = None
    unit: str | None = None

    @property
    def expected_cost(self) -> str | None:
        """`0.001 to 0.005 USD per request`."""
        if self.cost_usd is None:
            return None
        low, high = self.cost_usd
        amount = f"{low}" if low == high else f"{low} to {high}"
        return f"{amount} USD per {self.unit}"


class PresetCatalog(msgspec.Struct, frozen=True, kw_only=True):
    """In the order in which lists show them."""

    rows: tuple[PresetRow, ...]

    def find(self, name: str) -> PresetRow | None:
        return next((row for row in self.rows if row.id == name), None)

    def resolve(self, requested: str) -> ModelName | None:
        """None for a name that has nothing to do with presets. Raises UnknownModel with the presets that exist."""
        wanted = requested.strip().lower()
        row = self.find(wanted)
        if row is not None:
            return ModelName(id=row.id, requested=requested, is_automatic=True)
        if not wanted.startswith(_PREFIX):
            return None
        shown = requested if len(requested) <= _SHOWN_CHARACTERS else requested[:_SHOWN_CHARACTERS] + "…"
        raise UnknownModel(
            f"There is no preset {shown}. There are: {', '.join(row.id for row in self.rows)}.", field="model"
        )


def load_presets() -> PresetCatalog:
    """The presets that ship with the package."""
    text = resources.files("deepserve.catalog").joinpath("presets.toml").read_text(encoding="utf-8")
    return PresetCatalog(rows=msgspec.convert(tuple(tomllib.loads(text)["preset"]), tuple[PresetRow, ...]))

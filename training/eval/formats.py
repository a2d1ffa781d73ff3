"""Weights in the formats that are compared: as shipped, and as they were before they were rounded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deepserve.config import WeightFormats

SHIPPED = "bf16 + FP4 experts"

FROM_RUN: Mapping[str, WeightFormats] = {
    "fp32": WeightFormats(dense="fp32", experts="fp32", head="fp32"),
    "bf16": WeightFormats(dense="bf16", experts="bf16", head="bf16"),
}
"""Kept so by the engine, from a run's averaged weights in float32."""


def name_of(spelled: str) -> str:
    """The engine's words for the formats of a folder, as the tables have them."""
    return SHIPPED if spelled == "bf16, fp4 experts" else spelled


def models_folder() -> Path:
    """Where models that ship lie."""
    return Path(__file__).parents[2] / "src" / "deepserve" / "models"

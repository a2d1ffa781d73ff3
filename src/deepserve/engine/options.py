"""What an operator may choose about the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from deepserve.config import EngineName, InstructionSet, Settings, WeightFormats

Progress = Callable[[int, int], None]
"""Told the bytes of weights loaded so far, and of how many."""


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to load an engine; which checkpoint is said beside it.

    memory_bytes  bounds sequence states and snapshots together
    name          auto: the native engine where it is installed, else the reference
    num_threads   None: as many as help this model on this machine

    For the native engine only, the others are refused when the reference engine would have to run them:

    isa           instruction set; None: the best this machine has
    weights       how matrices are kept and multiplied
    is_mapped     use the checkpoint's files where they lie instead of packing a copy into memory
    packed_dir    keep the packed weights in this folder for the next start; None: pack them at every start
    """

    memory_bytes: int
    name: EngineName = "auto"
    num_threads: int | None = None
    isa: InstructionSet | None = None
    weights: WeightFormats = WeightFormats()
    is_mapped: bool = False
    packed_dir: Path | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> EngineOptions:
        return cls(
            memory_bytes=settings.cache_bytes,
            name=settings.engine,
            num_threads=settings.num_threads,
            isa=settings.isa,
            weights=settings.weights,
            is_mapped=settings.is_mapped,
            packed_dir=settings.packed_dir,
        )

    def native_choices(self) -> list[str]:
        """The choices made here that only the native engine can honour, as they are spelled on the command line."""
        made = {
            "--isa": self.isa is not None,
            "--weights": self.weights != WeightFormats(),
            "--mapped": self.is_mapped,
            "--packed-dir": self.packed_dir is not None,
        }
        return [option for option, is_made in made.items() if is_made]

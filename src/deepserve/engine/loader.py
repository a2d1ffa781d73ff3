"""Which engine runs a model folder. Each is imported only when chosen, so that serving natively needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, assert_never

from deepserve.core.errors import ConfigurationError
from deepserve.engine.interface import Engine, EngineInfo
from deepserve.engine.native.shared_library import HOW_TO_GET_IT, find_library
from deepserve.engine.options import EngineOptions, Progress

_REFERENCE_PACKAGES = ("torch", "safetensors", "numpy")


def load_engine(folder: Path, options: EngineOptions, progress: Progress | None = None) -> Engine:
    """Load the weights of a checkpoint folder. The reference engine tells no progress.

    Raises CheckpointError for a damaged folder, ConfigurationError when the engine is not installed or cannot do what
    the options ask for.
    """
    match choose_engine(options):
        case "native":
            from deepserve.engine.native.engine import load_native_engine

            return load_native_engine(folder, options, progress)
        case "reference":
            return _load_reference(folder, options)
        case never:
            assert_never(never)


def describe_engine(folder: Path, options: EngineOptions) -> EngineInfo | None:
    """What `load_engine` would give, at the cost of reading the weights once; None: only loading can tell.

    Raises CheckpointError and ConfigurationError as it does.
    """
    if choose_engine(options) != "native":
        return None
    from deepserve.engine.native.core import describe_core

    return describe_core(folder, options)


def choose_engine(options: EngineOptions) -> Literal["native", "reference"]:
    """The engine that would run. Raises ConfigurationError for choices that the reference engine cannot honour."""
    if options.name == "native":
        return "native"
    has_library = find_library() is not None
    if options.name == "auto" and has_library:
        return "native"
    if choices := options.native_choices():
        why = f"which is not part of this installation. {HOW_TO_GET_IT}"
        if has_library:
            why = "not the reference engine that was asked for. Leave out one of them."
        raise ConfigurationError(f"{' and '.join(choices)}: this takes the native engine, {why}")
    return "reference"


def _load_reference(folder: Path, options: EngineOptions) -> Engine:
    try:
        from deepserve.engine.reference.engine import load_reference_engine
    except ModuleNotFoundError as error:
        if error.name not in _REFERENCE_PACKAGES:
            raise
        message = (
            f'The reference engine needs {error.name}, which is not installed: pip install "deepserve[reference]".'
        )
        if find_library() is None:
            message += f" The native engine, which needs neither, is not part of this installation. {HOW_TO_GET_IT}"
        raise ConfigurationError(message) from error
    # torch promises equal bits for one thread only.
    return load_reference_engine(folder, memory_bytes=options.memory_bytes, num_threads=options.num_threads or 1)

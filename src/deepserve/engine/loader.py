"""Which engine runs a model folder. Each is imported only when chosen, so that serving natively needs no torch."""

from __future__ import annotations

from pathlib import Path

from deepserve.core.errors import ConfigurationError
from deepserve.engine.interface import Engine

_REFERENCE_PACKAGES = ("torch", "safetensors", "numpy")


def load_engine(folder: Path, *, memory_bytes: int, num_threads: int) -> Engine:
    """Load the weights of a checkpoint folder into the engine that is installed.

    memory_bytes bounds sequence states and snapshots together. Raises CheckpointError for a damaged folder,
    ConfigurationError when no engine is installed.
    """
    try:
        from deepserve.engine.reference.engine import load_reference_engine
    except ModuleNotFoundError as error:
        if error.name not in _REFERENCE_PACKAGES:
            raise
        raise ConfigurationError(
            f'The reference engine needs {error.name}, which is not installed: pip install "deepserve[reference]"'
        ) from error
    return load_reference_engine(folder, memory_bytes=memory_bytes, num_threads=num_threads)

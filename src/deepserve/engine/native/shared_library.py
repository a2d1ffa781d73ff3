"""Where the native core's shared library is, and loading it.

The library is part of this package. DEEPSERVE_CORE names another one, for example a build with sanitizers.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from deepserve.core.errors import ConfigurationError
from deepserve.engine import native
from deepserve.engine.native.abi import ABI_VERSION, declare

OVERRIDE = "DEEPSERVE_CORE"

SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")

HOW_TO_GET_IT = (
    "Install a C++17 compiler (for example: apt install g++, or xcode-select --install), then deepserve again "
    "(in its folder: make clean serve; else: pip install --force-reinstall --no-deps --no-cache-dir deepserve). "
    "Without it, --engine reference serves with PyTorch, more slowly."
)


def find_library() -> Path | None:
    """The shared library that would be loaded, or None when this installation was built without one.

    Raises ConfigurationError when DEEPSERVE_CORE names no file.
    """
    override = os.environ.get(OVERRIDE)
    if override:
        path = Path(override)
        if not path.is_file():
            raise ConfigurationError(f"{OVERRIDE} names {override}, which is no file. Correct it, or unset it.")
        return path
    # An editable installation spreads the package over two folders: the sources', and the one with what was built.
    candidates = [Path(folder) / f"_core{SUFFIX}" for folder in native.__path__]
    return next((path for path in candidates if path.is_file()), None)


def load_library() -> ctypes.CDLL:
    """Load the native core with every function declared as in `abi.FUNCTIONS`; calls release the GIL.

    Raises ConfigurationError when it is missing, cannot be loaded, or speaks another version of the ABI.
    """
    path = find_library()
    if path is None:
        raise ConfigurationError(f"The native core is not part of this installation. {HOW_TO_GET_IT}")
    try:
        # An absolute path: a bare file name would be searched for elsewhere.
        library = ctypes.CDLL(str(path.absolute()))
    except OSError as error:
        raise ConfigurationError(f"The native core {path} cannot be loaded: {error}. {HOW_TO_GET_IT}") from error
    try:
        version = library.ds_abi_version
        version.restype, version.argtypes = ctypes.c_int32, ()
        if version() != ABI_VERSION:
            raise ConfigurationError(
                f"The native core {path} speaks version {version()} of the ABI, this deepserve version {ABI_VERSION}: "
                "they come from different builds. Install deepserve again."
            )
        declare(library)
    except AttributeError as error:
        raise ConfigurationError(f"{path} is not deepserve's native core: {error}. Install deepserve again.") from error
    return library


def instruction_sets(library: ctypes.CDLL) -> tuple[str, ...]:
    """What this build has and this machine runs, best first."""
    return tuple(library.ds_isas().decode().split(","))

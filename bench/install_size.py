"""How much disk an installation takes: the package and everything that it requires without extras."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import deepserve
from deepserve.engine.native.shared_library import find_library

_COMPILED = f".{sys.implementation.cache_tag}.pyc"


def installed_bytes() -> dict[str, int]:
    """Size by package, the largest first, as they lie in this environment; pip itself belongs to nobody."""
    sizes = {"deepserve": _own_bytes()}
    waiting = _required_by("deepserve")
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in sizes:
            sizes[name] = sum(_size(Path(str(file.locate()))) for file in distribution(name).files or ())
            waiting += _required_by(name)
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def _required_by(name: str) -> list[str]:
    wanted = [Requirement(text) for text in distribution(name).requires or ()]
    return [one.name for one in wanted if _holds(one.marker) and _is_installed(one.name)]


def _holds(marker: Marker | None) -> bool:
    return marker is None or marker.evaluate({"extra": ""})


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _own_bytes() -> int:
    """Of the tree that it is run from, with the shipped model and the native core, which may lie elsewhere."""
    tree = Path(deepserve.__file__).parent
    files = {file for file in tree.rglob("*") if file.suffix != ".pyc" or file.name.endswith(_COMPILED)}
    library = find_library()
    if library is not None:
        files.add(Path(library).resolve())
    return sum(_size(file) for file in files)


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0

"""`deepserve doctor`: what is installed here and what would be served."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from deepserve import __version__
from deepserve.cli.keys import open_keys
from deepserve.cli.settings import model_options, settings_from, state_option
from deepserve.core.errors import DeepserveError

_OPTIONAL = {
    "torch": ("reference engine", 'pip install "deepserve[reference]"'),
    "safetensors": ("reading checkpoints", 'pip install "deepserve[reference]"'),
    "deepseek-recipe": ("prompt format of official checkpoints", 'pip install "deepserve[v4]"'),
}


@click.command()
@model_options
@state_option
def doctor(state_dir: Path, **options: Any) -> None:  # Any: the shared options, as click hands them over
    """Check what is installed and what would be served. Exits with 1 when `serve` would fail."""
    _say("ok", "deepserve", __version__)
    _say("ok", "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package, (purpose, remedy) in _OPTIONAL.items():
        try:
            _say("ok", package, f"{metadata.version(package)} ({purpose})")
        except metadata.PackageNotFoundError:
            _say("--", package, f"not installed ({purpose}); {remedy}")
    is_healthy = _check_state(state_dir)
    is_healthy = _check_backend(options) and is_healthy
    sys.exit(0 if is_healthy else 1)


def _check_state(state_dir: Path) -> bool:
    if not state_dir.exists():
        _say("ok", "state", f"{state_dir} (will be created)")
        return True
    try:
        has_keys = open_keys(state_dir).has_any()
        _say("ok", "state", f"{state_dir} ({'keys required' if has_keys else 'no keys: this machine only'})")
    except DeepserveError as error:
        _say("!!", "state", error.message)
        return False
    return True


def _check_backend(options: dict[str, Any]) -> bool:
    from deepserve.backends.selection import select_backend

    try:
        for model in select_backend(settings_from(**options)).models():
            _say("ok", model.id, f"answered by {model.served_by.label} ({model.served_by.fingerprint})")
    except DeepserveError as error:
        _say("!!", "model", error.message)
        return False
    return True


def _say(mark: str, what: str, detail: str) -> None:
    colour = {"ok": "green", "--": "yellow", "!!": "red"}[mark]
    click.echo(f"{click.style(mark, fg=colour)}  {what:<18} {detail}")

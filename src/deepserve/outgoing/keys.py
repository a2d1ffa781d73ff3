"""Keys for other services: from the environment or from a file, never from a command line that others can read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deepserve.core.errors import ConfigurationError

_MAX_CHARACTERS = 4096


def find_key(variable: str, *, file: Path | None, environment: Mapping[str, str]) -> str | None:
    """From the file, where one is named, else from the environment; None where there is none.

    Raises ConfigurationError, which shows no key.
    """
    if file is None:
        key, source = environment.get(variable, ""), f"the environment variable {variable}"
    else:
        source = str(file)
        try:
            key = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"The key file {file} cannot be read: {type(error).__name__}.") from error
    key = key.strip()
    if len(key) > _MAX_CHARACTERS or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError(f"What {source} holds is no key.")
    if not key and file is not None:
        raise ConfigurationError(f"The key file {file} is empty.")
    return key or None


def read_key(service: str, variable: str, *, file: Path | None, environment: Mapping[str, str], option: str) -> str:
    """As `find_key`, but there must be one. option: where a file is named."""
    key = find_key(variable, file=file, environment=environment)
    if key is None:
        raise ConfigurationError(f"{service} needs a key: set {variable}, or name a file that holds it with {option}.")
    return key

"""A file of API keys, one on a line."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from deepserve.configuration.places import Place
from deepserve.configuration.problems import Problem, refusal
from deepserve.core.errors import ConfigurationError

_MAX_CHARACTERS: Final = 512
_MAX_BYTES: Final = 1024 * 1024


def read_keys(source: Path) -> tuple[str, ...]:
    """What follows a # is a comment. Raises ConfigurationError, which shows no key."""
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The file of API keys {source} cannot be read: {type(error).__name__}.") from error
    if len(text) > _MAX_BYTES:
        raise ConfigurationError(f"The file of API keys {source} has more than {_MAX_BYTES:,} bytes.")
    keys: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        key = line.partition("#")[0].strip()
        if len(key) > _MAX_CHARACTERS or not key.isascii() or not key.isprintable() or " " in key:
            raise refusal(source, [Problem("This is no key: printable ASCII without blanks.", Place(number, 1))])
        if key:
            keys.append(key)
    if not keys:
        raise ConfigurationError(
            f"The file of API keys {source} holds none, so everybody could come in. Write one key on each line."
        )
    return tuple(keys)

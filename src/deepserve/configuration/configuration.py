"""The settings in force and where each came from: flags before the environment, before the file, before defaults."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from typing_extensions import override

from deepserve.config import Settings, default_state_dir
from deepserve.configuration.checks import contradictions
from deepserve.configuration.declarations import Path as Keys
from deepserve.configuration.declarations import by_name
from deepserve.configuration.environment import FILE_VARIABLE, read_environment
from deepserve.configuration.key_file import read_keys
from deepserve.configuration.problems import Problem, refusal
from deepserve.configuration.reading import FileValues, read_file

FILE_NAME: Final = "deepserve.toml"

Layer = Literal["default", "file", "environment", "flag"]
"""From the weakest to the strongest."""


class Origin(msgspec.Struct, frozen=True):
    """detail: the line of the file, or the name of the variable; empty for flags and defaults."""

    layer: Layer
    detail: str = ""

    @override
    def __str__(self) -> str:
        match self.layer:
            case "file":
                return f"file, {self.detail}" if self.detail else "file"
            case "environment":
                return self.detail
            case layer:
                return layer


DEFAULT: Final = Origin("default")


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """origins  by name of the setting; a setting without one has its default
    file     what was read; None: there is no file
    watched  files whose change means other settings
    notes    what the operator should hear though nothing is wrong with it
    """

    settings: Settings
    origins: Mapping[str, Origin]
    file: Path | None
    watched: tuple[Path, ...]
    notes: tuple[str, ...]

    def origin(self, name: str) -> Origin:
        """Of a setting; a flag can stand for all of its table."""
        return self.origins.get(name.partition(".")[0]) or self.origins.get(name, DEFAULT)


def load_configuration(
    flags: Mapping[str, Any] | None = None,  # Any: values of settings
    *,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Configuration:
    """Read everything there is to read.

    flags        settings given on the command line, by name; None among them counts as not given
    file         the configuration file that was named; None: the one that `find_file` finds
    environment  None: the process's own
    directory    of the user's configuration; None: as this platform has it

    Raises ConfigurationError, which names every problem with its place.
    """
    environment = os.environ if environment is None else environment
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    source = find_file(file, environment, directory)
    read = None if source is None else read_file(source)
    from_environment = read_environment(environment)
    layers: dict[Layer, Mapping[str, Any]] = {  # Any: values of settings
        "file": {} if read is None else read.values,
        "environment": from_environment.values,
        "flag": given,
    }
    values: dict[str, Any] = {}  # Any: values of settings
    origins: dict[str, Origin] = {}
    for layer, found in layers.items():
        for name, value in found.items():
            values[name] = value
            origins[name] = _origin(layer, name, read)
    problems = list(_choose_backend(values, origins))
    settings = _assembled(values)
    problems += [(contradiction.path, contradiction.text) for contradiction in contradictions(settings)]
    if problems:
        raise refusal(source, (Problem(text, _place(path, origins, read)) for path, text in problems))
    if settings.api_keys_file is not None:
        keys = (*settings.api_keys, *read_keys(settings.api_keys_file))
        settings = msgspec.structs.replace(settings, api_keys=tuple(dict.fromkeys(keys)))
    return Configuration(
        settings=settings,
        origins=origins,
        file=source,
        watched=tuple(_watched(source, settings)),
        notes=(*from_environment.strange, *_unread(source)),
    )


def find_file(named: Path | None, environment: Mapping[str, str], directory: Path | None = None) -> Path | None:
    """The file that was named, here or in the environment, else the user's own where there is one.

    A file in the current directory is not looked for: it can say which programs are started and where keys are sent,
    and whoever unpacks somebody else's work has not agreed to that.
    """
    if named is not None:
        return named
    if environment.get(FILE_VARIABLE, "").strip():
        return Path(environment[FILE_VARIABLE].strip()).expanduser()
    own = (user_directory(environment) if directory is None else directory) / FILE_NAME
    return own if own.exists() else None


def usual_file() -> Path:
    """What is read, where it exists, when nobody names a file."""
    return user_directory(os.environ) / FILE_NAME


def user_directory(environment: Mapping[str, str]) -> Path:
    """Where this platform keeps an application's configuration for one user."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "deepserve"
    if sys.platform == "win32":
        return Path(environment.get("APPDATA") or Path.home() / "AppData" / "Roaming") / "deepserve"
    return Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "deepserve"


def _origin(layer: Layer, name: str, read: FileValues | None) -> Origin:
    setting = by_name().get(name)
    if layer == "environment" and setting is not None:
        return Origin(layer, setting.variable)
    if layer == "file" and setting is not None and read is not None:
        place = read.place(setting.place)
        return Origin(layer, "" if place is None else f"line {place.line}")
    return Origin(layer)


_STRENGTH: Final[Mapping[Layer, int]] = {"default": 0, "file": 1, "environment": 2, "flag": 3}


def _choose_backend(values: dict[str, Any], origins: dict[str, Origin]) -> Iterable[tuple[Keys, str]]:
    """Who names an upstream wants it to answer, and who names both in one place must mean one of them."""
    if _strength("upstreams", origins) > _strength("upstream", origins):
        values.pop("upstream", None)
    named = [name for name in ("upstream", "upstreams") if values.get(name)]
    if not named or values.get("backend") == "upstream":
        return
    strength = max(_strength(name, origins) for name in named)
    if strength > _strength("backend", origins):
        values["backend"] = "upstream"
        origins["backend"] = next(origins[name] for name in named if _strength(name, origins) == strength)
    elif strength == _strength("backend", origins):
        yield ("backend",), f"`{named[0]}` and `backend` both say who answers: leave one out."


def _strength(name: str, origins: Mapping[str, Origin]) -> int:
    return _STRENGTH[origins.get(name, DEFAULT).layer]


def _assembled(values: Mapping[str, Any]) -> Settings:  # Any: values of settings
    whole: dict[str, Any] = {"state_dir": default_state_dir()}  # Any: values of settings
    parts: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        table, dot, key = name.partition(".")
        if dot:
            parts.setdefault(table, {})[key] = value
        else:
            whole[name] = value
    settings = Settings(**whole)
    replaced = {
        name: msgspec.structs.replace(getattr(settings, name), **fields)
        for name, fields in parts.items()
        if name not in whole
    }
    return msgspec.structs.replace(settings, **replaced)


def _place(path: Keys, origins: Mapping[str, Origin], read: FileValues | None) -> Any:
    setting = by_name().get(str(path[0]))
    if read is None or setting is None or origins.get(setting.name, DEFAULT).layer != "file":
        return None
    return read.place((*setting.place, *path[1:]))


def _watched(source: Path | None, settings: Settings) -> Iterable[Path]:
    files = [source, settings.api_keys_file, settings.upstream_key_file]
    files += [upstream.key_file for upstream in settings.upstreams]
    return (file for file in files if file is not None)


def _unread(source: Path | None) -> Iterable[str]:
    here = Path(FILE_NAME)
    if source is None and here.exists():
        yield f"{FILE_NAME} in this folder is not read unless it is named: --config {FILE_NAME}"

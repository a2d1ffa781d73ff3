"""Values of settings as TOML, in the spelling people would choose."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect as shapes

from deepserve.configuration.quantities import show_seconds, show_size
from deepserve.configuration.values import is_size, is_time

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def encode_value(value: Any, *, key: str, shape: shapes.Type | None = None) -> str:  # Any: a setting's value
    """Reads back as the same value. shape: its type, which tells sizes and times."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return json.dumps(show_size(value)) if shape and is_size(key, shape) and value >= 1024 else _grouped(value)
        case float():
            return json.dumps(show_seconds(value)) if shape and is_time(key, shape) else repr(value)
        case str() | Path():
            return encode_text(str(value))
        case Mapping():
            inner = ", ".join(f"{encode_key(name)} = {encode_value(one, key=name)}" for name, one in value.items())
            return f"{{ {inner} }}" if inner else "{}"
        case tuple() | list():
            return "[" + ", ".join(encode_value(one, key=key) for one in value) + "]"
        case _:
            raise TypeError(f"{type(value).__name__} is no value of TOML")


def encode_key(name: str) -> str:
    return name if _BARE.fullmatch(name) else encode_text(name)


def encode_text(text: str) -> str:
    """A basic string; JSON's escapes are TOML's, but for the one character that JSON does not escape."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def given_fields(value: msgspec.Struct) -> Mapping[str, object]:
    """The fields of a structure that say something else than their defaults, by name."""
    usual = {
        field.name: field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        for field in msgspec.structs.fields(value)
    }
    return {name: one for name, one in msgspec.structs.asdict(value).items() if one != usual[name]}


def _grouped(number: int) -> str:
    return f"{number:_}" if abs(number) >= 100_000 else str(number)

"""One value, checked against its declared type, and the words for what it should have been.

Values come from TOML, where they have types, or as text from the environment. Both may write sizes and times with
units.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import msgspec
import msgspec.inspect as shapes

from deepserve.configuration.declarations import extra_of
from deepserve.configuration.quantities import read_seconds, read_size

_MAX_SHOWN: Final = 60

_TOO_MUCH: Final = "has too much structure for a variable: write it into the configuration file"

_YES: Final = frozenset(("1", "true", "yes", "on"))
_NO: Final = frozenset(("0", "false", "no", "off"))

_CREDENTIALS: Final = re.compile(r"([A-Za-z][\w+.-]*://[^/@\s]*:)[^/@\s]+@")
_KEY_LIKE: Final = re.compile(r"(?i)\b(?:sk|pk|rk|hf|nvapi|tvly|bsa|key|api)[-_][\w-]{8,}")


class WrongValue(Exception):
    """Why a value cannot be taken, in words that follow its name. Never shows what looks like a secret."""


def is_size(key: str, shape: shapes.Type) -> bool:
    """Whether a setting counts bytes, by its name."""
    return "bytes" in key.split("_") and isinstance(plain(shape), shapes.IntType)


def is_time(key: str, shape: shapes.Type) -> bool:
    """Whether a setting is a length of time, by its name."""
    return key.endswith("_s") and not key.endswith("_per_s") and isinstance(plain(shape), shapes.FloatType)


def plain(shape: shapes.Type) -> shapes.Type:
    """Without notes, and without None."""
    match shape:
        case shapes.Metadata(type=inner):
            return plain(inner)
        case shapes.UnionType(types=types):
            return next((plain(one) for one in types if not isinstance(one, shapes.NoneType)), shape)
        case _:
            return shape


def read_value(value: Any, annotation: Any, *, key: str, base: Path) -> Any:  # Any: TOML, a type, and a value of it
    """The value as the settings hold it. base: where relative paths begin.

    Raises WrongValue.
    """
    shape = shapes.type_info(annotation)
    if isinstance(value, str) and is_size(key, shape):
        value = _known(read_size(value), value, key, annotation)
    elif isinstance(value, str) and is_time(key, shape):
        value = _known(read_seconds(value), value, key, annotation)
    if isinstance(value, float) and not math.isfinite(value):
        raise WrongValue(f"is {value}; it must be {describe(key, annotation)}")
    try:
        converted = msgspec.convert(value, annotation, strict=True, dec_hook=_decode_path)
    except msgspec.ValidationError:
        raise WrongValue(f"is {show(key, value)}; it must be {describe(key, annotation)}") from None
    return _checked_paths(converted, extra_of(shape), base)


def read_text(text: str, annotation: Any, *, key: str, base: Path) -> Any:  # Any: a type, and a value of it
    """The value that a text of the environment or of a command line stands for. Raises WrongValue."""
    shape = shapes.type_info(annotation)
    value: Any = text.strip()  # Any: as TOML would have had it
    match plain(shape):
        case shapes.BoolType():
            if value.lower() not in _YES | _NO:
                raise WrongValue(f"is {show(key, value)}; it must be 1 or 0, true or false")
            value = value.lower() in _YES
        case shapes.IntType() if not is_size(key, shape) or value.isdigit():
            value = _number(value, int)
        case shapes.FloatType() if not is_time(key, shape):
            value = _number(value, float)
        case shapes.VarTupleType(item_type=item):
            if isinstance(plain(item), shapes.StructType):
                raise WrongValue(_TOO_MUCH)
            value = [part for part in re.split(r"[,\s]+", value) if part]
        case shapes.DictType():
            value = _pairs(key, value, shape)
        case _:
            pass
    return read_value(value, annotation, key=key, base=base)


def holds_credentials(value: object) -> bool:
    """Whether it is an address with a password in it."""
    if isinstance(value, list):
        return any(holds_credentials(one) for one in value)
    return isinstance(value, str) and _CREDENTIALS.search(value) is not None


def without_password(text: str) -> str:
    """An address that can be shown."""
    return _CREDENTIALS.sub(r"\1…@", text)


def show(key: str, value: object) -> str:
    """A value in a message, shortened; what may be a secret is not shown."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if "key" in key or _KEY_LIKE.search(text) is not None or holds_credentials(text):
        return "something else"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def describe(key: str, annotation: Any) -> str:  # Any: a type
    """What a value may be, in words that follow `it must be`."""
    shape = shapes.type_info(annotation)
    match plain(shape):
        case shapes.BoolType():
            return "true or false"
        case shapes.LiteralType():
            return "one of " + ", ".join(f'"{choice}"' for choice in choices(annotation))
        case shapes.IntType() as number:
            return ('a size such as 1048576 or "64m"' if is_size(key, shape) else "a whole number") + _range(number)
        case shapes.FloatType() as number:
            return ('a time such as 30, "10m" or "7d"' if is_time(key, shape) else "a number") + _range(number)
        case shapes.StrType(pattern=str()):
            return "a name of letters, digits and _"
        case shapes.StrType():
            return "a text in quotes"
        case shapes.CustomType():
            exists = extra_of(shape).get("exists")
            return f"the path of a {exists}, in quotes" if exists else "a path in quotes"
        case shapes.VarTupleType():
            return "a list of texts"
        case _:
            return "a table"


def choices(annotation: Any) -> tuple[str, ...]:  # Any: a type
    """The values of a closed set, in the order of their declaration; empty for any other type."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((found for one in get_args(annotation) if (found := choices(one))), ())


def _range(shape: shapes.IntType | shapes.FloatType) -> str:
    if shape.ge is not None and shape.le is not None:
        return f" from {shape.ge:g} to {shape.le:g}" if shape.le < 1e6 else f" from {shape.ge} to {shape.le}"
    if shape.ge is not None:
        return f", {shape.ge:g} or more"
    return f", more than {shape.gt:g}" if shape.gt is not None else ""


def _known(value: Any, text: str, key: str, annotation: Any) -> Any:  # Any: a number or None, and a type
    if value is None:
        raise WrongValue(f"is {show(key, text)}; it must be {describe(key, annotation)}")
    return value


def _number(text: str, kind: type[int] | type[float]) -> object:
    try:
        return kind(text)
    except ValueError:
        return text  # refused for its type, in the same words as elsewhere


def _pairs(key: str, text: str, shape: shapes.Type) -> object:
    """`a=x,b=y`; only where the values are texts."""
    table = plain(shape)
    assert isinstance(table, shapes.DictType)
    if not isinstance(plain(table.value_type), shapes.StrType | shapes.CustomType):
        raise WrongValue(_TOO_MUCH)
    pairs: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not name.strip() or name.strip() in pairs:
            raise WrongValue(f"is {show(key, text)}; it must be name=value pairs, with commas between them")
        pairs[name.strip()] = value.strip()
    return pairs


def _decode_path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str) and value and "\0" not in value:
        return Path(value)
    raise ValueError("not a path")


def _checked_paths(value: Any, extra: Mapping[str, Any], base: Path) -> Any:  # Any: values of settings
    match value:
        case Path():
            try:
                path = base / value.expanduser()
            except RuntimeError as error:
                raise WrongValue(f"is {show('', str(value))}, and there is no such user") from error
            exists = extra.get("exists")
            if exists == "file" and not path.is_file():
                raise WrongValue(
                    f"names the file {path}, which is not there"
                    if not path.exists()
                    else f"names {path}, which is not a file"
                )
            if exists == "folder" and not path.is_dir():
                raise WrongValue(
                    f"names the folder {path}, which is not there"
                    if not path.exists()
                    else f"names {path}, which is not a folder"
                )
            return path
        case dict():
            return {name: _checked_paths(one, extra, base) for name, one in value.items()}
        case _:
            return value

"""JSON as the model was trained to read it: `", "` and `": "` between items, characters beyond ASCII as themselves.

Reading is as strict as the vendor's own parser, so that both see the same historical arguments as an object or not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import NoReturn

from deepserve.core.messages import Json

MAX_DEPTH = 127
"""Deepest nesting that is read as JSON, as in serde_json."""

_MIN_INTEGER = -(2**63)
_MAX_INTEGER = 2**64 - 1


def read_json(text: str) -> Json:
    """Decode JSON text; raises ValueError for what is not JSON, or has lone surrogates or numbers beyond a double."""
    try:
        value = json.loads(text, parse_float=_read_float, parse_int=_read_integer, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    _check(value, 0)
    return value


def write_json(value: Json) -> str:
    """Encode a decoded JSON value."""
    pieces: list[str] = []
    _write(value, pieces)
    return "".join(pieces)


def _write(value: Json, pieces: list[str]) -> None:
    match value:
        case str():
            pieces.append(json.dumps(value, ensure_ascii=False))
        case bool():
            pieces.append("true" if value else "false")
        case None:
            pieces.append("null")
        case int():
            pieces.append(str(value) if _MIN_INTEGER <= value <= _MAX_INTEGER else _float_text(float(value)))
        case float():
            pieces.append(_float_text(value))
        case Mapping():
            pieces.append("{")
            for index, (key, item) in enumerate(value.items()):
                pieces.append(f"{', ' if index else ''}{json.dumps(str(key), ensure_ascii=False)}: ")
                _write(item, pieces)
            pieces.append("}")
        case list() | tuple():
            pieces.append("[")
            for index, item in enumerate(value):
                if index:
                    pieces.append(", ")
                _write(item, pieces)
            pieces.append("]")
        case _:
            raise TypeError(f"{type(value).__name__} is not a JSON value")


def _float_text(number: float) -> str:
    """Shortest digits that read back; written out between 1e-5 and 1e16, with an exponent elsewhere."""
    if not math.isfinite(number):
        return "null"
    mantissa, _, exponent = f"{number!r}".partition("e")
    if exponent and -5 <= int(exponent) < 0:
        digits = mantissa.removeprefix("-").replace(".", "")
        sign = "-" if number < 0 else ""
        return f"{sign}0.{'0' * (-int(exponent) - 1)}{digits}"
    if exponent:
        return f"{mantissa}e{int(exponent):+d}"
    return mantissa


def _read_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"number out of range: {text[:40]}")
    return number


def _read_integer(text: str) -> int | float:
    if text == "-0":
        return -0.0
    if len(text) > 20:
        return _read_float(text)
    number = int(text)
    return number if _MIN_INTEGER <= number <= _MAX_INTEGER else float(number)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _check(value: Json, depth: int) -> None:
    if isinstance(value, str):
        value.encode()
        return
    if isinstance(value, dict | list):
        if depth >= MAX_DEPTH:
            raise ValueError("JSON nested too deeply")
        items = value if isinstance(value, list) else [*value.keys(), *value.values()]
        for item in items:
            _check(item, depth + 1)

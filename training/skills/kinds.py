"""Kinds of values that tools and JSON answers hold: how one is drawn, which schema it has, how people write it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from training.phrases import words
from training.skills.keys import spoken_key
from training.values import Draw

CLOSED: Mapping[str, tuple[str, ...]] = {
    "priority": ("low", "medium", "high", "urgent"),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "language": ("French", "German", "Spanish", "Italian", "Chinese", "Japanese", "English", "Dutch", "Polish"),
    "currency": ("EUR", "USD", "JPY", "GBP", "CHF", "CNY", "SEK", "INR", "PLN"),
    "room": ("kitchen", "bedroom", "office", "bathroom", "hall", "garage", "cellar", "lobby"),
    "switch": ("on", "off"),
    "color": ("red", "green", "blue", "yellow", "black", "white", "orange", "purple", "brown", "gray", "pink"),
    "size": ("S", "M", "L", "XL"),
    "format": ("pdf", "csv", "json", "html", "xml", "txt", "png"),
    "status": ("open", "closed", "pending", "done", "paused", "failed"),
    "log_level": ("INFO", "WARN", "ERROR", "DEBUG"),
}
"""Kinds with few values; a schema often lists them."""

_USUAL_KEYS: Mapping[str, str] = {
    "name": "name author owner user person customer guest driver teacher doctor manager editor sender recipient",
    "city": "city place location destination town origin",
    "small": "age count quantity hour seat floor minutes rank level month nights guests pages",
    "number": "amount price size population number page height width weight speed score total cost distance",
    "year": "year",
    "code": "id code version key reference serial barcode",
    "color": "color colour",
    "day": "day weekday",
    "date": "date deadline due birthday expiry",
    "time": "time",
    "email": "email mail",
    "phone": "phone",
    "currency": "currency",
    "language": "language",
    "priority": "priority severity",
    "status": "status state",
    "url": "url link website",
    "nouns": "tags labels keywords items ingredients",
    "names": "members participants attendees",
}
_KIND_OF_KEY: Mapping[str, str] = {key: kind for kind, keys in _USUAL_KEYS.items() for key in keys.split()}

_TOP_LEVELS = ("com", "org", "net", "de", "io", "eu")
_JSON_TYPES: Mapping[str, str] = {
    "small": "integer",
    "number": "integer",
    "year": "integer",
    "amount": "number",
    "decimal": "number",
    "bool": "boolean",
    "nouns": "array",
    "names": "array",
}


def _owned(draw: Draw, make: Callable[[], Any]) -> Any:
    """A value of this side (any JSON value, hence Any)."""
    while not draw.owns(value := make()):
        pass
    return value


def _several(make: Callable[[], str], count: int) -> list[str]:
    """Different values."""
    found: list[str] = []
    while len(found) < count:
        value = make()
        if value not in found:
            found.append(value)
    return found


def draw_value(draw: Draw, kind: str) -> Any:
    """A value of one kind (any JSON value, hence Any)."""
    if kind in CLOSED:
        return draw.frame(CLOSED[kind])
    match kind:
        case "city":
            return draw.city()
        case "name":
            return draw.name()
        case "title":
            return draw.title()
        case "noun":
            return draw.noun()
        case "small":
            return draw.between(1, 30) if draw.chance(0.5) else draw.number(1, 99)
        case "number":
            return draw.number(1, 9999 if draw.chance(0.6) else 99)
        case "amount":
            whole = draw.number(1, 999)
            return whole if draw.chance(0.6) else _owned(draw, lambda: draw.between(100, 99999) / 100)
        case "decimal":
            return _owned(draw, lambda: draw.between(1, 999) / 10)
        case "year":
            return draw.number(1850, 2035)
        case "code":
            return draw.code()
        case "digits":
            return _owned(draw, lambda: str(draw.between(0, 10 ** draw.between(3, 6))).zfill(4))
        case "date":
            return _owned(draw, lambda: f"20{draw.between(10, 39)}-{draw.between(1, 12):02}-{draw.between(1, 28):02}")
        case "time":
            return _owned(draw, lambda: f"{draw.between(0, 23):02}:{draw.between(0, 59):02}")
        case "email":
            return f"{draw.name().lower()}@{draw.made_up()}.{draw.frame(_TOP_LEVELS)}"
        case "phone":
            return _owned(draw, lambda: f"0{draw.between(10, 999)}-{draw.between(1000, 999999)}")
        case "version":
            return _owned(draw, lambda: ".".join(str(draw.between(0, 30)) for _ in range(draw.between(2, 3))))
        case "url":
            return f"https://{draw.made_up()}.{draw.frame(_TOP_LEVELS)}{f'/{draw.noun()}' if draw.chance(0.5) else ''}"
        case "score":
            return f"{draw.between(0, 30)}:{draw.between(0, 30)}"
        case "proper":
            return " ".join(draw.made_up().capitalize() for _ in range(draw.frame((1, 1, 1, 2))))
        case "sentence":
            return draw.words(2, 5).capitalize() + draw.frame(("", "", ".", "!"))
        case "nouns":
            return _several(draw.noun, draw.frame((1, 2, 2, 3, 3, 4)))
        case "names":
            return _several(draw.name, draw.frame((1, 2, 2, 3)))
        case "file":
            return f"{draw.noun()}{draw.frame(('.txt', '.py', '.md', '.json', '.csv', '/readme', '_2.log'))}"
        case "symbol":
            return draw.made_up()[:4].upper()
        case "word_cap":
            return draw.made_up().capitalize()
        case "bool":
            return draw.chance(0.5)
        case "expression":
            return f"{draw.number(1, 999)} {draw.frame('+-*/')} {draw.number(1, 999)}"
        case "word":
            return draw.word()
        case _:
            raise ValueError(f"no such kind of value: {kind}")


FREE_KINDS = ("title", "noun", "number", "small", "city", "name", "code", "bool", "word", "decimal", "nouns", "date")
"""What a key that nobody has seen before may hold."""


def kind_of(draw: Draw, key: str) -> str:
    """The kind that suits a key by its last word; any kind for a key that suits none."""
    usual = _KIND_OF_KEY.get(spoken_key(key).rsplit(" ", 1)[-1])
    return usual if usual is not None else draw.frame(FREE_KINDS)


def _options(draw: Draw, kind: str, value: Any) -> list[str]:
    """The words that a schema lists: all of the kind, or some of them with the value (any JSON value, hence Any)."""
    every = list(CLOSED[kind])
    if value is None or len(every) < 5 or draw.chance(0.3):
        return every
    some = {str(value), *draw.random.sample(every, draw.between(2, 4))}
    return [one for one in every if one in some]


def schema_of(draw: Draw, kind: str, descriptions: Sequence[str] = (), *, value: Any = None) -> dict[str, Any]:
    """The JSON schema of a value of this kind, or of this value (any JSON, hence Any)."""
    schema: dict[str, Any] = {"type": _JSON_TYPES.get(kind, "string")}
    if kind in ("number", "year") and draw.chance(0.3):
        schema["type"] = "number"
    if schema["type"] == "array":
        schema["items"] = {"type": "string"}
    if kind in ("priority", "switch", "size", "log_level") or (kind in CLOSED and draw.chance(0.4)):
        schema["enum"] = _options(draw, kind, value)
    elif kind == "small" and draw.chance(0.08):
        schema["minimum"] = 1
    if descriptions and draw.chance(0.5):
        schema["description"] = draw.frame(descriptions)
    return schema


def choice(draw: Draw) -> tuple[str, dict[str, Any]]:
    """One of a few words that a schema lists, and that schema (any JSON, hence Any)."""
    options = draw.sample(words(draw.frame(("nouns", "adjectives"))), draw.between(2, 4))
    return draw.frame(options), {"type": "string", "enum": options}


def said(value: Any) -> str:
    """A value as a sentence spells it: lists with "and" (any JSON value, hence Any)."""
    match value:
        case str():
            return value
        case [only]:
            return said(only)
        case [*first, last]:
            return ", ".join(said(one) for one in first) + " and " + said(last)
        case _:
            return json.dumps(value, ensure_ascii=False)


def noted(value: Any) -> str:
    """A value as thoughts spell it: strings bare, everything else as JSON (any JSON value, hence Any)."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

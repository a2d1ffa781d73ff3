"""A value of the request body, read with the refusals of the vendor's parser.

The texts are those that clients match on: `Failed to deserialize the JSON body into the target type: <path>: <what>
at line L column C`, seen from the vendor's service in many public reports. A path inside a message stops at the
message, as it does there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deepserve.core.errors import InvalidField, MalformedBody, MissingField
from deepserve.core.messages import Json
from deepserve.dialects.body import JsonBody, Path

_MAX_U32 = 2**32 - 1


class Node:
    """A value and where it stands. Reading methods return the plain value or raise InvalidField.

    told_path  the path as refusals show it; the error's `field` always has the whole path
    """

    __slots__ = ("_told_path", "body", "path", "value")

    def __init__(self, body: JsonBody, value: Json, path: Path = (), told_path: Path | None = None) -> None:
        self.body = body
        self.value = value
        self.path = path
        self._told_path = told_path

    @property
    def field(self) -> str:
        """`messages[2].content`"""
        return _spelled(self.path)

    def labelled(self) -> Node:
        """The same value, whose parts are all reported under its own path."""
        return Node(self.body, self.value, self.path, self.path)

    def child(self, key: str | int) -> Node:
        return Node(self.body, self.value[key], (*self.path, key), self._told_path)

    def optional(self, key: str) -> Node | None:
        """The member of an object; None when it is absent or null, which mean the same everywhere."""
        members = self.value
        if not isinstance(members, dict):
            raise self.mistyped("a map")
        value = members.get(key)
        return None if value is None else Node(self.body, value, (*self.path, key), self._told_path)

    def required(self, key: str) -> Node:
        if key not in self.mapping():
            raise self.missing(key)
        return self.child(key)

    def keys(self) -> Iterator[str]:
        return iter(self.mapping())

    def items(self) -> Iterator[Node]:
        return (self.child(index) for index in range(len(self.sequence())))

    # What the value must be.

    def string(self) -> str:
        if not isinstance(self.value, str):
            raise self.mistyped("a string")
        return self.value

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.mistyped("a boolean")
        return self.value

    def integer(self, expected: str = "u32", *, low: int = 0, high: int = _MAX_U32) -> int:
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.mistyped(expected)
        if not low <= value <= high:
            raise self.refuse(f"invalid value: integer `{value}`, expected {expected}")
        return value

    def number(self) -> float:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.mistyped("f32")
        try:
            return float(self.value)
        except OverflowError:
            raise self.refuse("invalid value: number out of range, expected f32") from None

    def sequence(self) -> list[Json]:
        if not isinstance(self.value, list):
            raise self.mistyped("a sequence")
        return self.value

    def mapping(self) -> dict[str, Json]:
        if not isinstance(self.value, dict):
            raise self.mistyped("a map")
        return self.value

    def variant(self, known: Sequence[str]) -> str:
        """One of a closed set of strings."""
        value = self.string()
        if value not in known:
            raise self.unknown_variant(known)
        return value

    # Refusals.

    def refuse(self, detail: str, kind: type[InvalidField] = InvalidField) -> InvalidField:
        """In the words of the vendor's parser, with the place."""
        shown = self.field if self._told_path is None else _spelled(self._told_path)
        where = f"{shown}: " if shown else ""
        return kind(
            f"Failed to deserialize the JSON body into the target type: {where}{detail}"
            f"{self.body.position_of(self.path)}",
            field=self.field or None,
        )

    def mistyped(self, expected: str) -> InvalidField:
        return self.refuse(f"invalid type: {_described(self.value)}, expected {expected}")

    def missing(self, key: str) -> InvalidField:
        error = self.refuse(f"missing field `{key}`", MissingField)
        error.field = _spelled((*self.path, key))
        return error

    def unknown_variant(self, known: Sequence[str]) -> InvalidField:
        names = [f"`{name}`" for name in known]
        listed = {1: names[0], 2: " or ".join(names)}.get(len(names), "one of " + ", ".join(names))
        return self.refuse(f"unknown variant `{_shortened(self.string())}`, expected {listed}")


def not_json(error: MalformedBody) -> MalformedBody:
    """The vendor's words for a body that could not be decoded at all."""
    kind = (
        "Failed to deserialize the JSON body into the target type"
        if error.message.startswith("duplicate field")
        else "Failed to parse the request body as JSON"
    )
    return MalformedBody(f"{kind}: {error.message}")


def _spelled(path: Path) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def _described(value: Json) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return f"boolean `{str(value).lower()}`"
        case int():
            return f"integer `{value}`"
        case float():
            return f"floating point `{value}`"
        case str():
            return f'string "{_shortened(value)}"'
        case list():
            return "sequence"
        case _:
            return "map"


def _shortened(text: str) -> str:
    """A client's text inside an error: enough to recognise it, never a whole prompt."""
    return text if len(text) <= 100 else text[:100] + "…"

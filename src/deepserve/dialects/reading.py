"""A request body while it is read: its mode, its limits, what is ignored on the way, and where its schemas stand."""

from __future__ import annotations

from collections.abc import Collection

from deepserve.config import Limits
from deepserve.core.errors import InvalidField
from deepserve.dialects.node import Node


class Reading:
    """One body being read.

    schema_fields  as in `Request`
    """

    def __init__(self, root: Node, limits: Limits, *, is_strict: bool) -> None:
        self.root = root
        self.limits = limits
        self.is_strict = is_strict
        self._ignored: dict[str, None] = {}
        self.schema_fields: dict[str, str] = {}

    @property
    def ignored(self) -> tuple[str, ...]:
        """Paths, each once, in the order they were met."""
        return tuple(self._ignored)

    def ignore(self, path: str) -> None:
        self._ignored[path] = None

    def note_schema(self, node: Node, *, tool: str | None = None) -> None:
        """tool: whose arguments it describes; None: the answer."""
        self.schema_fields["response_format" if tool is None else f"tools[{tool}]"] = node.field

    def ignore_others(self, node: Node, known: Collection[str], path: str) -> None:
        """Note the members of an object that nothing acts on; path names the object, without indices."""
        for key, value in node.mapping().items():
            if key not in known and value not in (None, "", []):
                self.ignore(f"{path}.{key}")

    def mentions(self, fields: frozenset[str]) -> bool:
        """Whether the body has any of these fields. Most have few, and looking for one after the other takes longer."""
        return not fields.isdisjoint(self.root.mapping())

    def extension(self, name: str) -> Node | None:
        """A field that only tolerant mode knows."""
        return None if self.is_strict else self.root.optional(name)

    def flag(self, name: str) -> bool:
        node = self.root.optional(name)
        return node is not None and node.boolean()

    def stop_strings(self, name: str) -> tuple[str, ...]:
        """Strings that end an answer: the member `name` of the body, one or a list."""
        node = self.root.optional(name)
        if node is None:
            return ()
        stops = (node.string(),) if isinstance(node.value, str) else tuple(item.string() for item in node.items())
        if len(stops) > self.limits.stop_strings:
            raise InvalidField(f"Stop string array too long: {len(stops)}", field=name)
        if "" in stops:
            raise InvalidField(f"Invalid {name}: an empty string would end every answer at once", field=name)
        if any(len(stop.encode()) > self.limits.stop_string_bytes for stop in stops):
            raise InvalidField(
                f"Invalid {name}: a stop string has at most {self.limits.stop_string_bytes} bytes", field=name
            )
        return stops

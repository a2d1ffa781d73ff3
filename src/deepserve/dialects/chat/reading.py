"""A request body while it is read: its mode, its limits, and the names of what is ignored on the way."""

from __future__ import annotations

from collections.abc import Collection

from deepserve.config import Limits
from deepserve.core.errors import UnsupportedFeature
from deepserve.dialects.chat.fields import DOCUMENTED, EXTENSIONS, REFUSED
from deepserve.dialects.chat.flavour import Flavour
from deepserve.dialects.chat.thinking import spelling_fields
from deepserve.dialects.node import Node


class Reading:
    """One body being read; collects the names of what is ignored on the way.

    is_beta: the request came to a `/beta` address, where strict tools are checked.
    """

    def __init__(self, root: Node, flavour: Flavour, limits: Limits, *, is_strict: bool, is_beta: bool) -> None:
        self.root = root
        self.flavour = flavour
        self.limits = limits
        self.is_strict = is_strict
        self.is_beta = is_beta
        self._ignored: dict[str, None] = {}

    @property
    def ignored(self) -> tuple[str, ...]:
        """Paths, each once, in the order they were met."""
        return tuple(self._ignored)

    def ignore(self, path: str) -> None:
        self._ignored[path] = None

    def ignore_others(self, node: Node, known: Collection[str], path: str) -> None:
        """Note the members of an object that nothing acts on; path names the object, without indices."""
        for key, value in node.mapping().items():
            if key not in known and value not in (None, "", []):
                self.ignore(f"{path}.{key}")

    def extension(self, name: str) -> Node | None:
        """A field that only tolerant mode knows."""
        return None if self.is_strict else self.root.optional(name)

    def flag(self, name: str) -> bool:
        node = self.root.optional(name)
        return node is not None and node.boolean()

    def refuse_unserved(self) -> None:
        """Raises UnsupportedFeature for a field of `REFUSED`; strict mode ignores them like all unknown ones."""
        for name, instead in REFUSED.items():
            if self.extension(name) is not None:
                raise UnsupportedFeature(f"`{name}` is not supported: {instead}.", field=name)

    def note_unknown(self) -> None:
        """Note every field that nothing acts on. Called last, after the noteworthy ones."""
        spellings = spelling_fields(is_strict=self.is_strict)
        known = DOCUMENTED if self.is_strict else DOCUMENTED | EXTENSIONS | spellings.keys()
        for name in self.root.keys():  # noqa: SIM118 - a Node, not a dict
            node = self.root.optional(name)
            if node is None:
                continue
            if name not in known:
                self.ignore(name)
            elif name in spellings and isinstance(node.value, dict):
                for inner in sorted(node.value.keys() - spellings[name]):
                    self.ignore(f"{name}.{inner}")

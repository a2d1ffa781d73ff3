"""A Chat request while it is read: what this dialect adds to any body's reading."""

from __future__ import annotations

from functools import cache

from deepserve.config import Limits
from deepserve.core.errors import UnsupportedFeature
from deepserve.dialects.chat.fields import DOCUMENTED, EXTENSIONS
from deepserve.dialects.chat.flavour import Flavour
from deepserve.dialects.chat.thinking import spelling_fields
from deepserve.dialects.node import Node
from deepserve.dialects.reading import Reading


class ChatReading(Reading):
    """is_beta: the request came to a `/beta` address, where strict tools are checked."""

    def __init__(self, root: Node, flavour: Flavour, limits: Limits, *, is_strict: bool, is_beta: bool) -> None:
        super().__init__(root, limits, is_strict=is_strict)
        self.flavour = flavour
        self.is_beta = is_beta

    def refuse_unserved(self) -> None:
        """Raises UnsupportedFeature for a field that the flavour refuses; strict mode ignores those fields."""
        members = self.root.mapping()
        for name, instead in self.flavour.refused.items():
            if not self.is_strict and members.get(name) is not None:
                raise UnsupportedFeature(f"`{name}` is not supported: {instead}.", field=name)

    def note_unknown(self) -> None:
        """Note every field that nothing acts on. Called last, after the noteworthy ones."""
        spellings = spelling_fields(is_strict=self.is_strict)
        known = _known_fields(self.flavour.own_fields, is_strict=self.is_strict)
        for name, value in self.root.mapping().items():
            if value is None:
                continue
            if name not in known:
                self.ignore(name)
            elif name in spellings and isinstance(value, dict):
                for inner in sorted(value.keys() - spellings[name]):
                    self.ignore(f"{name}.{inner}")


@cache
def _known_fields(own_fields: frozenset[str], *, is_strict: bool) -> frozenset[str]:
    if is_strict:
        return DOCUMENTED
    return DOCUMENTED | EXTENSIONS | spelling_fields().keys() | own_fields

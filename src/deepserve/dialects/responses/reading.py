"""A Responses body while it is read: which of its top-level fields are refused, and which change nothing."""

from __future__ import annotations

from deepserve.core.errors import UnsupportedFeature
from deepserve.dialects.reading import Reading
from deepserve.dialects.responses.fields import DOCUMENTED, EXTENSIONS, PARTLY_READ, REFUSED


def refuse_unserved(reading: Reading) -> None:
    """Raises UnsupportedFeature for a field of `REFUSED`; strict mode ignores them like all unknown ones."""
    for name, instead in REFUSED.items():
        if reading.extension(name) is not None:
            raise UnsupportedFeature(f"`{name}` is not supported: {instead}.", field=name)


def note_unknown(reading: Reading) -> None:
    """Note every top-level field that nothing acts on. Called last, after the noteworthy ones."""
    known = DOCUMENTED if reading.is_strict else DOCUMENTED | EXTENSIONS | PARTLY_READ
    for name in reading.root.keys():  # noqa: SIM118 - a Node, not a dict
        if name not in known and reading.root.optional(name) is not None:
            reading.ignore(name)

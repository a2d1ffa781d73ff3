"""Plugins: what the service does around a model. This server does none of it, and says so."""

from __future__ import annotations

from deepserve.core.errors import UnsupportedFeature
from deepserve.dialects.node import Node

HARMLESS = frozenset(("context-compression", "file-parser", "moderation", "response-healing"))
"""Without them the answer is still one to the question that was asked."""

_INSTEAD = {
    "web": "this server has no search; offer a search function in `tools`",
    "web-fetch": "this server fetches no pages; offer a function for it in `tools`",
}


def read_plugins(node: Node) -> tuple[str, ...]:
    """Paths of what has no effect. Raises UnsupportedFeature for a plugin whose absence would change the answer."""
    ignored: list[str] = []
    for plugin in node.items():
        name = plugin.required("id")
        enabled = plugin.optional("enabled")
        if enabled is not None and not enabled.boolean():
            continue
        if name.string() not in HARMLESS:
            why = _INSTEAD.get(name.string(), "remove it from the request")
            raise UnsupportedFeature(f"The plugin `{name.string()[:64]}` is not supported: {why}.", field=name.field)
        ignored.append(f"plugins[].{name.string()}")
    return tuple(ignored)


def read_transforms(node: Node) -> tuple[str, ...]:
    """An older spelling of `context-compression`; an empty list switches it off."""
    return tuple(dict.fromkeys("transforms[]" for item in node.items() if item.variant(("middle-out",))))

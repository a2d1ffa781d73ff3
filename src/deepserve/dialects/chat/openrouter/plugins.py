"""Plugins: what the service does around a model. Here it searches and fetches; of the others it does none."""

from __future__ import annotations

from deepserve.core.errors import UnsupportedFeature
from deepserve.dialects.chat.openrouter.server_tools import Wanted, fetch_plugin, merged, search_first
from deepserve.dialects.node import Node

HARMLESS = frozenset(("context-compression", "file-parser", "moderation", "response-healing"))
"""Without them the answer is still one to the question that was asked."""


def read_plugins(node: Node) -> Wanted:
    """The tools that plugins stand for. Raises UnsupportedFeature for one whose absence would change the answer."""
    wanted: list[Wanted] = []
    for plugin in node.items():
        name = plugin.required("id")
        enabled = plugin.optional("enabled")
        if enabled is not None and not enabled.boolean():
            continue
        match name.string():
            case "web":
                wanted.append(search_first(plugin))
            case "web-fetch":
                wanted.append(fetch_plugin(plugin))
            case harmless if harmless in HARMLESS:
                wanted.append(Wanted(ignored=(f"plugins[].{harmless}",)))
            case other:
                raise UnsupportedFeature(
                    f"The plugin `{other[:64]}` is not supported: remove it from the request.", field=name.field
                )
    return merged(wanted)


def read_transforms(node: Node) -> tuple[str, ...]:
    """An older spelling of `context-compression`; an empty list switches it off."""
    return tuple(dict.fromkeys("transforms[]" for item in node.items() if item.variant(("middle-out",))))

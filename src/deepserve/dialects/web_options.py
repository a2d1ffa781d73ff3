"""What clients may ask of search and fetch, read from nodes in whatever dialect."""

from __future__ import annotations

from collections.abc import Collection

from deepserve.core.domains import DomainRules, read_domains
from deepserve.core.errors import InvalidField
from deepserve.core.web_tools import UserLocation
from deepserve.dialects.node import Node

CHARACTERS_PER_TOKEN = 4
"""Roughly; for limits that clients give in tokens and that are said to be approximate."""


def read_domain_rules(node: Node, *, allowed: str, blocked: str, is_either: bool = True) -> DomainRules:
    """allowed, blocked: what the members are called. is_either: giving both is refused. Raises InvalidField."""
    kept = {}
    for name in (allowed, blocked):
        entries = node.optional(name)
        kept[name] = () if entries is None else tuple(item.string() for item in entries.items())
    if is_either and kept[allowed] and kept[blocked]:
        raise InvalidField(f"{node.field}: only one of `{allowed}` and `{blocked}` can be given.", field=node.field)
    return DomainRules(
        allowed=read_domains(kept[allowed], field=f"{node.field}.{allowed}"),
        blocked=read_domains(kept[blocked], field=f"{node.field}.{blocked}"),
    )


def read_location(node: Node | None) -> UserLocation:
    """Of the type `approximate`, which is the only one anybody has."""
    if node is None:
        return UserLocation()
    kind = node.optional("type")
    if kind is not None:
        kind.variant(("approximate",))
    return UserLocation(**{name: _text(node, name) for name in ("country", "region", "city", "timezone")})


def read_count(node: Node, member: str, *, high: int, low: int = 1) -> int | None:
    found = node.optional(member)
    return None if found is None else found.integer("u32", low=low, high=high)


def _text(node: Node, member: str) -> str | None:
    found = node.optional(member)
    return None if found is None else found.string()


RESULTS_OF_SIZE = {"low": 3, "medium": 5, "high": 10}
CHARACTERS_OF_SIZE = {"low": 500, "medium": 1_000, "high": 2_000}
"""What `search_context_size` means here: how many results, and how much of each."""


def read_context_size(node: Node, sizes: Collection[str] = ("low", "medium", "high")) -> str | None:
    found = node.optional("search_context_size")
    return None if found is None else found.variant(tuple(sizes))

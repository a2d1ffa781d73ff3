"""Sites as search engines take them within a query."""

from __future__ import annotations

from deepserve.core.domains import DomainRules

_MAX_SITES = 10


def with_sites(query: str, domains: DomainRules, *, max_characters: int = 1_000) -> str:
    """The query, narrowed to sites as far as engines understand it; what they let through is sorted out afterwards.

    A long list is left to that alone: engines cut long queries, which would lose what was asked for.
    """
    allowed = [f"site:{_plain(entry)}" for entry in domains.allowed]
    blocked = [f"-site:{_plain(entry)}" for entry in domains.blocked]
    narrowed = query
    if 0 < len(allowed) <= _MAX_SITES:
        narrowed += f" ({' OR '.join(allowed)})" if len(allowed) > 1 else f" {allowed[0]}"
    if len(blocked) <= _MAX_SITES:
        narrowed = " ".join((narrowed, *blocked))
    return narrowed if len(narrowed) <= max_characters else query


def _plain(entry: str) -> str:
    return entry.partition("*")[0].rstrip("/") if not entry.startswith("*.") else entry[2:].partition("*")[0]

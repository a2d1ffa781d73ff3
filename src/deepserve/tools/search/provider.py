"""What answers a search, whatever it is."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from email.utils import parsedate_to_datetime
from typing import Literal, Protocol
from urllib.parse import urlsplit

import msgspec

from deepserve.core.server_tool import SearchHit, SearchResults, ToolFault
from deepserve.core.web_tools import SearchOptions

MAX_QUERY_CHARACTERS = 1_000

Wish = Literal["country", "language", "dates"]
"""Parts of SearchOptions that not every service knows of; sites, counts and lengths everything honours."""

_MAX_URL_CHARACTERS = 2048
_TITLE_CHARACTERS = 300


class SearchProvider(Protocol):
    """name: for the operator. honours: what of the options it can take into account."""

    name: str
    honours: frozenset[Wish]

    async def search(self, query: str, options: SearchOptions) -> SearchResults | ToolFault:
        """The best hits for a query, at most as many as the options say. Never raises for what a service does."""
        ...

    async def start(self) -> None:
        """Begin what has to be ready before the first search; may go on after it returns."""
        ...

    async def close(self) -> None: ...


class RawHit(msgspec.Struct, frozen=True, kw_only=True):
    """A hit as a service tells it, not yet to be relied on. day: when the page is from, where that can be read."""

    url: str
    title: str = ""
    snippet: str = ""
    age: str | None = None
    day: date | None = None


def choose_hits(hits: Iterable[RawHit], options: SearchOptions) -> tuple[SearchHit, ...]:
    """What of a service's hits is shown: pages on the web, each once, from where and when the client wants them.

    Services are asked for the same, but not believed.
    """
    chosen: dict[str, SearchHit] = {}
    for hit in hits:
        if len(chosen) == options.max_results:
            break
        if hit.url in chosen or not _is_page(hit.url) or not options.domains.allows(hit.url):
            continue
        if hit.day is not None and not is_between(hit.day, options):
            continue
        chosen[hit.url] = SearchHit(
            url=hit.url,
            title=one_line(hit.title, _TITLE_CHARACTERS) or urlsplit(hit.url).netloc,
            snippet=one_line(hit.snippet, options.max_characters),
            age=one_line(hit.age, 64) if hit.age else None,
        )
    return tuple(chosen.values())


def is_between(day: date, options: SearchOptions) -> bool:
    return (options.after is None or day >= options.after) and (options.before is None or day <= options.before)


def one_line(text: str, max_characters: int) -> str:
    """Text without line breaks and control characters, cut at a word where it is too long."""
    cleaned = " ".join("".join(each if each.isprintable() else " " for each in text[: 4 * max_characters]).split())
    if len(cleaned) <= max_characters:
        return cleaned
    cut = cleaned[: max_characters - 1]
    return (cut.rpartition(" ")[0] or cut) + "…"


def read_day(text: object) -> date | None:
    """The day of a time as ISO 8601 or as mail and HTTP write it, if it is one."""
    if not isinstance(text, str):
        return None
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            return read(text).date()
        except (ValueError, OverflowError):
            continue
    return None


def too_long(query: str, *, max_characters: int, max_words: int = 10_000) -> ToolFault | None:
    """A query is not cut: what would be lost might be what matters."""
    if len(query) <= max_characters and len(query.split()) <= max_words:
        return None
    words = f" and {max_words} words" if max_words < max_characters else ""
    return ToolFault(code="input_too_long", message=f"A query has at most {max_characters} characters{words}.")


def _is_page(url: str) -> bool:
    if len(url) > _MAX_URL_CHARACTERS or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False

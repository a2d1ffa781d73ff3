"""Which of the pages that tools brought an answer names, and where."""

from __future__ import annotations

import re
from collections.abc import Mapping

from deepserve.core.messages import Citation
from deepserve.core.server_tool import FetchedPage, SearchResults, ToolOutput

_CITED_CHARACTERS = 150
"""Of the page's text, as much as the vendors' own citations show."""

_URL_GOES_ON = re.compile(r"[\w/%&=#~+@-]")
"""After such a character an address is only the beginning of another one."""

Sources = Mapping[str, Citation]
"""By address, in the order found: each page as a citation without a place."""


def sources_of(output: ToolOutput) -> dict[str, Citation]:
    """The pages in a result."""
    match output:
        case SearchResults(hits=hits):
            return {
                hit.url: Citation(url=hit.url, title=hit.title, cited_text=hit.snippet[:_CITED_CHARACTERS])
                for hit in hits
            }
        case FetchedPage():
            cited = output.text[:_CITED_CHARACTERS]
            return {output.url: Citation(url=output.url, title=output.title, cited_text=cited)}
        case _:
            return {}


def find_citations(text: str, sources: Sources) -> tuple[Citation, ...]:
    """The sources that the text spells, each once, with the place: of the whole link where it is one of Markdown."""
    found: list[Citation] = []
    for url, source in sources.items():
        place = _place_of(text, url)
        if place is not None:
            found.append(
                Citation(url=url, title=source.title, cited_text=source.cited_text, start=place[0], end=place[1])
            )
    return tuple(sorted(found, key=lambda citation: citation.start or 0))


def _place_of(text: str, url: str) -> tuple[int, int] | None:
    at = text.find(url) if url else -1
    while at >= 0:
        end = at + len(url)
        if end == len(text) or not _URL_GOES_ON.match(text[end]):
            return _link_around(text, at, end)
        at = text.find(url, end)
    return None


def _link_around(text: str, start: int, end: int) -> tuple[int, int]:
    """`[words](address)` whole, where the address stands in one."""
    if text[max(start - 2, 0) : start] == "](" and text[end : end + 1] == ")":
        opening = text.rfind("[", 0, start)
        if opening >= 0 and "\n" not in text[opening:start]:
            return opening, end + 1
    return start, end

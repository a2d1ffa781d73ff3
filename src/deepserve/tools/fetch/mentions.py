"""Which addresses a conversation has mentioned.

A page can talk a model into carrying what it knows to an address made up for that. An address that somebody wrote
down before the model did cannot hold secrets of the conversation, so those alone are fetched. (Anthropic's fetch tool
has the same rule: platform.claude.com/docs, "Web fetch tool".)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from deepserve.core.messages import Message, ServerToolResult, Text, ToolResult
from deepserve.core.server_tool import FetchedPage, SearchResults, ToolOutput

_ADDRESS = re.compile(
    r"""(?:https?|doc)://[^\s<>"'`{}|\\^]{1,8192}
    |   (?<![\w@/.-])(?:[\w-]{1,63}\.){1,8}[a-z]{2,24}(?![\w-])(?:/[^\s<>"'`]{0,2048})?
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""Written out, or as people say it: example.com/a."""
_ENDS = ".,;:!?*_~…。，、；：！？”’»)]}"
_BRACKETS = {")": "(", "]": "[", "}": "{"}
_MAX_ENDS = 8


class Mentions:
    """Grows with the conversation; asks nothing of it but its text."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._known: set[str] = set()
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        for found in _ADDRESS.findall(text):
            for each in _readings(found):
                self._known.add(_plain(each))

    def add_address(self, url: str) -> None:
        self._known.add(_plain(url))

    def add_output(self, output: ToolOutput) -> None:
        """What a tool of the server's found. What programs print and faults say may be the model's own words."""
        match output:
            case SearchResults(hits=hits):
                for hit in hits:
                    self.add_address(hit.url)
                    self.add(hit.snippet)
            case FetchedPage():
                self.add_address(output.url)
                self.add(output.text)
            case _:
                pass

    def __contains__(self, url: str) -> bool:
        return _plain(url) in self._known


def mentions_of(messages: Sequence[Message]) -> Mentions:
    """What users, systems and tools wrote. What the model wrote counts for nothing: it is the one to be checked."""
    mentions = Mentions()
    for message in messages:
        for part in message.parts:
            match part:
                case Text(text=text) if message.role != "assistant":
                    mentions.add(text)
                case ToolResult(content=content):
                    for piece in content:
                        if isinstance(piece, Text):
                            mentions.add(piece.text)
                case ServerToolResult(output=output) if output is not None:
                    mentions.add_output(output)
                case _:
                    pass
    return mentions


def _readings(found: str) -> Iterable[str]:
    """Prose goes on right behind an address; where it begins is not always plain."""
    yield found
    for _ in range(_MAX_ENDS):
        if not found or found[-1] not in _ENDS:
            break
        end = found[-1]
        found = found[:-1]
        if end in _BRACKETS and found.count(_BRACKETS[end]) > found.count(end):
            break
        yield found


def _plain(url: str) -> str:
    """One spelling for what leads to the same page: scheme, `www.` as written, final slash and fragment aside."""
    if "://" not in url:
        url = f"https://{url}"
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return url
    scheme = "https" if parts.scheme == "http" else parts.scheme
    place = host if port in (None, 80, 443) else f"{host}:{port}"
    return f"{scheme}://{place}{parts.path.rstrip('/')}{'?' * bool(parts.query)}{parts.query}"

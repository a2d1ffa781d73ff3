"""Which addresses a conversation has mentioned.

A page can talk a model into carrying what it knows to an address made up for that. An address that somebody wrote
down before the model did cannot hold secrets of the conversation, so those alone are fetched. (Anthropic's fetch tool
has the same rule: platform.claude.com/docs, "Web fetch tool".)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
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
_MAX_CHARACTERS = 8_192
_MAX_WORDS = 10_000


class Mentions:
    """Grows with the conversation; asks nothing of it but its text.

    A conversation may be long, so it is looked through for one address at a time, and closely only where the
    address's host stands.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._texts = list(texts)
        self._addresses: set[str] = set()

    def add(self, text: str) -> None:
        self._texts.append(text)

    def add_address(self, url: str) -> None:
        self._addresses.add(_plain(url))

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
        wanted = _plain(url)
        if wanted in self._addresses:
            return True
        host, path = _host_and_path(wanted)
        if not host:
            return False
        seen: set[str] = set()
        for word in (word for text in self._texts for word in _words_with(host, text)):
            if path not in word or word in seen:
                continue
            seen.add(word)
            if any(_plain(each) == wanted for found in _ADDRESS.findall(word) for each in _readings(found)):
                return True
            if len(seen) == _MAX_WORDS:
                break  # whoever hides an address among so many does not need it found
        return False


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


def _words_with(host: str, text: str) -> Iterator[str]:
    """What stands between blanks around each place where a host is written, or as much as an address may have."""
    at = 0
    pattern = re.compile(re.escape(host), re.IGNORECASE)
    while place := pattern.search(text, at):
        before = text[max(at, place.start() - _MAX_CHARACTERS) : place.start()]
        after = text[place.end() : place.end() + _MAX_CHARACTERS]
        head = "" if not before or before[-1].isspace() else before.split()[-1]
        tail = "" if not after or after[0].isspace() else after.split(maxsplit=1)[0]
        yield head + place[0] + tail
        at = place.end() + len(tail)


def _host_and_path(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.path
    except ValueError:
        return "", ""


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

"""Lines of questions: those of OpenAI's batches, and plain bodies of requests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

CHAT_URL: Final = "/v1/chat/completions"
_MEMBERS: Final = ("custom_id", "method", "url", "body")
_MAX_ID_CHARACTERS: Final = 512


class Question(msgspec.Struct, frozen=True):
    """id: the same for the same address and body only, and stands with the answer, so that a later run can tell."""

    line: int
    custom_id: str
    id: str
    url: str
    body: dict[str, Any]  # Any: JSON


class MalformedLine(msgspec.Struct, frozen=True):
    """What cannot be asked, and why. custom_id: None where the line has none that can be read."""

    line: int
    reason: str
    custom_id: str | None = None


def read_questions(path: Path, *, url: str = CHAT_URL) -> Iterator[Question | MalformedLine]:
    """Line by line, however large the file is; blank lines are none. url: where plain bodies go.

    A plain body is called `line-N` after the number of its line. Raises OSError.
    """
    taken: dict[str, int] = {}
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            found = _read(number, raw, url)
            if isinstance(found, Question):
                earlier = taken.setdefault(found.custom_id, number)
                if earlier != number:
                    reason = f"custom_id {found.custom_id!r} is that of line {earlier} already"
                    found = MalformedLine(number, reason, found.custom_id)
            yield found


def _read(number: int, raw: bytes, default_url: str) -> Question | MalformedLine:
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return MalformedLine(number, f"not JSON: {error}")
    if not isinstance(value, dict):
        return MalformedLine(number, "not a JSON object")
    is_plain = not {"custom_id", "body", "url", "method"} & value.keys()
    line = {"custom_id": f"line-{number}", "url": default_url, "body": value} if is_plain else value
    custom_id, url, body = line.get("custom_id"), line.get("url", default_url), line.get("body")
    known_id = custom_id if isinstance(custom_id, str) else None

    def malformed(reason: str) -> MalformedLine:
        return MalformedLine(number, reason, known_id)

    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= _MAX_ID_CHARACTERS:
        return malformed(f"custom_id must be a text of 1 to {_MAX_ID_CHARACTERS} characters")
    if line.get("method", "POST") != "POST":
        return malformed(f"method must be POST, not {line['method']!r}")
    if not isinstance(url, str) or not url.startswith("/") or not url.isprintable() or " " in url:
        return malformed(f"url must be a path such as {CHAT_URL}")
    if not isinstance(body, dict):
        return malformed("body must be a JSON object")
    unknown = [name for name in line if name not in _MEMBERS and not is_plain]
    if unknown:
        return malformed(f"unknown member {unknown[0]!r}; a line has {', '.join(_MEMBERS)}")
    if body.get("stream"):
        return malformed("stream must not be true: answers of a batch come whole")
    digest = hashlib.sha256(msgspec.json.encode([url, body], order="deterministic")).hexdigest()
    return Question(number, custom_id, f"batch_req_{digest[:32]}", url, body)

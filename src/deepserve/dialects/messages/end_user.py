"""`metadata.user_id`: whose cached prefixes and memories a request may use.

Any text is taken, for clients put whole JSON objects there. What names the conversation rather than the person is left
out: Claude Code sends its session's id along, and every session would begin with an empty cache.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

_PLAIN = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_SESSION_SUFFIX = re.compile(r"_session_[0-9a-fA-F-]{8,}\Z")


def end_user(text: str) -> str | None:
    """An identifier of the end user: the text itself where it is short and plain, else a digest. None for no text."""
    person = _SESSION_SUFFIX.sub("", _without_session(text))
    if not person:
        return None
    if _PLAIN.fullmatch(person):
        return person
    return "sha256-" + hashlib.sha256(person.encode()).hexdigest()[:32]


def _without_session(text: str) -> str:
    if not text.startswith("{"):
        return text
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
    if not isinstance(value, dict):
        return text
    kept = {key: item for key, item in value.items() if "session" not in key.lower()}
    return msgspec.json.encode(kept, order="sorted").decode() if kept else ""

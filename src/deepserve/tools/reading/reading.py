"""What came of reading a document."""

from __future__ import annotations

import msgspec


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """text: plain, or Markdown where the document has structure. is_cut: it goes on."""

    title: str = ""
    text: str
    is_cut: bool = False


class Unreadable(msgspec.Struct, frozen=True, kw_only=True):
    """is_kind: the kind of document is at fault, and not this one. reason: a sentence for whoever asked for it."""

    reason: str
    is_kind: bool = False

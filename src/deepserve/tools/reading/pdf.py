"""A PDF file as text, page by page. Needs the extra `pdf`; runs in a process of its own (see `process`)."""

from __future__ import annotations

import io

from pypdf import PdfReader
from pypdf.errors import PyPdfError

from deepserve.tools.reading.reading import Reading, Unreadable

_MAX_PAGES = 1_000


def read_pdf(content: bytes, *, max_characters: int) -> Reading | Unreadable:
    try:
        reader = PdfReader(io.BytesIO(content))
        title = (reader.metadata.title if reader.metadata else None) or ""
        pages: list[str] = []
        room = max_characters
        for number, page in enumerate(reader.pages[:_MAX_PAGES], start=1):
            text = page.extract_text().strip()
            pages.append(f"## Page {number}\n\n{text[:room]}" if text else "")
            room -= len(text)
            if room <= 0:
                break
        is_cut = room < 0 or len(pages) < len(reader.pages)
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, RecursionError) as error:
        # A damaged file surfaces as any of these.
        return Unreadable(reason=f"The PDF file cannot be read: {type(error).__name__}.")
    text = "\n\n".join(page for page in pages if page)
    if not text:
        return Unreadable(reason="The PDF file has no text; perhaps it is a scan.")
    return Reading(title=" ".join(str(title).split())[:300], text=text, is_cut=is_cut)

"""Documents cut into passages: what a search finds and an address can lead to."""

from __future__ import annotations

import re
from collections.abc import Iterator

from deepserve.store.search_index import Passage

PASSAGE_CHARACTERS = 1_200

_UNDERLINE = re.compile(r"(=+|-+)[ \t]*")
_FENCE = re.compile(r"[ \t]{0,3}(`{3,}|~{3,})")
_LINK = re.compile(r"!?\[([^\]\n]{0,300})\]\([^)\s]{0,2000}\)")
_SLUG_UNWANTED = re.compile(r"[^\w\- ]")


def markdown_passages(text: str) -> tuple[str, tuple[Passage, ...]]:
    """The first heading, and passages under their headings, with the anchors that GitHub would give them.

    https://docs.github.com/en/get-started/writing-on-github/getting-started-with-writing-and-formatting-on-github/basic-writing-and-formatting-syntax#section-links
    """
    title = ""
    passages: list[Passage] = []
    used: dict[str, int] = {}
    for heading, body in _sections(text):
        anchor = _anchor(heading, used) if heading else ""
        title = title or heading
        passages += [Passage(text=piece, heading=heading, anchor=anchor) for piece in _pieces(body)]
        if heading and not body.strip():
            # A heading without text is worth finding, too.
            passages.append(Passage(text="", heading=heading, anchor=anchor))
    return title, tuple(passages)


def line_passages(text: str) -> tuple[Passage, ...]:
    """Passages of source files and the like, with the number of their first line as the anchor."""
    passages: list[Passage] = []
    lines: list[str] = []
    first, length = 1, 0
    for number, line in enumerate(text.split("\n"), start=1):
        if lines and length + len(line) > PASSAGE_CHARACTERS:
            passages.append(_of_lines(lines, first))
            lines, first, length = [], number, 0
        lines.append(line)
        length += len(line) + 1
    passages.append(_of_lines(lines, first))
    return tuple(
        Passage(text=piece, anchor=passage.anchor)
        for passage in passages
        if passage.text.strip()
        for piece in _slices(passage.text)
    )


def _of_lines(lines: list[str], first: int) -> Passage:
    return Passage(text="\n".join(lines).rstrip(), anchor=f"L{first}")


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """Heading and what stands below it, in order; what stands above the first heading has an empty one."""
    heading = ""
    lines: list[str] = []
    fence = ""
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if mark is not None and (not fence or line.strip().startswith(fence)):
            fence = "" if fence else mark[1]
        found = None if fence else _heading(line)
        is_underline = not fence and _UNDERLINE.fullmatch(line) is not None and bool(lines) and lines[-1].strip() != ""
        if found is not None:
            yield heading, "\n".join(lines)
            heading, lines = _plain(found), []
        elif is_underline and (len(lines) == 1 or not lines[-2].strip()) and not lines[-1].startswith((" ", "-", "|")):
            above = lines.pop()
            yield heading, "\n".join(lines)
            heading, lines = _plain(above), []
        else:
            lines.append(line)
    yield heading, "\n".join(lines)


def _heading(line: str) -> str | None:
    """What stands behind one to six `#` and a blank, without those at the end."""
    text = line.lstrip("#")
    level = len(line) - len(text)
    if not 1 <= level <= 6 or (text and text[0] not in " \t"):
        return None
    return text.strip().rstrip("#").rstrip()


def _pieces(body: str) -> Iterator[str]:
    """Paragraphs, several to a piece as long as they fit."""
    piece = ""
    for paragraph in re.split(r"\n[ \t]*\n", body):
        if not paragraph.strip():
            continue
        paragraph = paragraph.strip("\n").rstrip()
        if piece and len(piece) + len(paragraph) > PASSAGE_CHARACTERS:
            yield from _slices(piece)
            piece = ""
        piece = f"{piece}\n\n{paragraph}" if piece else paragraph
    if piece:
        yield from _slices(piece)


def _slices(text: str) -> Iterator[str]:
    """Text without any paragraph that fits: cut at blanks where there are some."""
    start = 0
    while len(text) - start > PASSAGE_CHARACTERS:
        end = start + PASSAGE_CHARACTERS
        blank = max(text.rfind(" ", start, end), text.rfind("\n", start, end))
        end = blank + 1 if blank > start else end
        yield text[start:end]
        start = end
    yield text[start:]


def _anchor(heading: str, used: dict[str, int]) -> str:
    slug = _SLUG_UNWANTED.sub("", heading.lower()).strip().replace(" ", "-")
    count = used.get(slug, 0)
    used[slug] = count + 1
    return f"{slug}-{count}" if count else slug


def _plain(heading: str) -> str:
    return _LINK.sub(r"\1", heading).replace("`", "").replace("*", "").strip()[:300]

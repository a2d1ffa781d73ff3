"""A web page as Markdown: what a person would read of it.

Runs in a process of its own (see `process`): a parser's work can grow with the square of what a stranger nests.
"""

from __future__ import annotations

import re
from urllib.parse import urljoin

from selectolax.lexbor import LexborHTMLParser, LexborNode

from deepserve.tools.reading.reading import Reading

_UNREAD = frozenset(
    (
        *("script", "style", "noscript", "template", "head", "svg", "math", "iframe", "object", "embed", "canvas"),
        *("button", "select", "input", "textarea", "dialog", "audio", "video", "map", "frameset", "datalist"),
    )
)
_AROUND = frozenset(("nav", "header", "footer", "aside", "form"))
"""What stands around the text of a page, unless the page has nothing else."""

_BLOCKS = frozenset(
    (
        *("p", "div", "section", "article", "main", "ul", "ol", "dl", "dt", "dd", "figure", "figcaption", "table"),
        *("address", "details", "summary", "fieldset", "legend", "hr", "body", "html", "hgroup", "center", "menu"),
        *("thead", "tbody", "tfoot", "caption", "search", *_AROUND),
    )
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_BLANKS = re.compile(r"[ \t\r\n\f\xa0]+")
_BLANKS_BUT_BREAKS = re.compile(r"[ \t\r\f\xa0]+")
_LINKABLE = ("http://", "https://", "doc://")
_MAX_NODES = 400_000
_MAX_LIST_DEPTH = 8
_MAIN_SHARE = 0.3
_TITLE_CHARACTERS = 300


def read_html(text: str, *, url: str, max_characters: int) -> Reading:
    parser = LexborHTMLParser(text)
    title = parser.css_first("title")
    body = _main_part(parser)
    writer = _Writer(url, max_characters)
    is_whole = body is None or _walk(body, writer, is_page=body.tag == "body")
    written = writer.finish()
    if body is not None and body.tag == "body" and not written:
        # Nothing but what usually stands around the text: then that is the text.
        writer = _Writer(url, max_characters)
        is_whole = _walk(body, writer, is_page=False)
        written = writer.finish()
    name = _BLANKS.sub(" ", title.text() if title is not None else "").strip()
    return Reading(title=name[:_TITLE_CHARACTERS], text=written, is_cut=not is_whole)


def _main_part(parser: LexborHTMLParser) -> LexborNode | None:
    """The one element that says it is the main part, where it holds a good share of the page; else the body."""
    body = parser.body
    for selector in ("main, [role=main]", "article"):
        found = parser.css(selector)
        if len(found) == 1 and body is not None:
            if len(found[0].text()) >= _MAIN_SHARE * len(body.text()):
                return found[0]
            break
    return body


def _walk(root: LexborNode, writer: _Writer, *, is_page: bool) -> bool:
    """Whether everything was seen. Without recursion: pages may be nested deeper than Python's stack."""
    node: LexborNode | None = root
    num_nodes = 0
    while node is not None:
        num_nodes += 1
        if num_nodes > _MAX_NODES or writer.is_full:
            return False
        if _is_read(node, is_page=is_page):
            writer.enter(node)
            if node.child is not None:
                node = node.child
                continue
            writer.leave(node)
        while node is not None:
            if node.mem_id == root.mem_id:
                return True
            if node.next is not None:
                node = node.next
                break
            node = node.parent
            if node is not None:
                writer.leave(node)
    return True


def _is_read(node: LexborNode, *, is_page: bool) -> bool:
    if node.is_text_node:
        return True
    if not node.is_element_node or node.tag in _UNREAD or (is_page and node.tag in _AROUND):
        return False
    attributes = node.attributes
    return (
        "hidden" not in attributes
        and attributes.get("aria-hidden") != "true"
        and not _HIDDEN_STYLE.search(attributes.get("style") or "")
    )


class _Writer:
    """Collects blocks of Markdown while the tree is walked."""

    def __init__(self, url: str, max_characters: int) -> None:
        self._url = url
        self._room = max_characters
        self._blocks: list[str] = []
        self._line: list[str] = []
        self._lists: list[int | None] = []
        """For each list around: the number of the next item; None: bullets."""
        self._marker = ""
        self._prefix = ""
        self._num_quotes = 0
        self._num_pre = 0
        self._links: list[tuple[int, str]] = []
        self._num_cells = 0
        self._was_item = (False, False)
        """Whether the last block belongs to a list, to a table: then the next one goes right below it."""

    @property
    def is_full(self) -> bool:
        return self._room <= 0

    def finish(self) -> str:
        self._flush()
        return "\n\n".join(self._blocks).strip()

    def enter(self, node: LexborNode) -> None:
        tag = node.tag or ""
        if node.is_text_node:
            self._write(node.text_content or "")
        elif tag in _HEADINGS:
            self._flush()
            self._prefix = "#" * _HEADINGS[tag] + " "
        elif tag in ("ul", "ol", "menu"):
            self._flush()
            self._lists.append(1 if tag == "ol" else None)
        elif tag == "li":
            self._flush()
            self._begin_item()
        elif tag == "pre":
            self._flush()
            self._num_pre += 1
        elif tag == "blockquote":
            self._flush()
            self._num_quotes += 1
        elif tag == "br":
            self._line.append("\n")
        elif tag == "tr":
            self._flush()
            self._num_cells = 0
        elif tag in ("td", "th"):
            self._line.append(" | " if self._num_cells else "")
            self._num_cells += 1
        elif tag == "img":
            self._write(node.attributes.get("alt") or "")
        elif tag == "a":
            self._links.append((len(self._line), self._target(node)))
        elif tag in _BLOCKS:
            self._flush()

    def leave(self, node: LexborNode) -> None:
        tag = node.tag or ""
        if tag in _HEADINGS:
            self._flush()
            self._prefix = ""
        elif tag in ("ul", "ol", "menu"):
            self._flush()
            if self._lists:
                self._lists.pop()
            if not self._lists:
                self._was_item = (False, False)
        elif tag == "pre":
            self._flush()
            self._num_pre -= 1
        elif tag == "blockquote":
            self._flush()
            self._num_quotes -= 1
        elif tag == "a" and self._links:
            self._end_link(*self._links.pop())
        elif tag in ("li", "tr") or tag in _BLOCKS:
            self._flush()

    def _write(self, text: str) -> None:
        if not self._num_pre:
            text = _BLANKS.sub(" ", text)
        self._line.append(text[: max(0, self._room)])
        self._room -= len(text)

    def _begin_item(self) -> None:
        number = self._lists[-1] if self._lists else None
        indent = "  " * min(max(0, len(self._lists) - 1), _MAX_LIST_DEPTH)
        self._marker = f"{indent}- " if number is None else f"{indent}{number}. "
        if self._lists and number is not None:
            self._lists[-1] = number + 1

    def _target(self, node: LexborNode) -> str:
        try:
            target = urljoin(self._url, (node.attributes.get("href") or "").strip())
        except ValueError:
            return ""
        is_shown = target.startswith(_LINKABLE) and target.isprintable() and not set(target) & set(" ()<>")
        return target if is_shown and target.partition("#")[0] != self._url.partition("#")[0] else ""

    def _end_link(self, start: int, target: str) -> None:
        label = "".join(self._line[start:]).strip()
        # A block within the link has been written already.
        if target and label and start < len(self._line) and "\n" not in label and not self._num_pre:
            self._line[start:] = [f"[{label}]({target})"]
            self._room -= len(target) + 4

    def _flush(self) -> None:
        if self._num_pre:
            text = "".join(self._line).strip("\n")
            block = f"```\n{text}\n```" if text.strip() else ""
        else:
            lines = (line.strip() for line in _BLANKS_BUT_BREAKS.sub(" ", "".join(self._line)).split("\n"))
            block = "\n".join(line for line in lines if line)
        self._line = []
        self._links = [(0, target) for _, target in self._links]
        if not block:
            return
        is_item = bool(self._marker)
        block = f"{self._marker}{self._prefix}{block}"
        self._marker = ""
        if self._num_quotes:
            block = "\n".join(f"> {line}" for line in block.split("\n"))
        self._room -= 2
        is_row = self._num_cells > 0
        self._num_cells = 0
        if self._blocks and (is_item or is_row) and self._was_item == (is_item, is_row):
            self._blocks[-1] += f"\n{block}"
        else:
            self._blocks.append(block)
        self._was_item = (is_item, is_row)

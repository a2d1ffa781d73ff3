"""Search over folders that the operator names: an index that follows them, and pages out of it.

Found documents have addresses that tell the folder's name and the path within it, `doc://handbook/guide/limits.md#name`,
and nothing of the machine. Pages are read from the index, so no address can lead to a file that was not indexed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import quote, unquote, urlsplit

import msgspec
from typing_extensions import override

from deepserve.core.server_tool import FetchedPage, SearchHit, SearchResults, ToolFault
from deepserve.core.web_tools import SearchOptions
from deepserve.store.search_index import Document, FoundPassage, Passage, SearchIndex
from deepserve.tools.reading.charset import decode_text
from deepserve.tools.reading.process import ReaderProcess
from deepserve.tools.reading.reading import Unreadable
from deepserve.tools.reading.worker import Order
from deepserve.tools.search.folders.files import FileWalk, FolderLimits, FoundFile
from deepserve.tools.search.folders.passages import line_passages, markdown_passages
from deepserve.tools.search.folders.snippet import snippet
from deepserve.tools.search.provider import SearchProvider, Wish, one_line

_log = logging.getLogger(__name__)

SCHEME = "doc"

_BATCH = 32
_PASSAGES_PER_HIT = 3
_PASSAGES_LOOKED_AT = 8
_PASSAGE_SHOWN_CHARACTERS = 300
_FIRST_WAIT_S = 5.0
_MANY_FILES = 500
_FILES_BETWEEN_WORDS = 2_048
_MAX_DOCUMENT_CHARACTERS = 2_000_000
_READ_APART = frozenset(("text/html", "application/pdf"))
_TITLE_CHARACTERS = 300

_NOT_YET = ToolFault(code="unavailable", message="The documents are still being looked through; try again soon.")

Result = TypeVar("Result")


class IndexReport(msgspec.Struct, frozen=True, kw_only=True):
    """left_out: files that are not searched, by reason."""

    num_documents: int
    num_passages: int
    num_changed: int
    left_out: Mapping[str, int]


class FolderSearch(SearchProvider):
    """folders     by the names that addresses tell
    index       closed with the search
    rescan_s    how often the folders are looked through for changes
    on_progress hears in words how the work goes when there is much of it
    """

    name = "folders"
    scheme = SCHEME
    honours: frozenset[Wish] = frozenset(("dates",))

    def __init__(
        self,
        folders: Mapping[str, Path],
        index: SearchIndex,
        *,
        limits: FolderLimits | None = None,
        rescan_s: float = 30.0,
        on_progress: Callable[[str], None] = _log.info,
    ) -> None:
        self._folders = dict(folders)
        self._index = index
        self._limits = limits or FolderLimits()
        self._rescan_s = rescan_s
        self._on_progress = on_progress
        # A thread of its own: reading folders must not hold up whatever else runs in threads.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="deepserve-index")
        # And searches take turns in one of their own, however many there are.
        self._searching = ThreadPoolExecutor(1, thread_name_prefix="deepserve-search")
        self._is_cleared = asyncio.Event()  # of folders that are not offered any more
        self._is_ready = asyncio.Event()
        self._work: asyncio.Task[None] | None = None

    @override
    async def start(self) -> None:
        self._work = asyncio.create_task(self._follow())

    @override
    async def close(self) -> None:
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        for thread in (self._searching, self._thread):
            await asyncio.to_thread(thread.shutdown, wait=True, cancel_futures=True)
        await asyncio.to_thread(self._index.close)

    @override
    async def search(self, query: str, options: SearchOptions) -> SearchResults | ToolFault:
        """While the folders are indexed for the first time: what has been indexed so far, after a short wait."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_WAIT_S):
                await self._is_ready.wait()
        if not self._is_cleared.is_set():
            return _NOT_YET
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._searching,
                lambda: self._index.search(
                    query,
                    limit=options.max_results * _PASSAGES_LOOKED_AT,
                    modified_ns=(_start_of(options.after), _end_of(options.before)),
                ),
            )
        except TimeoutError:
            return ToolFault(code="timed_out", message="The search took too long; ask for fewer and rarer words.")
        return SearchResults(query=query, hits=_hits(found, query, options))

    async def page(self, url: str, *, max_characters: int) -> FetchedPage | ToolFault:
        """A document by its address; with an anchor from there on."""
        if not self._is_cleared.is_set():
            return _NOT_YET
        parts = urlsplit(url)
        document = await asyncio.get_running_loop().run_in_executor(
            self._searching, self._index.document, parts.netloc, unquote(parts.path.removeprefix("/"))
        )
        if document is None or parts.netloc not in self._folders:
            return ToolFault(code="not_accessible", message="There is no such document; search for it again.")
        passages = _from_anchor(document.passages, unquote(parts.fragment))
        text = _text_of(passages, is_source=document.media_type == "text/x-source")
        return FetchedPage(
            url=url,
            title=document.title,
            text=text[:max_characters],
            media_type="text/plain" if document.media_type == "text/x-source" else document.media_type,
            is_cut=document.is_cut or len(text) > max_characters,
        )

    async def refresh(self) -> IndexReport:
        """Look through the folders once, and take in what has changed."""
        left_out: Counter[str] = Counter()
        num_changed = 0
        room = [self._limits.num_files, self._limits.total_bytes]
        places = {name: str(folder.resolve()) for name, folder in self._folders.items()}
        await self._in_thread(self._index.keep_folders, places)
        self._is_cleared.set()
        async with ReaderProcess() as reader:
            for name, folder in self._folders.items():
                walk = FileWalk(folder, self._limits)
                files = await self._in_thread(lambda walk=walk: _within(walk, room))
                left_out += walk.left_out
                num_changed += await self._take_in(name, walk, files, reader)
        self._is_ready.set()
        num_documents, num_passages = await self._in_thread(self._index.counts)
        return IndexReport(
            num_documents=num_documents, num_passages=num_passages, num_changed=num_changed, left_out=left_out
        )

    async def _follow(self) -> None:
        """Until cancelled. A fault, such as a full disk, is told and met again after the next pause."""
        is_first = True
        while True:
            begun = time.monotonic()
            try:
                report = await self.refresh()
            except Exception:  # noqa: BLE001 - supervised: searching goes on with what is indexed
                _log.exception("The folders could not be indexed")
                self._is_ready.set()
            else:
                if is_first:
                    self._say_finished(report, time.monotonic() - begun)
                is_first = False
            await asyncio.sleep(self._rescan_s)

    def _say_finished(self, report: IndexReport, duration_s: float) -> None:
        missing = ", ".join(f"{number:,} {reason}" for reason, number in report.left_out.items())
        say = self._on_progress if report.num_changed > _MANY_FILES else _log.info
        say(
            f"Searching {report.num_documents:,} documents ({report.num_passages:,} passages; indexed in "
            f"{duration_s:.1f} s){f'; left out: {missing}' if missing else ''}."
        )

    async def _take_in(self, name: str, walk: FileWalk, files: Sequence[FoundFile], reader: ReaderProcess) -> int:
        known = await self._in_thread(self._index.versions, name)
        gone = known.keys() - {file.path for file in files}
        if gone:
            await self._in_thread(self._index.remove, name, gone)
        changed = [file for file in files if known.get(file.path) != (file.size_bytes, file.modified_ns)]
        for start in range(0, len(changed), _BATCH):
            if len(changed) > _MANY_FILES and start % _FILES_BETWEEN_WORDS < _BATCH:
                self._on_progress(f"Indexing {name}: {start:,} of {len(changed):,} documents.")
            batch = changed[start : start + _BATCH]
            plain = [file for file in batch if file.media_type not in _READ_APART]
            documents = await self._in_thread(lambda plain=plain: [_document(name, walk, file) for file in plain])
            for file in batch:
                if file.media_type in _READ_APART:
                    content = await self._in_thread(walk.read, file)
                    documents.append(await _document_read_apart(name, file, content, reader))
            await self._in_thread(self._index.put, documents)
        return len(changed) + len(gone)

    async def _in_thread(self, work: Callable[..., Result], *given: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *given)


def address_of(folder: str, path: str, anchor: str = "") -> str:
    return f"{SCHEME}://{folder}/{quote(path)}{f'#{quote(anchor)}' if anchor else ''}"


def _within(walk: FileWalk, room: list[int]) -> list[FoundFile]:
    """The files for which there is room; `room` becomes what is left."""
    files: list[FoundFile] = []
    for file in walk.files():
        if room[0] <= 0 or room[1] < file.size_bytes:
            walk.left_out["beyond the limits"] += 1
            continue
        room[0] -= 1
        room[1] -= file.size_bytes
        files.append(file)
    return files


def _document(folder: str, walk: FileWalk, file: FoundFile) -> Document:
    """A file without readable content has no passages, but is known, so that it is not read again each time."""
    content = walk.read(file) or b""
    text = "" if b"\0" in content[:1024] else decode_text(content).replace("\r\n", "\n")
    if file.media_type == "text/x-source":
        return _made(folder, file, "", line_passages(text))
    title, passages = markdown_passages(text)
    return _made(folder, file, title, passages)


async def _document_read_apart(folder: str, file: FoundFile, content: bytes | None, reader: ReaderProcess) -> Document:
    order = Order(
        content=content or b"",
        media_type=file.media_type,
        url=address_of(folder, file.path),
        max_characters=_MAX_DOCUMENT_CHARACTERS,
    )
    reading = await reader.read(order)
    if isinstance(reading, Unreadable):
        _log.info("%s in %s is not searched: %s", file.path, folder, reading.reason)
        return _made(folder, file, "", ())
    heading, passages = markdown_passages(reading.text)
    return _made(folder, file, reading.title or heading, passages, is_cut=reading.is_cut)


def _made(folder: str, file: FoundFile, title: str, passages: tuple[Passage, ...], *, is_cut: bool = False) -> Document:
    return Document(
        folder=folder,
        path=file.path,
        title=one_line(title, _TITLE_CHARACTERS) or PurePosixPath(file.path).name,
        media_type=file.media_type,
        size_bytes=file.size_bytes,
        modified_ns=file.modified_ns,
        passages=passages,
        is_cut=is_cut,
    )


def _hits(found: Sequence[FoundPassage], query: str, options: SearchOptions) -> tuple[SearchHit, ...]:
    """One hit for each document, at its best passage; what else is in it follows in the snippet."""
    by_document: dict[tuple[str, str], list[FoundPassage]] = {}
    for each in found:
        by_document.setdefault((each.folder, each.path), []).append(each)
    hits: list[SearchHit] = []
    for (folder, path), passages in by_document.items():
        best = passages[0]
        url = address_of(folder, path, best.passage.anchor)
        if not options.domains.allows(url):
            continue
        kept = passages[: min(_PASSAGES_PER_HIT, 1 + options.max_characters // _PASSAGE_SHOWN_CHARACTERS)]
        room = options.max_characters // len(kept)
        parts = [snippet(each.passage.text or each.passage.heading, query, room).strip("… ") for each in kept]
        heading = best.passage.heading
        title = best.title if heading in ("", best.title) else f"{best.title} - {heading}"
        hits.append(
            SearchHit(
                url=url,
                title=one_line(title, _TITLE_CHARACTERS),
                snippet=one_line(" … ".join(parts), options.max_characters),
                age=datetime.fromtimestamp(best.modified_ns / 1e9, UTC).date().isoformat(),
            )
        )
        if len(hits) == options.max_results:
            break
    return tuple(hits)


def _from_anchor(passages: tuple[Passage, ...], anchor: str) -> tuple[Passage, ...]:
    """Everything, where the anchor is not there any more."""
    start = next((number for number, passage in enumerate(passages) if anchor and passage.anchor == anchor), 0)
    return passages[start:]


def _text_of(passages: Sequence[Passage], *, is_source: bool) -> str:
    if is_source:
        return "\n".join(passage.text for passage in passages)
    pieces: list[str] = []
    heading = ""
    for passage in passages:
        if passage.heading and passage.anchor != heading:
            pieces.append(f"## {passage.heading}")
        heading = passage.anchor
        pieces += [passage.text] if passage.text else []
    return "\n\n".join(pieces)


def _start_of(day: date | None) -> int:
    return -(2**62) if day is None else int(datetime.combine(day, time_of_day.min, UTC).timestamp()) * 10**9


def _end_of(day: date | None) -> int:
    return 2**62 if day is None else int(datetime.combine(day, time_of_day.max, UTC).timestamp() + 1) * 10**9

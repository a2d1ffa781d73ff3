"""Full-text search over passages of documents.

The index lives in a file of its own: it can be thrown away and made again at any time, and filling it must not hold up
what the server has to remember.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from deepserve.core.errors import ConfigurationError

_FORMAT = 2
"""Raised when the tables or the way words are cut change; an index of another format is made anew."""

_TABLES = (
    "CREATE TABLE folder (name TEXT PRIMARY KEY, place TEXT NOT NULL)",
    """CREATE TABLE document (
    id INTEGER PRIMARY KEY, folder TEXT NOT NULL, path TEXT NOT NULL, title TEXT NOT NULL, media_type TEXT NOT NULL,
    size_bytes INTEGER NOT NULL, modified_ns INTEGER NOT NULL, is_cut INTEGER NOT NULL, UNIQUE (folder, path)
)""",
    """CREATE TABLE passage (
    id INTEGER PRIMARY KEY, document_id INTEGER NOT NULL, heading TEXT NOT NULL, anchor TEXT NOT NULL,
    text TEXT NOT NULL
)""",
    "CREATE INDEX passage_by_document ON passage (document_id)",
    """CREATE VIRTUAL TABLE passage_words USING fts5 (
    title, heading, text, content='', tokenize='porter unicode61 remove_diacritics 2'
)""",
)

_WORD = re.compile(r"[^\W_]+")
_PHRASE = re.compile(r'(?<!\S)(-?)"([^"]*)"|(?<!\S)-(?=[^\W_])(\S+)|([^"\s]\S*|")')
# Kana, ideographs and Hangul: written without blanks between words, so each character counts as one.
_SYLLABLES = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_SYLLABLE = re.compile(f"([{_SYLLABLES}])")
_RUN = re.compile(f"[{_SYLLABLES}]+|[^{_SYLLABLES}]+")

_MAX_TERMS = 32
_SEARCH_S = 5.0
_STEPS_BETWEEN_LOOKS = 10_000
_WAIT_S = 30.0
"""For another process to take its documents in."""


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of a document under one heading. anchor: what leads to it, after the `#` of an address."""

    text: str
    heading: str = ""
    anchor: str = ""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """path is relative to the folder, with slashes. is_cut: its passages are not all of it."""

    folder: str
    path: str
    title: str
    media_type: str
    size_bytes: int
    modified_ns: int
    passages: tuple[Passage, ...]
    is_cut: bool = False


class FoundPassage(msgspec.Struct, frozen=True, kw_only=True):
    folder: str
    path: str
    title: str
    modified_ns: int
    passage: Passage


class SearchIndex:
    """May be used by several threads; one at a time gets its turn. path: None keeps everything in memory.

    Raises ConfigurationError when the file cannot be used.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._turn = threading.Lock()
        try:
            self._connection = _open(path)
        except sqlite3.DatabaseError as error:
            raise ConfigurationError(
                f"The search index {path} cannot be used: {error}. Delete it; it is made anew."
            ) from error

    def close(self) -> None:
        with self._turn:
            self._connection.close()

    def versions(self, folder: str) -> dict[str, tuple[int, int]]:
        """Size and time of change of each document that is in here, by path."""
        with self._turn:
            rows = self._connection.execute(
                "SELECT path, size_bytes, modified_ns FROM document WHERE folder = ?", (folder,)
            )
            return {path: (size, modified) for path, size, modified in rows}

    def counts(self) -> tuple[int, int]:
        """Documents and passages."""
        with self._turn:
            documents, passages = self._connection.execute(
                "SELECT (SELECT count(*) FROM document), (SELECT count(*) FROM passage)"
            ).fetchone()
            return documents, passages

    def put(self, documents: Iterable[Document]) -> None:
        """Take documents in, in place of what was known of them."""
        with self._turn, _writing(self._connection):
            for document in documents:
                self._forget(document.folder, document.path)
                self._add(document)

    def remove(self, folder: str, paths: Iterable[str]) -> None:
        with self._turn, _writing(self._connection):
            for path in paths:
                self._forget(folder, path)

    def keep_folders(self, places: Mapping[str, str]) -> None:
        """Forget every folder but these, by name, and those that lay in another place."""
        with self._turn, _writing(self._connection):
            known = dict(self._connection.execute("SELECT name, place FROM folder"))
            if known == places:
                return
            kept = {name for name, place in places.items() if known.get(name) == place}
            rows = self._connection.execute("SELECT folder, path FROM document").fetchall()
            for folder, path in rows:
                if folder not in kept:
                    self._forget(folder, path)
            self._connection.execute("DELETE FROM folder")
            self._connection.executemany("INSERT INTO folder (name, place) VALUES (?, ?)", places.items())

    def document(self, folder: str, path: str) -> Document | None:
        with self._turn:
            row = self._connection.execute(
                "SELECT id, title, media_type, size_bytes, modified_ns, is_cut FROM document"
                " WHERE folder = ? AND path = ?",
                (folder, path),
            ).fetchone()
            if row is None:
                return None
            identity, title, media_type, size_bytes, modified_ns, is_cut = row
            passages = self._connection.execute(
                "SELECT heading, anchor, text FROM passage WHERE document_id = ? ORDER BY id", (identity,)
            ).fetchall()
        return Document(
            folder=folder,
            path=path,
            title=title,
            media_type=media_type,
            size_bytes=size_bytes,
            modified_ns=modified_ns,
            passages=tuple(Passage(heading=heading, anchor=anchor, text=text) for heading, anchor, text in passages),
            is_cut=bool(is_cut),
        )

    def search(self, text: str, *, limit: int, modified_ns: tuple[int, int] | None = None) -> list[FoundPassage]:
        """Passages for what a person or a model typed, best first; nothing in it is an operator but quotes and minus.

        Passages with all of the words come first, then those with some. modified_ns: from and up to. Raises
        TimeoutError.
        """
        found: dict[int, FoundPassage] = {}
        for expression in _expressions(text):
            with self._turn, self._bounded():
                rows = self._connection.execute(
                    "SELECT p.id, d.folder, d.path, d.title, d.modified_ns, p.heading, p.anchor, p.text"
                    " FROM passage_words JOIN passage p ON p.id = passage_words.rowid"
                    " JOIN document d ON d.id = p.document_id"
                    " WHERE passage_words MATCH ? AND d.modified_ns BETWEEN ? AND ?"
                    " ORDER BY bm25(passage_words, 4.0, 2.0, 1.0), p.id LIMIT ?",
                    (expression, *(modified_ns or (-(2**62), 2**62)), limit),
                ).fetchall()
            for identity, folder, path, title, modified, heading, anchor, words in rows:
                passage = Passage(text=words, heading=heading, anchor=anchor)
                found.setdefault(
                    identity,
                    FoundPassage(folder=folder, path=path, title=title, modified_ns=modified, passage=passage),
                )
            if len(found) >= limit:
                break
        return list(found.values())[:limit]

    @contextlib.contextmanager
    def _bounded(self) -> Iterator[None]:
        """No search holds up the next ones for longer."""
        ends_at = time.monotonic() + _SEARCH_S
        self._connection.set_progress_handler(lambda: time.monotonic() > ends_at, _STEPS_BETWEEN_LOOKS)
        try:
            yield
        except sqlite3.OperationalError as error:
            if time.monotonic() < ends_at:
                raise
            raise TimeoutError(f"the search took longer than {_SEARCH_S:g} s") from error
        finally:
            self._connection.set_progress_handler(None, 0)

    def _add(self, document: Document) -> None:
        row = (
            document.folder,
            document.path,
            document.title,
            document.media_type,
            document.size_bytes,
            document.modified_ns,
            document.is_cut,
        )
        identity = self._connection.execute(
            "INSERT INTO document (folder, path, title, media_type, size_bytes, modified_ns, is_cut)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            row,
        ).lastrowid
        for passage in document.passages:
            number = self._connection.execute(
                "INSERT INTO passage (document_id, heading, anchor, text) VALUES (?, ?, ?, ?)",
                (identity, passage.heading, passage.anchor, passage.text),
            ).lastrowid
            self._connection.execute(
                "INSERT INTO passage_words (rowid, title, heading, text) VALUES (?, ?, ?, ?)",
                (number, *_words(document.title, passage.heading, passage.text)),
            )

    def _forget(self, folder: str, path: str) -> None:
        rows = self._connection.execute(
            "SELECT p.id, d.title, p.heading, p.text FROM passage p JOIN document d ON d.id = p.document_id"
            " WHERE d.folder = ? AND d.path = ?",
            (folder, path),
        ).fetchall()
        for number, *texts in rows:
            # The words are not stored, so the index must be told again what it is to forget:
            # https://www.sqlite.org/fts5.html#the_delete_command
            self._connection.execute(
                "INSERT INTO passage_words (passage_words, rowid, title, heading, text) VALUES ('delete', ?, ?, ?, ?)",
                (number, *_words(*texts)),
            )
            self._connection.execute("DELETE FROM passage WHERE id = ?", (number,))
        self._connection.execute("DELETE FROM document WHERE folder = ? AND path = ?", (folder, path))


def _open(path: Path | None) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:" if path is None else path, check_same_thread=False, timeout=_WAIT_S)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        if _format_of(connection) != _FORMAT:
            with _writing(connection):
                if _format_of(connection) != _FORMAT:  # else another process was quicker
                    _drop_everything(connection)
                    for statement in _TABLES:
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version={_FORMAT}")
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _writing(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction in which what is read stays true until it is written: other processes share the file."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def _format_of(connection: sqlite3.Connection) -> int:
    [version] = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _drop_everything(connection: sqlite3.Connection) -> None:
    for table in ("passage_words", "passage", "document", "folder"):
        connection.execute(f"DROP TABLE IF EXISTS {table}")


def _words(*texts: str) -> tuple[str, ...]:
    return tuple(_SYLLABLE.sub(r" \1 ", text) for text in texts)


def _expressions(text: str) -> list[str]:
    """The same question twice in the language of FTS5: everything wanted, then anything wanted.

    Every word is quoted, so nothing that was typed is taken for an operator or a column.
    """
    strict: list[str] = []
    loose: list[str] = []
    unwanted: list[str] = []
    for minus, phrase, excluded, word in _PHRASE.findall(text):
        if minus or excluded:
            unwanted += _quoted(phrase or excluded)
        elif phrase:
            strict += _quoted(phrase)
            loose += _quoted(phrase)
        else:
            for each in _WORD.findall(word):
                for run in _RUN.findall(each):
                    pieces = _pieces(run)
                    strict += [f'"{" ".join(run)}"'] if len(pieces) > 1 and len(run) <= 4 else pieces
                    loose += pieces
    strict = list(dict.fromkeys(strict))[:_MAX_TERMS]
    loose = list(dict.fromkeys(loose))[:_MAX_TERMS]
    if not strict:
        return []
    without = "".join(f" NOT {term}" for term in unwanted[:_MAX_TERMS])
    together = f"({' AND '.join(strict)}){without}"
    apart = f"({' OR '.join(loose)}){without}"
    return [together] if len(loose) == 1 else [together, apart]


def _quoted(phrase: str) -> list[str]:
    words = [_SYLLABLE.sub(r" \1 ", word) for word in _WORD.findall(phrase)]
    return [f'"{" ".join(" ".join(words).split())}"'] if words else []


def _pieces(run: str) -> list[str]:
    """Pairs of characters stand for words where nobody writes blanks."""
    if not _SYLLABLE.match(run) or len(run) == 1:
        return [f'"{run}"']
    return [f'"{first} {second}"' for first, second in itertools.pairwise(run)]

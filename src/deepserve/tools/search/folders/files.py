"""The files of a folder that may be searched: regular, readable, not hidden, not too many, and really in the folder."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

_NATURES = {
    "text/markdown": ("md", "markdown", "mdx"),
    "text/html": ("html", "htm", "xhtml"),
    "application/pdf": ("pdf",),
    "text/plain": ("txt", "text", "rst", "adoc", "org", "tex", "log", "csv", "tsv"),
    "text/x-source": (
        *("py", "pyi", "c", "h", "cc", "cpp", "hpp", "cu", "rs", "go", "java", "kt", "scala", "swift", "m", "cs", "fs"),
        *("js", "mjs", "cjs", "ts", "tsx", "jsx", "vue", "svelte", "css", "scss", "rb", "php", "pl", "lua", "r", "jl"),
        *("sh", "bash", "zsh", "fish", "ps1", "bat", "sql", "graphql", "proto", "ex", "exs", "erl", "hs", "ml", "clj"),
        *("toml", "yaml", "yml", "json", "jsonl", "xml", "ini", "cfg", "conf", "properties", "gradle", "cmake", "mk"),
        *("dockerfile", "makefile", "diff", "patch", "tf", "nix", "zig", "dart", "v", "sv", "vhd", "asm", "s"),
    ),
}
_MEDIA_TYPES = {ending: nature for nature, endings in _NATURES.items() for ending in endings}
_NAMES = {"readme": "text/plain", "license": "text/plain", "changelog": "text/plain", "notice": "text/plain"}

_SKIPPED_FOLDERS = frozenset(("node_modules", "__pycache__", "venv", "site-packages", "target"))


class FolderLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What lies beyond them is left out, and said to be.

    num_files       of all folders together
    text_bytes      of one file; pdf_bytes, if it is a PDF file
    total_bytes     of all files together
    depth           of folders in folders
    """

    num_files: int = 50_000
    text_bytes: int = 4 * 1024 * 1024
    pdf_bytes: int = 32 * 1024 * 1024
    total_bytes: int = 1024 * 1024 * 1024
    depth: int = 32


class FoundFile(msgspec.Struct, frozen=True, kw_only=True):
    """path is relative to the folder, with slashes."""

    path: str
    media_type: str
    size_bytes: int
    modified_ns: int


class FileWalk:
    """Goes through one folder. left_out counts what is not searched, by reason."""

    def __init__(self, folder: Path, limits: FolderLimits) -> None:
        self._folder = folder
        self._limits = limits
        self.left_out: Counter[str] = Counter()

    def files(self) -> Iterator[FoundFile]:
        """In order of their paths. Symbolic links are not followed: what they lead to was not offered for searching."""
        pending: list[tuple[str, int]] = [("", 0)]
        while pending:
            within, depth = pending.pop()
            try:
                with os.scandir(self._folder / within) as entries:
                    listed = sorted(entries, key=lambda entry: entry.name)
            except OSError:
                self.left_out["not readable"] += 1
                continue
            folders: list[tuple[str, int]] = []
            for entry in listed:
                path = f"{within}/{entry.name}" if within else entry.name
                if entry.name.startswith(".") or not _is_encodable(path):
                    continue
                if entry.is_symlink():
                    self.left_out["symbolic links"] += 1
                elif entry.is_dir(follow_symlinks=False):
                    if depth >= self._limits.depth:
                        self.left_out["nested too deep"] += 1
                    elif entry.name not in _SKIPPED_FOLDERS:
                        folders.append((path, depth + 1))
                else:
                    found = self._file(path, entry)
                    if found is not None:
                        yield found
            pending += reversed(folders)

    def read(self, found: FoundFile) -> bytes | None:
        """What is in a file now, if it still is the file that was found."""
        try:
            handle = _open_within(self._folder, found.path)
        except (OSError, RuntimeError):
            return None
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return None
            content = file.read(self._limit(found.media_type) + 1)
        return None if len(content) > self._limit(found.media_type) else content

    def _file(self, path: str, entry: os.DirEntry[str]) -> FoundFile | None:
        media_type = media_type_of(entry.name)
        if media_type is None:
            self.left_out["other kinds"] += 1
            return None
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            self.left_out["not readable"] += 1
            return None
        if not stat.S_ISREG(status.st_mode):
            self.left_out["other kinds"] += 1
            return None
        if status.st_size > self._limit(media_type):
            self.left_out["too large"] += 1
            return None
        return FoundFile(path=path, media_type=media_type, size_bytes=status.st_size, modified_ns=status.st_mtime_ns)

    def _limit(self, media_type: str) -> int:
        return self._limits.pdf_bytes if media_type == "application/pdf" else self._limits.text_bytes


def _open_within(folder: Path, path: str) -> int:
    """Open a file for reading, unless a link leads to it: a folder on the way may have become one since it was listed.

    Raises OSError, and RuntimeError where links go round in circles.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if os.open not in os.supports_dir_fd:
        if not (folder / path).resolve().is_relative_to(folder.resolve()):
            raise PermissionError(path)
        return os.open(folder / path, flags)
    *parents, name = path.split("/")
    within = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for parent in parents:
            inner = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=within)
            os.close(within)
            within = inner
        return os.open(name, flags, dir_fd=within)
    finally:
        os.close(within)


def media_type_of(name: str) -> str | None:
    """What a file is to be read as, by its name; None: it is not read."""
    stem, _, ending = name.lower().rpartition(".")
    return _MEDIA_TYPES.get(ending) if stem else _MEDIA_TYPES.get(ending) or _NAMES.get(ending)


def _is_encodable(path: str) -> bool:
    """Names of bytes that are no text cannot be told to anybody."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True

"""The file that answers are added to, one line each, also by a later run that goes on."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from deepserve.core.errors import ConfigurationError


class AnswerLine(msgspec.Struct, frozen=True, kw_only=True):
    """As OpenAI's batches write them. line: its number, for what could not even be asked."""

    id: str | None
    custom_id: str | None
    response: dict[str, Any] | None  # Any: JSON, kept as it came
    error: dict[str, str] | None
    line: int | msgspec.UnsetType = msgspec.UNSET


class _Known(msgspec.Struct):
    id: str
    custom_id: str


class AnswerFile:
    """Added to by one process at a time. `answered`: custom_id -> id of the question, for all that is in it.

    A last line that an interrupted run has left torn is cut off, and its question is asked again; `was_torn` tells.

    is_fresh: what an earlier run has left in it is dropped.

    Raises ConfigurationError where another process adds to it, or where it holds something else.
    """

    def __init__(self, path: Path, *, is_fresh: bool = False) -> None:
        self.path = path
        self.num_added = 0
        self.answered: dict[str, str] = {}
        self.was_torn = False
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from error
        try:
            self._lock()
            if is_fresh:
                os.ftruncate(self._descriptor, 0)
            self._read()
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # pipes and devices need it not
            os.fsync(self._descriptor)
        os.close(self._descriptor)

    def add(self, answer: AnswerLine) -> None:
        """Handed to the system whole: the death of this process loses nothing of it. Raises OSError."""
        rest = memoryview(msgspec.json.encode(answer) + b"\n")
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self.num_added += 1

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows has no such locks
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(f"Another batch is adding to {self.path} at this moment.") from error

    def _read(self) -> None:
        whole_bytes = 0
        with open(self._descriptor, "rb", closefd=False) as file:
            for number, raw in enumerate(file, start=1):
                try:
                    known = msgspec.json.decode(raw, type=_Known)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    if not raw.endswith(b"\n"):
                        break
                    raise ConfigurationError(
                        f"Line {number} of {self.path} is no answer of a batch ({error}): name another output."
                    ) from error
                if not raw.endswith(b"\n"):
                    os.write(self._descriptor, b"\n")
                    self.answered[known.custom_id] = known.id
                    return
                self.answered[known.custom_id] = known.id
                whole_bytes += len(raw)
        self.was_torn = os.fstat(self._descriptor).st_size > whole_bytes
        if self.was_torn:
            os.ftruncate(self._descriptor, whole_bytes)

"""Reads the configuration again on SIGHUP and when one of its files has changed, without disturbing any request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from deepserve.configuration.configuration import Configuration
from deepserve.core.errors import SetupError
from deepserve.server.live_settings import LiveSettings

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0

_Stamp = tuple[int, int, int] | None
"""What tells one state of a file from another; None: there is nothing to look at."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where settings come from.

    configuration  as it was read at the start
    load           reads it again; raises ConfigurationError
    """

    configuration: Configuration
    load: Callable[[], Configuration]


class Reloader(Collector):
    """tell: hears in words of what has changed. stop: ends the server, when the terminal it was started in is gone."""

    def __init__(
        self,
        live: LiveSettings,
        source: Source,
        *,
        tell: Callable[[str], None],
        stop: Callable[[], None],
        look_every_s: float = _LOOK_EVERY_S,
    ) -> None:
        self._live = live
        self._load = source.load
        self._tell = tell
        self._stop = stop
        self._look_every_s = look_every_s
        self._watched = source.configuration.watched
        self._stamps = _stamps_of(self._watched)
        self._seen = self._stamps
        self._had_terminal = _has_terminal()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._outcomes: Counter[str] = Counter()

    def start(self, *, is_behind: bool = False) -> None:
        """Listen to SIGHUP and look at the files from now on.

        is_behind: what the source read first may be old, as it is for a worker that takes a dead one's place
        """
        self._task = asyncio.create_task(self._run(is_behind))
        if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._heard)

    async def close(self) -> None:
        # SIGHUP stays ours: at its default it would end a server that finishes its last answers.
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _heard(self) -> None:
        if self._had_terminal and not _has_terminal():
            self._stop()
        else:
            self._wake.set()

    async def _run(self, is_behind: bool) -> None:
        if is_behind:
            await self._try(is_quiet=True)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._look_every_s):
                    await self._wake.wait()
            if self._wake.is_set() or self.has_news():
                self._wake.clear()
                await self._try()

    async def _try(self, *, is_quiet: bool = False) -> None:
        try:
            await self.reload(is_quiet=is_quiet)
        except Exception:  # noqa: BLE001 - whatever a reload meets, the next one shall be heard
            _log.exception("The configuration could not be read again")

    def has_news(self) -> bool:
        """Whether a file is another than the one that was read, and has been left alone since the last look.

        One that is just being written would be read half, or empty, which is a configuration, too.
        """
        stamps = _stamps_of(self._watched)
        has_rested, self._seen = stamps == self._seen, stamps
        return has_rested and stamps != self._stamps

    async def reload(self, *, is_quiet: bool = False) -> None:
        """Read everything again. What is wrong leaves the settings as they are, and is told once.

        is_quiet: nobody waits to hear that nothing has changed
        """
        self._stamps = self._seen = _stamps_of(self._watched)
        try:
            configuration = await asyncio.to_thread(self._load)
            waiting = self._live.waiting
            changed = await self._live.change(configuration.settings)
        except SetupError as error:
            self._outcomes["refused"] += 1
            if error.message != self._live.problem:
                _log.error("The settings stay as they were: %s", error.message)
            self._live.problem = error.message
            return
        self._live.problem = None
        if configuration.watched != self._watched:
            self._watched = configuration.watched
            self._stamps = self._seen = _stamps_of(self._watched)
        if changed or not is_quiet:
            self._outcomes["applied" if changed else "unchanged"] += 1
            source = configuration.file or "the environment alone, for there is no file"
            self._tell(f"Settings read again from {source}: {', '.join(changed) or 'nothing'} changed.")
        if self._live.waiting and self._live.waiting != waiting:
            _log.warning("Settings that wait for the next start: %s", ", ".join(self._live.waiting))

    @override
    def collect(self) -> Iterable[Metric]:
        reloads = CounterMetricFamily(
            "deepserve_configuration_reloads", "Times the configuration was read again.", labels=("outcome",)
        )
        for outcome in ("applied", "unchanged", "refused"):
            reloads.add_metric((outcome,), self._outcomes[outcome])
        yield reloads
        yield GaugeMetricFamily(
            "deepserve_configuration_is_faulty",
            "1 where the configuration as it is now cannot be taken, and the settings are older ones.",
            value=float(self._live.problem is not None),
        )
        yield GaugeMetricFamily(
            "deepserve_configuration_waiting",
            "Settings that were changed and wait for the next start.",
            value=float(len(self._live.waiting)),
        )


def _has_terminal() -> bool:
    return any(os.isatty(descriptor) for descriptor in (0, 1, 2))


def _stamps_of(files: Iterable[Path]) -> tuple[_Stamp, ...]:
    return tuple(_stamp_of(file) for file in files)


def _stamp_of(file: Path) -> _Stamp:
    try:
        status = os.stat(file)
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino

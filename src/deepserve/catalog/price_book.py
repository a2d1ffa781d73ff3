"""The prices of a running server, which follow an operator's file without a restart."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from deepserve.catalog.price_table import load_prices, read_own_prices
from deepserve.catalog.prices import VENDOR, Hours, Price, PriceCatalog, PricePoint, PriceRow
from deepserve.core.errors import ConfigurationError

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0

_Stamp = tuple[int, int, int] | None
"""What tells one state of the file from another; None: it cannot be looked at."""


class PriceBook:
    """Shipped prices under those of an operator's file, which is read again once it has changed.

    A file with a fault leaves the prices as they were, and the fault is logged once and kept in `problem`. Every thread
    may ask. Raises ConfigurationError at first, where there are no earlier prices to keep.
    """

    def __init__(self, path: Path | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """path: the operator's file; None: there is none. clock: monotonic seconds."""
        self._shipped = load_prices()
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._looked_at = clock()
        self._stamp = None if path is None else _stamp_of(path)
        self._current = self._shipped if path is None else read_own_prices(path, self._shipped)
        self.problem: str | None = None
        """Why the file is not in force as it is now."""

    def current(self) -> PriceCatalog:
        """The prices at this moment."""
        path = self._path
        # Whoever comes while another looks takes what there is.
        if path is not None and self._clock() - self._looked_at >= _LOOK_EVERY_S and self._lock.acquire(blocking=False):
            try:
                self._look(path)
            finally:
                self._lock.release()
        return self._current

    def _look(self, path: Path) -> None:
        self._looked_at = self._clock()
        # Before it is read: a change in between is noticed the next time.
        stamp = _stamp_of(path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._current = read_own_prices(path, self._shipped)
        except ConfigurationError as error:
            self.problem = error.message
            _log.error("The prices stay as they were: %s", error.message)
        else:
            self.problem = None
            _log.info("Prices read anew from %s", path)

    def row_at(self, model: str, at: datetime, *, provider: str = VENDOR) -> PriceRow | None:
        return self.current().row_at(model, at, provider=provider)

    def hours_at(self, name: str, at: datetime) -> Hours | None:
        return self.current().hours_at(name, at)

    def price_at(self, model: str, at: datetime, *, provider: str = VENDOR, prompt_tokens: int = 0) -> Price | None:
        return self.current().price_at(model, at, provider=provider, prompt_tokens=prompt_tokens)

    def point_at(
        self, model: str, at: datetime, *, provider: str = VENDOR, prompt_tokens: int = 0
    ) -> PricePoint | None:
        return self.current().point_at(model, at, provider=provider, prompt_tokens=prompt_tokens)


def _stamp_of(path: Path) -> _Stamp:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino

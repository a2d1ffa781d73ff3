"""The one thread in which the loops of this package talk to the database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from deepserve.core.errors import StoreUnavailable

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_PAUSE_S = 1.0


class DatabaseThread:
    """Runs blocking calls one after the other, off the event loop.

    A caller that is cancelled no longer waits, but what it asked for is done.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="deepserve-tasks")

    async def run(
        self, function: Callable[Parameters, Result], *arguments: Parameters.args, **named: Parameters.kwargs
    ) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(function, *arguments, **named))

    async def insist(
        self, function: Callable[Parameters, Result], *arguments: Parameters.args, **named: Parameters.kwargs
    ) -> Result:
        """As `run`, again and again while the database is away: for what took long to find out or cannot be undone."""
        while True:
            try:
                return await self.run(function, *arguments, **named)
            except StoreUnavailable:
                await asyncio.sleep(_PAUSE_S)

    def close(self) -> None:
        """Finish what was asked for."""
        self._thread.shutdown()

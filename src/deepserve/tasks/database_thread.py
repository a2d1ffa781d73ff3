"""The one thread in which the loops of this package talk to the database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


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

    def close(self) -> None:
        """Finish what was asked for."""
        self._thread.shutdown()

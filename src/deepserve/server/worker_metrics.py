"""The metrics of all workers of one server: whoever is asked asks the others, and says of each number whose it is.

Each worker's numbers stay apart, by the label `worker`: one that is begun again counts from 0, which Prometheus takes
for what it is only where no other worker's count hides it.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from deepserve.server.workers import Worker

_log = logging.getLogger(__name__)

_PATIENCE_S = 2.0
"""A worker that has not answered by then is left out."""


class WorkerMetrics:
    """render: this worker's own, as Prometheus' text format 0.0.4 has them."""

    def __init__(self, worker: Worker, render: Callable[[], bytes]) -> None:
        self._worker = worker
        self._render = render
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Be there for the others."""
        path = self._path(self._worker.number)
        path.unlink(missing_ok=True)  # of the one that had this number before
        self._server = await asyncio.start_unix_server(self._answer, path)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        if not self._worker.has_supervisor():  # whose folder it is, and who cannot tidy up any more
            shutil.rmtree(self._worker.folder, ignore_errors=True)

    async def gather(self) -> bytes:
        """Everybody's."""
        numbers = range(self._worker.count)
        texts = await asyncio.gather(*(self._ask(number) for number in numbers))
        return merge({number: text for number, text in zip(numbers, texts, strict=True) if text is not None})

    async def _ask(self, number: int) -> bytes | None:
        if number == self._worker.number:
            return self._render()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                reader, writer = await asyncio.open_unix_connection(self._path(number))
                try:
                    return await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            _log.warning("Worker %d did not tell its metrics", number)
            return None

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(self._render())
            await writer.drain()
        except ConnectionError:
            pass  # whoever asked has lost patience
        finally:
            writer.close()

    def _path(self, number: int) -> Path:
        return self._worker.folder / f"{number}.metrics"


def merge(texts: Mapping[int, bytes]) -> bytes:
    """One text of several, each with its own worker's label; what belongs to one metric stands together."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for number, text in texts.items():
        name = ""
        for line in text.decode().splitlines():
            if line.startswith("# HELP "):
                name = line.split(" ", 3)[2]
                is_first = name not in heads
                if is_first:
                    heads[name] = []
                    samples[name] = []
            if line.startswith("#"):
                if is_first:
                    heads[name].append(line)
            elif line:
                samples[name].append(_labelled(line, number))
    lines = [line for name, head in heads.items() for line in (*head, *samples[name])]
    return "".join(f"{line}\n" for line in lines).encode()


def _labelled(sample: str, number: int) -> str:
    name, brace, rest = sample.partition("{")
    if brace:
        return f'{name}{{worker="{number}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{worker="{number}"}} {value}'

"""The step loop: the scheduler in a thread of its own, spoken to from asyncio.

Commands go in through a queue that is emptied before each step; progress comes out once per step and event loop,
however many tokens it holds. So a cancellation takes effect within one step.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
from collections.abc import Callable, Sequence

from deepserve.core.errors import EngineFailure
from deepserve.engine.generation import Admitted, Generation, GenerationId, Progress, ResultEnded
from deepserve.engine.queue_limit import QueueLimit
from deepserve.engine.scheduler import Scheduler
from deepserve.engine.scheduler_stats import SchedulerStats

_logger = logging.getLogger(__name__)

_PAUSE_AT = 4096
"""Reports a reader may leave unread before its generation is paused; it goes on when they are read."""


class GenerationStream:
    """One generation's progress, in batches as steps bring it; an async iterator for `aclosing`.

    Ends after the last result's ResultEnded. Closing it earlier cancels the generation. Lives in the event loop that
    submitted.
    """

    def __init__(
        self, generation_id: GenerationId, generation: Generation, command: Callable[[_Command], None]
    ) -> None:
        self.id = generation_id
        self.generation = generation
        self.loop = asyncio.get_running_loop()
        self.running = set(range(len(generation.draws)))
        """Results that the step loop has not ended; touched by its thread only."""
        self._open = set(self.running)
        self._command = command
        self._unread: list[Progress] = []
        self._has_news = asyncio.Event()
        self._is_paused = False

    def __aiter__(self) -> GenerationStream:
        return self

    async def __anext__(self) -> list[Progress]:
        if not self._open:
            raise StopAsyncIteration
        await self._has_news.wait()
        self._has_news.clear()
        batch, self._unread = self._unread, []
        if self._is_paused:
            self._is_paused = False
            self._command(lambda loop: loop.resume(self.id))
        self._open -= {progress.result for progress in batch if isinstance(progress, ResultEnded)}
        return batch

    async def aclose(self) -> None:
        if self._open:
            self._open.clear()
            self._command(lambda loop: loop.cancel(self.id))

    def cancel_result(self, result: int) -> None:
        """Go on without one result; what was on its way from it may still arrive."""
        if result in self._open:
            self._open.remove(result)
            self._command(lambda loop: loop.cancel_result(self, result))

    def receive(self, progress: Progress) -> None:
        """Put progress before the reader."""
        self._unread.append(progress)
        self._has_news.set()
        if len(self._unread) >= _PAUSE_AT and not self._is_paused:
            self._is_paused = True
            self._command(lambda loop: loop.pause(self.id))


class StepLoop:
    """Start it, submit generations from any number of event loops, stop it; once each.

    The scheduler, and with it the engine, belongs to the loop's thread from `start` to `stop`.
    """

    def __init__(self, scheduler: Scheduler, *, max_queue_tokens: int) -> None:
        self._scheduler = scheduler
        self._limit = QueueLimit(max_queue_tokens, prompt_token_s=lambda: scheduler.pace.prompt_token_s)
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        scheduler.on_news = lambda: self._commands.put(lambda _: None)
        self._thread = threading.Thread(target=self._run, name="deepserve-steps", daemon=True)
        self._ids = itertools.count(1)
        self._inside = _Inside(scheduler, self._limit)
        self._is_stopping = False
        self._submitting = threading.Lock()

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens not yet begun."""
        return self._limit.waiting_tokens

    def stats(self) -> SchedulerStats:
        return self._scheduler.stats()

    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._is_stopping

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End what is running with EngineFailure, free everything and wait for the thread."""
        with self._submitting:
            self._is_stopping = True
        self._commands.put(lambda _: None)
        self._thread.join()

    def submit(self, generation: Generation) -> GenerationStream:
        """Queue a generation. Raises Overloaded if too much is waiting."""
        # While it is held the thread cannot have read its last command, so nobody waits for an answer in vain.
        with self._submitting:
            if not self.is_alive():
                raise EngineFailure("The engine is not running.")
            stream = GenerationStream(GenerationId(next(self._ids)), generation, self._commands.put)
            self._limit.reserve(generation.cache_key.tenant, len(generation.prompt))
            self._commands.put(lambda loop: loop.begin(stream))
        return stream

    def _run(self) -> None:
        scheduler, inside = self._scheduler, self._inside
        while not self._is_stopping:
            self._obey(wait=not scheduler.made_progress)
            try:
                updates = scheduler.step()
            except Exception:
                _logger.exception("the scheduler failed; everything it was computing ends here")
                updates = scheduler.abandon(EngineFailure("The engine failed. Please retry."))
            inside.deliver(updates)
        self._obey(wait=False)
        inside.deliver(scheduler.abandon(EngineFailure("The server is shutting down.")))
        scheduler.close()

    def _obey(self, *, wait: bool) -> None:
        """Carry out the commands that have come; with `wait`, not before there is one."""
        while True:
            try:
                command = self._commands.get(block=wait)
            except queue.Empty:
                return
            wait = False
            try:
                command(self._inside)
            except Exception:
                _logger.exception("a command to the step loop failed")


class _Inside:
    """What the loop's thread does when told; nobody else may call it."""

    def __init__(self, scheduler: Scheduler, limit: QueueLimit) -> None:
        self._scheduler = scheduler
        self._limit = limit
        self._streams: dict[GenerationId, GenerationStream] = {}
        self._waiting: set[GenerationId] = set()

    def begin(self, stream: GenerationStream) -> None:
        self._streams[stream.id] = stream
        self._waiting.add(stream.id)
        try:
            self._scheduler.add(stream.id, stream.generation)
        except Exception:
            _logger.exception("a generation could not be queued")
            error = EngineFailure("The engine could not take the request.")
            ends = [
                ResultEnded(result=result, reason="failed", error=error)
                for result in range(len(stream.generation.draws))
            ]
            self.deliver([(stream.id, ended) for ended in ends])

    def cancel(self, generation_id: GenerationId) -> None:
        self._forget(generation_id)
        self._scheduler.cancel(generation_id)

    def cancel_result(self, stream: GenerationStream, result: int) -> None:
        self._scheduler.cancel_result(stream.id, result)
        self._ended(stream, result)

    def pause(self, generation_id: GenerationId) -> None:
        self._scheduler.pause(generation_id)

    def resume(self, generation_id: GenerationId) -> None:
        self._scheduler.resume(generation_id)

    def deliver(self, updates: Sequence[tuple[GenerationId, Progress]]) -> None:
        """Hand each event loop its part of the step's progress in one call."""
        parcels: dict[asyncio.AbstractEventLoop, list[tuple[GenerationStream, Progress]]] = {}
        for generation_id, progress in updates:
            stream = self._streams[generation_id]
            parcels.setdefault(stream.loop, []).append((stream, progress))
            match progress:
                case Admitted():
                    self._no_longer_waiting(stream)
                case ResultEnded():
                    self._ended(stream, progress.result)
        for loop, parcel in parcels.items():
            try:
                loop.call_soon_threadsafe(_hand_over, parcel)
            except RuntimeError:  # the event loop is closed: nobody is left to read
                for stream, _ in parcel:
                    self.cancel(stream.id)

    def _ended(self, stream: GenerationStream, result: int) -> None:
        stream.running.discard(result)
        if not stream.running:
            self._forget(stream.id)

    def _forget(self, generation_id: GenerationId) -> None:
        stream = self._streams.pop(generation_id, None)
        if stream is not None:
            self._no_longer_waiting(stream)

    def _no_longer_waiting(self, stream: GenerationStream) -> None:
        if stream.id in self._waiting:
            self._waiting.remove(stream.id)
            self._limit.release(stream.generation.cache_key.tenant, len(stream.generation.prompt))


_Command = Callable[[_Inside], None]


def _hand_over(parcel: Sequence[tuple[GenerationStream, Progress]]) -> None:
    for stream, progress in parcel:
        stream.receive(progress)

"""Asking many questions side by side, again where that may help, and writing down each answer once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from typing import Any, Final

import msgspec

from deepserve.cli.batching.answer_file import AnswerFile, AnswerLine
from deepserve.cli.batching.asking import Asker, NoReply, Reply
from deepserve.cli.batching.bill import Bill, Tariff
from deepserve.cli.batching.questions import Question

_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 60.0
_LONGEST_TOLD_WAIT_S: Final = 600.0
"""Servers may tell to wait longer than we would by ourselves, but not for ever."""

_AGAIN: Final = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529))
_BUSY: Final = frozenset((429, 503, 529))
"""Said of the server and not of one question: nobody asks before the time that it tells."""

_HOPELESS: Final = {401: "refuses the key", 402: "says that the money is spent"}
"""Every other question would get the same answer."""


class Outcome(msgspec.Struct, kw_only=True):
    """stopped: why not everything was asked; None where it was."""

    num_answered: int = 0
    num_failed: int = 0
    num_retries: int = 0
    bill: Bill = msgspec.field(default_factory=Bill)
    stopped: str | None = None


class BatchRun:
    """asker, answers, failures: closed by whoever opened them.

    num_retries  how often one question is asked again
    nonce        no other run's: a question asked again within this run is answered, and charged, once
    sleep, clock, now, jitter  time and chance; jitter gives numbers from 0 to 1
    """

    def __init__(
        self,
        asker: Asker,
        answers: AnswerFile,
        failures: AnswerFile,
        *,
        tariff: Tariff,
        concurrency: int,
        num_retries: int,
        nonce: str,
        sleep: Callable[[float], Awaitable[object]],
        clock: Callable[[], float],
        now: Callable[[], datetime],
        jitter: Callable[[], float],
        on_change: Callable[[Outcome], None] = lambda _outcome: None,
    ) -> None:
        self._asker = asker
        self._answers = answers
        self._failures = failures
        self._tariff = tariff
        self._concurrency = concurrency
        self._num_retries = num_retries
        self._nonce = nonce
        self._sleep = sleep
        self._clock = clock
        self._now = now
        self._jitter = jitter
        self._on_change = on_change
        self._busy_until = clock()
        self.outcome = Outcome()

    async def run(self, questions: Iterator[Question]) -> Outcome:
        """Until all have been asked. Raises OSError where answers can no longer be written down."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._concurrency):
                    group.create_task(self._work(questions))
        except ExceptionGroup as group_error:
            # One reason is enough to stop, and it is the first that is told.
            raise group_error.exceptions[0] from group_error
        return self.outcome

    async def _work(self, questions: Iterator[Question]) -> None:
        # All workers draw from one iterator, and none waits while it draws.
        for question in questions:
            if self.outcome.stopped is not None:
                return
            await self._answer(question)
            self._on_change(self.outcome)

    async def _answer(self, question: Question) -> None:
        body = msgspec.json.encode(question.body)
        headers = {"Idempotency-Key": f"{self._nonce}-{question.id}"}
        for attempt in range(self._num_retries + 1):
            if attempt:
                self.outcome.num_retries += 1
            while (left_s := self._busy_until - self._clock()) > 0:
                await self._sleep(left_s)
            if self.outcome.stopped is not None:
                return
            at = self._now()
            reply: Reply | None
            try:
                reply, problem = await self._asker.ask(question.url, body, headers), ""
            except NoReply as error:
                reply, problem = None, error.message
            answer = None if reply is None else _json(reply.body)
            if reply is not None and _is_answer(reply, answer):
                assert answer is not None
                self._answers.add(_line(question, reply, answer, None))
                self.outcome.num_answered += 1
                self.outcome.bill.add(question, answer, self._tariff, at)
                return
            is_last = attempt == self._num_retries or not _may_help(reply)
            if is_last:
                self._fail(question, reply, answer, problem)
                return
            wait_s = self._wait_s(attempt, reply)
            if reply is not None and reply.status in _BUSY:
                self._busy_until = max(self._busy_until, self._clock() + wait_s)
            else:
                await self._sleep(wait_s)

    def _fail(self, question: Question, reply: Reply | None, answer: dict[str, Any] | None, problem: str) -> None:
        if reply is not None and reply.status in _HOPELESS and self.outcome.stopped is None:
            self.outcome.stopped = f"The server {_HOPELESS[reply.status]} ({reply.status}): {_message(answer)}"
        if reply is None:
            error = {"code": "no_reply", "message": problem}
        elif answer is None:
            start = reply.body[:200].decode("utf-8", "replace")
            error = {"code": "unreadable", "message": f"status {reply.status}, and no JSON object: {start!r}"}
        else:
            error = {"code": f"status_{reply.status}", "message": _message(answer)}
        self._failures.add(_line(question, reply, answer, error))
        self.outcome.num_failed += 1

    def _wait_s(self, attempt: int, reply: Reply | None) -> float:
        own_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0**attempt) * (0.5 + 0.5 * self._jitter())
        return max(own_s, 0.0 if reply is None else _told_wait_s(reply))


def _told_wait_s(reply: Reply) -> float:
    """`retry-after` in seconds; its other form, a date, is left to our own patience."""
    try:
        told_s = float(reply.headers.get("retry-after", "0"))
    except ValueError:
        return 0.0
    return min(told_s, _LONGEST_TOLD_WAIT_S) if told_s > 0 else 0.0


def _json(body: bytes) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_answer(reply: Reply, answer: dict[str, Any] | None) -> bool:
    """An answer that fails after its status has left has an error in its place."""
    return 200 <= reply.status < 300 and answer is not None and answer.get("error") is None


def _may_help(reply: Reply | None) -> bool:
    if reply is None or reply.status in _AGAIN:
        return True
    # The status was 200: the fault came later, or the body was broken off.
    return 200 <= reply.status < 300


def _line(
    question: Question, reply: Reply | None, answer: dict[str, Any] | None, error: dict[str, str] | None
) -> AnswerLine:
    response = None
    if reply is not None and answer is not None:
        request_id = reply.headers.get("x-request-id") or reply.headers.get("x-ds-trace-id") or ""
        response = {"status_code": reply.status, "request_id": request_id, "body": answer}
    return AnswerLine(id=question.id, custom_id=question.custom_id, response=response, error=error)


def _message(answer: dict[str, Any] | None) -> str:
    """In whatever form the dialect gives its errors."""
    error = (answer or {}).get("error", answer)
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else msgspec.json.encode(error).decode()[:500]

"""The leave to answer one request, as long as the answer lasts: follows what it costs, and ends it when money does.

What no back end has reported yet is bounded from above, for a token is a byte at least. Only where that bound meets
what is reserved is the text counted, and more reserved where it must be.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

import msgspec

from deepserve.core.allowance import Allowance
from deepserve.core.errors import DeepserveError
from deepserve.core.events import BlockDelta, BlockOpened, Event, Started, ToolCallBlock, UsageReported
from deepserve.core.request import Infill, Request
from deepserve.core.usage import Usage
from deepserve.limits.tariff import FREE, Tariff, TariffOf
from deepserve.store.reservations import Reservation

CHUNK_TOKENS: Final = 4_096
"""So much output is paid for ahead, again and again."""

_AHEAD_TOKENS: Final = 1_024
"""With less than this paid for ahead, it is time to count, and to reserve more."""

_BLOCK_TOKENS: Final = 16
"""Special tokens around a block, at most."""

Answer = Callable[[Request], AsyncGenerator[Event]]

Count = Callable[[Request], Awaitable[int]]
"""Prompt tokens of a request."""

Extend = Callable[[int], Awaitable[int]]
"""Asks that so many pico-dollars be reserved in all, and says how many are."""


def expected_output_tokens(request: Request) -> int:
    """What is paid for before an answer begins. Many clients always allow the most, and hardly ever use it."""
    most = _most_output_tokens(request)
    return CHUNK_TOKENS * request.num_results if most is None else min(most, CHUNK_TOKENS * request.num_results)


def _most_output_tokens(request: Request) -> int | None:
    """Of all results together; None: nobody knows."""
    most = request.max_output_tokens or request.default_output_tokens
    return None if most is None else most * request.num_results


class Permit:
    """One for each request that was admitted.

    prompt_tokens  of the first question, where they had to be counted already
    extend         None: the key has no budget, so that nothing has to be followed
    exhausted      what to raise when the money is spent
    """

    def __init__(
        self,
        reservation: Reservation,
        allowance: Allowance,
        *,
        tariff_of: TariffOf,
        count: Count,
        prompt_tokens: int | None,
        extend: Extend | None,
        exhausted: Callable[[], DeepserveError],
    ) -> None:
        self.allowance = allowance
        self._reservation = reservation
        self._reserved_pico = reservation.amount_pico
        self._tariff_of = tariff_of
        self._count = count
        self._prompt_tokens = prompt_tokens
        self._extend = extend
        self._exhausted = exhausted
        self._unsettled_pico = 0
        self._ended_tokens = 0
        self._round = _Round(FREE, 0)
        self._is_last = False
        self.settling: Future[None] | None = None
        """What the ledger was given last."""

    @property
    def reservation_id(self) -> str:
        return self._reservation.id

    @property
    def reservation(self) -> Reservation:
        """As it stands now, for whoever has to write it anew."""
        return msgspec.structs.replace(self._reservation, amount_pico=self._reserved_pico)

    @property
    def tokens(self) -> int:
        """Of everything that was asked and answered so far."""
        return self._ended_tokens + self._round.tokens

    @property
    def counted(self) -> Usage:
        """What the question that is being answered has taken so far: as reported, and beyond that as counted."""
        return self._round.usage

    def note_settled(self, cost_pico: int, settling: Future[None]) -> None:
        """The ledger writes what an attempt cost, and takes it from the reservation. settling: done when it has."""
        self._end_round()
        self.settling = settling
        self._reserved_pico = max(0, self._reserved_pico - cost_pico)
        self._unsettled_pico = 0

    async def watch(self, answer: Answer, request: Request) -> AsyncGenerator[Event]:
        """The answer to one question, of which a request may need several: rounds with tools, a second attempt.

        Raises BudgetExhausted, before the first event or in the middle.
        """
        if self._extend is not None and request.is_whole:
            # Piece by piece: of an answer that comes at once nobody can say no to the rest, nor knows what a client
            # that leaves before has cost.
            request = msgspec.structs.replace(request, is_whole=False)
        await self._begin_round(request)
        async with aclosing(answer(request)) as events:
            async for event in events:
                if isinstance(event, Started):
                    event = msgspec.structs.replace(event, allowance=self.allowance)
                self._round.note(event)
                if self._extend is not None and self._is_short():
                    await self._go_on(request, self._extend)
                yield event

    async def _begin_round(self, request: Request) -> None:
        self._end_round()
        prompt_tokens, self._prompt_tokens = self._prompt_tokens, None
        if self._extend is None:
            self._round = _Round(FREE, prompt_tokens or 0)
            return
        if prompt_tokens is None:
            prompt_tokens = await self._count(request)
        most_tokens = _most_output_tokens(request)
        self._round = _Round(self._tariff_of(request, prompt_tokens), prompt_tokens, most_tokens)
        target = self._unsettled_pico + self._round.cost_pico(expected_output_tokens(request))
        if target > self._reserved_pico:
            self._reserved_pico = await self._extend(target)
        if target > self._reserved_pico:
            raise self._exhausted()
        self._is_last = False

    def _end_round(self) -> None:
        self._unsettled_pico += self._round.cost_pico(0)
        self._ended_tokens += self._round.tokens
        self._round = _Round(FREE, 0)

    def _is_short(self) -> bool:
        """Whether more must be reserved; once there is no more, whether another piece might not be paid for."""
        ahead = self._round.largest_bytes if self._is_last else _AHEAD_TOKENS
        return self._unsettled_pico + self._round.cost_pico(ahead) > self._reserved_pico

    async def _go_on(self, request: Request, extend: Extend) -> None:
        await self._round.count(request, self._count)
        if not self._is_short():
            return
        target = self._unsettled_pico + self._round.cost_pico(CHUNK_TOKENS)
        self._reserved_pico = await extend(target)
        self._is_last = self._reserved_pico < target
        if self._is_last and self._is_short():
            raise self._exhausted()


class _Round:
    """One question and its answer so far. most_tokens: that the answer may have; None: nobody knows."""

    def __init__(self, tariff: Tariff, prompt_tokens: int, most_tokens: int | None = None) -> None:
        self._tariff = tariff
        self._most_tokens = most_tokens
        self._usage = Usage(miss_tokens=prompt_tokens)
        self._prompt_pico = tariff.cost_pico(self._usage)
        self._num_blocks = 0
        self._uncounted: list[str] = []
        self._uncounted_bytes = 0
        self.largest_bytes = 0

    def cost_pico(self, more_tokens: int) -> int:
        """At most, with so many more tokens of output."""
        output = self._output_tokens + more_tokens
        if self._most_tokens is not None:
            output = min(output, self._most_tokens)
        return self._prompt_pico + output * self._tariff.output_pico

    @property
    def usage(self) -> Usage:
        output = self._output_tokens if self._most_tokens is None else min(self._output_tokens, self._most_tokens)
        more = max(0, output - self._usage.output_tokens)
        return msgspec.structs.replace(
            self._usage,
            answer_tokens=self._usage.answer_tokens + more,
            is_estimated=self._usage.is_estimated or more > 0,
        )

    @property
    def tokens(self) -> int:
        return self._usage.prompt_tokens + self._output_tokens

    @property
    def _output_tokens(self) -> int:
        return self._usage.output_tokens + self._uncounted_bytes + self._num_blocks * _BLOCK_TOKENS

    def note(self, event: Event) -> None:
        match event:
            case BlockDelta(text=text) if text:
                self._add(text)
            case BlockOpened(block=block):
                self._num_blocks += 1
                if isinstance(block, ToolCallBlock):
                    self._add(block.name)
            case Started(prompt_usage=Usage() as usage):
                self._know(usage)
            case UsageReported(usage=usage):
                self._know(usage)
                self._num_blocks = 0
                self._uncounted, self._uncounted_bytes = [], 0
            case _:
                pass

    async def count(self, request: Request, count: Count) -> None:
        """Put the number of tokens in the place of their bound."""
        text, self._uncounted = "".join(self._uncounted), []
        plain = Request(
            id=request.id,
            model=request.model,
            arrived_at=request.arrived_at,
            infill=Infill(prompt=text),
            tenant=request.tenant,
        )
        try:
            tokens = await count(plain)
        except DeepserveError:
            tokens = self._uncounted_bytes  # the bound stays
        self._uncounted_bytes = 0
        output = self._usage.answer_tokens + tokens + self._num_blocks * _BLOCK_TOKENS
        if self._most_tokens is not None:  # estimates may say more than there can be
            most = max(0, self._most_tokens - self._usage.reasoning_tokens)
            output = max(self._usage.answer_tokens, min(output, most))
        self._num_blocks = 0
        self._know(msgspec.structs.replace(self._usage, answer_tokens=output, is_estimated=True))

    def _add(self, text: str) -> None:
        self._uncounted.append(text)
        size_bytes = len(text) if text.isascii() else len(text.encode())
        self._uncounted_bytes += size_bytes
        self.largest_bytes = max(self.largest_bytes, size_bytes)

    def _know(self, usage: Usage) -> None:
        self._usage = usage
        self._prompt_pico = self._tariff.cost_pico(Usage(hit_tokens=usage.hit_tokens, miss_tokens=usage.miss_tokens))

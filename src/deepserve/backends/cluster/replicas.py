"""The servers of one cluster: which of them is asked, and which are up.

A conversation goes where its beginning was computed before: each server has a score for it, made of both by a hash, and
the highest is asked (rendezvous hashing: Thaler, Ravishankar, IEEE/ACM Transactions on Networking 6(1), 1998). Nothing
is stored for that, so several gateways agree without talking, and a server that comes or goes moves nobody else's
conversations. One that has far more to do than the others is passed over (consistent hashing with bounded loads:
Mirrokni, Thorup, Zadimoghaddam, SODA 2018): a prefix that everybody shares is then computed in a second place.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Final

import msgspec

from deepserve.backends.cluster.asking import Ask, Part
from deepserve.backends.cluster.course import Lost
from deepserve.backends.cluster.replica import Replica
from deepserve.core.errors import BackendFailure

LOAD_FACTOR: Final = 1.25
"""Of the average load, how much one server may have before conversations go elsewhere."""
SPARE: Final = 8
"""Up to so many answers at once a server is never passed over: with little to do, averages say nothing."""
HEALTH_S: Final = 5.0


class _Totals(msgspec.Struct):
    failovers: int = 0
    spills: int = 0


class Replicas:
    """replicas: at least one. health_s: between two rounds of asking how they are."""

    def __init__(self, replicas: Sequence[Replica], *, health_s: float = HEALTH_S) -> None:
        self._replicas = list(replicas)
        self._health_s = health_s
        self._watching: asyncio.Task[None] | None = None
        self._totals = _Totals()

    def __len__(self) -> int:
        return len(self._replicas)

    async def start(self) -> None:
        await self.look()
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        await asyncio.gather(*(replica.close() for replica in self._replicas))

    @property
    def is_up(self) -> bool:
        return any(replica.state == "up" for replica in self._replicas)

    @property
    def context_tokens(self) -> int | None:
        """The smallest, for any of them may be asked; None while none has told."""
        return min((size for replica in self._replicas if (size := replica.context_tokens)), default=None)

    @property
    def served(self) -> frozenset[str]:
        """The names of models that all who have told have; empty while none has."""
        told = [replica.served for replica in self._replicas if replica.served is not None]
        return frozenset.intersection(*told) if told else frozenset()

    def gauges(self) -> Mapping[str, float]:
        return {
            "replicas": len(self._replicas),
            "replicas_up": sum(replica.state == "up" for replica in self._replicas),
            "replicas_draining": sum(replica.state == "draining" for replica in self._replicas),
            "running": sum(replica.num_running for replica in self._replicas),
            "failovers": self._totals.failovers,
            "spills": self._totals.spills,
        }

    async def look(self) -> None:
        """Ask every server how it is."""
        await asyncio.gather(*(replica.look() for replica in self._replicas))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._health_s)
            await self.look()

    def order(self, key: bytes) -> list[Replica]:
        """Who is asked, who when that one fails, and so on."""
        ranked = sorted(self._replicas, key=lambda replica: _score(key, replica.address), reverse=True)
        up = [replica for replica in ranked if replica.state == "up"]
        num_running = sum(replica.num_running for replica in up)
        most = max(SPARE, math.ceil(LOAD_FACTOR * (num_running + 1) / max(1, len(up))))
        free = [replica for replica in up if replica.num_running < most]
        # Who is down may have come up since it was looked at, and who is not well may still answer: better than nobody.
        return [
            *free,
            *(replica for replica in up if replica not in free),
            *(replica for replica in ranked if replica.state == "down"),
            *(replica for replica in ranked if replica.state == "draining"),
        ]

    async def ask(self, ask: Ask, key: bytes) -> AsyncGenerator[Part]:
        """The parts of one continuation. Before the first token, a server that fails is replaced by the next.

        Raises Refused, and Lost when all have failed or one in the middle.
        """
        order = self.order(key)
        favourite = max(self._replicas, key=lambda replica: _score(key, replica.address))
        if order[0] is not favourite and favourite.state == "up":
            self._totals.spills += 1
        lost: Lost | None = None
        for replica in order:
            has_begun = False
            try:
                async with aclosing(replica.ask(ask)) as parts:
                    async for part in parts:
                        has_begun = has_begun or bool(part.drawn)
                        yield part
                return
            except Lost as loss:
                lost = loss
                if has_begun:
                    raise
                self._totals.failovers += replica is not order[-1]
        raise lost or Lost(BackendFailure("The cluster has no servers."))


def _score(key: bytes, address: str) -> int:
    return int.from_bytes(hashlib.blake2b(key + address.encode(), digest_size=8).digest(), "big")

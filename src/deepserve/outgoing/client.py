"""One call to another server: to a checked address, without redirects, bounded in time and size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec

from deepserve.outgoing.addresses import AddressPolicy
from deepserve.outgoing.lookup import Lookup
from deepserve.outgoing.lookup import system_lookup as system_lookup

_LOOKUP_THREADS = 32
"""Twice what one tenant's webhooks can keep busy with names that nobody answers for."""


class OutgoingLimits(msgspec.Struct, frozen=True, kw_only=True):
    """total_s: from the look-up of the name to the last byte. max_bytes: of the answer's body, decompressed."""

    connect_s: float = 5.0
    total_s: float = 15.0
    max_bytes: int = 4096


class OutgoingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """is_cut: the body is not whole: too long, too slow, or broken off.

    address: what was connected to, `host:port` in numbers.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_cut: bool
    address: str | None


class OutgoingClient:
    """Calls what users name. `close` ends its threads.

    Every call has a connection of its own, so nothing of one user's call can reach another's; cookies, proxies and
    environment variables play no part.
    """

    def __init__(self, policy: AddressPolicy, *, user_agent: str, lookup: Lookup = system_lookup) -> None:
        self.policy = policy
        self._user_agent = user_agent
        self._lookup = lookup
        # Its own threads: names whose servers never answer must not hold up whatever else runs in threads.
        self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="deepserve-lookup")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def request(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        limits: OutgoingLimits = OutgoingLimits(),  # noqa: B008 - frozen
        wants_body: Callable[[int, Mapping[str, str]], bool] = lambda _status, _headers: True,
    ) -> OutgoingAnswer:
        """Any status is an answer, a redirect too: `redirects.follow` checks its target and calls again.

        wants_body: asked with status and headers; a body that is not wanted is not waited for.

        Raises OutgoingError.
        """
        # Only here: the library takes a tenth of a second to import, and most servers never call anybody this way.
        from deepserve.outgoing.one_call import call_once

        return await call_once(
            method,
            url,
            body=body,
            headers=headers or {},
            limits=limits,
            wants_body=wants_body,
            policy=self.policy,
            lookup=self._lookup,
            threads=self._threads,
            user_agent=self._user_agent,
        )

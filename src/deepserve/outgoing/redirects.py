"""Pages that have moved: each step is a call of its own, to an address that is checked like the first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec
from yarl import URL

from deepserve.outgoing.client import OutgoingAnswer, OutgoingClient, OutgoingLimits
from deepserve.outgoing.errors import InvalidAnswer, OutgoingTimedOut

_MOVED = frozenset((301, 302, 303, 307, 308))


class FoundPage(msgspec.Struct, frozen=True, kw_only=True):
    """url: where it was found in the end."""

    url: str
    answer: OutgoingAnswer


async def follow(
    client: OutgoingClient,
    url: str,
    *,
    headers: Mapping[str, str],
    limits: OutgoingLimits,
    max_redirects: int,
    next_url: Callable[[str], str],
    wants_body: Callable[[int, Mapping[str, str]], bool],
) -> FoundPage:
    """GET a page, following it where it has moved. The limits hold for all steps together.

    next_url: given each address before it is called, the first too; returns the one to call, or raises.

    Raises OutgoingError, and what `next_url` raises.
    """
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + limits.total_s
    for _ in range(max_redirects + 1):
        url = next_url(url)
        left_s = ends_at - loop.time()
        if left_s <= 0:
            break
        answer = await client.request(
            "GET",
            url,
            headers=headers,
            limits=msgspec.structs.replace(limits, total_s=left_s),
            wants_body=lambda status, told: status not in _MOVED and wants_body(status, told),
        )
        target = answer.headers.get("location")
        if answer.status not in _MOVED or not target:
            return FoundPage(url=url, answer=answer)
        try:
            url = str(URL(url).join(URL(target)).with_fragment(None))
        except ValueError as error:
            raise InvalidAnswer("The page has moved to an address that cannot be read.") from error
    else:
        raise InvalidAnswer(f"The page has moved more than {max_redirects} times.")
    raise OutgoingTimedOut("The page was not found in time.")

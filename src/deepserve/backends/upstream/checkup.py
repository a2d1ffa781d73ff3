"""One call to an upstream that costs nothing: whether it is there, takes the key, and goes by the same clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec

from deepserve.backends.kinds import Opening
from deepserve.backends.upstream.opening import open_client
from deepserve.backends.upstream.wires import wire_of
from deepserve.core.errors import DeepserveError
from deepserve.dialects.upstream_models import decode_models
from deepserve.outgoing.errors import OutgoingError
from deepserve.outgoing.origin_client import OriginAnswer

_MAX_WAIT_S = 15.0


class Checkup(msgspec.Struct, frozen=True, kw_only=True):
    """problem  why nothing can be asked there; None: it can, as far as can be told
    doubt     what could not be told; None: nothing
    num_models  that it lists
    missing   names of models that the settings count on and it does not list
    skew_s    by how much its clock is ahead of ours; None: it does not say. Known to a second or two
    took_s    from the call to its answer
    """

    problem: str | None = None
    doubt: str | None = None
    num_models: int = 0
    missing: tuple[str, ...] = ()
    skew_s: float | None = None
    took_s: float = 0.0


async def check_upstream(
    opening: Opening, *, clock: Callable[[], float], now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Checkup:
    """Ask for its list of models. clock: monotonic seconds. Raises ConfigurationError for an impossible address."""
    client = open_client(opening)
    try:
        async with asyncio.timeout(_MAX_WAIT_S):
            began_at = clock()
            wire = wire_of(opening.provider)
            headers = {"Accept": "application/json", **wire.headers(opening.key)}
            answer = await client.call(wire.models_path, headers=headers)
            try:
                took_s, arrived_at = clock() - began_at, now()
                found = _judge(answer.status) or await _read_models(answer, opening)
            finally:
                answer.close()
    except (OutgoingError, TimeoutError) as error:
        return Checkup(problem=str(error) or f"it did not answer within {_MAX_WAIT_S:.0f} s")
    finally:
        await client.close()
    return msgspec.structs.replace(found, took_s=took_s, skew_s=_skew_s(answer, arrived_at))


def _judge(status: int) -> Checkup | None:
    if status == 200:
        return None
    if status in (401, 403):
        return Checkup(problem=f"it does not take the key (status {status})")
    if status == 402:
        return Checkup(problem="the account there is empty (status 402)")
    if status in (404, 405, 501):
        return Checkup(doubt=f"it lists no models (status {status}), so the key is not proven")
    if status == 429:
        return Checkup(doubt="it has too many requests just now (status 429)")
    return Checkup(problem=f"it answers with the status {status}")


async def _read_models(answer: OriginAnswer, opening: Opening) -> Checkup:
    try:
        listed = decode_models(await answer.read(), title=opening.provider.title)
    except DeepserveError as error:
        return Checkup(doubt=f"its list of models cannot be read: {error.message}")
    names = opening.provider.models.values()
    return Checkup(
        num_models=len(listed), missing=tuple(sorted({name for name in names if listed and name not in listed}))
    )


def _skew_s(answer: OriginAnswer, arrived_at: datetime) -> float | None:
    try:
        said = parsedate_to_datetime(answer.headers.get("date", ""))
    except (ValueError, TypeError):
        return None
    if said.tzinfo is None:
        said = said.replace(tzinfo=UTC)
    return (said - arrived_at).total_seconds()

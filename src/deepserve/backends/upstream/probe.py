"""Finds out how much an upstream really takes: tiny requests, twice as many at once at each step, until it refuses.

Careful with somebody else's service: a step begins when the one before has ended, the first refusal or fault ends it
all, and so does a count of remaining requests that the next step would use up.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

from deepserve.backends.kinds import Opening
from deepserve.backends.upstream.opening import open_client
from deepserve.backends.upstream.retries import read_retry_after
from deepserve.backends.upstream.wire import UpstreamWire
from deepserve.backends.upstream.wires import wire_of
from deepserve.core.errors import DeepserveError
from deepserve.core.messages import Message, Text
from deepserve.core.request import Request, RequestId, Thinking
from deepserve.core.usage import Usage
from deepserve.outgoing.errors import OutgoingError
from deepserve.outgoing.origin_client import OriginAnswer, OriginClient

PROMPT_TOKENS: Final = 20
"""At least what one request takes, whatever the service puts around it."""

OUTPUT_TOKENS: Final = 1

_PATIENCE_S: Final = 60.0
_MAX_BYTES: Final = 256 * 1024
_MAX_SHOWN: Final = 200
_REFUSALS: Final = frozenset((429, 503, 529))
_LIMIT_HEADERS: Final = ("x-ratelimit", "x-rate-limit", "ratelimit", "anthropic-ratelimit", "retry-after")

Outcome = Literal["answered", "refused", "failed"]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """So many requests at once. median_s: how long those took that were answered; None: none was."""

    num_requests: int
    num_answered: int
    num_refused: int
    median_s: float | None


class LearntLimits(msgspec.Struct, frozen=True, kw_only=True):
    """headers      what the service says of its limits, in its own words, last
    retry_after_s  how long it asks to wait after a refusal; None: it refused nothing, or does not say
    stopped_by     why no larger step was tried
    """

    steps: Sequence[Step]
    headers: Mapping[str, str]
    retry_after_s: float | None
    stopped_by: str
    prompt_tokens: int
    output_tokens: int

    @property
    def most_at_once(self) -> int:
        """So many were answered side by side, all of them."""
        return max((step.num_requests for step in self.steps if step.num_answered == step.num_requests), default=0)

    @property
    def has_refused(self) -> bool:
        return any(step.num_refused for step in self.steps)


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one request."""

    outcome: Outcome
    took_s: float
    reason: str = ""
    headers: Mapping[str, str] = {}
    retry_after_s: float | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0


def step_sizes(most: int) -> list[int]:
    """1, 2, 4, … and the most itself."""
    sizes = [2**power for power in range(most.bit_length()) if 2**power <= most]
    return sizes if sizes[-1] == most else [*sizes, most]


async def probe(
    opening: Opening,
    model: str,
    *,
    most: int,
    clock: Callable[[], float],
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    patience_s: float = _PATIENCE_S,
    on_step: Callable[[Step], None] = lambda _: None,
) -> LearntLimits:
    """model: one of ours that the upstream has. most: of requests side by side. clock: monotonic seconds.

    Raises ConfigurationError for an impossible address.
    """
    wire, request = wire_of(opening.provider), _question(model, now())
    client = open_client(opening)
    one = _One(client, opening.key, wire, request, clock, now, patience_s)
    steps: list[Step] = []
    told: list[_Told] = []
    reason = ""
    try:
        for size in step_sizes(most):
            reason = _used_up(told, size)
            if reason:
                break
            found = await asyncio.gather(*(one.ask() for _ in range(size)))
            told += found
            answered = [one.took_s for one in found if one.outcome == "answered"]
            step = Step(
                num_requests=size,
                num_answered=len(answered),
                num_refused=sum(one.outcome == "refused" for one in found),
                median_s=statistics.median(answered) if answered else None,
            )
            steps.append(step)
            on_step(step)
            reason = next((one.reason for one in found if one.outcome != "answered"), "")
            if reason:
                break
    finally:
        await client.close()
    return LearntLimits(
        steps=steps,
        headers={name: value for one in told for name, value in one.headers.items()},
        retry_after_s=max((one.retry_after_s for one in told if one.retry_after_s is not None), default=None),
        stopped_by=reason or f"{most} at once were asked for, and all were answered",
        prompt_tokens=sum(one.prompt_tokens for one in told),
        output_tokens=sum(one.output_tokens for one in told),
    )


def _question(model: str, at: datetime) -> Request:
    return Request(
        id=RequestId("probe"),
        model=model,
        arrived_at=at,
        messages=(Message(role="user", parts=(Text("Hi"),)),),
        thinking=Thinking(enabled=False),
        max_output_tokens=OUTPUT_TOKENS,
    )


def _used_up(told: Sequence[_Told], size: int) -> str:
    """Whether the service said that it takes fewer requests than the next step has."""
    for name, value in told[-1].headers.items() if told else ():
        if "remaining" in name and "token" not in name and value.isdigit() and int(value) < size:
            return f"{name} says that {value} requests are left, and the next step would take {size}"
    return ""


class _One:
    """Asks once."""

    def __init__(
        self,
        client: OriginClient,
        key: str | None,
        wire: UpstreamWire,
        request: Request,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        patience_s: float,
    ) -> None:
        self._client = client
        self._key = key
        self._wire = wire
        self._request = request
        self._asked = wire.encode(request, user=None, is_stream=False)
        self._clock = clock
        self._now = now
        self._patience_s = patience_s

    async def ask(self) -> _Told:
        began_at = self._clock()
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            **self._wire.headers(self._key),
        }
        try:
            async with asyncio.timeout(self._patience_s):
                answer = await self._client.call(self._asked.path, body=self._asked.body, headers=headers)
                try:
                    raw = await _read(answer)
                finally:
                    answer.close()
        except (OutgoingError, TimeoutError) as error:
            reason = str(error) or f"no answer came within {self._patience_s:g} s"
            return _Told(outcome="failed", took_s=self._clock() - began_at, reason=reason)
        took_s = self._clock() - began_at
        limits = {
            name.lower(): self._shown(value)
            for name, value in answer.headers.items()
            if name.lower().startswith(_LIMIT_HEADERS)
        }
        if answer.status in _REFUSALS:
            return _Told(
                outcome="refused",
                took_s=took_s,
                reason=f"it refused with the status {answer.status}",
                headers=limits,
                retry_after_s=read_retry_after(answer.headers, now=self._now()),
            )
        if answer.status != 200:
            said = self._shown(raw.decode("utf-8", "replace"))
            reason = f"it answered with the status {answer.status}: {said or 'nothing else'}"
            return _Told(outcome="failed", took_s=took_s, reason=reason, headers=limits)
        usage = self._usage_of(raw)
        if usage is None:
            return _Told(outcome="failed", took_s=took_s, reason="it answered with no answer", headers=limits)
        return _Told(
            outcome="answered",
            took_s=took_s,
            headers=limits,
            prompt_tokens=usage.prompt_tokens,
            output_tokens=usage.output_tokens,
        )

    def _usage_of(self, raw: bytes) -> Usage | None:
        """None for what is no answer; the usual where an answer does not say."""
        decoder = self._wire.decoder(self._request, served_by=None)
        try:
            decoder.whole(raw)
        except DeepserveError:
            return None
        return decoder.usage or Usage(miss_tokens=PROMPT_TOKENS, answer_tokens=OUTPUT_TOKENS)

    def _shown(self, text: str) -> str:
        """Somebody else's text in a terminal: short, printable, without our key."""
        if self._key:
            text = text.replace(self._key, "…")
        return "".join(letter if letter.isprintable() else " " for letter in text[:_MAX_SHOWN]).strip()


async def _read(answer: OriginAnswer) -> bytes:
    content = bytearray()
    while len(content) < _MAX_BYTES and (piece := await answer.piece()):
        content += piece
    return bytes(content[:_MAX_BYTES])

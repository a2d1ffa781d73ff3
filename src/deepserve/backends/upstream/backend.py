"""The back end that asks another service, and makes an answer of whatever it says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import UTC, datetime

from deepserve.backends.upstream.caller import UpstreamCaller
from deepserve.backends.upstream.estimate import estimate_prompt_tokens
from deepserve.backends.upstream.limits import UpstreamLimits
from deepserve.backends.upstream.wires import wire_of
from deepserve.catalog.providers import Provider
from deepserve.core.errors import BackendFailure, DeepserveError
from deepserve.core.events import Event
from deepserve.core.provider import ServedBy, ServedModel
from deepserve.core.request import Request
from deepserve.dialects.upstream_models import ListedModel, decode_models
from deepserve.outgoing.errors import OutgoingError
from deepserve.outgoing.origin_client import OriginClient
from deepserve.prompt.decoder import mint_call_id

_log = logging.getLogger(__name__)

UNPUBLISHED_TOKENS = 65_536
"""What is claimed of a context whose size the service does not publish."""


class _NoList(Exception):
    """It is there, and has no list of models for us."""


class UpstreamBackend:
    """Implements `backends.backend.Backend`.

    client  calls the provider's address
    key     is sent there and nowhere else, and never told to anybody
    learns_models  ask it at start how large its models are, and who answers there; later, where it is down then
    sleep, now, call_id  where time and chance come from, so that tests can hold them
    """

    def __init__(
        self,
        provider: Provider,
        *,
        client: OriginClient,
        key: str | None,
        limits: UpstreamLimits | None = None,
        learns_models: bool = False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        call_id: Callable[[int], str] = mint_call_id,
    ) -> None:
        self._provider = provider
        self._wire = wire_of(provider, call_id=call_id)
        self._client = client
        self._limits = limits or UpstreamLimits()
        self._learns_models = learns_models
        self._listed: Mapping[str, ListedModel] = {}
        self._caller = UpstreamCaller(provider, client=client, key=key, limits=self._limits, now=now, wire=self._wire)
        self._may_count = self._wire.counts
        self._sleep = sleep
        self._learning: asyncio.Task[None] | None = None
        self._is_ready = False

    def models(self) -> tuple[ServedModel, ...]:
        return tuple(self._served(model_id, name) for model_id, name in self._provider.models.items())

    def _served(self, model_id: str, name: str) -> ServedModel:
        listed = self._listed.get(name, ListedModel())
        context_tokens = listed.context_tokens or self._provider.context_tokens or UNPUBLISHED_TOKENS
        return ServedModel(
            id=model_id,
            display_name=name,
            served_by=listed.served_by or ServedBy(provider=self._provider.id, model=name, fingerprint=""),
            context_tokens=context_tokens,
            max_output_tokens=listed.max_output_tokens or self._provider.max_output_tokens or context_tokens,
            note=f"Answers come from {self._provider.title}.",
            counts_by_estimate=not self._may_count,
        )

    async def start(self) -> None:
        """An upstream that is down now may be up when the first request comes: that is not a reason not to start."""
        if self._learns_models and not await self._has_learned(logging.WARNING):
            self._learning = asyncio.create_task(self._learn_later())
        self._is_ready = True

    async def _learn_later(self) -> None:
        while True:
            await self._sleep(self._limits.learn_again_s)
            if await self._has_learned(logging.DEBUG):
                return

    async def _has_learned(self, level: int) -> bool:
        """False where it may be worth asking again. level: at which that is logged."""
        try:
            async with asyncio.timeout(self._limits.learn_s):
                await self._learn_models()
        except (OutgoingError, DeepserveError, TimeoutError, _NoList) as error:
            _log.log(level, "%s did not say what its models are: %s", self._provider.id, error or "it took too long")
            return isinstance(error, _NoList)
        return True

    async def _learn_models(self) -> None:
        answer = await self._client.call(self._wire.models_path, headers=self._caller.headers("application/json"))
        try:
            if answer.status != 200:
                told = f"the status is {answer.status}"
                raise _NoList(told) if 400 <= answer.status < 500 else BackendFailure(told)
            self._listed = decode_models(await answer.read(), title=self._provider.title)
        finally:
            answer.close()
        for name in self._provider.models.values():
            if self._listed and name not in self._listed:
                _log.warning("%s lists no model %s; requests for it may fail there", self._provider.id, name)

    async def close(self) -> None:
        self._is_ready = False
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.gather(self._learning, return_exceptions=True)
        await self._caller.close()
        await self._client.close()

    def is_ready(self) -> bool:
        return self._is_ready

    def enforces(self) -> bool:
        """What others promise is checked."""
        return False

    def gauges(self) -> Mapping[str, float]:
        """The fleet counts."""
        return {}

    async def count(self, request: Request) -> int:
        """By the service itself where it counts and a client wants to know, else an estimate.

        `models` says of the service whether it counts. What this server wants to know for itself is no reason to call.
        """
        if not self._may_count or not request.is_count:
            return estimate_prompt_tokens(request)
        counted = await self._caller.count(request)
        if counted is None:
            self._may_count = False
            return estimate_prompt_tokens(request)
        return counted

    def answer(self, request: Request) -> AsyncGenerator[Event]:
        """Asks once. Who may be asked again, and when, is decided by the fleet that this is a member of."""
        return self._caller.ask(request)

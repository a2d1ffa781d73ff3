"""The last requests of each tenant, for as long as they are few, so that one can be compared with those before it.

Two texts can only be shown to part where both are there: whole requests are remembered. They stay in memory, each
tenant sees its own alone, and nothing is remembered unless the operator says so.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

import msgspec

from deepserve.catalog.price_book import PriceBook
from deepserve.core.errors import DeepserveError, InvalidField
from deepserve.core.events import Event, Started, UsageReported
from deepserve.core.messages import File, Image, Message, Reasoning, ToolResult
from deepserve.core.request import Request
from deepserve.core.tenant import TenantId
from deepserve.core.usage import Usage
from deepserve.gateway import Gateway
from deepserve.metering.cache_misses import AskedPrompt, CacheExplanation, explain, header_value
from deepserve.prompt.difference import first_difference
from deepserve.prompt.outline import Section, outline

DEBUG: Final = "x-deepserve-cache-debug"
TOLD: Final = b"x-deepserve-cache"

_REQUESTS_PER_TENANT: Final = 32
_MOST_CHARACTERS: Final = 32 * 1024 * 1024
"""Of all tenants together; whoever holds most loses its oldest first."""

_SECTION_CHARACTERS: Final = 200
"""What a piece of a prompt takes beside its text."""

_MAX_HEADER_CHARACTERS: Final = 500


class Remembered(msgspec.Struct, kw_only=True):
    """One request. num_characters: of its prompt; size: of all that is held, in characters, about.

    usage: what has been told of its answer by now
    """

    request: Request
    sections: tuple[Section, ...]
    num_characters: int
    size: int
    usage: Usage | None = None


class CacheWatch:
    """is_on: requests are remembered."""

    def __init__(
        self, gateway: Gateway, prices: PriceBook, *, is_on: bool, most_characters: int = _MOST_CHARACTERS
    ) -> None:
        self._gateway = gateway
        self._prices = prices
        self.is_on = is_on
        self._most_characters = most_characters
        self._by_tenant: OrderedDict[TenantId, deque[Remembered]] = OrderedDict()
        self._held_characters = 0

    async def watch(
        self,
        request: Request,
        events: AsyncGenerator[Event],
        headers: list[tuple[bytes, bytes]],
        fields: Mapping[str, str],
    ) -> AsyncGenerator[Event]:
        """The answer, heard for what it tells of the cache. headers: leave with its first event; what was found is
        added to them where the client asks for it. Raises InvalidField where it asks in other words."""
        wanted = fields.get(DEBUG, "0").strip()
        if wanted not in ("0", "1"):
            raise InvalidField(f"The header {DEBUG} is 1 or 0.", field=DEBUG)
        own = _remembered(request)
        found = None
        earlier = self.nearest(own) if wanted == "1" else None
        if earlier is not None:
            found = await self.explanation(earlier, own)
        self._add(own)
        return self._heard(own, events, headers, found, is_told=wanted == "1")

    async def _heard(
        self,
        own: Remembered,
        events: AsyncGenerator[Event],
        headers: list[tuple[bytes, bytes]],
        found: CacheExplanation | None,
        *,
        is_told: bool,
    ) -> AsyncGenerator[Event]:
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Started):
                    own.usage = event.prompt_usage or own.usage
                    if is_told:
                        headers.append((TOLD, _header(own.usage, found)))
                        is_told = False
                elif isinstance(event, UsageReported):
                    own.usage = event.usage
                yield event

    def find(self, tenant: TenantId, request_id: str) -> Remembered | None:
        """By the id of the request, or that of its answer, with or without what dialects put around it."""
        wanted = request_id.replace("-", "").lower()
        kept = self._by_tenant.get(tenant, ())
        return next((one for one in reversed(kept) if wanted.endswith(one.request.id)), None)

    def last(self, tenant: TenantId) -> Remembered | None:
        kept = self._by_tenant.get(tenant)
        return kept[-1] if kept else None

    def nearest(self, later: Remembered) -> Remembered | None:
        """Of the requests before it, the one that shares most of its prompt; of several the last."""
        best, best_ratio = None, -1.0
        for one in self._by_tenant.get(later.request.tenant.id, ()):
            if one is later:
                break
            difference = first_difference(one.sections, later.sections)
            # Where it only goes on, all of the earlier one is shared.
            whole = sum(len(section.text) for section in one.sections) / max(1, later.num_characters)
            ratio = min(1.0, whole) if difference is None else difference.shared_ratio
            if one.request.user_id != later.request.user_id:
                ratio /= 1_000_000  # only where nobody else is there to compare with
            if ratio >= best_ratio:
                best, best_ratio = one, ratio
        return best

    async def explanation(self, earlier: Remembered, later: Remembered) -> CacheExplanation:
        one, other = await self._prompt(earlier), await self._prompt(later)
        point = self._prices.current().point_at(
            other.model, other.arrived_at, prompt_tokens=0 if other.ids is None else len(other.ids)
        )
        return explain(one, other, point=point)

    async def _prompt(self, kept: Remembered) -> AskedPrompt:
        request, sections, ids = kept.request, kept.sections, None
        try:
            rendered = await self._gateway.rendered(request)
        except DeepserveError:  # a request that was refused, or whose model is gone: compared by its text
            rendered = None
        if rendered is not None:
            restored, ids = rendered
            sections = outline(restored)
        return AskedPrompt(
            id=request.id,
            model=request.model,
            user_id=request.user_id,
            arrived_at=request.arrived_at,
            sections=sections,
            ids=ids,
            usage=kept.usage,
        )

    def _add(self, own: Remembered) -> None:
        tenant = own.request.tenant.id
        kept = self._by_tenant.setdefault(tenant, deque())
        kept.append(own)
        self._held_characters += own.size
        if len(kept) > _REQUESTS_PER_TENANT:
            self._drop(tenant)
        while self._held_characters > self._most_characters:
            self._drop(max(self._by_tenant, key=self._held))

    def _held(self, tenant: TenantId) -> int:
        return sum(one.size for one in self._by_tenant[tenant])

    def _drop(self, tenant: TenantId) -> None:
        kept = self._by_tenant[tenant]
        self._held_characters -= kept.popleft().size
        if not kept:
            del self._by_tenant[tenant]


def _remembered(request: Request) -> Remembered:
    sections = outline(request)
    num_characters = sum(len(one.text) for one in sections)
    size = num_characters + _SECTION_CHARACTERS * len(sections) + sum(map(_unseen, request.messages))
    return Remembered(request=request, sections=sections, num_characters=num_characters, size=size)


def _unseen(message: Message) -> int:
    """What a message holds beside the texts that the model reads: pictures, files, sealed traces."""
    found = 0
    for part in message.parts:
        for inner in (part, *(part.content if isinstance(part, ToolResult) else ())):
            match inner:
                case Image(url=data) | File(data=data) | Reasoning(sealed=data):
                    found += len(data or "")
                case _:
                    pass
    return found


def _header(usage: Usage | None, found: CacheExplanation | None) -> bytes:
    """Names within paths are ours; still, nothing but printable ASCII leaves."""
    if found is None:
        counts = "hit=? miss=?" if usage is None else f"hit={usage.hit_tokens} miss={usage.miss_tokens}"
        text = f"{counts} compared=none"
    else:
        text = header_value(found, usage)
    return "".join(letter for letter in text if " " <= letter <= "~")[:_MAX_HEADER_CHARACTERS].encode()

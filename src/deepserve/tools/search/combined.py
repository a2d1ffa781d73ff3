"""Several places searched at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain, zip_longest

from typing_extensions import override

from deepserve.core.server_tool import SearchHit, SearchResults, ToolFault
from deepserve.core.web_tools import SearchOptions
from deepserve.tools.search.provider import SearchProvider, Wish


class CombinedSearch(SearchProvider):
    """The best of each, in turn; a place that fails is left out as long as another answers."""

    def __init__(self, providers: Sequence[SearchProvider]) -> None:
        self._providers = tuple(providers)
        self.name = " and ".join(provider.name for provider in providers)
        self.honours: frozenset[Wish] = frozenset.intersection(*(provider.honours for provider in providers))

    @override
    async def start(self) -> None:
        for provider in self._providers:
            await provider.start()

    @override
    async def search(self, query: str, options: SearchOptions) -> SearchResults | ToolFault:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(provider.search(query, options)) for provider in self._providers]
        answers = [task.result() for task in asked]
        found = [answer.hits for answer in answers if isinstance(answer, SearchResults)]
        if not found:
            return answers[0]
        in_turn = chain.from_iterable(zip_longest(*found))
        best: dict[str, SearchHit] = {}
        for hit in in_turn:
            if hit is not None:
                best.setdefault(hit.url, hit)
        return SearchResults(query=query, hits=tuple(best.values())[: options.max_results])

    @override
    async def close(self) -> None:
        await asyncio.gather(*(provider.close() for provider in self._providers))

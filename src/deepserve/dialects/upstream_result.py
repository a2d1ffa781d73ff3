"""What reading another service's answer takes in the dialects whose answers have one result."""

from __future__ import annotations

from collections.abc import Callable

from typing_extensions import override

from deepserve.core.errors import DeepserveError
from deepserve.core.events import Block, BlockOpened, Event, Failed, Finished
from deepserve.core.provider import ServedBy
from deepserve.dialects.upstream_decoder import UpstreamDecoder


class ResultDecoder(UpstreamDecoder):
    """As `UpstreamDecoder`. A dialect calls `_opened` and `_new_call_id`, and sets `_finished`."""

    def __init__(
        self, *, provider: str, title: str, call_id: Callable[[int], str], served_by: ServedBy | None = None
    ) -> None:
        super().__init__(provider=provider, title=title, call_id=call_id, served_by=served_by)
        self._call_ids: set[str] = set()
        self._num_blocks = 0
        self._finished: Finished | None = None

    @property
    @override
    def has_all_ends(self) -> bool:
        return self._finished is not None

    @override
    def _unsaid_ends(self) -> list[Event]:
        return self._unsaid_end() if self._finished is None else []

    def _unsaid_end(self) -> list[Event]:
        """For a stream with its terminator and no reason. As it stands, no end: the answer has failed."""
        return []

    @override
    def _ends(self, error: DeepserveError | None) -> list[Event]:
        return [self._finished or Failed(error=error or self._broken_off())]

    def _new_call_id(self, given: str | None) -> str:
        id_ = given if given and given not in self._call_ids else self._call_id(len(self._call_ids))
        self._call_ids.add(id_)
        return id_

    def _opened(self, block: Block) -> BlockOpened:
        self._num_blocks += 1
        return BlockOpened(index=self._num_blocks - 1, block=block)

"""A summary of a conversation: asked for with the tools in sight, and once more without them if one was called.

The tools stand in the prompt before the conversation, so only with them is what was cached of it of use. A model that
calls one instead of writing is asked again, and what both attempts consumed is summed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from uuid import UUID, uuid4

import msgspec

from deepserve.core.events import BlockDelta, BlockOpened, Event, Failed, Finished, TextBlock, UsageReported
from deepserve.core.request import Request, RequestId, ToolChoice
from deepserve.core.usage import Usage
from deepserve.gateway import Gateway


class Summaries:
    """Answers with text. new_id: for the second attempt, which is billed and logged by itself."""

    def __init__(self, gateway: Gateway, *, new_id: Callable[[], UUID] = uuid4) -> None:
        self._gateway = gateway
        self._new_id = new_id

    async def answer(self, request: Request) -> AsyncGenerator[Event]:
        """One stream, whose blocks may be those of two answers."""
        usage, is_text, has_written = Usage(), False, False
        async with aclosing(self._gateway.answer(request)) as events:
            async for event in events:
                match event:
                    case BlockOpened():
                        is_text = isinstance(event.block, TextBlock)
                    case BlockDelta():
                        has_written = has_written or (is_text and bool(event.text.strip()))
                    case UsageReported():
                        usage = event.usage
                    case Finished(reason="tool_calls") if not has_written:
                        break
                    case Failed() | Finished():
                        has_written = True  # there is no second attempt
                yield event
        if has_written:
            return
        again = msgspec.structs.replace(request, id=RequestId(self._new_id().hex), tool_choice=ToolChoice(mode="none"))
        async with aclosing(self._gateway.answer(again)) as events:
            async for event in events:
                if isinstance(event, UsageReported):
                    event = msgspec.structs.replace(event, usage=usage.plus(event.usage))
                yield event

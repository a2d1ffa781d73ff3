"""The calls of one answer: carried out side by side, within what the server and the client allow."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from deepserve.config import ToolLimits
from deepserve.core.messages import Message
from deepserve.core.request import Request
from deepserve.core.server_tool import ToolFault, ToolKind, ToolOutput
from deepserve.tools.call import call_tool
from deepserve.tools.fetch.mentions import mentions_of
from deepserve.tools.runner import CallContext
from deepserve.tools.tool_round import RoundCall
from deepserve.tools.toolbox import OfferedTool

_TOO_MANY = ToolFault(code="max_uses_exceeded", message="no more calls can be made in this answer")


class AnswerCalls:
    """said: the conversation as the client sent it. reason: why a tool is missing. session: see `CallContext`."""

    def __init__(
        self,
        request: Request,
        said: Sequence[Message],
        *,
        limits: ToolLimits,
        reason: Callable[[ToolKind], str],
        session: str,
    ) -> None:
        self._request = request
        self._said = said
        self._limits = limits
        self._reason = reason
        self._session = session
        self._uses: Counter[str] = Counter()
        self._outputs: list[ToolOutput] = []

    @property
    def num_made(self) -> int:
        return self._uses.total()

    def num_uses(self, name: str) -> int:
        return self._uses[name]

    async def carry_out(self, calls: Sequence[RoundCall], *, are_too_many: bool = False) -> list[ToolOutput]:
        """Run calls side by side; each has an output, in order. Cancelled, it cancels them all."""
        slots = asyncio.Semaphore(self._limits.parallel_calls)

        async def run(one: RoundCall, refusal: ToolFault | None) -> ToolOutput:
            if refusal is not None:
                return refusal
            async with slots:
                return await call_tool(
                    one.tool,
                    one.call.arguments,
                    self._context(),
                    missing=self._reason(one.tool.wanted.tool),
                    max_characters=self._limits.result_characters,
                )

        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(run(one, _TOO_MANY if are_too_many else self._refuse(one.tool))) for one in calls
            ]
        outputs = [task.result() for task in running]
        self._outputs += outputs
        return outputs

    def _refuse(self, tool: OfferedTool) -> ToolFault | None:
        """Count a call, or say why it is not made."""
        name, max_uses = tool.function.name, tool.wanted.max_uses
        if max_uses is not None and self._uses[name] >= max_uses:
            return ToolFault(
                code="max_uses_exceeded", message=f"this tool may be called {max_uses} times in an answer, and was"
            )
        if self._uses.total() >= self._limits.calls:
            return _TOO_MANY
        self._uses[name] += 1
        return None

    def _context(self) -> CallContext:
        """The end user narrows the session, but is not named to the tool."""
        whose = hashlib.blake2b(msgspec.msgpack.encode((self._request.user_id, self._session)), digest_size=16)
        return CallContext(
            tenant=self._request.tenant.id,
            session=whose.hexdigest(),
            timeout_s=self._limits.call_s,
            was_mentioned=self._was_mentioned,
        )

    def _was_mentioned(self, url: str) -> bool:
        """Looked up when it is asked for, which few tools do: it takes reading the whole conversation."""
        mentions = mentions_of(self._said)
        for output in self._outputs:
            mentions.add_output(output)
        return url in mentions

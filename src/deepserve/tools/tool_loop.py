"""Answers in whose middle the server runs tools: model, tool, model, within one request.

    round:  the model answers; its calls of the server's tools are carried out side by side
    next:   the conversation, with these calls and what they brought back, is asked again
    end:    a round that calls nothing of the server's, calls of the client's tools, or a limit

A client sees one answer: blocks counted through, calls and results of the server's tools among them, usage summed over
the rounds. Each round is a request of its own to the back end, whose prefix cache knows all of it but the results.

When a limit is met (rounds, calls, time, tokens) the model is asked once more, without tools, so that what was found
is not lost. A tool that fails, hangs or floods is a result that says so, and the conversation goes on.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec

from deepserve.config import ToolLimits
from deepserve.core.errors import UnsupportedFeature
from deepserve.core.events import Event
from deepserve.core.messages import ServerToolCall, ServerToolResult
from deepserve.core.request import Request
from deepserve.prompt.server_turns import ordinary_turns
from deepserve.tools.answer_in_rounds import AnswerInRounds, Ask, PreparedRequest
from deepserve.tools.result_memory import ResultMemory
from deepserve.tools.toolbox import EMPTY, Toolbox


class ToolLoop:
    """Runs such answers; one for the whole server. clock: monotonic seconds."""

    def __init__(
        self,
        toolbox: Toolbox = EMPTY,
        limits: ToolLimits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.toolbox = toolbox
        self._limits = limits or ToolLimits()
        self._clock = clock
        self._memory = ResultMemory(tenant_bytes=self._limits.kept_bytes)

    def take(self, limits: ToolLimits) -> None:
        """Other limits for answers that begin from now on."""
        self._limits = limits
        self._memory.tenant_bytes = limits.kept_bytes

    def prepare(self, request: Request) -> PreparedRequest:
        """The request of the first round: past calls as ordinary turns, the server's tools beside the client's.

        Raises UnsupportedFeature and InvalidField, as `Toolbox.offer` does.
        """
        if not request.server_tools and not self.toolbox.offers_unasked and not _has_server_parts(request):
            return PreparedRequest(request=request, said=request.messages)
        offered = self.toolbox.offer(request)
        called = [tool for tool in offered if not tool.wanted.is_first]
        restored = self._memory.restore(request)
        return PreparedRequest(
            request=msgspec.structs.replace(
                restored,
                messages=ordinary_turns(restored.messages),
                tools=(*request.tools, *(tool.function for tool in called)),
                server_tools=(),
            ),
            said=restored.messages,
            offered={tool.function.name: tool for tool in called},
            first=tuple(tool for tool in offered if tool.wanted.is_first),
        )

    def answer(self, request: Request, ask: Ask, *, prepared: PreparedRequest | None = None) -> AsyncGenerator[Event]:
        """As `Backend.answer`. Closing it cancels the tools that run. Raises what `prepare` does.

        prepared: what that gave, for callers that have looked at it.
        """
        prepared = self.prepare(request) if prepared is None else prepared
        if prepared.is_plain:
            return ask(prepared.request)  # as it is: one more generator would cost something at every event
        return self._answer_with_tools(request, prepared, ask)

    async def _answer_with_tools(self, request: Request, prepared: PreparedRequest, ask: Ask) -> AsyncGenerator[Event]:
        if request.num_results > 1:
            raise UnsupportedFeature(
                "Several results cannot be asked for together with tools that the server runs: ask several times.",
                field="n",
            )
        session = self._memory.session_of(request) or request.id
        answer = AnswerInRounds(prepared, ask, self.toolbox, self._limits, self._clock, session=session)
        try:
            async with aclosing(answer.events()) as events:
                async for event in events:
                    yield event
        finally:
            for number, kept in enumerate(answer.carried_out):
                self._memory.remember(request, number, kept)


def _has_server_parts(request: Request) -> bool:
    return any(
        isinstance(part, ServerToolCall | ServerToolResult) for message in request.messages for part in message.parts
    )

"""What a tool that runs on the server is to the loop that calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from deepserve.core.messages import Json
from deepserve.core.request import ServerTool
from deepserve.core.server_tool import ToolOutput
from deepserve.core.tenant import TenantId
from deepserve.core.tool import Tool


class CallContext(msgspec.Struct, frozen=True, kw_only=True):
    """On whose behalf a tool is called.

    session     names the conversation within the tenant: what a tool keeps between calls belongs to it
    timeout_s   after so long the caller cancels the call
    was_mentioned  whether an address stands in the conversation, written by anybody but the model
                (`fetch.mentions`); None: there is no conversation, a client calls the tool itself
    """

    tenant: TenantId
    session: str
    timeout_s: float
    was_mentioned: Callable[[str], bool] | None = None


class ToolRunner(Protocol):
    """One tool. `run` never raises for what the model or a stranger did wrong: that is a ToolFault."""

    def offer(self, wanted: ServerTool) -> Tool:
        """The function that the model sees, under the name `wanted` gives it."""
        ...

    async def run(self, arguments: Mapping[str, Json], wanted: ServerTool, context: CallContext) -> ToolOutput:
        """Carry out one call. `arguments` came from the model: nothing about them is certain. Cancelled by the caller
        when time is up; it then leaves nothing behind."""
        ...

    async def close(self) -> None:
        """End what is still running."""
        ...

"""The date and time, for models that were trained long ago."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from zoneinfo import ZoneInfo

from typing_extensions import override

from deepserve.core.messages import Json
from deepserve.core.request import ServerTool
from deepserve.core.server_tool import PlainOutput, ToolFault, ToolOutput
from deepserve.core.tool import Tool
from deepserve.tools.runner import CallContext, ToolRunner


class DateTime(ToolRunner):
    """now: the wall clock, in UTC. The request may name the time zone that is meant where the model names none."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now

    @override
    def offer(self, wanted: ServerTool) -> Tool:
        zone = {"type": "string", "description": "An IANA name such as Europe/Berlin; UTC without it."}
        return Tool(
            name=wanted.name,
            description="Tell the current date and time.",
            parameters={"type": "object", "properties": {"timezone": zone}},
        )

    @override
    async def run(self, arguments: Mapping[str, Json], wanted: ServerTool, context: CallContext) -> ToolOutput:
        name = arguments.get("timezone") or wanted.options.get("timezone") or "UTC"
        try:
            local = self._now().astimezone(ZoneInfo(name))
        except (ValueError, KeyError, OSError, TypeError):
            return ToolFault(code="invalid_input", message=f"there is no time zone {str(name)[:64]!r}")
        return PlainOutput(text=local.strftime("%A, %Y-%m-%d %H:%M:%S ") + f"{name} ({local.isoformat()})")

    @override
    async def close(self) -> None:
        """Nothing is open."""

"""Python as a tool: programs of the model, run behind walls, one session for each conversation."""

from __future__ import annotations

import mimetypes
import platform
from collections.abc import Callable, Mapping

from typing_extensions import override

from deepserve.core.messages import Json
from deepserve.core.request import ServerTool
from deepserve.core.server_tool import CodeOutput, OutputFile, ToolFault, ToolOutput
from deepserve.core.tool import Tool
from deepserve.tools.runner import CallContext, ToolRunner
from deepserve.tools.sandbox.ladder import Sandbox
from deepserve.tools.sandbox.process import CellResult, StartFailed
from deepserve.tools.sandbox.sessions import SessionKey, Sessions, SessionsBusy

_ANSWER_S = 1.0
"""Kept back from the caller's time, so that a program that takes too long is reported and not just cut off."""


class CodeInterpreter(ToolRunner):
    """Runs what `choose_sandbox` found. Starts nothing before `start_ahead` or the first call."""

    def __init__(self, sandbox: Sandbox, *, clock: Callable[[], float]) -> None:
        self._sandbox = sandbox
        self._limits = sandbox.limits
        self._sessions = Sessions(sandbox.tier.start, sandbox.limits, clock=clock)

    def start_ahead(self) -> None:
        """Have the first call wait for nothing. Needs a running event loop."""
        self._sessions.start_ahead()

    @override
    def offer(self, wanted: ServerTool) -> Tool:
        code = {"type": "string", "description": "Python source code; the value of a last expression is shown."}
        return Tool(
            name=wanted.name,
            description=self._description(),
            parameters={"type": "object", "properties": {"code": code}, "required": ["code"]},
        )

    @override
    async def run(self, arguments: Mapping[str, Json], wanted: ServerTool, context: CallContext) -> ToolOutput:
        code = arguments.get("code")
        if not isinstance(code, str) or not code.strip():
            return ToolFault(code="invalid_input", message="`code` must be Python source code.")
        try:
            num_bytes = len(code.encode())
        except UnicodeEncodeError:
            return ToolFault(code="invalid_input", message="`code` has half a surrogate pair in it, which is no text.")
        if num_bytes > self._limits.code_bytes:
            most = self._limits.code_bytes // 1024
            return ToolFault(code="input_too_long", message=f"A program may be {most} KiB long at most.")
        key = SessionKey(context.tenant, context.session)
        try:
            result = await self._sessions.run(key, code, timeout_s=max(0.1, context.timeout_s - _ANSWER_S))
        except SessionsBusy as error:
            return ToolFault(code="too_many_requests", message=f"{error}.")
        except StartFailed as error:
            return ToolFault(code="unavailable", message=f"Python could not be started: {error}.")
        return _output(code, result)

    @override
    async def close(self) -> None:
        await self._sessions.close()

    def _description(self) -> str:
        packages = " and ".join(self._sandbox.runtime.offered_names())
        has_plots = any(package.name == "matplotlib" for package in self._sandbox.runtime.offered)
        lines = [
            f"Run Python {platform.python_version()} with its standard library{f', {packages}' if packages else ''}.",
            "What is printed and the value of the last expression are returned.",
            "Variables and files in the working folder stay for the next call of this conversation, unless a limit "
            f"was exceeded or {self._limits.idle_s / 60:g} minutes have passed.",
            "Open matplotlib figures are returned as SVG." if has_plots else "",
            f"New files right in the working folder are returned, up to {self._limits.files_back} of "
            f"{self._limits.file_back_bytes // 1024} KiB each.",
            "There is no network, no input, nothing can be installed, and no other process can be started: subprocess "
            "and multiprocessing fail, threads work.",
            f"A call may take {self._limits.cell_s:g} s and {self._limits.memory_bytes // 1024**2} MiB of memory.",
        ]
        return " ".join(line for line in lines if line)


def _output(code: str, result: CellResult) -> CodeOutput:
    return CodeOutput(
        code=code,
        stdout=result.stdout,
        stderr=result.stderr,
        value=result.value,
        exit_code=result.exit_code,
        stopped_by=f"{result.stopped_by}; variables and files are gone" if result.stopped_by is not None else None,
        files=tuple(
            OutputFile(name=name, media_type=_media_type(name), content=content) for name, content in result.files
        ),
    )


def _media_type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"

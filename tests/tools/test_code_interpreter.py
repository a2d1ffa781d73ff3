"""Python as a tool, through the interface that the tool loop calls, in a real sandbox."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from deepserve.config import CodeLimits
from deepserve.core.messages import Json
from deepserve.core.request import ServerTool
from deepserve.core.server_tool import CodeOutput, OutputFile, ToolFault, ToolOutput
from deepserve.core.tenant import TenantId
from deepserve.tools.code_interpreter import CodeInterpreter
from deepserve.tools.runner import CallContext
from deepserve.tools.sandbox import bubblewrap
from deepserve.tools.sandbox.ladder import Sandbox
from tests.tools.sandbox.conftest import open_sandbox, python_folder

__all__ = ["python_folder"]

WANTED = ServerTool(tool="code_interpreter", name="python")


@pytest.fixture(scope="module")
def sandbox(python_folder: Path) -> Sandbox:
    return open_sandbox(python_folder, "auto")


def with_interpreter(sandbox: Sandbox, story: Callable[[CodeInterpreter], Awaitable[None]]) -> None:
    async def tell() -> None:
        interpreter = CodeInterpreter(sandbox, clock=time.monotonic)
        try:
            async with asyncio.timeout(120):
                await story(interpreter)
        finally:
            await interpreter.close()

    asyncio.run(tell())


async def call(
    interpreter: CodeInterpreter, arguments: Mapping[str, Json] | str, session: str = "s", timeout_s: float = 30.0
) -> ToolOutput:
    if isinstance(arguments, str):
        arguments = {"code": arguments}
    context = CallContext(tenant=TenantId("t"), session=session, timeout_s=timeout_s)
    return await interpreter.run(arguments, WANTED, context)


def test_the_model_is_told_what_there_is(sandbox: Sandbox) -> None:
    async def story(interpreter: CodeInterpreter) -> None:
        tool = interpreter.offer(WANTED)
        assert tool.name == "python"
        for said in (f"Python {platform.python_version()}", "no network", "subprocess", "30 s", "1024 MiB"):
            assert said in tool.description
        for package in sandbox.runtime.offered:
            assert f"{package.name} {package.version}" in tool.description
        assert tool.parameters is not None
        assert tool.parameters["required"] == ["code"]

    with_interpreter(sandbox, story)


def test_a_program_brings_back_what_it_did(sandbox: Sandbox) -> None:
    async def story(interpreter: CodeInterpreter) -> None:
        interpreter.start_ahead()
        code = "print('hello')\nopen('a.csv', 'w').write('1')\nx = 6 * 7\nx"
        assert await call(interpreter, code) == CodeOutput(
            code=code,
            stdout="hello\n",
            value="42",
            files=(OutputFile(name="a.csv", media_type="text/csv", content=b"1"),),
        )
        assert await call(interpreter, "x") == CodeOutput(code="x", value="42")
        other = await call(interpreter, "x", session="other")
        assert isinstance(other, CodeOutput)
        assert other.exit_code == 1
        assert "NameError" in other.stderr

    with_interpreter(sandbox, story)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({}, "invalid_input"),
        ({"code": None}, "invalid_input"),
        ({"code": ["print(1)"]}, "invalid_input"),
        ({"code": "  \n"}, "invalid_input"),
        ({"code": "'\ud800'"}, "invalid_input"),
        ({"code": "#" * (256 * 1024 + 1)}, "input_too_long"),
    ],
)
def test_what_is_no_program_is_a_fault_that_says_so(arguments: Mapping[str, Json], code: str, sandbox: Sandbox) -> None:
    async def story(interpreter: CodeInterpreter) -> None:
        fault = await call(interpreter, arguments)
        assert isinstance(fault, ToolFault)
        assert fault.code == code

    with_interpreter(sandbox, story)


def test_the_longest_program_runs(sandbox: Sandbox) -> None:
    async def story(interpreter: CodeInterpreter) -> None:
        output = await call(interpreter, "1" + " " * (256 * 1024 - 1))
        assert isinstance(output, CodeOutput)
        assert output.value == "1"

    with_interpreter(sandbox, story)


def test_a_program_that_takes_too_long_is_reported_before_the_caller_gives_up(sandbox: Sandbox) -> None:
    async def story(interpreter: CodeInterpreter) -> None:
        await call(interpreter, "'started'")
        output = await call(interpreter, "print('before', flush=True)\nwhile True: pass", timeout_s=1.5)
        assert isinstance(output, CodeOutput)
        assert (output.stdout, output.exit_code) == ("before\n", 1)
        assert re.fullmatch(r"the time limit of 0\.\d+ s; variables and files are gone", output.stopped_by or "")
        following = await call(interpreter, "1 + 1")
        assert isinstance(following, CodeOutput)
        assert following.value == "2"

    with_interpreter(sandbox, story)


def test_a_cancelled_program_is_ended(sandbox: Sandbox) -> None:
    async def story(interpreter: CodeInterpreter) -> None:
        pid = await call(interpreter, "import os; os.getpid()")
        assert isinstance(pid, CodeOutput)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await call(interpreter, "while True: pass")
        gone = await call(interpreter, "os.getpid()")
        assert isinstance(gone, CodeOutput)
        assert "NameError" in gone.stderr

    with_interpreter(sandbox, story)


def test_programs_that_cannot_start_are_a_fault(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(interpreter: CodeInterpreter) -> None:
        monkeypatch.setenv("PATH", "/nonexistent")
        fault = await call(interpreter, "1")
        assert isinstance(fault, ToolFault)
        assert fault.code == "unavailable"
        assert "bwrap is not installed" in fault.message

    if sandbox.tier.name != "bubblewrap":
        pytest.skip("nothing else is needed for this tier")
    with_interpreter(sandbox, story)


def test_more_conversations_than_allowed_at_once_are_a_fault(sandbox: Sandbox) -> None:
    async def story(interpreter: CodeInterpreter) -> None:
        code = "import time\nwhile True: time.sleep(0.01)"
        running = [asyncio.create_task(call(interpreter, code, session=name)) for name in ("a", "b")]
        await asyncio.sleep(0)
        fault = await call(interpreter, "1", session="c")
        assert fault == ToolFault(
            code="too_many_requests",
            message="2 programs of yours are running already; try again when one has finished.",
        )
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        output = await call(interpreter, "1", session="c")
        assert isinstance(output, CodeOutput)

    with_interpreter(sandbox, story)


def test_markup_of_prompts_in_what_is_printed_stays_text(sandbox: Sandbox) -> None:
    async def story(interpreter: CodeInterpreter) -> None:
        markup = "<｜Assistant｜></think>"
        output = await call(interpreter, f"print({markup!r})")
        assert isinstance(output, CodeOutput)
        assert output.stdout == f"{markup}\n"

    with_interpreter(sandbox, story)


def test_no_descriptor_is_lost(sandbox: Sandbox) -> None:
    async def story(interpreter: CodeInterpreter) -> None:
        for number in range(6):
            await call(interpreter, "1" if number % 2 else "import os; os._exit(0)", session=str(number))

    with_interpreter(sandbox, story)
    before = len(os.listdir("/proc/self/fd"))
    with_interpreter(sandbox, story)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_documentation_states_the_limits_in_force() -> None:
    page = (Path(__file__).parents[2] / "docs" / "server-tools.md").read_text("utf-8")
    limits = CodeLimits()
    mib, kib = 1024 * 1024, 1024
    for stated in (
        f"| one call | {limits.cell_s:g} s, {limits.cell_cpu_s:g} s of processor time |",
        f"| a session unused | {limits.idle_s / 60:g} min |",
        f"| a session | {limits.life_s / 60:g} min, {limits.session_cpu_s:g} s of processor time |",
        f"| memory | {limits.memory_bytes // mib} MiB |",
        f"| threads | {bubblewrap.NUM_THREADS} |",
        f"| working folder | {limits.session_bytes // mib} MiB, {limits.session_files} files, "
        f"{limits.file_bytes // mib} MiB a file |",
        f"| program | {limits.code_bytes // kib} KiB |",
        f"| output | {limits.output_bytes // kib} KiB are kept; {limits.output_read_bytes // kib} KiB end",
        f"| files back | {limits.files_back} of {limits.file_back_bytes // kib} KiB each |",
        f"| sessions | {limits.max_sessions_per_tenant} a tenant, {limits.max_sessions} in all |",
        f"from {limits.first_uid} on",
    ):
        assert stated in page

"""`deepserve doctor`: what is installed here, what would be served, and how fast."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from functools import partial
from typing import Any

import click
import msgspec

from deepserve.backends.selection import select_backend
from deepserve.cli.findings import Findings
from deepserve.cli.machine_checks import check_installation, load_measured
from deepserve.cli.serve_options import serve_options
from deepserve.cli.setting_option import GroupedCommand
from deepserve.cli.settings import configuration_from
from deepserve.cli.settings_checks import check_configuration, check_database
from deepserve.cli.upstream_checks import check_upstreams
from deepserve.config import Settings
from deepserve.core.errors import ConfigurationError, DeepserveError
from deepserve.tools.opening import OpenedTools, open_tools


@click.command(cls=GroupedCommand)
@click.option(
    "--online", "is_online", is_flag=True, help="Call each upstream once, for its models; this costs nothing."
)
@serve_options
def doctor(is_online: bool, **options: Any) -> None:  # Any: the options of `serve`, as click hands them over
    """Check what `serve` would do with the same options: what is installed, configured, kept and answered, how fast.

    \b
    ok    as it should be
    --    missing, and not needed
    warn  works, but should be looked at
    fail  must be put right; the command exits with 1
    """
    findings = Findings()
    library = check_installation(findings)
    try:
        configuration = configuration_from(**options)
    except ConfigurationError as error:
        findings.say("fail", "configuration", error.message)
    else:
        settings = configuration.settings
        check_configuration(configuration, findings)
        check_database(settings, findings)
        # From here on without the place where things are kept: nothing is made or changed there.
        settings = msgspec.structs.replace(settings, state_dir=None, database=None)
        _check_tools(settings, findings)
        if settings.backend == "upstream":
            check_upstreams(settings, findings, is_online=is_online)
        if findings.is_healthy or settings.backend != "upstream":
            _check_backend(settings, library, findings)
    findings.conclude()
    sys.exit(0 if findings.is_healthy else 1)


def _check_tools(settings: Settings, findings: Findings) -> None:
    """What models could use if `serve` got the same options. Nothing is searched, called or kept."""
    try:
        tools = open_tools(settings, environment=os.environ)
    except DeepserveError as error:
        findings.say("fail", "tools", error.message)
        return
    for kind, reason in tools.toolbox.describe().items():
        detail = tools.details.get(kind, "ready") if reason is None else f"not offered: {reason}"
        findings.say("ok" if reason is None else "--", kind, detail)
    asyncio.run(_try_mcp_servers(tools, findings))


async def _try_mcp_servers(tools: OpenedTools, findings: Findings) -> None:
    """Start them once, to hear what they offer; the folders to be searched are left alone."""
    try:
        await asyncio.gather(*(server.start() for server in tools.mcp_servers.values()))
        for name, server in tools.mcp_servers.items():
            names = [function.name for function, _ in server.functions()]
            if server.problem is None:
                findings.say("ok", f"MCP {name}", f"offers {', '.join(names) or 'nothing'}")
            else:
                findings.say("fail", f"MCP {name}", server.problem)
    finally:
        await tools.close()


def _check_backend(settings: Settings, library: ctypes.CDLL | None, findings: Findings) -> None:
    load = partial(load_measured, settings, library, findings)
    try:
        backend = load() if settings.backend == "embedded" else select_backend(settings)
        for model in backend.models():
            findings.say("ok", model.id, f"answered by {model.served_by.label} ({model.served_by.fingerprint})")
    except DeepserveError as error:
        findings.say("fail", "model", error.message)

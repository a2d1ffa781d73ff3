"""`deepserve doctor`: what is installed here, what would be served, and how fast."""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import sys
import time
from importlib import metadata
from typing import Any

import click

from deepserve import __version__
from deepserve.backends.backend import Backend
from deepserve.backends.selection import select_backend
from deepserve.cli.keys import open_keys
from deepserve.cli.progress import LoadingProgress
from deepserve.cli.settings import database_option, model_options, settings_from
from deepserve.cli.tool_options import tool_options
from deepserve.config import Settings
from deepserve.core.errors import DeepserveError
from deepserve.engine.interface import Engine
from deepserve.engine.machine import count_cores, huge_page_policy, measure_decode
from deepserve.engine.native.shared_library import HOW_TO_GET_IT, find_library, instruction_sets, load_library
from deepserve.store.database import show_place
from deepserve.tools.opening import OpenedTools, open_tools

_OPTIONAL = {
    "torch": ("reference engine", 'pip install "deepserve[reference]"'),
    "deepseek-recipe": ("prompt format of official checkpoints", 'pip install "deepserve[v4]"'),
}

_PROBE_BYTES = 256 << 20
"""Beyond most caches, and read in a few hundredths of a second."""

_ALLOW_HUGE_PAGES = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"

_DECODE_S = 0.3
_DECODE_TOKENS = 500


@click.command()
@model_options
@tool_options
@database_option
def doctor(settings: Settings, **options: Any) -> None:  # Any: the shared options, as click hands them over
    """Check what is installed, what would be served and how fast. Exits with 1 when `serve` would fail."""
    _say("ok", "deepserve", __version__)
    _say("ok", "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    library = _check_core()
    _check_machine(library)
    for package, (purpose, remedy) in _OPTIONAL.items():
        try:
            _say("ok", package, f"{metadata.version(package)} ({purpose})")
        except metadata.PackageNotFoundError:
            _say("--", package, f"not installed ({purpose}); {remedy}")
    is_healthy = _check_state(settings)
    is_healthy = _check_tools(options) and is_healthy
    is_healthy = _check_backend(options, library) and is_healthy
    sys.exit(0 if is_healthy else 1)


def _check_core() -> ctypes.CDLL | None:
    try:
        if find_library() is None:
            _say("--", "native core", f"not part of this installation: reference engine only. {HOW_TO_GET_IT}")
            return None
        library = load_library()
    except DeepserveError as error:
        _say("!!", "native core", error.message)
        return None
    _say("ok", "native core", f"runs here with {', '.join(instruction_sets(library))}, best first")
    return library


def _check_machine(library: ctypes.CDLL | None) -> None:
    num_cores = count_cores()
    _say("ok", "cores", str(num_cores))
    match huge_page_policy():
        case None:
            pass
        case "never":
            _say("--", "huge pages", f"switched off, which slows large models; allow them with: {_ALLOW_HUGE_PAGES}")
        case policy:
            _say("ok", "huge pages", policy)
    if library is not None:
        rates = [
            (threads, _read_bandwidth(library, _PROBE_BYTES, threads)) for threads in range(1, min(2, num_cores) + 1)
        ]
        shown = [f"{rate / 1e9:.1f} GB/s with {threads} thread{'s' * (threads > 1)}" for threads, rate in rates]
        _say("ok", "reading memory", ", ".join(shown))


def _read_bandwidth(library: ctypes.CDLL, size_bytes: int, num_threads: int) -> float:
    """Bytes per second; the best of three, because other programs can only slow it down."""
    rates: list[float] = [library.ds_measure_read_bandwidth(size_bytes, num_threads) for _ in range(3)]
    return max(rates)


def _check_state(settings: Settings) -> bool:
    assert settings.state_dir is not None
    shown = show_place(settings) if settings.database else str(settings.state_dir)
    if not settings.database and not settings.state_dir.exists():
        _say("ok", "state", f"{shown} (will be created)")
        return True
    try:
        has_keys = open_keys(settings).has_any()
        _say("ok", "state", f"{shown} ({'keys required' if has_keys else 'no keys: this machine only'})")
    except DeepserveError as error:
        _say("!!", "state", error.message)
        return False
    return True


def _check_tools(options: dict[str, Any]) -> bool:  # Any: as above
    """What models could use if `serve` got the same options. Nothing is searched, called or kept."""
    try:
        settings = settings_from(**options)
        tools = open_tools(settings, environment=os.environ)
    except DeepserveError as error:
        _say("!!", "tools", error.message)
        return False
    for kind, reason in tools.toolbox.describe().items():
        detail = tools.details.get(kind, "ready") if reason is None else f"not offered: {reason}"
        _say("ok" if reason is None else "--", kind, detail)
    return asyncio.run(_try_mcp_servers(tools))


async def _try_mcp_servers(tools: OpenedTools) -> bool:
    """Start them once, to hear what they offer; the folders to be searched are left alone."""
    try:
        await asyncio.gather(*(server.start() for server in tools.mcp_servers.values()))
        for name, server in tools.mcp_servers.items():
            names = [function.name for function, _ in server.functions()]
            if server.problem is None:
                _say("ok", f"MCP {name}", f"offers {', '.join(names) or 'nothing'}")
            else:
                _say("!!", f"MCP {name}", server.problem)
        return all(server.problem is None for server in tools.mcp_servers.values())
    finally:
        await tools.close()


def _check_backend(options: dict[str, Any], library: ctypes.CDLL | None) -> bool:
    try:
        settings = settings_from(**options)
        backend = _load_embedded(settings, library) if settings.backend == "embedded" else select_backend(settings)
        for model in backend.models():
            _say("ok", model.id, f"answered by {model.served_by.label} ({model.served_by.fingerprint})")
    except DeepserveError as error:
        _say("!!", "model", error.message)
        return False
    return True


def _load_embedded(settings: Settings, library: ctypes.CDLL | None) -> Backend:
    """The back end that would serve, its engine measured before it is handed over."""
    from deepserve.backends.embedded import EmbeddedBackend
    from deepserve.backends.tokens.model import load_model
    from deepserve.engine.loader import load_engine
    from deepserve.engine.options import EngineOptions

    model = load_model(settings.model_path, settings.profile)
    engine = load_engine(model.folder, EngineOptions.from_settings(settings), LoadingProgress())
    info = engine.info
    _say("ok", "engine", f"{info.name} on {info.device}, weights in {info.formats}")
    if library is not None and info.name == "native":
        _expect_speed(engine, library)
    speed = measure_decode(engine, seconds=_DECODE_S, max_tokens=_DECODE_TOKENS, clock=time.perf_counter)
    _say("ok", "measured", f"{_rounded(speed)} tokens/s, one short answer by itself")
    return EmbeddedBackend(model, engine, settings)


def _expect_speed(engine: Engine, library: ctypes.CDLL) -> None:
    from deepserve.engine.native.engine import NativeEngine

    assert isinstance(engine, NativeEngine)
    core = engine.core_info()
    pages = {1: ", backed by huge pages", 0: ", not backed by huge pages"}.get(core.has_huge_pages, "")
    threads = f"{core.num_threads} thread{'s' * (core.num_threads > 1)}"
    _say(
        "ok", "weights", f"{core.weight_bytes / 1e6:,.1f} MB{pages}; {core.active_weight_bytes / 1e6:,.1f} MB per token"
    )
    # As many bytes as the weights have: what fits into a cache is read from there.
    size_bytes = min(core.weight_bytes, _PROBE_BYTES)
    rate = _read_bandwidth(library, size_bytes, core.num_threads)
    bound = rate / core.active_weight_bytes
    _say(
        "ok",
        "to expect",
        f"at most {_rounded(bound)} tokens/s with {threads}, which read so much at {rate / 1e9:.1f} GB/s",
    )


def _rounded(speed: float) -> str:
    """Two digits that count."""
    return f"{float(f'{speed:.2g}'):,.0f}" if speed >= 10 else f"{speed:.2g}"


def _say(mark: str, what: str, detail: str) -> None:
    colour = {"ok": "green", "--": "yellow", "!!": "red"}[mark]
    click.echo(f"{click.style(mark, fg=colour)}  {what:<18} {detail}")

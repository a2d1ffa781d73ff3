"""What the doctor says of this machine and of what is installed on it."""

from __future__ import annotations

import ctypes
import platform
import time
from importlib import metadata
from pathlib import Path

from deepserve import __version__
from deepserve.backends.backend import Backend
from deepserve.cli.findings import Findings
from deepserve.cli.progress import LoadingProgress
from deepserve.config import Settings
from deepserve.core.errors import DeepserveError
from deepserve.engine.interface import Engine
from deepserve.engine.machine import count_cores, huge_page_policy, measure_decode
from deepserve.engine.native.shared_library import HOW_TO_GET_IT, find_library, instruction_sets, load_library

_OPTIONAL = {
    "torch": ("reference engine", 'pip install "deepserve[reference]"'),
    "deepseek-recipe": ("prompt format of official checkpoints", 'pip install "deepserve[v4]"'),
}

_PROBE_BYTES = 256 << 20
"""Beyond most caches, and read in a few hundredths of a second."""

_ALLOW_HUGE_PAGES = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"

_DECODE_S = 0.3
_DECODE_TOKENS = 500


def check_installation(findings: Findings) -> ctypes.CDLL | None:
    """Versions, the native core, and how fast memory is read. The core's library, where it can be used."""
    findings.say("ok", "deepserve", __version__)
    findings.say("ok", "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    library = _check_core(findings)
    _check_machine(findings, library)
    for package, (purpose, remedy) in _OPTIONAL.items():
        try:
            findings.say("ok", package, f"{metadata.version(package)} ({purpose})")
        except metadata.PackageNotFoundError:
            findings.say("--", package, f"not installed ({purpose}); {remedy}")
    return library


def _check_core(findings: Findings) -> ctypes.CDLL | None:
    try:
        if find_library() is None:
            detail = f"not part of this installation: reference engine only. {HOW_TO_GET_IT}"
            findings.say("--", "native core", detail)
            return None
        library = load_library()
    except DeepserveError as error:
        findings.say("warn", "native core", error.message)
        return None
    findings.say("ok", "native core", f"runs here with {', '.join(instruction_sets(library))}, best first")
    return library


def _check_machine(findings: Findings, library: ctypes.CDLL | None) -> None:
    num_cores = count_cores()
    findings.say("ok", "cores", str(num_cores))
    match huge_page_policy():
        case None:
            pass
        case "never":
            detail = f"switched off, which slows large models; allow them with: {_ALLOW_HUGE_PAGES}"
            findings.say("--", "huge pages", detail)
        case policy:
            findings.say("ok", "huge pages", policy)
    if library is not None:
        rates = [
            (threads, _read_bandwidth(library, _PROBE_BYTES, threads)) for threads in range(1, min(2, num_cores) + 1)
        ]
        shown = [f"{rate / 1e9:.1f} GB/s with {threads} thread{'s' * (threads > 1)}" for threads, rate in rates]
        findings.say("ok", "reading memory", ", ".join(shown))


def _read_bandwidth(library: ctypes.CDLL, size_bytes: int, num_threads: int) -> float:
    """Bytes per second; the best of three, because other programs can only slow it down."""
    rates: list[float] = [library.ds_measure_read_bandwidth(size_bytes, num_threads) for _ in range(3)]
    return max(rates)


def load_measured(settings: Settings, library: ctypes.CDLL | None, findings: Findings) -> Backend:
    """The embedded back end that would serve; the engine of every checkpoint is measured first."""
    from deepserve.backends.embedded_models import open_embedded, place_models, share_of

    placed = place_models(settings)
    share = share_of(settings, len(placed))
    for one in placed:
        if len(placed) > 1:
            findings.say("ok", "checkpoint", f"{one.model.name} for {' and '.join(one.ids)}")
        _measure(one.model.folder, share, library, findings)
    return open_embedded(settings)


def _measure(folder: Path, settings: Settings, library: ctypes.CDLL | None, findings: Findings) -> None:
    from deepserve.engine.loader import load_engine
    from deepserve.engine.options import EngineOptions

    engine = load_engine(folder, EngineOptions.from_settings(settings), LoadingProgress())
    info = engine.info
    findings.say("ok", "engine", f"{info.name} on {info.device}, weights in {info.formats}")
    if library is not None and info.name == "native":
        _expect_speed(engine, library, findings)
    speed = measure_decode(engine, seconds=_DECODE_S, max_tokens=_DECODE_TOKENS, clock=time.perf_counter)
    findings.say("ok", "measured", f"{_rounded(speed)} tokens/s, one short answer by itself")


def _expect_speed(engine: Engine, library: ctypes.CDLL, findings: Findings) -> None:
    from deepserve.engine.native.engine import NativeEngine

    assert isinstance(engine, NativeEngine)
    core = engine.core_info()
    pages = {1: ", backed by huge pages", 0: ", not backed by huge pages"}.get(core.has_huge_pages, "")
    threads = f"{core.num_threads} thread{'s' * (core.num_threads > 1)}"
    weights = f"{core.weight_bytes / 1e6:,.1f} MB{pages}; {core.active_weight_bytes / 1e6:,.1f} MB per token"
    findings.say("ok", "weights", weights)
    # As many bytes as the weights have: what fits into a cache is read from there.
    size_bytes = min(core.weight_bytes, _PROBE_BYTES)
    rate = _read_bandwidth(library, size_bytes, core.num_threads)
    bound = rate / core.active_weight_bytes
    detail = f"at most {_rounded(bound)} tokens/s with {threads}, which read so much at {rate / 1e9:.1f} GB/s"
    findings.say("ok", "to expect", detail)


def _rounded(speed: float) -> str:
    """Two digits that count."""
    return f"{float(f'{speed:.2g}'):,.0f}" if speed >= 10 else f"{speed:.2g}"

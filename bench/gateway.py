"""What it costs to stand before an upstream: with keys and the ledger on, beside LiteLLM and SGLang's router in Rust.

Every gateway runs on one core; the upstream, which answers at once, and the clients share the other. What counts is the
CPU time of the gateway's processes, for a machine that others use makes times longer and not work.

python -m bench.gateway
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bench.bandwidth import bandwidth_probe
from bench.dialects import free_port
from bench.http_load import cpu_seconds_of
from bench.install_size import installed_bytes
from bench.litellm import VERSION as LITELLM_VERSION
from bench.litellm import find_litellm, running_litellm
from bench.mock_upstream import NUM_EVENTS
from bench.results import Recorder
from bench.sglang_router import VERSION as ROUTER_VERSION
from bench.sglang_router import find_router, running_router
from bench.timed_load import TimedLoad, measure_times, quantile, question

MODEL = "deepseek-v4-flash"
ROUNDS = 3
SMALL_BYTES, LARGE_BYTES = 2_000, 400_000
REQUESTS = 2_000
"""In one round, for a gateway that is fast; LiteLLM gets a tenth."""
SLOWNESS = 10
STREAMS = 64
RATE, RATE_CONNECTIONS = 500.0, 32
NUM_STARTS = 5
NUM_KILLED = 3

UNARY_GOAL_MS = 0.32
UNARY_GOAL_LITELLM = 25
UNARY_GOAL_ROUTER = 3.5
RATE_GOAL = 3_000
RATE_GOAL_LITELLM = 25
ADDED_GOALS_MS = {0.5: 0.6, 0.99: 2.0}
EVENT_GOAL_US = 60
EVENT_GOAL_LITELLM = 14
FIRST_EVENT_GOAL_MS = 2
LARGE_GOAL_MS = 2
START_GOAL_S = 0.8
MEMORY_GOAL_MB = 100
INSTALL_GOAL_MB = 120


class Gateway(NamedTuple):
    """headers: whole lines. slowness: so many times fewer requests are enough, and all there is time for."""

    name: str
    port: int
    pid: int
    headers: str
    path: str = "/v1/chat/completions"
    slowness: int = 1

    def asked(self, num_bytes: int, *, is_stream: bool = False, is_paced: bool = False) -> bytes:
        return question(self.port, self.path, body(num_bytes, is_stream=is_stream, is_paced=is_paced), self.headers)


def body(num_bytes: int, *, is_stream: bool, is_paced: bool) -> bytes:
    """What both dialects understand: they differ in their answers."""
    text = "paced " if is_paced else ""
    while len(text) < num_bytes:
        text += "the quick brown fox jumps over the lazy dog "
    messages = [{"role": "user", "content": text[:num_bytes]}]
    fields = {"model": MODEL, "max_tokens": NUM_EVENTS, "messages": messages, "stream": is_stream}
    return json.dumps(fields).encode()


def main() -> int:
    recorder = Recorder("The gateway before an upstream", probe=bandwidth_probe())
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        recorder.note("this needs Linux and two cores, one for the gateway alone; nothing was measured")
        return recorder.finish()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.enter_context(on_core(cores[-1]))
        upstream = stack.enter_context(running_upstream())
        with on_core(cores[0]):
            measure_start(recorder, Path(folder) / "start", upstream)
            key = make_key(Path(folder) / "state")
            port, pid, _ = stack.enter_context(running(Path(folder) / "state", upstream))
            chat = Gateway("ours", port, pid, f"authorization: Bearer {key}\r\n")
            measure_idle(recorder, chat)
            others = list(competitors(recorder, stack, upstream))
        messages = chat._replace(name="Messages in", path="/anthropic/v1/messages")
        measure_unary(recorder, chat, messages, others)
        measure_rate(recorder, chat, others)
        measure_added(recorder, chat, others, upstream)
        measure_events(recorder, chat, messages, others)
        measure_first_event(recorder, chat, others, upstream)
        measure_large(recorder, chat, others)
        with on_core(cores[0]):
            measure_kill(recorder, Path(folder) / "killed", upstream)
    measure_install(recorder)
    return recorder.finish()


# Processes


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started in this context runs on this core alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def running_upstream() -> Iterator[int]:
    port = free_port()
    with subprocess.Popen([sys.executable, "-m", "bench.mock_upstream", str(port)]) as process:
        try:
            wait_until_answering(port, "/v1/models", process)
            yield port
        finally:
            process.terminate()


@contextlib.contextmanager
def running(state: Path, upstream: int) -> Iterator[tuple[int, int, float]]:
    """A gateway of ours; yields its port, its process id, and the seconds from its start until it was ready."""
    port = free_port()
    command = [sys.executable, "-m", "deepserve", "serve", "--port", str(port), "--state-dir", str(state)]
    command += ["--upstream", f"openai=http://127.0.0.1:{upstream}/v1", "--log-level", "warning"]
    environment = {**os.environ, "OPENAI_API_KEY": "any", "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        try:
            wait_until_answering(port, "/ready", process)
            yield port, process.pid, time.perf_counter() - began
        finally:
            process.terminate()


def wait_until_answering(port: int, path: str, process: subprocess.Popen[bytes]) -> None:
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        connection.close()
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(map(str, process.args[:4]))} stopped with {process.returncode}")  # type: ignore[index]
        time.sleep(0.01)


def make_key(state: Path) -> str:
    command = [sys.executable, "-m", "deepserve", "keys", "create", "bench", "--state-dir", str(state)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0]


def competitors(recorder: Recorder, stack: contextlib.ExitStack, upstream: int) -> Iterator[Gateway]:
    """Those that can be had here."""
    litellm = find_litellm()
    if litellm is None:
        recorder.note(f"LiteLLM {LITELLM_VERSION} could not be installed here, so it is not compared with")
    else:
        port = free_port()
        pid, key = stack.enter_context(running_litellm(litellm, port, f"http://127.0.0.1:{upstream}", MODEL))
        headers = f"authorization: Bearer {key}\r\n"
        yield Gateway(f"LiteLLM {LITELLM_VERSION}", port, pid, headers, slowness=SLOWNESS)
    router = find_router()
    if router is None:
        recorder.note(f"sglang-router {ROUTER_VERSION} could not be installed here, so it is not compared with")
    else:
        port = free_port()
        pid = stack.enter_context(running_router(router, port, free_port(), f"http://127.0.0.1:{upstream}"))
        yield Gateway(f"sglang-router {ROUTER_VERSION}", port, pid, "")


# Measurements

Measure = Callable[[Gateway], float]


def in_turns(recorder: Recorder, gateways: list[Gateway], measure: Measure) -> dict[str, float]:
    """The median for each gateway of a few rounds in which they take turns, after one that does not count."""
    found: dict[str, list[float]] = {gateway.name: [] for gateway in gateways}
    for number in range(ROUNDS + 1):
        if number:
            recorder.probe()
        for gateway in gateways:
            value = measure(gateway)
            if number:
                found[gateway.name].append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def told(found: dict[str, float], unit: str, digits: int = 3) -> str:
    """What the others came to."""
    return "; ".join(f"{name} {value:,.{digits}g} {unit}" for name, value in found.items() if name != "ours")


def compare(
    recorder: Recorder,
    what: str,
    found: dict[str, float],
    *,
    litellm: float | None = None,
    router: float | None = None,
    is_more_better: bool = False,
) -> None:
    """litellm: so many times better than it we are to be. router: at most so many times its cost."""
    for name, value in found.items():
        if name.startswith("LiteLLM") and litellm is not None:
            ratio = found["ours"] / value if is_more_better else value / found["ours"]
            recorder.add(f"{what}: times better than LiteLLM", ratio, "x", at_least=litellm, keep_probes=True)
        if name.startswith("sglang") and router is not None:
            ratio = found["ours"] / value
            recorder.add(f"{what}: times the Rust router's", ratio, "x", at_most=router, keep_probes=True)


def cpu_ms(gateway: Gateway, asked: bytes, *, connections: int, requests: int = REQUESTS) -> float:
    """Of the gateway, for one request."""
    before = cpu_seconds_of(gateway.pid)
    load = measure_times(gateway.port, asked, connections=connections, requests=requests // gateway.slowness)
    return 1e3 * (cpu_seconds_of(gateway.pid) - before) / load.num_answers


def measure_unary(recorder: Recorder, chat: Gateway, messages: Gateway, others: list[Gateway]) -> None:
    found = in_turns(
        recorder,
        [chat, messages, *others],
        lambda gateway: cpu_ms(gateway, gateway.asked(SMALL_BYTES), connections=16),
    )
    recorder.add(
        "a unary request of 2 KB", found["ours"], "ms CPU",
        at_most=UNARY_GOAL_MS, details=told(found, "ms"), keep_probes=True,
    )  # fmt: skip
    compare(recorder, "a unary request", found, litellm=UNARY_GOAL_LITELLM, router=UNARY_GOAL_ROUTER)


def measure_rate(recorder: Recorder, chat: Gateway, others: list[Gateway]) -> None:
    def rate(gateway: Gateway) -> float:
        asked = gateway.asked(SMALL_BYTES)
        load = measure_times(gateway.port, asked, connections=64, requests=2 * REQUESTS // gateway.slowness)
        return load.num_answers / load.seconds

    found = in_turns(recorder, [chat, *others], rate)
    recorder.add(
        "requests at 64 connections", found["ours"], "1/s",
        at_least=RATE_GOAL, details=told(found, "1/s"), keep_probes=True,
    )  # fmt: skip
    compare(recorder, "requests", found, litellm=RATE_GOAL_LITELLM, is_more_better=True)


def measure_added(recorder: Recorder, chat: Gateway, others: list[Gateway], upstream: int) -> None:
    """LiteLLM cannot answer so many on one core; it is asked a tenth."""

    def load(gateway: Gateway) -> TimedLoad:
        rate = RATE / gateway.slowness
        asked = gateway.asked(SMALL_BYTES)
        return measure_times(
            gateway.port, asked, connections=RATE_CONNECTIONS, requests=int(rate * 3), rate=rate
        )  # fmt: skip

    direct = Gateway("direct", upstream, 0, "")
    loads = {gateway.name: [load(gateway) for _ in range(ROUNDS)] for gateway in (direct, chat, *others)}
    recorder.probe()

    def took(name: str, share: float) -> float:
        return statistics.median(quantile(one.answer_ms, share) for one in loads[name])

    for share, goal in ADDED_GOALS_MS.items():
        added = {name: took(name, share) - took("direct", share) for name in loads if name != "direct"}
        recorder.add(
            f"added at {RATE:.0f} requests/s, p{100 * share:.0f}", added["ours"], "ms",
            at_most=goal, details=f"{told(added, 'ms')}; LiteLLM at {RATE / SLOWNESS:.0f}/s", keep_probes=True,
        )  # fmt: skip


def measure_events(recorder: Recorder, chat: Gateway, messages: Gateway, others: list[Gateway]) -> None:
    def event_us(gateway: Gateway) -> float:
        before = cpu_seconds_of(gateway.pid)
        asked = gateway.asked(SMALL_BYTES, is_stream=True, is_paced=True)
        measure_times(gateway.port, asked, connections=STREAMS, requests=STREAMS)
        return 1e6 * (cpu_seconds_of(gateway.pid) - before) / (STREAMS * NUM_EVENTS)

    found = in_turns(recorder, [chat, messages, *others], event_us)
    ours = {**found, "ours": found[messages.name]}
    recorder.add(
        "a paced event, into Messages", ours["ours"], "us CPU",
        at_most=EVENT_GOAL_US, details=f"Chat to Chat {found['ours']:.0f} us; {told(found, 'us')}", keep_probes=True,
    )  # fmt: skip
    compare(recorder, "a paced event", ours, litellm=EVENT_GOAL_LITELLM)


def measure_first_event(recorder: Recorder, chat: Gateway, others: list[Gateway], upstream: int) -> None:
    def first_ms(gateway: Gateway) -> float:
        asked = gateway.asked(SMALL_BYTES, is_stream=True)
        load = measure_times(gateway.port, asked, connections=1, requests=200 // gateway.slowness)
        return quantile(load.first_event_ms, 0.5)

    found = in_turns(recorder, [Gateway("direct", upstream, 0, ""), chat, *others], first_ms)
    direct = found.pop("direct")
    added = {name: value - direct for name, value in found.items()}
    recorder.add(
        "added to the first event, one client", added["ours"], "ms",
        at_most=FIRST_EVENT_GOAL_MS, details=told(added, "ms"),
    )  # fmt: skip


def measure_large(recorder: Recorder, chat: Gateway, others: list[Gateway]) -> None:
    found = in_turns(
        recorder,
        [chat, *others],
        lambda gateway: cpu_ms(gateway, gateway.asked(LARGE_BYTES), connections=4, requests=REQUESTS // 5),
    )
    recorder.add("a unary request of 400 KB", found["ours"], "ms CPU", at_most=LARGE_GOAL_MS, details=told(found, "ms"))


def measure_start(recorder: Recorder, state: Path, upstream: int) -> None:
    """Of a server whose state is there already."""
    times = []
    for number in range(NUM_STARTS + 1):
        with running(state, upstream) as (_, _, start_s):
            if number:
                times.append(start_s)
                recorder.probe()
    recorder.add("start to ready", statistics.median(times), "s", at_most=START_GOAL_S)


def measure_idle(recorder: Recorder, chat: Gateway) -> None:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{chat.pid}/status").read_text().splitlines())
    recorder.add("memory when idle", int(fields["VmRSS"].split()[0]) / 1024, "MB", at_most=MEMORY_GOAL_MB)


def measure_kill(recorder: Recorder, state: Path, upstream: int) -> None:
    """Answers whose last byte a client has seen, and that the ledger does not have after a `kill -9` under load."""
    num_answers = num_lost = 0
    for _ in range(NUM_KILLED):
        with running(state, upstream) as (port, pid, _):
            asked = Gateway("ours", port, pid, "").asked(SMALL_BYTES)
            killer = subprocess.Popen(
                [sys.executable, "-c", f"import os, time; time.sleep(1); os.kill({pid}, {signal.SIGKILL})"]
            )
            load = measure_times(port, asked, connections=16, requests=10**6, takes_broken_end=True)
            killer.wait()
        with running(state, upstream):
            pass  # The next server brings in what is still in the journal.
        with contextlib.closing(sqlite3.connect(state / "deepserve.db")) as database:
            kept = {row[0] for row in database.execute("SELECT request_id FROM ledger")}
        num_answers += len(load.ids)
        num_lost += len(set(load.ids) - kept)
    recorder.add("answers missing in the ledger after kill -9", num_lost, "", at_most=0, details=f"of {num_answers:,}")


def measure_install(recorder: Recorder) -> None:
    sizes = {name: size / 1e6 for name, size in installed_bytes().items()}
    largest = ", ".join(f"{name} {size:.0f}" for name, size in list(sizes.items())[:6])
    recorder.add("installed, without extras", sum(sizes.values()), "MB", at_most=INSTALL_GOAL_MB, details=largest)


if __name__ == "__main__":
    sys.exit(main())

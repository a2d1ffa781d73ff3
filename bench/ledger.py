"""CPU time of one durable row of the ledger, of the whole process, by how many answers end at once.

    python -m bench.ledger [--rows 20000] [--full]

Each caller settles one row, waits until it is durable, and settles the next. CPU time is that of all threads, and least
of several rounds, because other programs only ever add to it. The clock's time is told for comparison.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from deepserve.catalog.price_table import load_prices
from deepserve.config import LedgerLimits
from deepserve.core.events import Finished, Started, UsageReported
from deepserve.core.provider import ServedBy
from deepserve.core.request import Request, RequestId
from deepserve.core.usage import Usage
from deepserve.metering.meter import Meter
from deepserve.store.database import open_database
from deepserve.store.ledger import Ledger

_SERVED_BY = ServedBy(provider="deepserve", model="mini-flash", fingerprint="fp_deepserve_bench")
_USAGE = Usage(hit_tokens=1_024, miss_tokens=77, reasoning_tokens=200, answer_tokens=55)


async def settle(meter: Meter, *, callers: int, rows: int) -> None:
    """The life of a row as the gateway lives it, without the answer."""
    ends = Finished(reason="stop")

    async def call(number: int) -> None:
        for index in range(rows // callers):
            name = RequestId(f"{number:08x}{index:08x}{id(meter):016x}")
            request = Request(id=name, model="deepseek-v4-pro", dialect="chat", arrived_at=datetime.now(UTC))
            bill = meter.open(request)
            attempt = bill.attempt(request)
            attempt.hear(Started(served_by=_SERVED_BY))
            attempt.hear(UsageReported(usage=_USAGE))
            attempt.hear(ends)
            attempt.end(None)
            await bill.settled()

    await asyncio.gather(*(call(number) for number in range(callers)))


def measure(callers: int, rows: int, *, is_power_safe: bool, is_recorded: bool = True) -> tuple[float, float]:
    """Microseconds of CPU time and of the clock for one row."""
    with tempfile.TemporaryDirectory() as folder:

        async def run() -> tuple[float, float]:
            engine = open_database(Path(folder))
            limits = LedgerLimits(sync="full" if is_power_safe else "normal")
            ledger = Ledger(engine, state_dir=Path(folder), limits=limits) if is_recorded else None
            meter = Meter(load_prices(), ledger)
            await settle(meter, callers=callers, rows=min(rows, 512))
            cpu, clock = time.process_time(), time.perf_counter()
            await settle(meter, callers=callers, rows=rows)
            found = (time.process_time() - cpu) / rows * 1e6, (time.perf_counter() - clock) / rows * 1e6
            if ledger is not None:
                ledger.close()
            engine.dispose()
            return found

        try:
            import uvloop

            return asyncio.Runner(loop_factory=uvloop.new_event_loop).run(run())
        except ImportError:
            return asyncio.run(run())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="wait for the disk at every commit")
    options = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, {options.rows} rows, least of {options.rounds} rounds")
    for callers in (1, 8, 64):
        rows = options.rows if callers > 1 else options.rows // 4
        found = [measure(callers, rows, is_power_safe=options.full) for _ in range(options.rounds)]
        bare = [measure(callers, rows, is_power_safe=False, is_recorded=False) for _ in range(options.rounds)]
        cpu_us, clock_us = min(cpu for cpu, _ in found), min(clock for _, clock in found)
        without_us = min(cpu for cpu, _ in bare)
        print(
            f"{callers:3} callers: {cpu_us:6.1f} us CPU a row ({without_us:.1f} us of it pricing and the loop), "
            f"{clock_us:6.1f} us of the clock"
        )


if __name__ == "__main__":
    main()

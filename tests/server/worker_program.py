"""A server of several workers with a scripted back end. Run by test_workers.py.

Arguments: the state directory or a database's address, how many workers, and `refuses` for workers that cannot begin,
or `listens` for workers that only tell of each SIGHUP they hear.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from deepserve.backends.scripted import ScriptedBackend
from deepserve.config import Settings
from deepserve.core.errors import ConfigurationError
from deepserve.server.run import bind_all, serve
from deepserve.server.workers import Supervisor, Worker
from deepserve.store.database import open_database


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main(place: str, count: int, mode: str) -> None:
    settings = Settings(
        port=0,
        state_dir=None if place.startswith("postgresql://") else Path(place),
        database=place if place.startswith("postgresql://") else None,
        shutdown_grace_s=1.0,
    )
    open_database(settings.database or Path(place)).dispose()
    listening = bind_all(settings, has_keys=False)

    def work(worker: Worker) -> None:
        if mode == "listens":
            signal.signal(signal.SIGHUP, lambda _number, _frame: say("heard", worker.number))
            say("ready", worker.number, os.getpid(), "nowhere")
            worker.tell()
            while True:
                signal.pause()
        if mode == "refuses":
            raise ConfigurationError("This worker cannot begin.")

        def on_ready(address: str, _: object) -> None:
            say("ready", worker.number, os.getpid(), address)
            worker.tell()

        serve(
            settings,
            ScriptedBackend(),
            database=open_database(settings.database or Path(place)),
            listening=listening,
            worker=worker,
            on_ready=on_ready,
        )
        say("ended", worker.number)

    Supervisor(count, work, grace_s=settings.shutdown_grace_s).run()
    say("returned")


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), "".join(sys.argv[3:]))
    except ConfigurationError as error:
        sys.exit(error.message)

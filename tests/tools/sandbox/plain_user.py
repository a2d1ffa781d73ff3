"""Makes every attempt in both kinds of sandbox, as the user who runs this, and prints what came of each as JSON.

python -m tests.tools.sandbox.plain_user FOLDER SECRET
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from deepserve import __file__ as package_file
from deepserve.config import CodeLimits, SandboxTier
from deepserve.tools.sandbox.ladder import NoSandbox, choose_sandbox
from tests.tools.sandbox.attempts import ATTEMPTS, PRELUDE, cell


def main() -> None:
    folder, secret = sys.argv[1:]
    told: dict[str, object] = {"uid": os.geteuid()}
    names = {"secret": secret, "source": package_file, "pid": os.getpid(), "port": 1}
    tiers: tuple[SandboxTier, ...] = ("bubblewrap", "landlock")
    for tier in tiers:
        limits = CodeLimits(tier=tier, folder=Path(folder))
        sandbox = choose_sandbox(limits, clock=time.monotonic, session_folder=Path(folder))
        if isinstance(sandbox, NoSandbox):
            told[tier] = sandbox.reason
            continue
        process = sandbox.tier.start(0)
        process.run(PRELUDE, timeout_s=20)
        outcomes = {}
        for name, attempt in ATTEMPTS.items():
            result = process.run(cell(attempt, **names), timeout_s=20)
            outcomes[name] = (result.stdout + result.stderr).strip() or str(result.stopped_by)
        told[tier] = outcomes
        process.end()
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()

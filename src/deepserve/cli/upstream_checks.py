"""What the doctor says of upstreams: keys and addresses, and with --online whether they really answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from deepserve.backends.fleet.opening import named_upstreams
from deepserve.backends.kinds import Opening, prepare_opening
from deepserve.backends.upstream.checkup import Checkup, check_upstream
from deepserve.cli.findings import Findings
from deepserve.config import EMBEDDED, Settings
from deepserve.core.errors import DeepserveError
from deepserve.outgoing.errors import OutgoingError

_MAX_SKEW_S: Final = 30.0
"""Beyond it prices by the hour and signatures by the second go wrong."""


def check_upstreams(settings: Settings, findings: Findings, *, is_online: bool) -> None:
    """is_online: call each once, for its list of models, which costs nothing."""
    openings: list[Opening] = []
    for upstream in named_upstreams(settings):
        if upstream.kind == EMBEDDED:
            continue
        try:
            opening = prepare_opening(upstream, settings)
            opening.policy.check_url(opening.address)
        except (DeepserveError, OutgoingError) as error:
            findings.say("fail", upstream.id, str(error))
            continue
        variable = upstream.key_variable or opening.provider.key_variable
        source = "no key" if opening.key is None else f"key in {upstream.key_file or variable}"
        findings.say("ok", upstream.id, f"{opening.provider.title} at {opening.address}, {source}")
        openings.append(opening)
    if is_online and openings:
        for opening, checkup in zip(openings, asyncio.run(_call(openings)), strict=True):
            _tell(opening, checkup, findings)


async def _call(openings: Sequence[Opening]) -> list[Checkup]:
    return await asyncio.gather(*(check_upstream(opening, clock=time.monotonic) for opening in openings))


def _tell(opening: Opening, checkup: Checkup, findings: Findings) -> None:
    name = f"{opening.upstream.id} online"
    if checkup.problem is not None:
        findings.say("fail", name, f"{checkup.problem}: check its address and its key")
    elif checkup.doubt is not None:
        findings.say("warn", name, checkup.doubt)
    else:
        findings.say("ok", name, f"takes the key, lists {checkup.num_models} models, in {checkup.took_s * 1000:.0f} ms")
    if checkup.missing:
        detail = f"it lists no {', '.join(checkup.missing)}: say its own names with `models`"
        findings.say("warn", name, detail)
    if checkup.skew_s is not None and abs(checkup.skew_s) > _MAX_SKEW_S:
        ahead = "behind" if checkup.skew_s > 0 else "ahead of"
        detail = f"this machine's clock is {abs(checkup.skew_s):.0f} s {ahead} that of {opening.upstream.id}: set it"
        findings.say("warn", "clock", detail)
    elif checkup.skew_s is not None:
        findings.say("ok", "clock", f"agrees with that of {opening.upstream.id}")

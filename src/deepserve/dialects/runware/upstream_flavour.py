"""What services that speak Runware's tasks take from us: one frozen row each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec


class RunwareFlavour(msgspec.Struct, frozen=True, kw_only=True):
    """One service.

    formless      models, by our ids, that take neither `outputFormat` nor `jsonSchema`
    names_server  tells in `x-deepserve-served-by` who really answers
    """

    name: str
    formless: frozenset[str] = frozenset()
    names_server: bool = False


RUNWARE: Final = RunwareFlavour(name="runware", formless=frozenset(("deepseek-v4-flash",)))
"""runware.ai/docs/models, pages of both models, November 2026."""

DEEPSERVE: Final = RunwareFlavour(name="deepserve", names_server=True)
"""This server."""

RUNWARE_FLAVOURS: Final[Mapping[str, RunwareFlavour]] = {flavour.name: flavour for flavour in (RUNWARE, DEEPSERVE)}

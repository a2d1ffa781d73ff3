"""Changes the upstreams of a running server to those of other settings."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from deepserve.backends.backend import Backend
from deepserve.backends.fleet.fleet import FleetBackend
from deepserve.backends.fleet.opening import named_upstreams, refit_fleet
from deepserve.backends.selection import guard_of
from deepserve.config import Settings
from deepserve.server.live_settings import REFITTED, Refit


def refit_of(backend: Backend, settings: Settings) -> Refit | None:
    """For back ends that can change while they answer."""
    return FleetRefit(backend, settings) if isinstance(backend, FleetBackend) else None


class FleetRefit:
    """Implements `live_settings.Refit`. A key that was exchanged in its file is a change, too."""

    def __init__(self, fleet: FleetBackend, settings: Settings) -> None:
        self._fleet = fleet
        self._keys = _keys_of(settings)

    async def change(self, before: Settings, after: Settings) -> Sequence[str]:
        keys = _keys_of(after)
        renewed = [id_ for id_, key in keys.items() if self._keys.get(id_, key) != key]
        if renewed or any(getattr(before, name) != getattr(after, name) for name in REFITTED):
            await refit_fleet(self._fleet, before, after, guard=guard_of(after), renewed=renewed)
        self._keys = keys
        return [f"the key of {id_}" for id_ in renewed]


def _keys_of(settings: Settings) -> dict[str, bytes]:
    """A digest of the key of each upstream that has one in a file. One that cannot be read is found out elsewhere."""
    digests: dict[str, bytes] = {}
    for upstream in named_upstreams(settings):
        if upstream.key_file is not None:
            try:
                digests[upstream.id] = hashlib.sha256(upstream.key_file.read_bytes()).digest()
            except OSError:
                digests[upstream.id] = b""
    return digests

"""Events of an answer as bytes, for those who keep a whole answer and tell it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, get_args

import msgspec

from deepserve.core.events import Event, Failed

_KINDS: Final[Mapping[str, type[Event]]] = {kind.__name__: kind for kind in get_args(Event) if kind is not Failed}
"""By the names they are written under. Failures are not kept: whoever asks again is answered anew."""


def encode_events(events: Iterable[Event]) -> bytes:
    """All of an answer that has not failed."""
    return msgspec.msgpack.encode([(type(event).__name__, event) for event in events])


def decode_events(recorded: bytes) -> list[Event]:
    """Raises ValueError for what another release has written in another form."""
    try:
        pairs = msgspec.msgpack.decode(recorded, type=list[tuple[str, msgspec.Raw]])
        return [msgspec.msgpack.decode(raw, type=_KINDS[name]) for name, raw in pairs]
    except (msgspec.DecodeError, KeyError) as error:
        raise ValueError("the recorded answer cannot be read") from error

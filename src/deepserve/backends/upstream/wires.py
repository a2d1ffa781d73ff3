"""The protocols by which services are spoken to: one line for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from deepserve.backends.upstream.chat_wire import ChatWire
from deepserve.backends.upstream.messages_wire import MessagesWire
from deepserve.backends.upstream.responses_wire import ResponsesWire
from deepserve.backends.upstream.runware_wire import RunwareWire
from deepserve.backends.upstream.wire import UpstreamWire
from deepserve.catalog.providers import Provider
from deepserve.prompt.decoder import mint_call_id

_WIRES: Final[Mapping[str, Callable[..., UpstreamWire]]] = {
    "chat": ChatWire,
    "messages": MessagesWire,
    "responses": ResponsesWire,
    "runware": RunwareWire,
}


def wire_of(provider: Provider, *, call_id: Callable[[int], str] = mint_call_id) -> UpstreamWire:
    """call_id: names calls whose own id is missing or not the only one; gets the number of the call."""
    return _WIRES[provider.protocol](provider, call_id=call_id)

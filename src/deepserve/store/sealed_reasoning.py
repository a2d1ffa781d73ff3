"""Sealed traces in requests and answers: opened on the way in, attached on the way out."""

from __future__ import annotations

import msgspec

from deepserve.core.events import BlockClosed, BlockDelta, BlockOpened, Event, ReasoningBlock, Started
from deepserve.core.messages import Message, Part, Reasoning
from deepserve.core.request import Request
from deepserve.core.tenant import TenantId
from deepserve.store.sealing import Sealer


class OpenedTraces(msgspec.Struct, frozen=True, kw_only=True):
    """A request whose sealed traces are text again.

    num_turns    turns whose trace the client sent in a seal alone
    num_opened   traces that were opened
    num_refused  seals that are not ours, or no longer whole: their traces count as not sent
    """

    request: Request
    num_turns: int = 0
    num_opened: int = 0
    num_refused: int = 0


def open_traces(sealer: Sealer, request: Request) -> OpenedTraces:
    """Put sealed traces back as text, where the client did not send the text itself: that always wins."""
    if not any(isinstance(part, Reasoning) for message in request.messages for part in message.parts):
        return OpenedTraces(request=request)
    num_turns = num_opened = num_refused = 0
    messages: list[Message] = []
    for message in request.messages:
        parts: list[Part] = []
        opened = 0
        for part in message.parts:
            if not isinstance(part, Reasoning) or part.text or not (part.sealed or part.signature):
                parts.append(part)
                continue
            text = _open(sealer, request.tenant.id, part)
            if text is None:
                num_refused += 1
            else:
                opened += 1
                parts.append(msgspec.structs.replace(part, text=text))
        if len(parts) != len(message.parts) or opened:
            sends_text = any(isinstance(part, Reasoning) and part.text for part in message.parts)
            num_turns += opened > 0 and not sends_text and not message.prefix and not message.is_reasoning_recalled
            num_opened += opened
            message = msgspec.structs.replace(message, parts=tuple(parts))
        messages.append(message)
    if num_opened or num_refused:
        request = msgspec.structs.replace(request, messages=tuple(messages))
    return OpenedTraces(request=request, num_turns=num_turns, num_opened=num_opened, num_refused=num_refused)


def _open(sealer: Sealer, tenant: TenantId, part: Reasoning) -> str | None:
    for sealed in (part.sealed, part.signature):
        text = sealer.unseal(tenant, sealed) if sealed else None
        if text is not None:
            return text
    return None


class TraceSealer:
    """Attaches seals to the traces of one answer; `seal` gets every event in order.

    Signature and sealed form are the same text: dialects have a field for the one or for the other.
    """

    def __init__(self, sealer: Sealer, opened: OpenedTraces) -> None:
        self._sealer = sealer
        self._opened = opened
        self._texts: dict[int, list[str]] = {}

    def seal(self, event: Event) -> Event:
        match event:
            case Started() if event.past_reasoning is not None and self._opened.num_turns:
                # The back end took the opened traces for sent ones.
                past, num_turns = event.past_reasoning, self._opened.num_turns
                past = msgspec.structs.replace(past, sent=past.sent - num_turns, restored=past.restored + num_turns)
                return msgspec.structs.replace(event, past_reasoning=past)
            case BlockOpened(block=ReasoningBlock()):
                self._texts[event.result] = []
            case BlockDelta() if event.result in self._texts:
                self._texts[event.result].append(event.text)
            case BlockClosed() if event.result in self._texts:
                sealed = self._sealer.seal(self._opened.request.tenant.id, "".join(self._texts.pop(event.result)))
                # A provider's own signature is what that provider wants back.
                return msgspec.structs.replace(
                    event, signature=event.signature or sealed, sealed=event.sealed or sealed
                )
        return event

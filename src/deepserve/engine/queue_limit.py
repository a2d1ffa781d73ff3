"""How much may wait: counted in prompt tokens, because that is the work, not in requests."""

from __future__ import annotations

import threading
from collections.abc import Callable

from deepserve.core.errors import Overloaded
from deepserve.core.tenant import TenantId

_ASSUMED_TOKEN_S = 0.001
_LONGEST_RETRY_S = 60.0


class QueueLimit:
    """Prompt tokens waiting to be computed, by tenant. Thread-safe.

    When the queue is full, a tenant that holds less than an equal share of it is still let in, up to twice the
    limit in all: one tenant cannot keep the others out. A prompt is always let into an empty queue.
    """

    def __init__(self, max_tokens: int, *, prompt_token_s: Callable[[], float | None]) -> None:
        self._max_tokens = max_tokens
        self._prompt_token_s = prompt_token_s
        self._lock = threading.Lock()
        self._waiting: dict[TenantId, int] = {}

    @property
    def waiting_tokens(self) -> int:
        with self._lock:
            return sum(self._waiting.values())

    def reserve(self, tenant: TenantId, tokens: int) -> None:
        """Count a prompt in. Raises Overloaded with the time the queue is likely to need."""
        with self._lock:
            total = sum(self._waiting.values())
            held = self._waiting.get(tenant, 0)
            share = self._max_tokens / len(self._waiting.keys() | {tenant})
            is_full = total + tokens > self._max_tokens
            is_within_share = held + tokens <= share and total + tokens <= 2 * self._max_tokens
            if total and is_full and not is_within_share:
                raise self._overloaded(total)
            self._waiting[tenant] = held + tokens

    def release(self, tenant: TenantId, tokens: int) -> None:
        """Count a prompt out: it is being computed, or nobody wants it any more."""
        with self._lock:
            left = self._waiting[tenant] - tokens
            if left > 0:
                self._waiting[tenant] = left
            else:
                del self._waiting[tenant]

    def _overloaded(self, total: int) -> Overloaded:
        token_s = self._prompt_token_s() or _ASSUMED_TOKEN_S
        retry_after_s = min(_LONGEST_RETRY_S, max(1.0, total * token_s))
        return Overloaded(
            f"The server is busy: {total} prompt tokens are waiting already. Please retry later.",
            retry_after_s=round(retry_after_s, 1),
        )

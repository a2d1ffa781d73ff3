"""What upstreams are asked now and then to see whether their answers are any good."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from deepserve.core.messages import Message, Text
from deepserve.core.request import ProviderPreferences, Request, RequestId, Thinking
from deepserve.core.sampling import Sampling
from deepserve.core.tenant import Tenant, TenantId

CANARY_TENANT: Final = Tenant(id=TenantId("canary"), name="canary")
"""On whose behalf it is asked: the ledger shows what that costs. No key is this tenant's."""

_QUESTION: Final = "What is 17 plus 25? Answer with the number alone."
CANARY_ANSWER: Final = "42"

_MAX_TOKENS: Final = 32


def canary_request(id_: RequestId, *, member: str, model: str, now: Callable[[], datetime]) -> Request:
    """Meant for one member and nobody else. Costs about 50 tokens."""
    return Request(
        id=id_,
        model=model,
        requested_model=model,
        arrived_at=now(),
        messages=(Message(role="user", parts=(Text(_QUESTION),)),),
        thinking=Thinking(enabled=False),
        sampling=Sampling(temperature=0.0),
        max_output_tokens=_MAX_TOKENS,
        tenant=CANARY_TENANT,
        provider=ProviderPreferences(only=(member.lower(),), allow_fallbacks=False),
    )


def expected_answer(request: Request) -> str | None:
    """What the text of the answer has to hold; None for requests of clients."""
    return CANARY_ANSWER if request.tenant == CANARY_TENANT else None

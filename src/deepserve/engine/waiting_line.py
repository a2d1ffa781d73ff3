"""Who computes next: results that wait for a place."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence

from deepserve.core.tenant import TenantId
from deepserve.engine.result_state import ResultState


class WaitingLine:
    """First whoever was preempted, then tenant after tenant in turn, each tenant's own in order of arrival."""

    def __init__(self) -> None:
        self._preempted: deque[ResultState] = deque()
        self._tenants: OrderedDict[TenantId, deque[ResultState]] = OrderedDict()  # none is empty

    def __bool__(self) -> bool:
        return bool(self._preempted or self._tenants)

    def __len__(self) -> int:
        return len(self._preempted) + sum(map(len, self._tenants.values()))

    def add(self, state: ResultState) -> None:
        self._tenants.setdefault(_tenant_of(state), deque()).append(state)

    def add_siblings(self, states: Sequence[ResultState]) -> None:
        """Further results of a prompt that was just computed: before anything else of their tenant."""
        self._tenants.setdefault(_tenant_of(states[0]), deque()).extendleft(reversed(states))

    def add_preempted(self, state: ResultState) -> None:
        """The youngest is preempted first, so that the oldest comes back first."""
        self._preempted.appendleft(state)

    def first(self) -> ResultState | None:
        """Whose turn it is; stays in line."""
        if self._preempted:
            return self._preempted[0]
        return next((queue[0] for queue in self._tenants.values()), None)

    def take_first(self) -> ResultState:
        """Take out whose turn it is; the next turn is another tenant's."""
        if self._preempted:
            return self._preempted.popleft()
        tenant, queue = next(iter(self._tenants.items()))
        state = queue.popleft()
        self._tenants.move_to_end(tenant)
        if not queue:
            del self._tenants[tenant]
        return state

    def discard(self, state: ResultState) -> None:
        """Take one out wherever it stands, if it does."""
        if state in self._preempted:
            self._preempted.remove(state)
        tenant = _tenant_of(state)
        queue = self._tenants.get(tenant)
        if queue is not None and state in queue:
            queue.remove(state)
            if not queue:
                del self._tenants[tenant]


def _tenant_of(state: ResultState) -> TenantId:
    return state.generation.cache_key.tenant

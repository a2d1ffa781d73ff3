"""What all routes of one server share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec

from deepserve.catalog.listings import Listings
from deepserve.catalog.models import ModelCatalog
from deepserve.catalog.price_book import PriceBook
from deepserve.config import Settings
from deepserve.gateway import Gateway
from deepserve.server.access import Access
from deepserve.server.cache_watch import CacheWatch
from deepserve.server.closing import Closing
from deepserve.server.live_settings import LiveSettings
from deepserve.server.replay import ReplayMemory
from deepserve.store.key_record import KeyRecord
from deepserve.store.ledger_record import LedgerRecord
from deepserve.store.responses import ResponseStore
from deepserve.store.sealing import Sealer
from deepserve.tasks.runner import TaskRunner


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """now is the wall clock, in UTC; clock is monotonic seconds.

    ledger: what was answered, and what it cost.
    tasks: dialects register their performers with it while the routes are made; it is started afterwards.
    """

    live: LiveSettings
    gateway: Gateway
    access: Access
    names: ModelCatalog
    listings: Listings
    prices: PriceBook
    ledger: LedgerRecord
    closing: Closing
    replays: ReplayMemory
    sealer: Sealer
    responses: ResponseStore
    tasks: TaskRunner
    misses: CacheWatch
    keys: KeyRecord
    now: Callable[[], datetime]
    clock: Callable[[], float]

    @property
    def settings(self) -> Settings:
        """In force at this moment: taken once by whoever works for a request."""
        return self.live.current

    def label_of(self, model: str) -> str:
        """Who answers for a model, as far as that is known before it answers."""
        served = (served for served in self.gateway.models() if served.id == model)
        return next((one.served_by.label for one in served), "none")

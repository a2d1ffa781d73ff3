"""What tokens cost, in whole numbers: for budgets, which look at a price with every piece of an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from deepserve.catalog.prices import VENDOR
from deepserve.core.provider import ServedModel
from deepserve.core.request import Request
from deepserve.core.usage import Usage
from deepserve.metering.meter import Meter


class Tariff(msgspec.Struct, frozen=True, kw_only=True):
    """Pico-dollars for a token."""

    hit_pico: int = 0
    miss_pico: int = 0
    output_pico: int = 0

    def cost_pico(self, usage: Usage) -> int:
        return (
            usage.hit_tokens * self.hit_pico
            + usage.miss_tokens * self.miss_pico
            + usage.output_tokens * self.output_pico
        )


FREE: Final = Tariff()
"""Of a model without a price: the ledger writes nothing for it either."""

TariffOf = Callable[[Request, int], Tariff]
"""What a token of a request costs whose prompt has so many."""


class Tariffs:
    """The highest price among all who may answer: a budget must hold whoever does.

    served  what back ends have at this moment; one model may stand there several times, with different providers
    """

    def __init__(self, meter: Meter, served: Callable[[], Iterable[ServedModel]]) -> None:
        self._meter = meter
        self._served = served

    def __call__(self, request: Request, prompt_tokens: int) -> Tariff:
        served = [(model.served_by.provider, model.id) for model in self._served()]
        wanted = {request.model, *request.fallback_models}
        # A name that no back end knows leaves the choice open.
        possible = (
            served
            if wanted.isdisjoint(model for _, model in served)
            else [(provider, model) for provider, model in served if model in wanted]
        )
        tariff = FREE
        for provider, model in {*possible, *((VENDOR, model) for _, model in possible)}:
            found = self._meter.price(provider, model, request.arrived_at, prompt_tokens)
            if found is not None:
                hit, miss, output = found[1]
                tariff = Tariff(
                    hit_pico=max(tariff.hit_pico, hit),
                    miss_pico=max(tariff.miss_pico, miss),
                    output_pico=max(tariff.output_pico, output),
                )
        return tariff

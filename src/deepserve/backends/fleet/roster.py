"""Who is in a fleet, and who is asked for which model, in which order: one value, swapped as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from deepserve.backends.fleet.lane import Lane
from deepserve.backends.fleet.member import Member
from deepserve.core.errors import ConfigurationError
from deepserve.core.provider import ServedModel

Offer = tuple[Member, Lane]


class Roster:
    """members: in the operator's order, their models known. chains: model -> ids, where the order is another.

    Raises ConfigurationError for chains that name what there is not.
    """

    def __init__(self, members: Sequence[Member], chains: Mapping[str, Sequence[str]]) -> None:
        self.members = tuple(members)
        self._by_id = {member.id: member for member in members}
        if len(self._by_id) < len(self.members):
            raise ConfigurationError("Two upstreams have the same id: give each its own.")
        models = dict.fromkeys(model for member in members for model in member.lanes)
        for model, chain in chains.items():
            self._check(model, chain)
        self.offers: Mapping[str, tuple[Offer, ...]] = {
            model: tuple((member, member.lanes[model]) for member in self._chain(model, chains)) for model in models
        }
        self.models = tuple(_served(offers) for offers in self.offers.values() if offers)

    def find(self, id_: str) -> Member | None:
        return self._by_id.get(id_)

    def _check(self, model: str, chain: Sequence[str]) -> None:
        for id_ in chain:
            member = self._by_id.get(id_)
            if member is None:
                raise ConfigurationError(
                    f"The chain of {model} names {id_!r}, which is no upstream: there are {', '.join(self._by_id)}."
                )
            if model not in member.lanes:
                raise ConfigurationError(
                    f"The chain of {model} names {id_}, which does not have that model: it has "
                    f"{', '.join(member.lanes)}."
                )
        if not chain or len(set(chain)) < len(chain):
            raise ConfigurationError(f"The chain of {model} must name each upstream once, and at least one.")

    def _chain(self, model: str, chains: Mapping[str, Sequence[str]]) -> list[Member]:
        if model in chains:
            return [self._by_id[id_] for id_ in chains[model]]
        return [member for member in self.members if model in member.lanes]


def _served(offers: Sequence[Offer]) -> ServedModel:
    """As the first says, with the largest context of all: a prompt too long for one goes on to the next."""
    first = offers[0][1].served
    served = [lane.served for _, lane in offers]
    note = "" if len(offers) == 1 else f" Where that fails: {', '.join(lane.member_id for _, lane in offers[1:])}."
    return msgspec.structs.replace(
        first,
        context_tokens=max(one.context_tokens for one in served),
        max_output_tokens=max(one.max_output_tokens for one in served),
        note=first.note + note,
        endpoints=tuple(member.endpoint(lane) for member, lane in offers),
    )

"""Clusters as the settings name them: the tokenizer's folder, the addresses, the protocol."""

from __future__ import annotations

import re

import msgspec

from deepserve.backends.cluster.backend import ClusterBackend
from deepserve.backends.cluster.replica import Replica
from deepserve.backends.cluster.replicas import Replicas
from deepserve.backends.cluster.wires import WIRES
from deepserve.backends.kinds import Opening, policy_of
from deepserve.backends.tokens.model import load_model
from deepserve.backends.upstream.opening import open_client
from deepserve.core.errors import CheckpointError, ConfigurationError


def open_cluster(opening: Opening) -> ClusterBackend:
    """Raises ConfigurationError, and CheckpointError for a folder without a tokenizer."""
    upstream = opening.upstream
    if upstream.kind not in WIRES:
        raise ConfigurationError(
            f"The upstream {upstream.id} has a tokenizer, but only {', '.join(WIRES)} are given token ids."
        )
    assert upstream.tokenizer is not None
    try:
        model = load_model(upstream.tokenizer, upstream.profile or opening.settings.profile)
    except CheckpointError as error:
        raise CheckpointError(
            f"The tokenizer of the upstream {upstream.id} cannot be used: {error.message} It is a folder with the "
            "tokenizer.json of the checkpoint that its servers serve; the weights are not needed."
        ) from error
    wire = WIRES[upstream.kind]()
    replicas = []
    for address in addresses(opening):
        place = msgspec.structs.replace(
            opening,
            provider=msgspec.structs.replace(opening.provider, base_url=address),
            policy=policy_of(address, opening.settings),
        )
        replicas.append(
            Replica(
                address,
                wire=wire,
                client=open_client(place),
                key=opening.key,
                limits=opening.limits,
                names=tuple(opening.provider.models.values()),
            )
        )
    return ClusterBackend(opening.provider, model, wire=wire, replicas=Replicas(replicas), turns=opening.turns)


def addresses(opening: Opening) -> list[str]:
    """Of all servers, without the path under which they speak Chat Completions. Raises ConfigurationError."""
    found = [_root(address) for address in (opening.address, *opening.upstream.replicas)]
    repeated = {address for address in found if found.count(address) > 1}
    if repeated:
        raise ConfigurationError(f"The upstream {opening.upstream.id} names {repeated.pop()} twice.")
    return found


def _root(address: str) -> str:
    return re.sub(r"/v1/?$", "", address.strip()).rstrip("/")

"""Upstreams that are sent conversations and send answers."""

from __future__ import annotations

from deepserve import __version__
from deepserve.backends.kinds import Opening
from deepserve.backends.upstream.backend import UpstreamBackend
from deepserve.core.errors import ConfigurationError
from deepserve.outgoing.errors import OutgoingError
from deepserve.outgoing.origin_client import OriginClient


def open_answering(opening: Opening) -> UpstreamBackend:
    """Raises ConfigurationError."""
    return UpstreamBackend(
        opening.provider,
        client=open_client(opening),
        key=opening.key,
        limits=opening.limits,
        learns_models=opening.provider.context_tokens is None,
    )


def open_client(opening: Opening) -> OriginClient:
    """For calls to its address alone. Raises ConfigurationError."""
    try:
        return OriginClient(
            opening.address,
            policy=opening.policy,
            user_agent=f"deepserve/{__version__}",
            connect_s=opening.limits.connect_s,
            max_bytes=opening.limits.answer_bytes,
        )
    except OutgoingError as error:
        raise ConfigurationError(f"The upstream {opening.address} cannot be called: {error.message}") from error

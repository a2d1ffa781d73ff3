"""Which back end the settings ask for. Each is imported only when chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from deepserve.backends.backend import Backend
from deepserve.config import CheckPolicy, Settings
from deepserve.core.errors import ConfigurationError
from deepserve.engine.options import Progress
from deepserve.store.turns import TurnStore


def select_backend(settings: Settings, progress: Progress | None = None, *, turns: TurnStore | None = None) -> Backend:
    """Build the back end, not yet started. Raises SetupError when it cannot serve.

    progress  hears how far the weights of a model are loaded
    turns     where back ends that write prompts keep turns with tools for the next start; closed with the embedded one
    """
    match settings.backend:
        case "embedded":
            from deepserve.backends.embedded_models import open_embedded

            return open_embedded(settings, progress, turns=turns)
        case "scripted":
            from deepserve.backends.scripted import ScriptedBackend

            # Scripts are exact unless somebody asks: they are there to send every kind of answer, wrong ones too.
            return _checked(ScriptedBackend.load(settings), settings, default="off")
        case "upstream":
            from deepserve.backends.fleet.opening import open_fleet

            def engine() -> Backend:
                from deepserve.backends.embedded_models import open_embedded

                return open_embedded(settings, progress, turns=turns)

            return open_fleet(settings, guard=guard_of(settings), engine=engine, turns=turns)
        case _:
            assert_never(settings.backend)


def guard_of(settings: Settings) -> Callable[[Backend], Backend]:
    """What stands in front of each upstream, by these settings."""
    return lambda backend: _checked(backend, settings, default="retry")


def _checked(backend: Backend, settings: Settings, *, default: CheckPolicy) -> Backend:
    """The back end itself where it enforces what is asked for or nobody wants checks, else one that checks it."""
    policy = default if settings.answer_checks is None else settings.answer_checks
    if backend.enforces() or policy == "off":
        return backend
    if settings.check_retries < 0:
        raise ConfigurationError(f"check_retries is {settings.check_retries}; it must be 0 or more.")
    from deepserve.backends.checked import CheckedBackend

    return CheckedBackend(backend, policy=policy, num_retries=settings.check_retries)

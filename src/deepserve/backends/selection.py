"""Which back end the settings ask for. Each is imported only when chosen."""

from __future__ import annotations

from typing import assert_never

from deepserve.backends.backend import Backend
from deepserve.config import Settings
from deepserve.engine.options import Progress
from deepserve.store.turns import TurnStore


def select_backend(settings: Settings, progress: Progress | None = None, *, turns: TurnStore | None = None) -> Backend:
    """Build the back end, not yet started. Raises SetupError when it cannot serve.

    progress  hears how far the weights of a model are loaded
    turns     where the embedded back end keeps turns with tools for the next start; closed with it
    """
    match settings.backend:
        case "embedded":
            from deepserve.backends.embedded import EmbeddedBackend

            return EmbeddedBackend.load(settings, progress, turns=turns)
        case "scripted":
            from deepserve.backends.scripted import ScriptedBackend

            return ScriptedBackend.load(settings)
        case _:
            assert_never(settings.backend)

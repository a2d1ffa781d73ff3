"""Checkpoints that the native engine's tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.engine.native.networks import Checkpoints


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    # Here, because without a core that module skips whoever imports it.
    from tests.engine.native.networks import Checkpoints

    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))

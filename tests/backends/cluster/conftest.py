"""The shipped model, and one that writes noise, each behind its embedded back end and behind servers of a cluster."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from bench.random_weights import write_checkpoint

from deepserve.backends.embedded import EmbeddedBackend
from deepserve.backends.tokens.form import vocabulary_of
from deepserve.backends.tokens.model import TokenModel, load_model, shipped_folder
from deepserve.config import Settings
from deepserve.engine.loader import load_engine
from deepserve.engine.native.shared_library import find_library
from deepserve.engine.options import EngineOptions
from tests.backends.cluster.fake_cluster import TokenSource
from tests.backends.cluster.setup import SEED
from tests.backends.test_enforced_answers import SHAPE


class Pair(msgspec.Struct, frozen=True, eq=False):
    """One checkpoint, twice."""

    model: TokenModel
    embedded: EmbeddedBackend
    source: TokenSource


def _pair(folder: Path | None) -> Pair:
    if find_library() is None:
        pytest.importorskip("torch", reason="models need the native core or deepserve[reference]")
    model, settings = load_model(folder), Settings(cache_bytes=64 << 20)
    engines = [load_engine(model.folder, EngineOptions.from_settings(settings)) for _ in range(2)]
    embedded = EmbeddedBackend(model, engines[0], settings, draw_seed=lambda: SEED)
    vocabulary = vocabulary_of(model.tokenizer, model.stop_tokens, engines[1].info.vocab_size)
    return Pair(model, embedded, TokenSource(engines[1], model.tokenizer, vocabulary))


def _opened(pair: Pair) -> Iterator[Pair]:
    asyncio.run(pair.embedded.start())
    yield pair
    asyncio.run(pair.embedded.close())
    pair.source.close()


@pytest.fixture(scope="package")
def shipped() -> Iterator[Pair]:
    yield from _opened(_pair(None))


@pytest.fixture(scope="package")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("weights") / "mini-random"
    write_checkpoint(folder, SHAPE)
    for name in ("tokenizer.json", "generation_config.json"):
        shutil.copy(shipped_folder() / name, folder / name)
    yield from _opened(_pair(folder))

"""Several checkpoints behind one back end: who answers for what, when each is loaded, and what they share."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import torch

from deepserve.backends.backend import Backend
from deepserve.backends.embedded import EmbeddedBackend
from deepserve.backends.embedded_models import EmbeddedModels, model_for, open_embedded, place_models
from deepserve.backends.tokens.model import shipped_folder
from deepserve.config import Settings
from deepserve.core.answer import Answer, collect
from deepserve.core.errors import CheckpointError, EngineFailure, UnknownModel
from deepserve.core.messages import Message, Reasoning, Text
from deepserve.core.request import Request
from deepserve.engine.interface import Engine
from deepserve.engine.loader import describe_engine, load_engine
from deepserve.engine.options import EngineOptions
from deepserve.engine.reference.checkpoint import save_network
from tests.backends.embedded_setup import request_of
from tests.engine.native.networks import NARROW, config_of, random_network

FLASH, PRO = "deepseek-v4-flash", "deepseek-v4-pro"
MEMORY_BYTES = 64 << 20

_Value = TypeVar("_Value")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of two random models with the shipped tokenizer."""
    models = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("mini-flash", "mini-pro")):
        network = random_network(config_of(NARROW, vocab_size=2048), seed=seed)
        save_network(network, models / name, matrices=torch.float32)
        for file in ("tokenizer.json", "generation_config.json"):
            shutil.copyfile(shipped_folder() / file, models / name / file)
    return models


@pytest.fixture
def models(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """They ship now."""
    models = tmp_path / "models"
    shutil.copytree(made, models)
    for module in ("tokens.model", "embedded_models"):
        monkeypatch.setattr(f"deepserve.backends.{module}.shipped_folder", lambda name="mini-flash": models / name)
    return models


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every engine that is loaded meanwhile: its model, and its memory."""
    found: list[tuple[str, int]] = []

    def load(folder: Path, options: EngineOptions, progress: object = None) -> Engine:
        found.append((folder.name, options.memory_bytes))
        return load_engine(folder, options)

    monkeypatch.setattr("deepserve.backends.embedded_models.load_engine", load)
    return found


def settings_of(**changes: Any) -> Settings:  # Any: fields of Settings
    return msgspec.structs.replace(Settings(cache_bytes=MEMORY_BYTES), **changes)


def run(backend: Backend, work: Callable[[], Coroutine[Any, Any, _Value]]) -> _Value:
    """Run a coroutine against the started back end."""

    async def main() -> _Value:
        await backend.start()
        try:
            return await asyncio.wait_for(work(), timeout=60)
        finally:
            await backend.close()

    return asyncio.run(main())


def ask(backend: Backend, model: str, *messages: Message | str, **changes: Any) -> Coroutine[Any, Any, Answer]:
    # Any: fields of Request.
    request = request_of(*(messages or ("Hello.",)), model=model, max_output_tokens=8, **changes)
    return collect(backend.answer(request))


def text_of(answer: Answer) -> str:
    [result] = answer.results
    return "".join(part.text for part in result.parts if isinstance(part, (Text, Reasoning)))


def test_without_mini_pro_mini_flash_answers_for_both(models: Path) -> None:
    shutil.rmtree(models / "mini-pro")
    [only] = place_models(settings_of())
    assert (only.model.name, only.ids, only.is_lazy) == ("mini-flash", (PRO, FLASH), False)
    backend = open_embedded(settings_of())
    assert isinstance(backend, EmbeddedBackend)
    assert {model.served_by.model for model in backend.models()} == {"mini-flash"}


def test_with_mini_pro_each_answers_for_its_own(models: Path) -> None:
    backend = open_embedded(settings_of())
    assert [(model.id, model.served_by.label) for model in backend.models()] == [
        (PRO, "deepserve/mini-pro"),
        (FLASH, "deepserve/mini-flash"),
    ]
    assert all("ships with deepserve" in model.note for model in backend.models())
    assert model_for(settings_of(), PRO).name == "mini-pro"


def test_models_with_one_vocabulary_share_its_tokenizer(models: Path) -> None:
    flash, pro = place_models(settings_of())
    assert flash.model.tokenizer is pro.model.tokenizer
    (models / "mini-pro" / "tokenizer.json").write_bytes(
        (models / "mini-flash" / "tokenizer.json").read_bytes() + b"\n"
    )
    flash, pro = place_models(settings_of())
    assert flash.model.tokenizer is not pro.model.tokenizer


def test_the_second_model_is_loaded_when_it_is_first_asked(models: Path, loaded: list[tuple[str, int]]) -> None:
    backend = open_embedded(settings_of())
    assert loaded == [("mini-flash", MEMORY_BYTES // 2)]

    async def converse() -> None:
        await ask(backend, FLASH)
        assert len(loaded) == 1
        # However many ask at once, it is loaded once.
        await asyncio.gather(*(ask(backend, PRO, f"Number {number}") for number in range(4)))
        await ask(backend, PRO)
        assert loaded[1:] == [("mini-pro", MEMORY_BYTES // 2)]

    run(backend, converse)


def test_what_is_told_of_a_model_before_it_is_loaded_is_true(models: Path) -> None:
    options = EngineOptions.from_settings(settings_of())
    for name in ("mini-flash", "mini-pro"):
        assert describe_engine(models / name, options) == load_engine(models / name, options).info
    backend = open_embedded(settings_of())
    answer = run(backend, lambda: ask(backend, PRO))
    assert answer.served_by == backend.models()[0].served_by


def test_each_answers_as_it_would_alone(models: Path) -> None:
    backend = open_embedded(settings_of())

    async def both() -> tuple[str, str]:
        flash, pro = await asyncio.gather(ask(backend, FLASH), ask(backend, PRO))
        return text_of(flash), text_of(pro)

    together = run(backend, both)
    alone = []
    for name, model in (("mini-flash", FLASH), ("mini-pro", PRO)):
        single = open_embedded(settings_of(model_path=models / name))
        alone.append(text_of(run(single, partial(ask, single, model))))
    assert list(together) == alone
    assert together[0] != together[1]


def test_prefixes_of_one_model_are_no_hits_for_the_other(models: Path) -> None:
    backend = open_embedded(settings_of())
    words = "A sentence to be remembered. " * 30

    async def hits() -> list[int]:
        return [(await ask(backend, model, words)).usage.hit_tokens for model in (FLASH, FLASH, PRO, PRO)]

    first, second, third, fourth = run(backend, hits)
    assert (first, third) == (0, 0)
    assert min(second, fourth) > 0


def test_what_one_model_thought_is_known_when_the_other_goes_on(models: Path) -> None:
    """A conversation may be escalated between two turns: its traces are restored then, too."""
    backend = open_embedded(settings_of())
    question = Message(role="user", parts=(Text("Think."),))

    async def converse() -> tuple[int, int]:
        first = await ask(backend, FLASH, question, thinking=True)
        answer = Message(role="assistant", parts=(Text(_answer_text(first)),))
        follow_up = request_of(question, answer, "And now?", model=PRO, thinking=True)
        assert isinstance(backend, EmbeddedModels)
        restored, _ = await backend.rendered(follow_up)
        return len(restored.messages[1].reasoning or ""), len(_thought(first))

    restored_length, thought_length = run(backend, converse)
    assert restored_length == thought_length > 0


def _answer_text(answer: Answer) -> str:
    return "".join(part.text for part in answer.results[0].parts if isinstance(part, Text))


def _thought(answer: Answer) -> str:
    return "".join(part.text for part in answer.results[0].parts if isinstance(part, Reasoning))


def test_a_named_checkpoint_answers_for_its_model_and_is_loaded_at_start(
    models: Path, tmp_path: Path, loaded: list[tuple[str, int]]
) -> None:
    own = tmp_path / "mini-own"
    shutil.copytree(models / "mini-pro", own)
    backend = open_embedded(settings_of(model_paths={PRO: own}))
    assert [model.served_by.model for model in backend.models()] == ["mini-own", "mini-flash"]
    assert [name for name, _ in loaded] == ["mini-flash", "mini-own"]
    assert run(backend, lambda: ask(backend, PRO)).served_by.model == "mini-own"


def test_a_named_checkpoint_for_both_is_one_engine_with_all_the_memory(
    models: Path, loaded: list[tuple[str, int]]
) -> None:
    folder = models / "mini-pro"
    backend = open_embedded(settings_of(model_path=folder, model_paths={FLASH: folder}))
    assert isinstance(backend, EmbeddedBackend)
    assert loaded == [("mini-pro", MEMORY_BYTES)]


def test_a_damaged_second_checkpoint_is_found_at_start(models: Path) -> None:
    (models / "mini-pro" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="mini-pro"):
        open_embedded(settings_of())


def test_a_checkpoint_that_breaks_later_fails_its_own_requests_only(models: Path) -> None:
    backend = open_embedded(settings_of())
    (models / "mini-pro" / "model.safetensors").unlink()

    async def converse() -> Answer:
        with pytest.raises(EngineFailure, match="mini-pro could not be loaded"):
            await ask(backend, PRO)
        return await ask(backend, FLASH)

    assert run(backend, converse).served_by.model == "mini-flash"


def test_the_reference_engine_is_loaded_at_start_for_only_then_it_can_be_described(
    models: Path, loaded: list[tuple[str, int]]
) -> None:
    open_embedded(settings_of(engine="reference"))
    assert [name for name, _ in loaded] == ["mini-flash", "mini-pro"]


def test_an_unknown_model_is_refused_by_name(models: Path) -> None:
    backend = open_embedded(settings_of())
    with pytest.raises(UnknownModel, match="deepseek-v9"):
        run(backend, lambda: ask(backend, "deepseek-v9"))


def test_gauges_are_of_all_that_is_loaded(models: Path) -> None:
    backend = open_embedded(settings_of())

    async def measured() -> tuple[float, float, float]:
        await ask(backend, FLASH)
        flash = backend.gauges()
        await ask(backend, PRO)
        both = backend.gauges()
        assert both["memory_free_ratio"] <= flash["memory_free_ratio"] <= 1
        assert both["longest_step_s"] >= flash["longest_step_s"]
        assert both.keys() == flash.keys()
        return flash["tokens_drawn"], both["tokens_drawn"], both["turns_recalled"]

    flash_tokens, all_tokens, _ = run(backend, measured)
    assert 0 < flash_tokens < all_tokens <= 16


def test_prompts_are_counted_before_a_model_is_loaded(models: Path) -> None:
    request: Request = request_of("How long is this?", model=PRO)
    counts = [
        run(backend, partial(backend.count, request))
        for backend in (open_embedded(settings_of()), open_embedded(settings_of(model_path=models / "mini-pro")))
    ]
    assert counts[0] == counts[1] > 5

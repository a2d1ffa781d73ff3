"""Which of our checkpoints answers for which model, and one back end over all of them.

Each checkpoint has an engine, a step loop and prefixes of its own, in an equal share of the memory for sequence states;
what is remembered of turns is shared, as a conversation may go on with another model. The first of the shipped
checkpoints is loaded at start. Another one is only described then and loaded when it is first asked, which takes some
hundredths of a second: who never asks it pays nothing for it. Checkpoints that the operator names are loaded at start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

import msgspec

from deepserve.backends.backend import Backend
from deepserve.backends.embedded import EmbeddedBackend, served_models
from deepserve.backends.tokens.model import TokenModel, load_model, shipped_folder
from deepserve.backends.tokens.turn_memory import TurnMemory
from deepserve.catalog.models import load_models
from deepserve.config import Settings
from deepserve.core.errors import EngineFailure, SetupError
from deepserve.core.events import Event
from deepserve.core.provider import ServedModel
from deepserve.core.request import Request
from deepserve.engine.loader import describe_engine, load_engine
from deepserve.engine.options import EngineOptions, Progress
from deepserve.prompt.tokenizer import Tokenizer
from deepserve.store.turns import TurnStore

_logger = logging.getLogger(__name__)

_SMALLEST = frozenset({"memory_free_ratio"})
_LARGEST = frozenset({"longest_step_s", "disk_cache_files", "disk_cache_bytes"})
"""Gauges of several checkpoints that are not added up: all of them write to one folder."""


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint and the models it answers for. is_lazy: loaded when it is first asked."""

    model: TokenModel
    ids: tuple[str, ...]
    is_lazy: bool


def place_models(settings: Settings) -> list[Placed]:
    """Who answers for what, the one that is loaded at start first.

    A model whose own checkpoint does not ship is answered by the one that does. Where checkpoints are named, the
    profile is theirs. Raises CheckpointError and ConfigurationError as `load_model` does.
    """
    ids_of: dict[Path, list[str]] = {}
    for row in load_models().models:
        folder = settings.model_paths.get(row.id) or settings.model_path
        if folder is None:
            own = shipped_folder(row.mini)
            folder = own if own.is_dir() else shipped_folder()
        ids_of.setdefault(folder, []).append(row.id)
    # The smaller one of those that ship answers first: it is the one that newcomers ask.
    folders = sorted(ids_of, key=lambda folder: folder != shipped_folder())
    has_named = settings.model_path is not None or bool(settings.model_paths)
    tokenizers: dict[bytes, Tokenizer] = {}
    models = []
    for folder in folders:
        is_shipped = folder.parent == shipped_folder().parent
        profile = None if has_named and is_shipped else settings.profile
        models.append(load_model(folder, profile, tokenizers=tokenizers))
    return [
        Placed(model=model, ids=tuple(ids_of[folder]), is_lazy=number > 0 and model.is_shipped)
        for number, (folder, model) in enumerate(zip(folders, models, strict=True))
    ]


def model_for(settings: Settings, model_id: str) -> TokenModel:
    """What reads the prompts of a model. Raises as `place_models` does."""
    return next(one.model for one in place_models(settings) if model_id in one.ids)


def share_of(settings: Settings, num_models: int) -> Settings:
    """The settings for one of several engines."""
    return msgspec.structs.replace(settings, cache_bytes=max(1, settings.cache_bytes // num_models))


def open_embedded(settings: Settings, progress: Progress | None = None, *, turns: TurnStore | None = None) -> Backend:
    """The back end over every checkpoint that the settings name. Raises SetupError."""
    placed = place_models(settings)
    if len(placed) == 1:
        [only] = placed
        engine = load_engine(only.model.folder, EngineOptions.from_settings(settings), progress)
        return EmbeddedBackend(only.model, engine, settings, turns=turns)
    return EmbeddedModels(placed, settings, progress, turns=turns)


class _Member:
    """One checkpoint, loaded or not yet."""

    def __init__(self, placed: Placed, settings: Settings, progress: Progress | None, memory: TurnMemory) -> None:
        self.ids = placed.ids
        self._model = placed.model
        self._settings = settings
        self._memory = memory
        self._options = EngineOptions.from_settings(settings)
        self._opening = asyncio.Lock()
        self.backend: EmbeddedBackend | None = None
        info = describe_engine(self._model.folder, self._options) if placed.is_lazy else None
        if info is None:
            self.backend = self._load(progress)
            self.models = self.backend.models()
        else:
            self.models = served_models(self._model, info, self.ids)

    async def opened(self) -> EmbeddedBackend:
        """The back end, started. Raises EngineFailure where it cannot be loaded any more."""
        async with self._opening:
            if self.backend is None:
                try:
                    backend = await asyncio.to_thread(self._load, None)
                except SetupError as error:
                    _logger.exception("%s could not be loaded", self._model.name)
                    raise EngineFailure(f"The model {self._model.name} could not be loaded.") from error
                await backend.start()
                self.backend = backend
            return self.backend

    def _load(self, progress: Progress | None) -> EmbeddedBackend:
        engine = load_engine(self._model.folder, self._options, progress)
        return EmbeddedBackend(self._model, engine, self._settings, ids=self.ids, memory=self._memory)


class EmbeddedModels:
    """Several checkpoints as one back end. `turns` is closed with it."""

    def __init__(
        self,
        placed: Sequence[Placed],
        settings: Settings,
        progress: Progress | None = None,
        *,
        turns: TurnStore | None = None,
    ) -> None:
        self._turns = turns
        share = share_of(settings, len(placed))
        # Turns are remembered as token ids, which only models with one tokenizer can share.
        self._memories: dict[str, TurnMemory] = {}
        self._members: list[_Member] = []
        for one in placed:
            vocabulary = one.model.fingerprint
            if vocabulary not in self._memories:
                self._memories[vocabulary] = TurnMemory(store=turns, owns_store=False, vocabulary=vocabulary)
            self._members.append(_Member(one, share, progress, self._memories[vocabulary]))
        self._member_of = {model_id: member for member in self._members for model_id in member.ids}
        models = {model.id: model for member in self._members for model in member.models}
        self._models = tuple(models[row.id] for row in load_models().models)

    def models(self) -> tuple[ServedModel, ...]:
        return self._models

    async def start(self) -> None:
        for backend in self._loaded():
            await backend.start()

    async def close(self) -> None:
        for backend in self._loaded():
            await backend.close()
        for memory in self._memories.values():
            await asyncio.to_thread(memory.close)
        if self._turns is not None:
            await asyncio.to_thread(self._turns.close)

    def enforces(self) -> bool:
        return True

    def is_ready(self) -> bool:
        return all(backend.is_ready() for backend in self._loaded())

    def gauges(self) -> Mapping[str, float]:
        gauges: dict[str, float] = {}
        for backend in self._loaded():
            for name, value in backend.gauges().items():
                if name not in gauges:
                    gauges[name] = value
                elif name in _SMALLEST:
                    gauges[name] = min(gauges[name], value)
                elif name in _LARGEST:
                    gauges[name] = max(gauges[name], value)
                else:
                    gauges[name] += value
        # Shared memories of turns would be counted once for each model.
        counts = {"turns_remembered": 0.0, "turns_recalled": 0.0}
        for memory in self._memories.values():
            counts["turns_remembered"] += memory.num_turns
            counts["turns_recalled"] += memory.num_recalled
        return gauges | counts

    async def count(self, request: Request) -> int:
        return await (await self._opened(request)).count(request)

    async def rendered(self, request: Request) -> tuple[Request, list[int]]:
        return await (await self._opened(request)).rendered(request)

    async def answer(self, request: Request) -> AsyncGenerator[Event]:
        backend = await self._opened(request)
        async with aclosing(backend.answer(request)) as events:
            async for event in events:
                yield event

    def _loaded(self) -> list[EmbeddedBackend]:
        return [member.backend for member in self._members if member.backend is not None]

    async def _opened(self, request: Request) -> EmbeddedBackend:
        member = self._member_of.get(request.model)
        if member is None:
            raise load_models().unknown(request.model)
        return await member.opened()

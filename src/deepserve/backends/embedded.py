"""The back end that answers with our own engine, in this process.

    request -> lost reasoning put back -> prompt -> tokens -> scheduler -> drawn tokens -> events

Honoured: every sampling knob but top_a, logit_bias, seeds, several results, log-probabilities, stop strings, output
limits, the thinking budget, prefix continuation, tools by every choice, parallel calls on and off, every response
format. What has a form is drawn under masks (`grammar/`), so it has that form whatever the model would rather write.
Refused by name: top_a, server tools (the gateway runs those). Not this back end's affair: `thinking.exclude` (dialects
leave the trace out), provider preferences, fallback models, cost.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import aclosing

import msgspec

from deepserve import __version__
from deepserve.backends.tokens.answer import AnswerWriter
from deepserve.backends.tokens.composer import Composer, Work, draw_seed
from deepserve.backends.tokens.knobs import MAX_OUTPUT_TOKENS
from deepserve.backends.tokens.model import TokenModel, load_model
from deepserve.backends.tokens.turn_memory import TurnMemory
from deepserve.catalog.models import load_models
from deepserve.config import Settings
from deepserve.core.errors import BackendFailure, CheckpointError
from deepserve.core.events import Event, Failed, Finished, Started, UsageReported
from deepserve.core.provider import ServedBy, ServedModel
from deepserve.core.request import Request
from deepserve.core.usage import Usage
from deepserve.engine.generation import Admitted, Generation, ResultEnded, TokenDrawn
from deepserve.engine.interface import Engine, EngineInfo
from deepserve.engine.loader import load_engine
from deepserve.engine.options import EngineOptions, Progress
from deepserve.engine.prefix_index import CacheKey
from deepserve.engine.prefix_store import PrefixStore, open_prefix_store
from deepserve.engine.scheduler import Scheduler, longest_history_tokens
from deepserve.engine.step_loop import GenerationStream, StepLoop
from deepserve.prompt.decoder import mint_call_id
from deepserve.store.turns import TurnStore


class EmbeddedBackend:
    """Serves models of the catalogue with one checkpoint, and says so.

    Raises CheckpointError when the tokenizer and the network are not of one model.

    ids        the models it is asked for; None: all
    draw_seed  a fresh seed for a request that brings none
    call_id    names tool calls; must be unguessable, because turns are remembered by it
    turns      where turns with tools outlive this process; closed with the back end
    memory     of turns, shared with others and closed by them; None: its own, which keeps them in `turns`
    clock      seconds, monotonic; only measures steps
    """

    def __init__(
        self,
        model: TokenModel,
        engine: Engine,
        settings: Settings,
        *,
        ids: Collection[str] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        draw_seed: Callable[[], int] = draw_seed,
        call_id: Callable[[int], str] = mint_call_id,
        turns: TurnStore | None = None,
        memory: TurnMemory | None = None,
    ) -> None:
        self._model = model
        info = engine.info
        self._models = served_models(model, info, ids)
        self._composer = Composer(
            model, num_tokens=info.vocab_size, draw_seed=draw_seed, call_id=call_id, turns=turns, memory=memory
        )
        self._store = _open_store(settings, info)
        scheduler = Scheduler(
            engine,
            max_sequences=settings.max_concurrency,
            clock=clock,
            store=self._store,
            save_s=settings.shutdown_grace_s,
        )
        self._loop = StepLoop(scheduler, max_queue_tokens=settings.max_queue_tokens)
        self._context_tokens = scheduler.capacity_tokens
        self._served_by = served_by(model, info)

    @classmethod
    def load(
        cls, settings: Settings, progress: Progress | None = None, *, turns: TurnStore | None = None
    ) -> EmbeddedBackend:
        """Read the checkpoint the settings name. Raises SetupError."""
        model = load_model(settings.model_path, settings.profile)
        engine = load_engine(model.folder, EngineOptions.from_settings(settings), progress)
        return cls(model, engine, settings, turns=turns)

    def models(self) -> tuple[ServedModel, ...]:
        return self._models

    async def start(self) -> None:
        self._loop.start()
        self._composer.warm()

    async def close(self) -> None:
        if self._loop.is_alive():
            await asyncio.to_thread(self._loop.stop)
        await self._composer.close()

    def enforces(self) -> bool:
        return True

    def is_ready(self) -> bool:
        return self._loop.is_alive()

    def gauges(self) -> Mapping[str, float]:
        gauges: dict[str, float] = {
            **msgspec.structs.asdict(self._loop.stats()),
            "waiting_prompt_tokens": self._loop.waiting_tokens,
            **self._composer.gauges(),
        }
        if self._store is not None:
            stored = msgspec.structs.asdict(self._store.stats())
            gauges |= {f"disk_cache_{name}": value for name, value in stored.items()}
        return gauges

    async def count(self, request: Request) -> int:
        return await self._composer.count(request, context_tokens=self._context_tokens)

    async def rendered(self, request: Request) -> tuple[Request, list[int]]:
        return await self._composer.rendered(request, context_tokens=self._context_tokens)

    async def answer(self, request: Request) -> AsyncGenerator[Event]:
        work = await self._composer.compose(request, context_tokens=self._context_tokens)
        writers = self._composer.writers(work)
        async with (
            aclosing(self._loop.submit(self._generation(request, work))) as stream,
            aclosing(self._tell(request, work, stream, writers)) as events,
        ):
            async for event in events:
                yield event

    async def _tell(
        self, request: Request, work: Work, stream: GenerationStream, writers: list[AnswerWriter]
    ) -> AsyncGenerator[Event]:
        """The stream's progress as events."""
        prompt_usage: Usage | None = None

        def report_usage() -> UsageReported:
            assert prompt_usage is not None
            return UsageReported(
                usage=msgspec.structs.replace(
                    prompt_usage,
                    reasoning_tokens=sum(writer.num_reasoning_tokens for writer in writers),
                    answer_tokens=sum(writer.num_answer_tokens for writer in writers),
                )
            )

        async for batch in stream:
            for progress in batch:
                match progress:
                    case Admitted(hit_tokens=hit_tokens):
                        num_prompt = len(work.prompt)
                        prompt_usage = Usage(hit_tokens=hit_tokens, miss_tokens=num_prompt - hit_tokens)
                        yield Started(
                            served_by=self._served_by,
                            prompt_usage=prompt_usage,
                            past_reasoning=work.past_reasoning,
                            relaxed=work.relaxed,
                        )
                    case TokenDrawn(result=result, drawn=drawn):
                        writer = writers[result]
                        if writer.has_ended_early:
                            continue  # drawn before the step loop heard of it
                        events = writer.push(drawn)
                        if events and isinstance(events[-1], Finished):
                            stream.cancel_result(result)
                            events.insert(-1, report_usage())
                            self._composer.remember(request, writer, is_whole=False)
                            await self._composer.settle()
                        for event in events:
                            yield event
                    case ResultEnded(result=result, reason=reason, error=error):
                        writer = writers[result]
                        if writer.has_ended_early:
                            continue
                        if reason == "failed":
                            failure = error or BackendFailure("The engine gave up.")
                            if prompt_usage is None:
                                raise failure
                            yield Failed(error=failure, result=result)
                            continue
                        events = writer.finish("length" if reason == "length" else "stop")
                        self._composer.remember(request, writer, is_whole=reason == "stop")
                        await self._composer.settle()
                        events.insert(-1, report_usage())
                        for event in events:
                            yield event

    def _generation(self, request: Request, work: Work) -> Generation:
        return Generation(
            prompt=work.prompt,
            draws=work.draws,
            max_tokens=work.max_tokens,
            stop_tokens=work.stop_tokens,
            # Earlier turns left their snapshots when they were made; this one is what the next turn shares.
            boundaries=work.boundaries[-1:],
            guides=work.guides,
            cache_key=CacheKey(
                tenant=request.tenant.id,
                user_id=request.user_id,
                model=self._model.name,
                profile=self._model.profile.name,
                fingerprint=self._served_by.fingerprint,
            ),
        )


def served_by(model: TokenModel, info: EngineInfo) -> ServedBy:
    """What answers name as their origin."""
    fingerprint = hashlib.sha256(f"{info.fingerprint} {model.fingerprint}".encode()).hexdigest()
    return ServedBy(provider="deepserve", model=model.name, fingerprint=f"fp_deepserve_{model.name}_{fingerprint[:10]}")


def served_models(model: TokenModel, info: EngineInfo, ids: Collection[str] | None = None) -> tuple[ServedModel, ...]:
    """The models of the catalogue that a checkpoint answers for; None: all.

    Raises CheckpointError when the tokenizer and the network are not of one model.
    """
    if model.tokenizer.vocab_size > info.vocab_size:
        raise CheckpointError(
            f"The tokenizer in {model.folder} has {model.tokenizer.vocab_size} tokens, "
            f"but the network knows only {info.vocab_size}."
        )
    context_tokens = longest_history_tokens(info)
    return tuple(
        ServedModel(
            id=row.id,
            display_name=f"{row.display_name} (answered by {model.name})",
            served_by=served_by(model, info),
            context_tokens=context_tokens,
            max_output_tokens=min(MAX_OUTPUT_TOKENS, context_tokens),
            note=_note(model, info),
        )
        for row in load_models().models
        if ids is None or row.id in ids
    )


def _note(model: TokenModel, info: EngineInfo) -> str:
    size = f"{info.total_parameters / 1e6:,.1f} million parameters"
    if model.is_shipped:
        return (
            f"Answers come from {model.name}, a small model of the V4 architecture with {size} that ships with "
            "deepserve. It was not made by DeepSeek and knows very little."
        )
    return f"Answers come from {model.name}, {size}, run by the {info.name} engine in {info.formats}."


def _open_store(settings: Settings, info: EngineInfo) -> PrefixStore | None:
    """Prefixes on disk, where the settings want them and the disk lets us.

    Whatever a state depends on is in the binding: what another engine, format or release computed is not ours.
    """
    if settings.state_dir is None or settings.disk_cache_bytes == 0:
        return None
    binding = "\n".join((__version__, info.name, info.formats, info.fingerprint))
    return open_prefix_store(settings.state_dir, max_bytes=settings.disk_cache_bytes, binding=binding)

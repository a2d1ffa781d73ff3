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
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial

import msgspec

from deepserve import __version__
from deepserve.backends.tokens.answer import AnswerRules, AnswerWriter
from deepserve.backends.tokens.form import (
    answer_form,
    call_markup,
    guide_rules,
    guides,
    needs_guide,
    vocabulary_of,
)
from deepserve.backends.tokens.knobs import (
    MAX_OUTPUT_TOKENS,
    check_supported,
    choose_draws,
    choose_max_tokens,
    prompt_characters,
    refuse_hopeless,
)
from deepserve.backends.tokens.model import TokenModel, load_model
from deepserve.backends.tokens.turn_memory import RememberedTurn, TurnMemory
from deepserve.catalog.models import load_models
from deepserve.config import Settings
from deepserve.core.errors import BackendFailure, CheckpointError
from deepserve.core.events import Event, Failed, Finished, PastReasoning, Started, UsageReported
from deepserve.core.provider import ServedBy, ServedModel
from deepserve.core.request import Request
from deepserve.core.usage import Usage
from deepserve.engine.generation import Admitted, Generation, ResultEnded, TokenDrawn
from deepserve.engine.interface import Engine, EngineInfo
from deepserve.engine.loader import load_engine
from deepserve.engine.options import EngineOptions, Progress
from deepserve.engine.prefix_index import CacheKey
from deepserve.engine.prefix_store import PrefixStore, open_prefix_store
from deepserve.engine.scheduler import Scheduler
from deepserve.engine.step_loop import GenerationStream, StepLoop
from deepserve.grammar.answer_form import AnswerForm
from deepserve.grammar.compiler import CompiledForm, GrammarCompiler
from deepserve.grammar.guide import AnswerGuide, text_mask
from deepserve.prompt.decoder import mint_call_id
from deepserve.prompt.encoder import SampledTurn, encode
from deepserve.prompt.known_texts import KnownTexts
from deepserve.prompt.segments import Start, Text
from deepserve.store.turns import TurnStore

_LONG_PROMPT_CHARACTERS = 10_000
"""From here on a prompt is tokenised outside the event loop: a slow core takes some ten milliseconds for it."""

_TOKENISING_THREADS = 2
"""Of our own: a few very long prompts must not take the threads on which everything else waits."""

_SEED_BITS = 53
"""Seeds we draw are exact in JSON everywhere."""


class _Work(msgspec.Struct, frozen=True, kw_only=True):
    """A request, ready for the engine."""

    generation: Generation
    rules: AnswerRules
    past_reasoning: PastReasoning | None
    relaxed: tuple[str, ...]


class EmbeddedBackend:
    """Serves every model of the catalogue with one checkpoint, and says so.

    Raises CheckpointError when the tokenizer and the network are not of one model.

    draw_seed  a fresh seed for a request that brings none
    call_id    names tool calls; must be unguessable, because turns are remembered by it
    turns      where turns with tools outlive this process; closed with the back end
    clock      seconds, monotonic; only measures steps
    """

    def __init__(
        self,
        model: TokenModel,
        engine: Engine,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.perf_counter,
        draw_seed: Callable[[], int] = lambda: secrets.randbits(_SEED_BITS),
        call_id: Callable[[int], str] = mint_call_id,
        turns: TurnStore | None = None,
    ) -> None:
        self._model = model
        self._engine_info = info = engine.info
        if model.tokenizer.vocab_size > info.vocab_size:
            raise CheckpointError(
                f"The tokenizer in {model.folder} has {model.tokenizer.vocab_size} tokens, "
                f"but the network knows only {info.vocab_size}."
            )
        # Begun when first used, and ended with this object.
        self._tokenising = ThreadPoolExecutor(_TOKENISING_THREADS, thread_name_prefix="deepserve-tokenise")
        self._draw_seed = draw_seed
        self._call_id = call_id
        self._memory = TurnMemory(store=turns, vocabulary=model.fingerprint)
        self._texts = KnownTexts(model.tokenizer)
        self._vocabulary = vocabulary_of(model.tokenizer, model.stop_tokens, info.vocab_size)
        self._text_mask = text_mask(self._vocabulary)
        self._markup = call_markup(model.tokenizer)
        self._grammars = GrammarCompiler(self._vocabulary, self._markup)
        self._warming = threading.Thread(target=self._grammars.warm, name="deepserve-vocabulary", daemon=True)
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
        fingerprint = hashlib.sha256(f"{engine.info.fingerprint} {model.fingerprint}".encode()).hexdigest()
        self._served_by = ServedBy(
            provider="deepserve", model=model.name, fingerprint=f"fp_deepserve_{model.name}_{fingerprint[:10]}"
        )
        self._models = tuple(
            ServedModel(
                id=row.id,
                display_name=f"{row.display_name} (answered by {model.name})",
                served_by=self._served_by,
                context_tokens=self._context_tokens,
                max_output_tokens=min(MAX_OUTPUT_TOKENS, self._context_tokens),
                note=self._note(),
            )
            for row in load_models().models
        )

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
        # The first form should not have to wait for it, and the server need not either.
        self._warming.start()

    async def close(self) -> None:
        if self._warming.is_alive():
            await asyncio.to_thread(self._warming.join)
        if self._loop.is_alive():
            await asyncio.to_thread(self._loop.stop)
        await asyncio.to_thread(self._memory.close)

    def enforces(self) -> bool:
        return True

    def is_ready(self) -> bool:
        return self._loop.is_alive()

    def gauges(self) -> Mapping[str, float]:
        gauges: dict[str, float] = {
            **msgspec.structs.asdict(self._loop.stats()),
            "waiting_prompt_tokens": self._loop.waiting_tokens,
            "turns_remembered": self._memory.num_turns,
            "turns_recalled": self._memory.num_recalled,
        }
        if self._store is not None:
            stored = msgspec.structs.asdict(self._store.stats())
            gauges |= {f"disk_cache_{name}": value for name, value in stored.items()}
        return gauges

    async def count(self, request: Request) -> int:
        await self._memory.recall(request)
        restored, _, replays = self._memory.restore(request)
        ids, _, _ = await self._encode(restored, replays)
        return len(ids)

    async def answer(self, request: Request) -> AsyncGenerator[Event]:
        check_supported(request)
        work = await self._prepare(request)
        writers = [
            AnswerWriter(work.rules, self._model.tokenizer, result=result, seed=draw.seed, call_id=self._call_id)
            for result, draw in enumerate(work.generation.draws)
        ]
        async with (
            aclosing(self._loop.submit(work.generation)) as stream,
            aclosing(self._tell(request, work, stream, writers)) as events,
        ):
            async for event in events:
                yield event

    async def _tell(
        self, request: Request, work: _Work, stream: GenerationStream, writers: list[AnswerWriter]
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
                        num_prompt = len(work.generation.prompt)
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
                            self._remember(request, writer, is_whole=False)
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
                        self._remember(request, writer, is_whole=reason == "stop")
                        events.insert(-1, report_usage())
                        for event in events:
                            yield event

    # Before the engine

    async def _prepare(self, request: Request) -> _Work:
        await self._memory.recall(request)
        form = answer_form(request)
        restored, past_reasoning, replays = self._memory.restore(request)
        ids, boundaries, start = await self._encode(restored, replays)
        max_tokens = choose_max_tokens(
            request, len(ids), context_tokens=self._context_tokens, defaults=self._model.defaults
        )
        has_part = request.thinking.enabled and bool(request.tools) and request.tool_choice.mode != "none"
        draws = choose_draws(
            request, self._model.defaults, vocab_size=self._engine_info.vocab_size, draw_seed=self._draw_seed
        )
        compiled = await self._compile(form)
        result_guides = self._guides(request, form, compiled, start, max_tokens=max_tokens)
        if not result_guides:
            draws = tuple(msgspec.structs.replace(draw, allowed=self._text_mask) for draw in draws)
        return _Work(
            generation=Generation(
                prompt=ids,
                draws=draws,
                max_tokens=max_tokens,
                stop_tokens=self._model.stop_tokens,
                # Earlier turns left their snapshots when they were made; this one is what the next turn shares.
                boundaries=boundaries[-1:],
                guides=result_guides,
                cache_key=CacheKey(
                    tenant=request.tenant.id,
                    user_id=request.user_id,
                    model=self._model.name,
                    profile=self._model.profile.name,
                    fingerprint=self._served_by.fingerprint,
                ),
            ),
            rules=AnswerRules(
                start=start,
                stop=request.stop,
                stop_tokens=self._model.stop_tokens,
                is_parallel=request.tool_choice.is_parallel,
            ),
            past_reasoning=past_reasoning if has_part else None,
            relaxed=compiled.relaxed if compiled is not None else (),
        )

    async def _compile(self, form: AnswerForm) -> CompiledForm | None:
        """The form's grammar, None where nothing is to be enforced; compiled outside the event loop."""
        if form.is_free:
            return None
        known = self._grammars.known(form)
        return known if known is not None else await asyncio.to_thread(self._grammars.compile, form)

    def _guides(
        self, request: Request, form: AnswerForm, compiled: CompiledForm | None, start: Start, *, max_tokens: int
    ) -> tuple[AnswerGuide, ...]:
        if not needs_guide(request, form):
            return ()
        rules = guide_rules(request, start, compiled, self._model.tokenizer, max_tokens=max_tokens)
        return guides(compiled, self._vocabulary, rules, mark=self._markup.mark_id, num_results=request.num_results)

    async def _encode(
        self, request: Request, replays: Mapping[str, SampledTurn]
    ) -> tuple[list[int], tuple[int, ...], Start]:
        """Token ids, boundaries and the answer's start."""

        def work() -> tuple[list[int], tuple[int, ...], Start]:
            prompt = encode(request, self._model.profile, replay=replays.get)
            tokenizer, owner = self._model.tokenizer, (request.tenant.id, request.user_id)
            refuse_hopeless(
                request,
                [segment.text for segment in prompt.segments if isinstance(segment, Text)],
                lambda text: len(tokenizer.encode_text(text)),
                context_tokens=self._context_tokens,
            )
            encoded = tokenizer.encode(prompt, text_ids=partial(self._texts.ids, owner))
            return encoded.ids, encoded.boundaries, prompt.start

        if prompt_characters(request) > _LONG_PROMPT_CHARACTERS:
            return await asyncio.get_running_loop().run_in_executor(self._tokenising, work)
        return work()

    # After the engine

    def _remember(self, request: Request, writer: AnswerWriter, *, is_whole: bool) -> None:
        """Keep a finished turn for the next request of the conversation."""
        if request.infill is not None or (request.messages and request.messages[-1].prefix):
            return  # the turn began with the client's own words
        is_thinking = request.thinking.enabled
        if not writer.calls and not is_thinking:
            return
        sampled = None
        if writer.calls and writer.is_well_formed and is_whole:
            ids = [token for token in writer.token_ids if token not in self._model.stop_tokens]
            sampled = SampledTurn(is_thinking=is_thinking, ids=tuple(ids), calls=tuple(writer.calls), text=writer.text)
        self._memory.remember(
            request,
            RememberedTurn(reasoning=writer.reasoning if is_thinking else None, sampled=sampled),
            call_ids=[call.id for call in writer.calls],
            text=writer.text,
        )

    def _note(self) -> str:
        info, model = self._engine_info, self._model
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

"""From a request to what an engine is asked, and from its answer to what the next request of the conversation needs.

    request -> lost reasoning put back -> prompt -> token ids -> draws, limits, guides

Knows no engine: one that runs in this process and a cluster that is called over the network are asked the same.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec

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
    check_supported,
    choose_draws,
    choose_max_tokens,
    prompt_characters,
    refuse_hopeless,
)
from deepserve.backends.tokens.model import TokenModel
from deepserve.backends.tokens.turn_memory import RememberedTurn, TurnMemory
from deepserve.core.events import PastReasoning
from deepserve.core.request import Request
from deepserve.engine.interface import Draw
from deepserve.grammar.answer_form import AnswerForm
from deepserve.grammar.compiler import CompiledForm, GrammarCompiler
from deepserve.grammar.guide import AnswerGuide, text_mask
from deepserve.grammar.vocabulary import Vocabulary
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


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """A request, ready for an engine.

    draws       one for each result
    boundaries  positions in the prompt before each `<｜Assistant｜>`, rising
    compiled    the form that is enforced; None: nothing is
    guides      one for each result, or none at all: then the draws have a mask that never changes
    """

    prompt: list[int]
    draws: tuple[Draw, ...]
    max_tokens: int
    stop_tokens: frozenset[int]
    boundaries: tuple[int, ...]
    compiled: CompiledForm | None
    guides: tuple[AnswerGuide, ...]
    rules: AnswerRules
    past_reasoning: PastReasoning | None
    relaxed: tuple[str, ...]


def draw_seed() -> int:
    return secrets.randbits(_SEED_BITS)


class Composer:
    """Works within one event loop; `close` it there.

    num_tokens  how many the network can draw
    draw_seed   a fresh seed for a request that brings none
    call_id     names tool calls; must be unguessable, because turns are remembered by it
    turns       where turns with tools outlive this process; closed with the composer, where it
    owns_turns  is its own
    memory      of turns, which others use, too, and close; None: its own, over `turns`
    """

    def __init__(
        self,
        model: TokenModel,
        *,
        num_tokens: int,
        draw_seed: Callable[[], int] = draw_seed,
        call_id: Callable[[int], str] = mint_call_id,
        turns: TurnStore | None = None,
        owns_turns: bool = True,
        memory: TurnMemory | None = None,
    ) -> None:
        self.model = model
        self._num_tokens = num_tokens
        self._draw_seed = draw_seed
        self._call_id = call_id
        self._owns_memory = memory is None
        self._memory = memory or TurnMemory(store=turns, owns_store=owns_turns, vocabulary=model.fingerprint)
        self._texts = KnownTexts(model.tokenizer)
        self.vocabulary: Vocabulary = vocabulary_of(model.tokenizer, model.stop_tokens, num_tokens)
        self.text_mask = text_mask(self.vocabulary)
        self.markup = call_markup(model.tokenizer)
        self._grammars = GrammarCompiler(self.vocabulary, self.markup)
        # Begun when first used, and ended with this object.
        self._tokenising = ThreadPoolExecutor(_TOKENISING_THREADS, thread_name_prefix="deepserve-tokenise")
        self._warming = threading.Thread(target=self._grammars.warm, name="deepserve-vocabulary", daemon=True)

    def warm(self) -> None:
        """Begin what the first form would otherwise wait for; the server need not wait for it either."""
        self._warming.start()

    async def close(self) -> None:
        if self._warming.is_alive():
            await asyncio.to_thread(self._warming.join)
        if self._owns_memory:
            await asyncio.to_thread(self._memory.close)

    def gauges(self) -> Mapping[str, float]:
        return {"turns_remembered": self._memory.num_turns, "turns_recalled": self._memory.num_recalled}

    async def count(self, request: Request, *, context_tokens: int) -> int:
        return len((await self.rendered(request, context_tokens=context_tokens))[1])

    async def rendered(self, request: Request, *, context_tokens: int) -> tuple[Request, list[int]]:
        """The request with what is put back into it, and the tokens of its prompt. Raises RequestError."""
        await self._memory.recall(request)
        restored, _, replays = self._memory.restore(request)
        ids, _, _ = await self._encode(restored, replays, context_tokens)
        return restored, ids

    async def compose(self, request: Request, *, context_tokens: int, skips_ahead: bool = True) -> Work:
        """Raises RequestError for what cannot be served.

        skips_ahead: what has no alternative may be written without asking the model
        """
        check_supported(request)
        await self._memory.recall(request)
        form = answer_form(request)
        restored, past_reasoning, replays = self._memory.restore(request)
        ids, boundaries, start = await self._encode(restored, replays, context_tokens)
        max_tokens = choose_max_tokens(request, len(ids), context_tokens=context_tokens, defaults=self.model.defaults)
        has_part = request.thinking.enabled and bool(request.tools) and request.tool_choice.mode != "none"
        draws = choose_draws(request, self.model.defaults, vocab_size=self._num_tokens, draw_seed=self._draw_seed)
        compiled = await self._compile(form)
        result_guides: tuple[AnswerGuide, ...] = ()
        if needs_guide(request, form):
            rules = guide_rules(request, start, compiled, self.model.tokenizer, max_tokens=max_tokens)
            if not skips_ahead:
                rules = msgspec.structs.replace(rules, skips_ahead=False)
            result_guides = guides(
                compiled, self.vocabulary, rules, mark=self.markup.mark_id, num_results=request.num_results
            )
        else:
            draws = tuple(msgspec.structs.replace(draw, allowed=self.text_mask) for draw in draws)
        return Work(
            prompt=ids,
            draws=draws,
            max_tokens=max_tokens,
            stop_tokens=self.model.stop_tokens,
            boundaries=boundaries,
            compiled=compiled,
            guides=result_guides,
            rules=AnswerRules(
                start=start,
                stop=request.stop,
                stop_tokens=self.model.stop_tokens,
                is_parallel=request.tool_choice.is_parallel,
            ),
            past_reasoning=past_reasoning if has_part else None,
            relaxed=compiled.relaxed if compiled is not None else (),
        )

    def writers(self, work: Work) -> list[AnswerWriter]:
        """One for each result."""
        return [
            AnswerWriter(work.rules, self.model.tokenizer, result=result, seed=draw.seed, call_id=self._call_id)
            for result, draw in enumerate(work.draws)
        ]

    def remember(self, request: Request, writer: AnswerWriter, *, is_whole: bool) -> None:
        """Keep a finished turn for the next request of the conversation. is_whole: the model ended it itself."""
        if request.infill is not None or (request.messages and request.messages[-1].prefix):
            return  # the turn began with the client's own words
        is_thinking = request.thinking.enabled
        if not writer.calls and not is_thinking:
            return
        sampled = None
        if writer.calls and writer.is_well_formed and is_whole:
            ids = [token for token in writer.token_ids if token not in self.model.stop_tokens]
            sampled = SampledTurn(is_thinking=is_thinking, ids=tuple(ids), calls=tuple(writer.calls), text=writer.text)
        self._memory.remember(
            request,
            RememberedTurn(reasoning=writer.reasoning if is_thinking else None, sampled=sampled),
            call_ids=[call.id for call in writer.calls],
            text=writer.text,
        )

    async def settle(self) -> None:
        """To be awaited before the end of an answer is told: the turn is then found by whoever is asked next."""
        await self._memory.settle()

    async def _compile(self, form: AnswerForm) -> CompiledForm | None:
        """The form's grammar, None where nothing is to be enforced; compiled outside the event loop."""
        if form.is_free:
            return None
        known = self._grammars.known(form)
        return known if known is not None else await asyncio.to_thread(self._grammars.compile, form)

    async def _encode(
        self, request: Request, replays: Mapping[str, SampledTurn], context_tokens: int
    ) -> tuple[list[int], tuple[int, ...], Start]:
        """Token ids, boundaries and the answer's start."""

        def work() -> tuple[list[int], tuple[int, ...], Start]:
            prompt = encode(request, self.model.profile, replay=replays.get)
            tokenizer, owner = self.model.tokenizer, (request.tenant.id, request.user_id)
            refuse_hopeless(
                request,
                [segment.text for segment in prompt.segments if isinstance(segment, Text)],
                lambda text: len(tokenizer.encode_text(text)),
                context_tokens=context_tokens,
            )
            encoded = tokenizer.encode(prompt, text_ids=partial(self._texts.ids, owner))
            return encoded.ids, encoded.boundaries, prompt.start

        if prompt_characters(request) > _LONG_PROMPT_CHARACTERS:
            return await asyncio.get_running_loop().run_in_executor(self._tokenising, work)
        return work()

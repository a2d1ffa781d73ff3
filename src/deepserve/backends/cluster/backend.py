"""The back end that lets a cluster draw the tokens: vLLM, SGLang or llama.cpp's server.

    request -> prompt -> token ids -> cluster -> drawn tokens -> events

Everything but the drawing is what our own engine is given and gives: the same prompts and effort profiles, text that
never becomes a special token, exact replay of tool calls, continued answers, infilling, forms. Log-probabilities are
the servers' own; vLLM's are those of the bare model.
"""

from __future__ import annotations

import hashlib
import secrets
from array import array
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final

import msgspec

from deepserve.backends.cluster.asking import Ask, Part, Wire
from deepserve.backends.cluster.course import Course, CourseRules, Totals
from deepserve.backends.cluster.form_levels import FormLevels
from deepserve.backends.cluster.replicas import Replicas
from deepserve.backends.cluster.side_by_side import side_by_side
from deepserve.backends.tokens.answer import AnswerWriter
from deepserve.backends.tokens.composer import Composer, Work, draw_seed
from deepserve.backends.tokens.knobs import MAX_OUTPUT_TOKENS
from deepserve.backends.tokens.model import TokenModel
from deepserve.backends.upstream.links import links_of
from deepserve.catalog.providers import Provider
from deepserve.core.errors import DeepserveError
from deepserve.core.events import Event, Failed, Finished, Started, UsageReported
from deepserve.core.provider import ServedBy, ServedModel
from deepserve.core.request import Request
from deepserve.core.usage import Usage
from deepserve.engine.interface import Drawn
from deepserve.prompt.decoder import mint_call_id
from deepserve.prompt.special_tokens import END_THINK
from deepserve.store.turns import TurnStore

UNPUBLISHED_TOKENS: Final = 65_536
"""What is claimed of a context whose size no server tells."""

_START_TOKENS: Final = 256
"""What has no turns is known by so much of its beginning: the text before a cursor mostly grows at its end."""


class ClusterBackend:
    """Implements `backends.backend.Backend`.

    provider  its row; `models` names what the servers serve
    model     the folder with the tokenizer of what they serve
    turns     where turns with tools outlive this process; others may use it, too, and close it
    salt      keeps the cached prefixes of our tenants apart from each other and from anybody else's
    """

    def __init__(
        self,
        provider: Provider,
        model: TokenModel,
        *,
        wire: Wire,
        replicas: Replicas,
        draw_seed: Callable[[], int] = draw_seed,
        call_id: Callable[[int], str] = mint_call_id,
        turns: TurnStore | None = None,
        salt: str | None = None,
    ) -> None:
        self._provider = provider
        self._model = model
        self._wire = wire
        self._replicas = replicas
        self._levels = FormLevels(wire.levels, name=provider.id, takes_bias=not wire.charges_prompts)
        self._composer = Composer(
            model,
            num_tokens=model.tokenizer.vocab_size,
            draw_seed=draw_seed,
            call_id=call_id,
            turns=turns,
            owns_turns=False,
        )
        self._salt = salt if salt is not None else secrets.token_hex(16)
        self._totals = Totals()
        self._hit_tokens = self._prompt_tokens = 0
        self._is_started = False

    @property
    def _context_tokens(self) -> int:
        return self._replicas.context_tokens or self._provider.context_tokens or UNPUBLISHED_TOKENS

    def models(self) -> tuple[ServedModel, ...]:
        """Of those that the operator or the row names, the ones that the servers say they have; if it is none, all."""
        names = self._provider.models
        found = {model_id: name for model_id, name in names.items() if name in self._replicas.served}
        return tuple(self._served(model_id, name) for model_id, name in (found or names).items())

    def _served(self, model_id: str, name: str) -> ServedModel:
        return ServedModel(
            id=model_id,
            display_name=name,
            served_by=ServedBy(provider=self._provider.id, model=name, fingerprint=""),
            context_tokens=self._context_tokens,
            max_output_tokens=min(MAX_OUTPUT_TOKENS, self._context_tokens),
            note=f"Answers come from {self._provider.title}, prompted as {self._model.profile.name} with the "
            f"tokenizer of {self._model.name}.",
        )

    async def start(self) -> None:
        """Servers that are down now may be up when the first request comes: that is not a reason not to start."""
        self._composer.warm()
        await self._replicas.start()
        self._is_started = True

    async def close(self) -> None:
        self._is_started = False
        await self._replicas.close()
        await self._composer.close()

    def is_ready(self) -> bool:
        return self._is_started and self._replicas.is_up

    def enforces(self) -> bool:
        return True

    def gauges(self) -> Mapping[str, float]:
        told = {
            **self._replicas.gauges(),
            **msgspec.structs.asdict(self._totals),
            "prompt_tokens": self._prompt_tokens,
            "prompt_tokens_restored": self._hit_tokens,
        }
        return {f"cluster_{name}": float(value) for name, value in told.items()} | dict(self._composer.gauges())

    async def count(self, request: Request) -> int:
        return await self._composer.count(request, context_tokens=self._context_tokens)

    async def rendered(self, request: Request) -> tuple[Request, list[int]]:
        return await self._composer.rendered(request, context_tokens=self._context_tokens)

    async def answer(self, request: Request) -> AsyncGenerator[Event]:
        work = await self._composer.compose(
            request, context_tokens=self._context_tokens, skips_ahead=self._levels.current == "none"
        )
        telling = _Telling(request, work, self._composer, self._started(request, work))
        courses = self._courses(request, work)
        try:
            async with aclosing(side_by_side(courses)) as batches:
                async for result, news in batches:
                    for event in telling.events(result, courses[result], news):
                        if isinstance(event, Finished):
                            await self._composer.settle()
                        yield event
        finally:
            self._prompt_tokens += len(work.prompt)
            self._hit_tokens += telling.hit_tokens

    def _courses(self, request: Request, work: Work) -> list[Course]:
        tokenizer = self._model.tokenizer
        owner = f"{self._salt}\0{request.tenant.id}\0{request.user_id or ''}"
        salt = hashlib.sha256(owner.encode()).hexdigest()
        # Conversations that begin alike share what was computed; turns of one conversation always begin alike.
        start = work.prompt[: work.boundaries[0] if work.boundaries else _START_TOKENS]
        key = hashlib.blake2b(salt.encode() + array("I", start).tobytes()).digest()
        rules = CourseRules(
            model=self._provider.models[request.model],
            salt=salt,
            links=links_of(request),
            end_think=tokenizer.special_id(END_THINK),
            mark=self._composer.markup.mark_id,
            end=tokenizer.eos_id,
            lists_tokens=self._wire.lists_tokens,
            num_losses=max(2, len(self._replicas)),
        )
        source: Callable[[Ask], AsyncGenerator[Part]] = partial(self._replicas.ask, key=key)
        return [Course(work, result, rules, source, self._levels, self._totals) for result in range(len(work.draws))]

    def _started(self, request: Request, work: Work) -> Started:
        return Started(
            served_by=ServedBy(provider=self._provider.id, model=self._provider.models[request.model], fingerprint=""),
            past_reasoning=work.past_reasoning,
            relaxed=work.relaxed,
        )


class _Telling:
    """One answer's tokens as events."""

    def __init__(self, request: Request, work: Work, composer: Composer, started: Started) -> None:
        self._request = request
        self._num_prompt = len(work.prompt)
        self._composer = composer
        self._started: Started | None = started
        self._writers: list[AnswerWriter] = composer.writers(work)
        self._hit_tokens: int | None = None

    @property
    def hit_tokens(self) -> int:
        """Only what a server has stated."""
        return min(self._hit_tokens or 0, self._num_prompt)

    def events(self, result: int, course: Course, news: Sequence[Drawn] | DeepserveError | None) -> list[Event]:
        """news: tokens, the error that ended a result, None at its end. Raises that error if nothing was told yet."""
        if result == 0 and course.hit_tokens is not None:
            self._hit_tokens = course.hit_tokens
        events: list[Event] = []
        if self._started is not None:
            if isinstance(news, DeepserveError):
                raise news
            usage = None
            if self._hit_tokens is not None:
                usage = Usage(hit_tokens=self.hit_tokens, miss_tokens=self._num_prompt - self.hit_tokens)
            events.append(msgspec.structs.replace(self._started, prompt_usage=usage))
            self._started = None
        writer = self._writers[result]
        if writer.has_ended_early:
            return events
        match news:
            case None:
                assert course.ending is not None
                ended = writer.finish(course.ending)
                self._composer.remember(self._request, writer, is_whole=course.ending == "stop")
                ended.insert(-1, self._usage())
                events += ended
            case DeepserveError():
                events.append(Failed(error=news, result=result))
            case _:
                for drawn in news:
                    told = writer.push(drawn)
                    if told and isinstance(told[-1], Finished):
                        course.is_cancelled = True
                        told.insert(-1, self._usage())
                        self._composer.remember(self._request, writer, is_whole=False)
                        events += told
                        break
                    events += told
        return events

    def _usage(self) -> UsageReported:
        return UsageReported(
            usage=Usage(
                hit_tokens=self.hit_tokens,
                miss_tokens=self._num_prompt - self.hit_tokens,
                reasoning_tokens=sum(writer.num_reasoning_tokens for writer in self._writers),
                answer_tokens=sum(writer.num_answer_tokens for writer in self._writers),
            )
        )

"""Servers of a cluster on loopback that speak vLLM's, SGLang's and llama.cpp's raw routes on top of our own engine.

Real tokens, real log-probabilities, real cached prefixes: what comes through a `ClusterBackend` can be compared with
what the embedded back end says. Grammars are followed by the same library as there, from the text alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Literal, Self

import msgspec
from aiohttp import ClientConnectionResetError, web
from llguidance import LLMatcher, LLParserLimits, grammar_from
from typing_extensions import override

from deepserve.core.tenant import TenantId
from deepserve.engine.generation import Admitted, Generation, ResultEnded, TokenDrawn
from deepserve.engine.interface import Draw, Drawn, Engine
from deepserve.engine.prefix_index import CacheKey
from deepserve.engine.scheduler import Scheduler
from deepserve.engine.step_loop import StepLoop
from deepserve.grammar.vocabulary import Vocabulary
from deepserve.prompt.tokenizer import Tokenizer
from tests.backends.cluster.public_types import (
    CompletionChoice,
    CompletionChunk,
    CompletionLogprobs,
    CompletionRequest,
    CompletionUsage,
    FinishReason,
    GenerateChunk,
    GenerateRequest,
    LlamaChunk,
    LlamaProbability,
    LlamaRequest,
    LlamaTimings,
    LlamaTop,
    LogprobEntry,
    MetaInfo,
    PromptTokensDetails,
    SamplingParams,
)

MODEL = "deepseek-ai/DeepSeek-V4-Flash"


class Habits(msgspec.Struct, frozen=True, kw_only=True):
    """How a server behaves.

    forms          what it does with forms: follows them, follows those alone that are no grammars of ours and refuses
                   the others, takes them and does nothing, refuses all
    is_deaf        pays no attention to `logit_bias` and `allowed_token_ids`
    drafts         drafts ahead, as vLLM does: then it refuses `logit_bias` and `min_p`
    tells_hits     how many tokens of a prompt it had cached
    is_incremental  SGLang's events hold new tokens only
    trims_stop     the token that ends an answer is left out
    breaks_after   so many events of every answer, then the connection ends
    status         for every request that asks for tokens, in place of an answer
    context_tokens that it tells
    """

    forms: Literal["follow", "plain", "ignore", "refuse"] = "follow"
    is_deaf: bool = False
    drafts: bool = False
    tells_hits: bool = True
    is_incremental: bool = False
    trims_stop: bool = False
    breaks_after: int | None = None
    status: int = 200
    context_tokens: int = 16_384


class TokenSource:
    """The engine behind any number of servers; its steps run in a thread until it is closed."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
        scheduler = Scheduler(engine, max_sequences=8, clock=lambda: 0.0)
        self.loop = StepLoop(scheduler, max_queue_tokens=1_000_000)
        self.loop.start()
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary

    def close(self) -> None:
        self.loop.stop()


class Grammar:
    """A guide that knows a grammar's text and nothing else; an engine.generation.TokenGuide."""

    def __init__(self, vocabulary: Vocabulary, serialized: str) -> None:
        self._vocabulary = vocabulary
        self._matcher = LLMatcher(vocabulary.index, serialized, log_level=0, limits=LLParserLimits())
        if self._matcher.is_error():
            raise ValueError(self._matcher.get_error())

    def accept(self, token: int) -> int:
        if token not in self._vocabulary.stop_ids and not self._matcher.is_stopped():
            self._matcher.consume_token(token)
        return token

    def forced(self) -> Sequence[int]:
        return ()

    def mask(self) -> bytes:
        return self._matcher.compute_bitmask()[: self._vocabulary.mask_bytes]


class FakeServer:
    """One server.

    asked        every body that asked for tokens
    peers        the connections on which they came
    num_aborted  answers whose reader went away
    """

    def __init__(self, source: TokenSource, habits: Habits | None = None) -> None:
        self._source = source
        self.habits = habits or Habits()
        self.asked: list[dict[str, Any]] = []  # Any: JSON
        self.headers: list[dict[str, str]] = []
        self.peers: set[object] = set()
        self.num_aborted = 0
        self.is_healthy = True
        self.host = ""
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/generate", self._generate)
        app.router.add_post("/completion", self._completion)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/props", self._props)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.host = "{}:{}".format(*self._runner.addresses[0])
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def stop(self) -> None:
        """Go away, in the middle of whatever it is doing."""
        await self.__aexit__()

    # Who it is

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.is_healthy else 503)

    async def _models(self, _: web.Request) -> web.Response:
        model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "x", "root": MODEL, "parent": None}
        row = {**model, "max_model_len": self.habits.context_tokens, "permission": []}
        return web.json_response({"object": "list", "data": [row]})

    async def _props(self, _: web.Request) -> web.Response:
        settings = {"id": 0, "n_ctx": self.habits.context_tokens, "params": {}}
        return web.json_response({"default_generation_settings": settings, "total_slots": 1, "model_path": "x.gguf"})

    # What it is asked

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        asked = await self._read(request, CompletionRequest)
        if isinstance(asked, web.Response):
            return asked
        assert isinstance(asked.prompt, list)
        assert asked.stream
        assert asked.max_tokens is not None
        assert asked.return_token_ids
        assert not asked.skip_special_tokens
        draw = Draw(
            temperature=_given(asked.temperature),
            top_p=_given(asked.top_p),
            top_k=int(_given(asked.top_k)),
            min_p=_given(asked.min_p),
            repetition_penalty=_given(asked.repetition_penalty),
            frequency_penalty=_given(asked.frequency_penalty),
            presence_penalty=_given(asked.presence_penalty),
            logit_bias={int(token): bias for token, bias in (asked.logit_bias or {}).items()},
            seed=int(_given(asked.seed)),
            num_top_logprobs=asked.logprobs,
        )
        if self.habits.drafts and (draw.logit_bias or draw.min_p):
            words = "The min_p and logit_bias sampling parameters are not yet supported with speculative decoding."
            return self._refusal(400, words)
        if asked.allowed_token_ids:
            draw = msgspec.structs.replace(draw, allowed=self._source.vocabulary.mask(asked.allowed_token_ids))
        form = asked.structured_outputs
        kind = next((kind for kind in ("grammar", "json", "regex", "choice") if form and getattr(form, kind)), None)
        try:
            guide = self._guide(kind, getattr(form, kind) if kind is not None else None)
        except ValueError as error:
            return self._refusal(400, str(error))
        writer = _Completions(self, asked)
        return await self._stream(
            request, writer, asked.prompt, draw, asked.max_tokens, asked.stop_token_ids or [], asked.cache_salt, guide
        )

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        asked = await self._read(request, GenerateRequest)
        if isinstance(asked, web.Response):
            return asked
        assert asked.input_ids
        assert asked.stream
        assert asked.sampling_params is not None
        sampling = asked.sampling_params
        assert not sampling.skip_special_tokens
        assert sampling.max_new_tokens is not None
        draw = Draw(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=max(0, sampling.top_k),
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            frequency_penalty=sampling.frequency_penalty,
            presence_penalty=sampling.presence_penalty,
            logit_bias={int(token): bias for token, bias in (sampling.logit_bias or {}).items()},
            seed=int(_given(sampling.sampling_seed)),
            num_top_logprobs=asked.top_logprobs_num if asked.return_logprob else None,
        )
        try:
            guide = self._guide(*_sglang_form(sampling))
        except ValueError as error:
            return self._refusal(400, str(error))
        return await self._stream(
            request,
            _Generated(self, asked),
            asked.input_ids,
            draw,
            sampling.max_new_tokens,
            sampling.stop_token_ids or [],
            asked.extra_key,
            guide,
        )

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        asked = await self._read(request, LlamaRequest)
        if isinstance(asked, web.Response):
            return asked
        draw = Draw(
            temperature=asked.temperature,
            top_p=asked.top_p,
            top_k=asked.top_k,
            min_p=asked.min_p,
            repetition_penalty=asked.repeat_penalty,
            frequency_penalty=asked.frequency_penalty,
            presence_penalty=asked.presence_penalty,
            logit_bias=dict(asked.logit_bias),
            seed=max(0, asked.seed),
            num_top_logprobs=asked.n_probs or None,
        )
        try:
            guide = self._guide("json" if asked.json_schema is not None else None, asked.json_schema)
        except ValueError as error:
            return self._refusal(400, str(error))
        writer = _Llama(self, asked)
        return await self._stream(request, writer, asked.prompt, draw, asked.n_predict, [], None, guide)

    async def _read(self, request: web.Request, type_: type[Any]) -> Any:  # Any: one of the public types, or a refusal
        body = await request.read()
        self.asked.append(msgspec.json.decode(body))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        assert request.transport is not None
        self.peers.add(request.transport.get_extra_info("peername"))
        if self.habits.status != 200:
            return self._refusal(self.habits.status, "as the test wants it")
        try:
            return msgspec.json.decode(body, type=type_)
        except msgspec.ValidationError as error:
            return self._refusal(422, f"no such request is declared: {error}")

    def _refusal(self, status: int, message: str) -> web.Response:
        error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
        return web.json_response({"error": error}, status=status)

    def _guide(self, kind: str | None, form: Any) -> Grammar | None:  # Any: a grammar, a schema, texts
        if kind is None or self.habits.forms == "ignore":
            return None
        if self.habits.forms == "refuse" or (self.habits.forms == "plain" and kind in ("grammar", "ebnf")):
            raise ValueError("this server has no grammars")
        format_ = {"ebnf": "grammar", "json_schema": "json"}.get(kind, kind)
        if format_ == "choice":
            format_, form = "regex", "|".join(map(re.escape, form))
        text = form if isinstance(form, str) else msgspec.json.encode(form).decode()
        return Grammar(self._source.vocabulary, grammar_from(format_, text))  # type: ignore[arg-type]  # one of theirs

    # What it answers

    async def _stream(
        self,
        request: web.Request,
        writer: _Writer,
        prompt: Sequence[int],
        draw: Draw,
        max_tokens: int,
        stop_tokens: Sequence[int],
        salt: str | None,
        guide: Grammar | None,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        if self.habits.is_deaf:
            draw = msgspec.structs.replace(draw, logit_bias={}, allowed=None)
        generation = Generation(
            prompt=prompt,
            draws=(draw,),
            max_tokens=max_tokens,
            stop_tokens=frozenset((*stop_tokens, self._source.tokenizer.eos_id)),
            cache_key=CacheKey(
                tenant=TenantId(salt or ""), user_id=None, model=MODEL, profile="fake", fingerprint="fake"
            ),
            boundaries=(len(prompt) - 1,) if len(prompt) > 1 else (),
            guides=(guide,) if guide is not None else (),
        )
        has_ended, num_events = False, 0
        try:
            async with aclosing(self._source.loop.submit(generation)) as stream:
                async for event in writer.events(stream):
                    await response.write(b"data: " + event + b"\n\n")
                    num_events += 1
                    if num_events == self.habits.breaks_after:
                        assert request.transport is not None
                        request.transport.abort()
                        return response
            has_ended = True
        except ClientConnectionResetError:
            return response  # who asked has gone
        finally:
            self.num_aborted += not has_ended
        await response.write_eof()
        return response


class _Writer:
    """Writes one answer's events in one server's way."""

    def __init__(self, server: FakeServer) -> None:
        self.habits = server.habits
        self.source = server._source
        self.hit_tokens = 0
        self.drawn: list[Drawn] = []
        self.end: Literal["stop", "length"] | None = None
        self.end_token: int | None = None

    async def events(self, stream: AsyncIterator[Sequence[Any]]) -> AsyncIterator[bytes]:
        """An event for each token; the last one says why it is the last."""
        held: Drawn | None = None
        async for batch in stream:
            for progress in batch:
                match progress:
                    case Admitted(hit_tokens=hit_tokens):
                        self.hit_tokens = hit_tokens
                    case TokenDrawn(drawn=drawn):
                        if held is not None:
                            for event in self._tell(held):
                                yield event
                        held = drawn
                    case ResultEnded(reason=reason, error=error):
                        assert reason != "failed", error
                        assert held is not None
                        self.end = reason
                        for event in self._tell(held):
                            yield event
        for event in self.last():
            yield event

    def _tell(self, drawn: Drawn) -> list[bytes]:
        is_trimmed = self.end == "stop" and self.habits.trims_stop
        if self.end == "stop":
            self.end_token = drawn.token
        new = [] if is_trimmed else [drawn]
        self.drawn += new
        return self.write(new)

    def write(self, new: Sequence[Drawn]) -> list[bytes]:
        raise NotImplementedError

    def last(self) -> list[bytes]:
        return [b"[DONE]"]

    def text(self, drawn: Sequence[Drawn]) -> str:
        return self.source.tokenizer.decode([one.token for one in drawn])


class _Completions(_Writer):
    def __init__(self, server: FakeServer, asked: CompletionRequest) -> None:
        super().__init__(server)
        self._asked = asked
        assert isinstance(asked.prompt, list)
        self._num_prompt = len(asked.prompt)
        self._last_token = 0

    @override
    def write(self, new: Sequence[Drawn]) -> list[bytes]:
        logprobs = None
        if self._asked.logprobs is not None:
            assert self._asked.return_tokens_as_token_ids
            logprobs = CompletionLogprobs(
                text_offset=[0] * len(new),
                token_logprobs=[one.logprob for one in new],
                tokens=[f"token_id:{one.token}" for one in new],
                # The chosen token comes first, whether or not it is one of the best.
                top_logprobs=[
                    {f"token_id:{token}": value for token, value in ((one.token, one.logprob or 0.0), *one.top)}
                    for one in new
                ],
            )
        # The model's own end is never named.
        stop_reason = self.end_token if self.end_token != self.source.tokenizer.eos_id else None
        choice = CompletionChoice(
            index=0,
            text=self.text(new),
            logprobs=logprobs,
            finish_reason=self.end,
            stop_reason=stop_reason,
            token_ids=[one.token for one in new],
        )
        return [msgspec.json.encode(CompletionChunk(id="cmpl-1", model=MODEL, choices=[choice]))]

    @override
    def last(self) -> list[bytes]:
        num_drawn = len(self.drawn)
        usage = CompletionUsage(self._num_prompt, num_drawn, self._num_prompt + num_drawn)
        if self.habits.tells_hits:
            usage.prompt_tokens_details = PromptTokensDetails(self.hit_tokens)
        assert self._asked.stream_options is not None
        assert self._asked.stream_options.include_usage
        return [msgspec.json.encode(CompletionChunk(id="cmpl-1", model=MODEL, choices=[], usage=usage)), b"[DONE]"]


class _Generated(_Writer):
    def __init__(self, server: FakeServer, asked: GenerateRequest) -> None:
        super().__init__(server)
        self._asked = asked

    @override
    def write(self, new: Sequence[Drawn]) -> list[bytes]:
        told = list(new) if self.habits.is_incremental else self.drawn
        finish = None
        match self.end:
            case "stop":
                finish = FinishReason(type="stop", matched=self.end_token)
            case "length":
                finish = FinishReason(type="length", length=len(self.drawn))
        meta = MetaInfo(
            id="1",
            finish_reason=finish,
            prompt_tokens=len(self._asked.input_ids or []),
            completion_tokens=len(self.drawn),
            cached_tokens=self.hit_tokens if self.habits.tells_hits else 0,
        )
        if self._asked.return_logprob:
            meta.output_token_logprobs = [(one.logprob, one.token, None) for one in told]
            meta.output_top_logprobs = [_entries(one.top) for one in told] if self._asked.top_logprobs_num else None
        ids = [one.token for one in told]
        return [msgspec.json.encode(GenerateChunk(text=self.text(told), output_ids=ids, meta_info=meta))]


class _Llama(_Writer):
    def __init__(self, server: FakeServer, asked: LlamaRequest) -> None:
        super().__init__(server)
        self._asked = asked

    @override
    def write(self, new: Sequence[Drawn]) -> list[bytes]:
        eos = self.source.tokenizer.eos_id
        events = [
            LlamaChunk(
                content=self.text([one]), tokens=[one.token], stop=False, completion_probabilities=self._top(one)
            )
            for one in new
            if one.token != eos  # the model's own end is not told
        ]
        if self.end is not None:
            num_prompt = len(self._asked.prompt)
            timings = LlamaTimings(self.hit_tokens, num_prompt - self.hit_tokens, len(self.drawn))
            events.append(
                LlamaChunk(
                    content="",
                    tokens=[],
                    stop=True,
                    stop_type="eos" if self.end == "stop" else "limit",
                    tokens_evaluated=num_prompt,
                    tokens_predicted=len(self.drawn),
                    timings=timings,
                )
            )
        return [msgspec.json.encode(event) for event in events]

    def _top(self, drawn: Drawn) -> list[LlamaProbability]:
        if drawn.logprob is None:
            return []
        top = [LlamaTop(token, "", [], value) for token, value in drawn.top]
        return [LlamaProbability(drawn.token, "", [], drawn.logprob, top)]

    @override
    def last(self) -> list[bytes]:
        return []


def _entries(top: Sequence[tuple[int, float]]) -> list[LogprobEntry]:
    return [(value, token, None) for token, value in top]


def _sglang_form(sampling: SamplingParams) -> tuple[str | None, str | None]:
    for kind in ("ebnf", "json_schema", "regex"):
        form = getattr(sampling, kind)
        if form is not None:
            return kind, form
    return None, None


def _given(value: float | None) -> float:
    assert value is not None, "whatever is left out is the server's own choice"
    return value


@contextlib.asynccontextmanager
async def cluster(source: TokenSource, *habits: Habits) -> AsyncIterator[list[FakeServer]]:
    """One server for each of the habits."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(FakeServer(source, one)) for one in habits]


async def until(is_so: Callable[[], bool]) -> None:
    """Let everybody run until something is so, or the test's patience ends."""
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110  # threads and other servers decide
            await asyncio.sleep(0)

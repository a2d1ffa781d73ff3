"""The one who is asked: a model folder in the product itself, down to the native engine.

Prompts, masks, scheduling and the reading of answers are the server's. What an answer's form does for a model can be
seen by leaving its guides out: then the model may write whatever it likes, special tokens too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from deepserve.backends.tokens.answer import AnswerWriter
from deepserve.backends.tokens.composer import Composer
from deepserve.backends.tokens.model import load_model
from deepserve.config import WeightFormats
from deepserve.core.errors import EngineFailure
from deepserve.core.messages import ToolCall
from deepserve.core.request import Request
from deepserve.core.tenant import LOCAL_TENANT
from deepserve.engine.generation import Generation, GenerationId, Progress, ResultEnded, TokenDrawn
from deepserve.engine.interface import Draw, EngineInfo
from deepserve.engine.loader import load_engine
from deepserve.engine.options import EngineOptions
from deepserve.engine.prefix_index import CacheKey
from deepserve.engine.scheduler import Scheduler
from deepserve.prompt.special_tokens import DSML, END_THINK, SPECIAL_TOKENS

MEMORY_BYTES = 512 << 20
MAX_OUTPUT_TOKENS = 1_024
"""What goes on for longer has not ended by itself."""

_SIDE_BY_SIDE = 16
_KEY = CacheKey(tenant=LOCAL_TENANT.id, user_id=None, model="examinee", profile="mini", fingerprint="")
"""All questions share what has been read of their prompts."""


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """One answer as the product read it.

    raw       all that was drawn, special tokens spelled out
    is_ended  by the model itself, not by the limit
    is_sound  nothing in the markup of tools was damaged
    """

    raw: str
    reasoning: str
    text: str
    calls: tuple[ToolCall, ...]
    num_tokens: int
    is_ended: bool
    is_sound: bool
    is_thinking: bool

    @property
    def is_well_formed(self) -> bool:
        """Ended by itself, its thought closed exactly if it has one, and no other markup than that of calls."""
        _, _, answer = self.raw.rpartition(END_THINK)
        strays = (token for token in SPECIAL_TOKENS if token not in (END_THINK, DSML))
        return (
            self.is_ended
            and self.is_sound
            and self.raw.count(END_THINK) == int(self.is_thinking)
            and not any(token in self.raw for token in strays)
            and (DSML not in self.raw or (bool(self.calls) and answer.rstrip().endswith(f"</{DSML}tool_calls>")))
        )


class Examinee:
    """One model in one format; `close` it."""

    def __init__(self, folder: Path, *, weights: WeightFormats | None = None) -> None:
        options = EngineOptions(
            memory_bytes=MEMORY_BYTES, name="native", num_threads=1, weights=weights or WeightFormats()
        )
        self._model = load_model(folder, "mini")
        self._engine = load_engine(folder, options)
        self._runner = asyncio.Runner()
        self._composer = Composer(self._model, num_tokens=self._engine.info.vocab_size, draw_seed=lambda: 0)
        self._scheduler = Scheduler(self._engine, max_sequences=_SIDE_BY_SIDE, clock=time.perf_counter)

    @property
    def info(self) -> EngineInfo:
        """What the engine says of itself."""
        return self._engine.info

    def close(self) -> None:
        """Frees everything."""
        self._scheduler.close()
        self._runner.run(self._composer.close())
        self._runner.close()

    def answers(self, requests: Iterable[Request], *, enforced: bool) -> Iterator[tuple[int, Written]]:
        """Greedy answers with the places of their requests, as they are finished."""
        waiting = enumerate(requests)
        running: dict[GenerationId, tuple[AnswerWriter, bool]] = {}
        is_more = True
        while running or is_more:
            while is_more and len(running) < _SIDE_BY_SIDE:
                place, request = next(waiting, (0, None))
                if request is None:
                    is_more = False
                    break
                running[GenerationId(place)] = self._begin(GenerationId(place), request, enforced=enforced)
            for generation_id, progress in self._scheduler.step():
                ended = self._hear(running[generation_id], progress)
                if ended is not None:
                    del running[generation_id]
                    yield generation_id, ended

    def first_token_ms(self, num_prompt_tokens: int, *, clock: Callable[[], float] = time.process_time) -> float:
        """Processor time until the first token of a prompt that shares nothing with any other; the best of nine."""
        times = []
        for token in range(9):
            self._scheduler.add(
                GenerationId(-1),
                Generation(
                    prompt=[100 + token] * num_prompt_tokens,
                    draws=(Draw(temperature=0.0),),
                    max_tokens=1,
                    stop_tokens=frozenset(),
                    cache_key=_KEY,
                ),
            )
            began = clock()
            while not any(isinstance(progress, ResultEnded) for _, progress in self._scheduler.step()):
                pass
            times.append(clock() - began)
        return min(times) * 1000

    def _begin(self, place: GenerationId, request: Request, *, enforced: bool) -> tuple[AnswerWriter, bool]:
        request = msgspec.structs.replace(request, max_output_tokens=request.max_output_tokens or MAX_OUTPUT_TOKENS)
        capacity = self._scheduler.capacity_tokens
        work = self._runner.run(self._composer.compose(request, context_tokens=capacity))
        draws = work.draws if enforced else tuple(msgspec.structs.replace(one, allowed=None) for one in work.draws)
        self._scheduler.add(
            place,
            Generation(
                prompt=work.prompt,
                draws=draws,
                max_tokens=work.max_tokens,
                stop_tokens=work.stop_tokens,
                boundaries=work.boundaries[-1:],
                guides=work.guides if enforced else (),
                cache_key=_KEY,
            ),
        )
        return self._composer.writers(work)[0], request.thinking.enabled and request.infill is None

    def _hear(self, begun: tuple[AnswerWriter, bool], progress: Progress) -> Written | None:
        writer, is_thinking = begun
        match progress:
            case TokenDrawn(drawn=drawn) if not writer.has_ended_early:
                writer.push(drawn)
            case ResultEnded(reason="failed", error=error):
                raise error or EngineFailure("The engine gave up.")
            case ResultEnded(reason=reason):
                if not writer.has_ended_early:
                    writer.finish("length" if reason == "length" else "stop")
                ids = [token for token in writer.token_ids if token not in self._model.stop_tokens]
                return Written(
                    raw=self._model.tokenizer.decode(ids),
                    reasoning=writer.reasoning,
                    text=writer.text,
                    calls=tuple(writer.calls),
                    num_tokens=len(writer.token_ids),
                    is_ended=reason == "stop",
                    is_sound=writer.is_well_formed,
                    is_thinking=is_thinking,
                )
        return None

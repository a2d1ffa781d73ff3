"""llama.cpp's own completion route: github.com/ggml-org/llama.cpp, tools/server/README.md (August 2026).

It knows no tokens that end an answer but the model's own: whoever reads the stream closes it at the others. Penalties
count the prompt's tokens there, too.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from deepserve.backends.cluster.asking import (
    Ask,
    Event,
    FormLevel,
    Part,
    ServedName,
    best,
    decode_event,
    form_level,
    knobs,
)
from deepserve.core.errors import BackendFailure
from deepserve.engine.interface import Drawn

_SEED_BITS = 31


class _Top(msgspec.Struct):
    id: int
    logprob: float


class _Probability(msgspec.Struct):
    id: int
    logprob: float
    top_logprobs: list[_Top] = []


class _Timings(msgspec.Struct):
    cache_n: int | None = None


class _Chunk(Event):
    tokens: list[int] = msgspec.field(default_factory=list)
    stop: bool = False
    stop_type: str = "none"
    completion_probabilities: list[_Probability] = msgspec.field(default_factory=list)
    timings: _Timings | None = None


class _Generation(msgspec.Struct):
    n_ctx: int | None = None


class _Properties(msgspec.Struct):
    model_alias: str | None = None
    model_path: str = ""
    default_generation_settings: _Generation = msgspec.field(default_factory=_Generation)


class LlamaCppWire:
    """A `Wire`."""

    name = "llama.cpp"
    ask_path = "/completion"
    health_path = "/health"
    models_path = "/props"
    names_models = False
    levels: tuple[FormLevel, ...] = ("plain", "none")
    lists_tokens = False
    charges_prompts = True

    def encode(self, ask: Ask) -> bytes:
        draw = ask.draw
        body: dict[str, object] = {
            "prompt": list(ask.prompt),
            "n_predict": ask.max_tokens,
            **knobs(draw),
            "top_k": draw.top_k,
            "repeat_penalty": draw.repetition_penalty,
            # All that there can be: newer servers refuse -1, which once meant that.
            "repeat_last_n": len(ask.prompt) + ask.max_tokens,
            "samplers": ["penalties", "top_k", "top_p", "min_p", "temperature"],
            "seed": draw.seed & ((1 << _SEED_BITS) - 1),
            "cache_prompt": True,
            "return_tokens": True,
            "stream": True,
        }
        if draw.logit_bias:
            body["logit_bias"] = [[token, bias] for token, bias in draw.logit_bias.items()]
        if draw.num_top_logprobs is not None:
            body["n_probs"] = max(1, draw.num_top_logprobs)
        if ask.form is not None and form_level(ask) == "plain" and ask.form.kind == "json":
            body["json_schema"] = ask.form.schema
        return msgspec.json.encode(body)

    def reader(self, ask: Ask) -> LlamaCppReader:
        return LlamaCppReader(ask)

    def decode_models(self, body: bytes) -> tuple[ServedName, ...]:
        try:
            found = msgspec.json.decode(body, type=_Properties)
        except msgspec.MsgspecError as error:
            raise BackendFailure(f"llama.cpp's properties cannot be read: {error}.") from error
        name = found.model_alias or found.model_path
        return (ServedName(name=name, context_tokens=found.default_generation_settings.n_ctx),)


class LlamaCppReader:
    """Reads the stream of one continuation; an `AnswerReader`."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def read(self, data: bytes) -> Part | None:
        chunk = decode_event(data, _Chunk, title="llama.cpp")
        if chunk is None:
            return None
        hit_tokens = chunk.timings.cache_n if chunk.timings is not None else None
        if not chunk.stop:
            return Part(drawn=self._drawn(chunk), hit_tokens=hit_tokens)
        end: Literal["stop", "length"] = "length" if chunk.stop_type == "limit" else "stop"
        # The last event repeats nothing: its lists are of the whole answer, or empty.
        return Part(end=end, hit_tokens=hit_tokens)

    def _drawn(self, chunk: _Chunk) -> tuple[Drawn, ...]:
        num_top = self._ask.draw.num_top_logprobs
        told = {entry.id: entry for entry in chunk.completion_probabilities}
        if num_top is None or any(token not in told for token in chunk.tokens):
            return tuple(map(Drawn, chunk.tokens))
        return tuple(
            Drawn(
                token,
                told[token].logprob,
                best([(top.id, top.logprob) for top in told[token].top_logprobs], num_top),
            )
            for token in chunk.tokens
        )

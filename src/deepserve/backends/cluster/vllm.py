"""vLLM's raw completion route, as its CompletionRequest and CompletionStreamResponse declare it.

github.com/vllm-project/vllm, vllm/entrypoints/openai/completion/protocol.py (August 2026); DeepSeek V4 needs 0.20.
"""

from __future__ import annotations

from typing import Final

import msgspec

from deepserve.backends.cluster.asking import (
    Ask,
    Event,
    FormLevel,
    Part,
    ServedName,
    best,
    decode_event,
    decode_served_names,
    form_level,
    knobs,
)
from deepserve.core.errors import BackendFailure
from deepserve.engine.interface import Drawn

_ID_PREFIX: Final = "token_id:"
_SEED_BITS: Final = 63
"""Seeds are 64-bit numbers with a sign there."""


class _Logprobs(msgspec.Struct):
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] = []


class _Choice(msgspec.Struct):
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens_details: _PromptDetails | None = None


class _Chunk(Event):
    choices: list[_Choice] = msgspec.field(default_factory=list)
    usage: _Usage | None = None


class VllmWire:
    """A `Wire`."""

    name = "vLLM"
    ask_path = "/v1/completions"
    health_path = "/health"
    models_path = "/v1/models"
    names_models = True
    levels: tuple[FormLevel, ...] = ("grammar", "plain", "none")
    lists_tokens = True
    charges_prompts = False

    def encode(self, ask: Ask) -> bytes:
        draw = ask.draw
        body: dict[str, object] = {
            "model": ask.model,
            "prompt": list(ask.prompt),
            "add_special_tokens": False,
            "max_tokens": ask.max_tokens,
            **knobs(draw),
            "top_k": draw.top_k,
            "repetition_penalty": draw.repetition_penalty,
            "seed": draw.seed & ((1 << _SEED_BITS) - 1),
            "stop_token_ids": sorted(ask.stop_tokens),
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "return_token_ids": True,
            "cache_salt": ask.salt,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if draw.logit_bias:
            body["logit_bias"] = {str(token): bias for token, bias in draw.logit_bias.items()}
        if ask.only:
            body["allowed_token_ids"] = list(ask.only)
        if draw.num_top_logprobs is not None:
            body["logprobs"] = draw.num_top_logprobs
            body["return_tokens_as_token_ids"] = True
        if ask.form is not None:
            match form_level(ask):
                case "grammar":
                    body["structured_outputs"] = {"grammar": ask.form.grammar}
                case "plain":
                    told = {"json": ask.form.schema, "regex": ask.form.pattern, "choice": list(ask.form.choices)}
                    assert ask.form.kind is not None
                    body["structured_outputs"] = {ask.form.kind: told[ask.form.kind]}
                case "none":
                    pass
        return msgspec.json.encode(body)

    def reader(self, ask: Ask) -> VllmReader:
        return VllmReader(ask)

    def decode_models(self, body: bytes) -> tuple[ServedName, ...]:
        return decode_served_names(body, title="vLLM")


class VllmReader:
    """Reads the stream of one continuation; an `AnswerReader`."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def read(self, data: bytes) -> Part | None:
        chunk = decode_event(data, _Chunk, title="vLLM")
        if chunk is None:
            return None
        hit_tokens = None
        if chunk.usage is not None and chunk.usage.prompt_tokens_details is not None:
            hit_tokens = chunk.usage.prompt_tokens_details.cached_tokens
        if not chunk.choices:
            return Part(hit_tokens=hit_tokens)
        choice = chunk.choices[0]
        drawn = self._drawn(choice)
        match choice.finish_reason:
            case None:
                return Part(drawn=drawn, hit_tokens=hit_tokens)
            case "length":
                return Part(drawn=drawn, end="length", hit_tokens=hit_tokens)
            case "stop":
                return Part(drawn=self._with_stop(drawn, choice), end="stop", hit_tokens=hit_tokens)
            case reason:
                raise BackendFailure(f"vLLM broke an answer off ({reason}). Please retry.")

    def _drawn(self, choice: _Choice) -> tuple[Drawn, ...]:
        if choice.token_ids is None:
            if choice.finish_reason is None:
                raise BackendFailure("vLLM sent text without token ids; it must be 0.20 or newer.")
            return ()
        if self._ask.draw.num_top_logprobs is None or choice.logprobs is None:
            return tuple(map(Drawn, choice.token_ids))
        told, num_top = choice.logprobs, self._ask.draw.num_top_logprobs
        if not len(choice.token_ids) == len(told.token_logprobs) == len(told.top_logprobs):
            raise BackendFailure("vLLM sent log-probabilities that do not belong to its tokens.")
        return tuple(
            Drawn(token, logprob, best(_top(top or {}), num_top))
            for token, logprob, top in zip(choice.token_ids, told.token_logprobs, told.top_logprobs, strict=True)
        )

    def _with_stop(self, drawn: tuple[Drawn, ...], choice: _Choice) -> tuple[Drawn, ...]:
        """Some releases leave the token that ended the answer out; then `stop_reason` names it, but for the model's
        own end, which it never names."""
        if drawn and drawn[-1].token in self._ask.stop_tokens:
            return drawn
        if isinstance(choice.stop_reason, int):
            return (*drawn, Drawn(choice.stop_reason))
        return drawn


def _top(told: dict[str, float]) -> list[tuple[int, float]]:
    found = []
    for name, logprob in told.items():
        number = name.removeprefix(_ID_PREFIX)
        if number == name or not number.isdecimal():
            raise BackendFailure("vLLM sent log-probabilities without token ids.")
        found.append((int(number), logprob))
    return found

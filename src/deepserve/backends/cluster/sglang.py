"""SGLang's native route, as its GenerateReqInput and SamplingParams declare it.

github.com/sgl-project/sglang, python/sglang/srt/managers/io_struct.py, managers/tokenizer_manager.py and
sampling/sampling_params.py (August 2026).
"""

from __future__ import annotations

import re

import msgspec

from deepserve.backends.cluster.asking import (
    Ask,
    Event,
    FormLevel,
    Part,
    Refused,
    ServedName,
    best,
    decode_event,
    decode_served_names,
    form_level,
    knobs,
)
from deepserve.core.errors import BackendFailure
from deepserve.engine.interface import Drawn

_SEED_BITS = 31
"""What every sampler there takes."""

_TopEntry = tuple[float | None, int, str | None]
"""Log-probability, token, and its text where that was asked for."""


class _End(msgspec.Struct):
    type: str
    matched: int | str | list[int] | None = None
    message: str = ""
    status_code: int | None = None


class _Meta(msgspec.Struct):
    finish_reason: _End | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    output_token_logprobs: list[_TopEntry] | None = None
    output_top_logprobs: list[list[_TopEntry] | None] | None = None


class _Chunk(Event):
    output_ids: list[int] | None = None
    meta_info: _Meta | None = None


class SglangWire:
    """A `Wire`."""

    name = "SGLang"
    ask_path = "/generate"
    health_path = "/health"
    models_path = "/v1/models"
    names_models = False
    levels: tuple[FormLevel, ...] = ("grammar", "plain", "none")
    lists_tokens = False
    charges_prompts = False

    def encode(self, ask: Ask) -> bytes:
        draw = ask.draw
        sampling: dict[str, object] = {
            "max_new_tokens": ask.max_tokens,
            **knobs(draw),
            "top_k": draw.top_k or -1,
            "repetition_penalty": draw.repetition_penalty,
            "sampling_seed": draw.seed & ((1 << _SEED_BITS) - 1),
            "stop_token_ids": sorted(ask.stop_tokens),
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "no_stop_trim": True,
        }
        if draw.logit_bias:
            sampling["logit_bias"] = {str(token): bias for token, bias in draw.logit_bias.items()}
        if ask.form is not None:
            match form_level(ask), ask.form.kind:
                case "grammar", _:
                    sampling["ebnf"] = ask.form.grammar
                case "plain", "json":
                    sampling["json_schema"] = msgspec.json.encode(ask.form.schema).decode()
                case "plain", "regex":
                    sampling["regex"] = ask.form.pattern
                case "plain", "choice":
                    sampling["regex"] = "|".join(map(re.escape, ask.form.choices))
                case _:
                    pass
        body: dict[str, object] = {
            "input_ids": list(ask.prompt),
            "sampling_params": sampling,
            "extra_key": ask.salt,
            "stream": True,
        }
        if draw.num_top_logprobs is not None:
            body["return_logprob"] = True
            body["logprob_start_len"] = -1
            body["top_logprobs_num"] = draw.num_top_logprobs
        return msgspec.json.encode(body)

    def reader(self, ask: Ask) -> SglangReader:
        return SglangReader(ask)

    def decode_models(self, body: bytes) -> tuple[ServedName, ...]:
        return decode_served_names(body, title="SGLang")


class SglangReader:
    """Reads the stream of one continuation; an `AnswerReader`.

    Events hold all tokens so far, or only the new ones where the server was started so: which it is, the number of
    tokens that each event states tells.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._num_read = 0

    def read(self, data: bytes) -> Part | None:
        chunk = decode_event(data, _Chunk, title="SGLang")
        if chunk is None:
            return None
        if chunk.meta_info is None:
            raise BackendFailure("SGLang sent an event without its `meta_info`.")
        meta, end = chunk.meta_info, chunk.meta_info.finish_reason
        if end is not None and end.type == "abort":
            raise Refused(end.status_code or 500, end.message)
        drawn = self._new(chunk.output_ids or [], meta)
        if end is None:
            return Part(drawn=drawn, hit_tokens=meta.cached_tokens)
        if end.type == "length":
            return Part(drawn=drawn, end="length", hit_tokens=meta.cached_tokens)
        if end.type != "stop":
            raise BackendFailure(f"SGLang broke an answer off ({end.type}). Please retry.")
        # The token that ended the answer may be trimmed; then `matched` names it.
        if isinstance(end.matched, int) and not (drawn and drawn[-1].token in self._ask.stop_tokens):
            drawn = (*drawn, Drawn(end.matched))
        return Part(drawn=drawn, end="stop", hit_tokens=meta.cached_tokens)

    def _new(self, ids: list[int], meta: _Meta) -> tuple[Drawn, ...]:
        """The tokens that were not told before."""
        before = self._num_read
        num_told = meta.completion_tokens
        is_whole = num_told is None or len(ids) >= num_told or len(ids) > num_told - before
        new = ids[before:] if is_whole else ids
        self._num_read = before + len(new)
        num_top = self._ask.draw.num_top_logprobs
        logprobs = meta.output_token_logprobs
        if num_top is None or not new or not logprobs:
            return tuple(map(Drawn, new))
        tops = meta.output_top_logprobs or [None] * len(logprobs)
        if len(logprobs) < len(new) or len(tops) != len(logprobs):
            raise BackendFailure("SGLang sent log-probabilities that do not belong to its tokens.")
        # All so far or the new ones: both lists end with the last token.
        place = min(before, len(logprobs) - len(new)) if is_whole else len(logprobs) - len(new)
        found = []
        for token, own, top in zip(new, logprobs[place:], tops[place:], strict=False):
            if own[1] != token:
                raise BackendFailure("SGLang sent log-probabilities that do not belong to its tokens.")
            known = [(other, value) for value, other, *_ in top or [] if value is not None]
            found.append(Drawn(token, own[0], best(known, num_top)))
        return tuple(found)

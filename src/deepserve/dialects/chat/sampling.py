"""How tokens are drawn and where an answer ends: wire to core."""

from __future__ import annotations

from deepserve.core.errors import InvalidField
from deepserve.core.request import Thinking
from deepserve.core.sampling import KNOBS, Sampling
from deepserve.dialects.chat.reading import ChatReading
from deepserve.dialects.deepseek import default_output_tokens
from deepserve.dialects.knobs import (
    read_extended_knob,
    read_knob,
    read_logit_bias,
    read_seed,
    read_token_limit,
    read_top_k,
)

_FIELDS = frozenset((*KNOBS, "logit_bias", "seed", "logprobs", "top_logprobs"))


def decode_sampling(reading: ChatReading, thinking: Thinking) -> Sampling:
    if not reading.mentions(_FIELDS):
        return Sampling()
    temperature, top_p = read_knob(reading.root, "temperature"), read_knob(reading.root, "top_p")
    if reading.is_strict and thinking.enabled:
        # The vendor checks the range, then draws as it likes: api-docs.deepseek.com/guides/thinking_mode.
        for name, value in (("temperature", temperature), ("top_p", top_p)):
            if value is not None:
                reading.ignore(name)
        temperature = top_p = None
    return Sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=read_top_k(reading),
        min_p=read_extended_knob(reading, "min_p"),
        top_a=read_extended_knob(reading, "top_a"),
        repetition_penalty=read_extended_knob(reading, "repetition_penalty"),
        frequency_penalty=read_extended_knob(reading, "frequency_penalty"),
        presence_penalty=read_extended_knob(reading, "presence_penalty"),
        logit_bias=read_logit_bias(reading),
        seed=read_seed(reading),
        num_top_logprobs=_num_top_logprobs(reading),
    )


def _num_top_logprobs(reading: ChatReading) -> int | None:
    has_logprobs = reading.flag("logprobs")
    node = reading.root.optional("top_logprobs")
    if node is None:
        return 0 if has_logprobs else None
    num_top = node.integer("u8")
    if not has_logprobs and (num_top > 0 or reading.is_strict):
        raise InvalidField(
            "Invalid top_logprobs and logprobs value, logprobs must be set to true if top_logprobs is used.",
            field="top_logprobs",
        )
    if num_top > 20:
        raise InvalidField(
            "Invalid top_logprobs value, the valid range of top_logprobs is [0, 20].", field="top_logprobs"
        )
    return num_top if has_logprobs else None


def decode_max_output_tokens(reading: ChatReading) -> int | None:
    highest = reading.flavour.max_output_tokens
    limits = [read_token_limit(reading.root.optional("max_tokens"), highest)]
    limits.append(read_token_limit(reading.extension("max_completion_tokens"), highest))
    return min((limit for limit in limits if limit is not None), default=None)


def decode_default_output_tokens(reading: ChatReading, thinking: Thinking) -> int:
    return default_output_tokens(thinking, reading.flavour.default_output_tokens)

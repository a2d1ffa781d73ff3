"""How tokens are drawn and where an answer ends: wire to core."""

from __future__ import annotations

from collections.abc import Mapping

from deepserve.core.errors import InvalidField
from deepserve.core.request import Thinking
from deepserve.core.sampling import Sampling
from deepserve.dialects.chat.reading import ChatReading
from deepserve.dialects.deepseek import default_output_tokens
from deepserve.dialects.knobs import read_knob
from deepserve.dialects.node import Node


def decode_sampling(reading: ChatReading, thinking: Thinking) -> Sampling:
    temperature, top_p = read_knob(reading.root, "temperature"), read_knob(reading.root, "top_p")
    if reading.is_strict and thinking.enabled:
        # The vendor checks the range, then draws as it likes: api-docs.deepseek.com/guides/thinking_mode.
        for name, value in (("temperature", temperature), ("top_p", top_p)):
            if value is not None:
                reading.ignore(name)
        temperature = top_p = None
    top_k = reading.extension("top_k")
    if top_k is not None and top_k.value == -1:
        num_top_k: float | None = 0  # how vLLM's clients say "all"
    else:
        num_top_k = read_knob(reading.root, "top_k") if top_k is not None else None
    seed = reading.extension("seed")
    return Sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=None if num_top_k is None else int(num_top_k),
        min_p=_extended_knob(reading, "min_p"),
        top_a=_extended_knob(reading, "top_a"),
        repetition_penalty=_extended_knob(reading, "repetition_penalty"),
        frequency_penalty=_extended_knob(reading, "frequency_penalty"),
        presence_penalty=_extended_knob(reading, "presence_penalty"),
        logit_bias=_logit_bias(reading),
        seed=None if seed is None else seed.integer("i64", low=-(2**63), high=2**63 - 1),
        num_top_logprobs=_num_top_logprobs(reading),
    )


def _extended_knob(reading: ChatReading, name: str) -> float | None:
    return None if reading.is_strict else read_knob(reading.root, name)


def _logit_bias(reading: ChatReading) -> Mapping[int, float]:
    node = reading.extension("logit_bias")
    if node is None:
        return {}
    if len(node.mapping()) > reading.limits.logit_bias_entries:
        raise InvalidField(
            f"Invalid logit_bias: at most {reading.limits.logit_bias_entries} entries are read", field="logit_bias"
        )
    biases: dict[int, float] = {}
    for key in node.keys():  # noqa: SIM118 - a Node, not a dict
        if not (key.isascii() and key.isdigit() and len(key) <= 9):
            raise InvalidField("Invalid logit_bias: keys are token ids", field="logit_bias")
        biases[int(key)] = node.child(key).number()
        if not -100 <= biases[int(key)] <= 100:
            raise InvalidField(
                "Invalid logit_bias value, the valid range of logit_bias is [-100, 100]", field="logit_bias"
            )
    return biases


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
    limits = [_token_limit(reading, "max_tokens", reading.root.optional("max_tokens"))]
    limits.append(_token_limit(reading, "max_completion_tokens", reading.extension("max_completion_tokens")))
    return min((limit for limit in limits if limit is not None), default=None)


def _token_limit(reading: ChatReading, name: str, node: Node | None) -> int | None:
    if node is None:
        return None
    highest = reading.flavour.max_output_tokens
    value = node.integer("u32", low=-(2**63), high=2**63 - 1)
    if not 1 <= value <= highest:
        raise InvalidField(f"Invalid {name} value, the valid range of {name} is [1, {highest}]", field=name)
    return value


def decode_default_output_tokens(reading: ChatReading, thinking: Thinking) -> int:
    return default_output_tokens(thinking, reading.flavour.default_output_tokens)


def decode_num_results(reading: ChatReading) -> int:
    node = reading.extension("n")
    if node is None:
        return 1
    value = node.integer("u32", low=-(2**63), high=2**63 - 1)
    if not 1 <= value <= reading.limits.num_results:
        raise InvalidField(f"Invalid n value, the valid range of n is [1, {reading.limits.num_results}]", field="n")
    return value

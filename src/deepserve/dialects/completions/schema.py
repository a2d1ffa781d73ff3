"""The body as JSON Schema."""

from __future__ import annotations

from collections.abc import Sequence

from deepserve.config import Limits
from deepserve.dialects import body_schema as schema
from deepserve.dialects import deepseek
from deepserve.dialects.body_schema import BOOLEAN, STRING, Schema
from deepserve.dialects.completions.fields import IGNORED, MAX_LOGPROBS


def request_schema(limits: Limits, names: Sequence[str]) -> Schema:
    """names: of the models that may be asked for."""
    properties: dict[str, Schema] = {
        "model": schema.model(names),
        "prompt": schema.any_of(STRING, schema.list_of(STRING, at_least=1, at_most=1)),
        "suffix": STRING | {"description": "What comes after the hole."},
        "echo": BOOLEAN | {"description": "Repeats the prompt before the answer; not together with `logprobs`."},
        "max_tokens": schema.integer(1, deepseek.MAX_OUTPUT_TOKENS),
        "logprobs": schema.integer(0, MAX_LOGPROBS),
        "stop": schema.stop_strings(limits),
        "stream": BOOLEAN,
        "stream_options": schema.record({"include_usage": BOOLEAN}),
        "n": schema.integer(1, limits.num_results, "Independent answers."),
        "seed": schema.seed(),
        "logit_bias": schema.logit_bias(limits),
        "user": schema.user_id(limits),
        "user_id": schema.user_id(limits),
        "temperature": schema.knob("temperature"),
        "top_p": schema.knob("top_p"),
        "top_k": schema.knob("top_k"),
        "min_p": schema.knob("min_p"),
        "top_a": schema.knob("top_a"),
        "repetition_penalty": schema.knob("repetition_penalty"),
        "frequency_penalty": schema.knob("frequency_penalty"),
        "presence_penalty": schema.knob("presence_penalty"),
    }
    return schema.body(("model", "prompt"), properties, ignored=IGNORED)

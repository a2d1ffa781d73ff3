"""The top-level fields of a request: documented, added by us, without effect, or refused. Facts only."""

from __future__ import annotations

from collections.abc import Mapping

IGNORED: Mapping[str, str] = {
    "metadata": "answers are not stored",
    "prompt_cache_key": "the prefix cache finds shared prefixes by itself",
    "reasoning_effort": "plain completions never think",
    "safety_identifier": "no moderation takes place; `user_id` separates end users",
    "service_tier": "all requests are served alike",
    "store": "answers are never stored",
    "stream_options.continuous_usage_stats": "usage comes with the last chunk",
    "thinking": "plain completions never think",
}
"""Fields of related services that change nothing here, and why. Each use is named in `x-deepserve-ignored`."""

_NO_FORM = "use chat completions, whose answers can be held to a form"

REFUSED: Mapping[str, str] = {
    "best_of": "use `n`, which returns every result",
    "guided_choice": _NO_FORM,
    "guided_grammar": "grammars are not taken from clients",
    "guided_json": _NO_FORM,
    "guided_regex": _NO_FORM,
    "response_format": _NO_FORM,
    "structured_outputs": _NO_FORM,
}
"""Fields that promise something this server cannot do, and what to use instead. Strict mode ignores them."""

DOCUMENTED = frozenset(
    (
        *("model", "prompt", "suffix", "echo", "max_tokens", "logprobs", "stop"),
        *("stream", "stream_options", "temperature", "top_p"),
    )
)
"""What the vendor's service acts on (api-docs.deepseek.com/api/create-completion); strict mode ignores the rest."""

EXTENSIONS = frozenset(
    (
        *("n", "seed", "logit_bias", "user", "user_id"),
        *("top_k", "min_p", "top_a", "repetition_penalty", "frequency_penalty", "presence_penalty"),
    )
)
"""What tolerant mode honours beyond that."""

MAX_OUTPUT_TOKENS = 4_096
"""The vendor's largest `max_tokens`, and where a completion ends whose client sets no limit
(api-docs.deepseek.com/guides/fim_completion). Tolerant mode takes larger limits."""

MAX_LOGPROBS = 20

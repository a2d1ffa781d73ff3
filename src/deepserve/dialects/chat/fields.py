"""The top-level fields of a request: documented, added by us, without effect, or refused. Facts only."""

from __future__ import annotations

from collections.abc import Mapping

IGNORED: Mapping[str, str] = {
    "audio": "answers are text",
    "cache_control": "the prefix cache finds shared prefixes by itself",
    "messages[].name": "the prompt format has no place for the names of participants",
    "metadata": "answers are not stored",
    "modalities": "answers are text",
    "prediction": "a hint about speed; the answer is the same without it",
    "prompt_cache_key": "the prefix cache finds shared prefixes by itself",
    "prompt_cache_retention": "how long a prefix is kept is the server's setting",
    "safety_identifier": "no moderation takes place; `user_id` separates end users",
    "service_tier": "all requests are served alike",
    "store": "answers are never stored",
    "stream_options.continuous_usage_stats": "usage comes with the last chunk",
    "stream_options.include_obfuscation": "chunks carry no padding",
    "verbosity": "the model knows no such setting; ask for it in the prompt",
}
"""Fields of related services that change nothing here, and why. Each use is named in `x-deepserve-ignored`."""

REFUSED: Mapping[str, str] = {
    "function_call": "use `tool_choice`",
    "functions": "use `tools`",
    "guided_grammar": "grammars are not taken from clients; use `response_format` of type `json_schema`",
    "web_search_options": "a search by the server is asked for in other dialects; here, offer a function in `tools`",
}
"""Fields that promise something this server cannot do, and what to use instead. Strict mode ignores them."""

DOCUMENTED = frozenset(
    (
        *("model", "messages", "thinking", "reasoning_effort", "max_tokens", "response_format", "stop", "stream"),
        *("stream_options", "temperature", "top_p", "tools", "tool_choice", "logprobs", "top_logprobs", "user_id"),
    )
)
"""What the vendor's service acts on; strict mode ignores everything else, as it does."""

EXTENSIONS = frozenset(
    (
        *("max_completion_tokens", "n", "seed", "logit_bias", "parallel_tool_calls", "user"),
        *("guided_json", "guided_regex", "guided_choice", "structured_outputs"),
        *("top_k", "min_p", "top_a", "repetition_penalty", "frequency_penalty", "presence_penalty"),
    )
)
"""What tolerant mode honours beyond that; spellings of thinking come from their own table."""

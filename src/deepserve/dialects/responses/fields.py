"""The top-level fields of a request: acted on, without effect, or refused. Facts only."""

from __future__ import annotations

from collections.abc import Mapping

from deepserve.dialects.responses.server_tools import INCLUDABLE as HOSTED_INCLUDABLE

IGNORED: Mapping[str, str] = {
    "access_programs": "no moderation takes place",
    "background_options": "background work starts as soon as there is room",
    "context_management": "nothing is cut from a conversation unasked; `/responses/compact` shortens one",
    "image": "answers are text",
    "include": "images, and files of other services, cannot be included",
    "moderation": "no moderation takes place",
    "prompt_cache_key": "the prefix cache finds shared prefixes by itself",
    "prompt_cache_options": "the prefix cache finds shared prefixes by itself",
    "prompt_cache_retention": "how long a prefix is kept is the server's setting",
    "reasoning.summary": "the trace itself is sent; no summary of it is written",
    "reasoning.generate_summary": "the trace itself is sent; no summary of it is written",
    "safety_identifier": "no moderation takes place; `user` separates end users",
    "service_tier": "all requests are served alike",
    "stream_options": "events carry no padding",
    "text.verbosity": "the model knows no such setting; ask for it in the prompt",
    "tools[].format": "the input of a custom tool is not constrained yet; the model is shown the grammar",
    "tools[].external_web_access": "where a search looks is the operator's choice",
    "truncation": "a conversation that does not fit is refused, not cut",
}
"""Fields of related services that change nothing here, and why. Each use is named in `x-deepserve-ignored`."""

REFUSED: Mapping[str, str] = {
    "conversation": "use `previous_response_id`, or send the items",
    "prompt": "this server keeps no prompt templates; send `instructions` and `input`",
}
"""Fields that promise something this server cannot do, and what to use instead. Strict mode ignores them."""

DOCUMENTED = frozenset(
    (
        *("model", "input", "instructions", "stream", "max_output_tokens", "temperature", "top_p", "top_logprobs"),
        *("tools", "tool_choice", "reasoning", "text", "user"),
    )
)
"""What the vendor's service acts on; strict mode ignores everything else, as it does."""

EXTENSIONS = frozenset(
    (
        *("store", "previous_response_id", "metadata", "parallel_tool_calls", "background", "max_tool_calls"),
        *("top_k", "min_p", "top_a", "repetition_penalty", "frequency_penalty", "presence_penalty", "seed"),
    )
)
"""What tolerant mode honours beyond that."""

PARTLY_READ = frozenset(("include", "truncation"))
"""Some of their values are honoured; the others are named where they are read."""

INCLUDABLE = frozenset(("reasoning.encrypted_content", "message.output_text.logprobs")) | HOSTED_INCLUDABLE
"""What `include` may name with an effect."""

"""The fields of a request: honoured, or without effect and why. Facts only."""

from __future__ import annotations

from collections.abc import Mapping

HONOURED = frozenset(
    (
        *("model", "messages", "system", "max_tokens", "stop_sequences", "stream", "temperature", "top_p", "top_k"),
        *("metadata", "thinking", "output_config", "output_format", "tools", "tool_choice", "mcp_servers"),
    )
)
"""Top-level fields that are acted on, some of them in part."""

IGNORED: Mapping[str, str] = {
    "billing_policy": "nothing is billed by this field",
    "cache_control": "the prefix cache finds shared prefixes by itself; so it is wherever it stands",
    "container": "a program finds what earlier ones of its conversation left, where their calls are sent back",
    "context_management": "the conversation is read as it is sent; the answer says that no edit was applied",
    "diagnostics": "no diagnostics are collected",
    "fallback_credit_token": "the model that was asked for answers",
    "fallbacks": "the model that was asked for answers",
    "inference_geo": "the answer comes from this server",
    "mcp_servers[].authorization_token": "only servers that the operator has added are called, with the operator's key",
    "mcp_servers[].url": "only servers that the operator has added are called; they are asked for by name",
    "messages[].content[].citations": "what was cited stands in the text and in the search results",
    "messages[].content[].is_error": "the prompt format has no mark for a failed call; the result's text says it",
    "service_tier": "all requests are served alike",
    "speed": "all requests are served alike",
    "system[0]": "a line that Claude Code puts there for its vendor's billing; it differs in each session and would "
    "keep sessions from sharing a cached prefix",
    "tools[].allowed_callers": "the model calls every tool directly, never from a program",
    "tools[].citations": "pages are cited where the answer spells their addresses",
    "tools[].defer_loading": "every tool is in the prompt from the start",
    "tools[].eager_input_streaming": "arguments are always streamed as they form",
    "tools[].input_examples": "the prompt format has no place for examples; put them into the description",
    "tools[].tool_search_tool_*": "every tool is in the prompt from the start, so there is nothing to search for",
}
"""Fields that change nothing here, and why. Each use is named in `x-deepserve-ignored`."""

REFUSED: Mapping[str, str] = {
    "compaction": "this server does not summarise conversations; ask for a summary in the prompt",
    "thread": "conversations are not kept on this server; send all messages",
}
"""Fields that promise something this server cannot do, and what to do instead."""

REFUSED_BLOCKS: Mapping[str, str] = {
    "compaction": "this server cannot read a summary made elsewhere; send the messages it stands for",
    "tool_addition": "offer the tool in `tools`",
    "tool_removal": "leave the tool out of `tools`",
}
"""Content blocks without which the conversation would mean something else."""

DETAILS: Mapping[str, Mapping[str, object]] = {
    "thread": {"error_code": "thread_unsupported_request", "unsupported": ["thread"]},
}
"""Refused field -> what Anthropic's own clients read beside the message: told so, they go on without it."""

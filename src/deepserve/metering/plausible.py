"""Whether what a provider says of its usage can be true. What cannot be is replaced by our estimate, and said."""

from __future__ import annotations

from typing import Final

import msgspec

from deepserve.backends.upstream.estimate import estimate_prompt_tokens
from deepserve.core.messages import Reasoning, Refusal, Text, ToolCall, ToolResult
from deepserve.core.request import Request
from deepserve.core.usage import Usage

_UNSUSPECTED_TOKENS: Final = 1 << 16
"""A template, the texts of tools and several rounds may add so much to any prompt."""

_TOKENS_PER_CHARACTER: Final = 16
"""Far more than any tokenizer makes of a character, for an answer may have been asked for several times."""

_MOST_OUTPUT_TOKENS: Final = 1 << 23
"""Of one result: eight times what any model here writes."""


def implausible(usage: Usage, request: Request) -> str | None:
    """Why a usage cannot be that of an answer to this request; None: it can."""
    counts = (usage.hit_tokens, usage.miss_tokens, usage.reasoning_tokens, usage.answer_tokens)
    if min(counts) < 0 or usage.cache_write_tokens < 0:
        return "a count is negative"
    if usage.cache_write_tokens > usage.miss_tokens:
        return "more tokens are stored than were computed"
    # Texts are measured only where a prompt is long enough to be worth it.
    if usage.prompt_tokens > _UNSUSPECTED_TOKENS:
        most = _UNSUSPECTED_TOKENS + _TOKENS_PER_CHARACTER * _num_characters(request)
        if usage.prompt_tokens > most:
            return f"{usage.prompt_tokens} tokens are more than the prompt can have"
    if usage.output_tokens > _MOST_OUTPUT_TOKENS * request.num_results:
        return f"{usage.output_tokens} tokens are more than any answer has"
    return None


def repaired(usage: Usage, request: Request, *, output_tokens: int) -> Usage:
    """What stands for it. output_tokens: our own estimate."""
    prompt_tokens = estimate_prompt_tokens(request)
    return msgspec.structs.replace(
        usage,
        hit_tokens=0,
        miss_tokens=prompt_tokens,
        reasoning_tokens=0,
        answer_tokens=output_tokens,
        cache_write_tokens=0,
        is_estimated=True,
    )


def _num_characters(request: Request) -> int:
    num_characters = sum(len(tool.description) + len(msgspec.json.encode(tool.parameters)) for tool in request.tools)
    if request.infill is not None:
        num_characters += len(request.infill.prompt) + len(request.infill.suffix or "")
    for message in request.messages:
        for part in message.parts:
            match part:
                case Text() | Refusal() | Reasoning():
                    num_characters += len(part.text)
                case ToolCall():
                    num_characters += len(part.arguments)
                case ToolResult():
                    num_characters += sum(len(inner.text) for inner in part.content if isinstance(inner, Text))
                case _:
                    num_characters += _UNSUSPECTED_TOKENS  # content of a kind that has no length in characters
    return num_characters

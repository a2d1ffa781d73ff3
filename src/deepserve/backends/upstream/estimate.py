"""How many tokens a text is, where nobody here has the upstream's tokenizer: an estimate, and called one."""

from __future__ import annotations

import math

import msgspec

from deepserve.core.messages import Reasoning, Refusal, Text, ToolCall, ToolResult
from deepserve.core.request import Request

_TOKENS_PER_LETTER = 0.3
_TOKENS_PER_IDEOGRAPH = 0.6
"""api-docs.deepseek.com/quick_start/token_usage."""

_TOKENS_PER_TURN = 4
_FIRST_IDEOGRAPH = "\u2e80"


def estimate_tokens(text: str) -> float:
    num_wide = 0 if text.isascii() else sum(character >= _FIRST_IDEOGRAPH for character in text)
    return num_wide * _TOKENS_PER_IDEOGRAPH + (len(text) - num_wide) * _TOKENS_PER_LETTER


def estimate_prompt_tokens(request: Request) -> int:
    """Of everything that the model reads."""
    tokens = 0.0
    for message in request.messages:
        tokens += _TOKENS_PER_TURN
        for part in message.parts:
            match part:
                case Text() | Refusal() | Reasoning():
                    tokens += estimate_tokens(part.text)
                case ToolCall():
                    tokens += estimate_tokens(part.name) + estimate_tokens(part.arguments)
                case ToolResult():
                    texts = (inner.text for inner in part.content if isinstance(inner, Text))
                    tokens += sum(estimate_tokens(text) for text in texts)
                case _:
                    pass
    if request.infill is not None:
        tokens += estimate_tokens(request.infill.prompt) + estimate_tokens(request.infill.suffix or "")
    for tool in request.tools:
        tokens += estimate_tokens(tool.name + tool.description)
        tokens += estimate_tokens(msgspec.json.encode(tool.parameters).decode())
    return math.ceil(tokens)

"""What an answer consumed, in tokens and server-tool calls."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Disjoint counts, so that sums are safe and nothing can be billed twice.

    hit_tokens        prompt tokens restored from the prefix cache
    miss_tokens       prompt tokens computed; hit + miss = the prompt
    reasoning_tokens  output before the end of thinking
    answer_tokens     the rest of the output
    cache_write_tokens  prompt tokens newly stored, where a provider bills them; part of miss_tokens
    server_tool_calls   (tool, calls), successful and billable
    is_estimated        the provider did not say; these are our count
    """

    hit_tokens: int = 0
    miss_tokens: int = 0
    reasoning_tokens: int = 0
    answer_tokens: int = 0
    cache_write_tokens: int = 0
    server_tool_calls: tuple[tuple[str, int], ...] = ()
    is_estimated: bool = False

    @property
    def prompt_tokens(self) -> int:
        return self.hit_tokens + self.miss_tokens

    @property
    def output_tokens(self) -> int:
        return self.reasoning_tokens + self.answer_tokens

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens

    def plus(self, other: Usage) -> Usage:
        """The sum of two answers' consumption, as for several results or rounds of one request."""
        calls = dict(self.server_tool_calls)
        for tool, count in other.server_tool_calls:
            calls[tool] = calls.get(tool, 0) + count
        return Usage(
            hit_tokens=self.hit_tokens + other.hit_tokens,
            miss_tokens=self.miss_tokens + other.miss_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            answer_tokens=self.answer_tokens + other.answer_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            server_tool_calls=tuple(sorted(calls.items())),
            is_estimated=self.is_estimated or other.is_estimated,
        )

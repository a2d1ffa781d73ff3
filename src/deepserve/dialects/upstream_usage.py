"""What services say of an answer's tokens and cost, as OpenAI's dialects tell it.

`judge_usage` serves all of them; what stands on the wire here is that of the older ones, Chat and plain completions.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec

from deepserve.core.cost import Cost
from deepserve.core.usage import Usage
from deepserve.dialects.upstream_cost import stated_cost


class ReadPromptDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class ReadCompletionDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int | None = None


class ReadCostDetails(msgspec.Struct, frozen=True):
    upstream_inference_prompt_cost: Decimal | None = None


class ReadUsage(msgspec.Struct, frozen=True):
    """As it stands on the wire, read with patience. cost: in US dollars, at services that state it."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: ReadPromptDetails | None = None
    completion_tokens_details: ReadCompletionDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost: Decimal | None = None
    cost_details: ReadCostDetails | None = None


class CountedUsage(msgspec.Struct, frozen=True, kw_only=True):
    """doubt: what cannot be right, so that the usage is an estimate. cost: None where none is stated."""

    usage: Usage
    doubt: str | None = None
    cost: Cost | None = None


def judge_usage(*, prompt: int, output: int, hit: int, written: int, reasoning: int, cost: Cost | None) -> CountedUsage:
    """Tokens as a service counted them, within the bounds that they must keep.

    hit, written  of the prompt: read from the service's cache, and of the others put into it
    reasoning     of the output
    """
    doubt = None
    if not (0 <= hit <= prompt and 0 <= reasoning <= output and 0 <= written <= prompt - hit):
        doubt = f"{hit} cached of {prompt} prompt tokens, {written} stored, {reasoning} thought of {output}"
    prompt, output = max(prompt, 0), max(output, 0)
    hit, reasoning = min(max(hit, 0), prompt), min(max(reasoning, 0), output)
    usage = Usage(
        hit_tokens=hit,
        miss_tokens=prompt - hit,
        reasoning_tokens=reasoning,
        answer_tokens=output - reasoning,
        cache_write_tokens=min(max(written, 0), prompt - hit),
        is_estimated=doubt is not None,
    )
    return CountedUsage(usage=usage, doubt=doubt, cost=cost)


def count_usage(read: ReadUsage) -> CountedUsage:
    prompt_details = read.prompt_tokens_details or ReadPromptDetails()
    completion_details = read.completion_tokens_details or ReadCompletionDetails()
    cost_details = read.cost_details or ReadCostDetails()
    return judge_usage(
        prompt=read.prompt_tokens or 0,
        output=read.completion_tokens or 0,
        hit=read.prompt_cache_hit_tokens or prompt_details.cached_tokens or 0,
        written=prompt_details.cache_write_tokens or 0,
        reasoning=completion_details.reasoning_tokens or read.reasoning_tokens or 0,
        cost=stated_cost(read.cost, cost_details.upstream_inference_prompt_cost),
    )

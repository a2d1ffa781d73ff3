"""What becomes of a request's knobs and limits: refusals, draws, the output limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from deepserve.backends.tokens.model import GenerationDefaults
from deepserve.core.errors import ContextOverflow, InvalidField, UnsupportedFeature
from deepserve.core.messages import Message
from deepserve.core.request import Request
from deepserve.engine.interface import Draw

DEFAULT_OUTPUT_TOKENS = 8_192
DEFAULT_THINKING_TOKENS = 65_536
DEFAULT_MAX_EFFORT_TOKENS = 131_072
MAX_OUTPUT_TOKENS = 393_216
"""Limits on reasoning and answer together (api-docs.deepseek.com/api/create-chat-completion, November 2026)."""

_HARDLY_FITTING = 8
"""Characters per token that hardly any text reaches."""
_PIECE_CHARACTERS = 64 * 1024

SEVERAL_RESULTS_TEMPERATURE = 0.7
"""For models that answer greedily by default: several equal answers would be of no use to anybody."""


def check_supported(request: Request) -> None:
    """Refuse by name what no token engine of ours honours. Raises UnsupportedFeature."""
    if request.sampling.top_a:
        raise UnsupportedFeature("`top_a` is not supported: use `min_p`.", field="top_a")
    if request.server_tools:
        raise UnsupportedFeature(f"The server tool `{request.server_tools[0].tool}` is not supported.", field="tools")


def choose_max_tokens(request: Request, num_prompt: int, *, context_tokens: int, defaults: GenerationDefaults) -> int:
    """The output limit. An explicit one must fit the context; a default is cut to what is left of it.

    The model's own default (`max_new_tokens`) goes before the API's, if it is lower: the API's were made for models
    that know when to stop.

    Raises ContextOverflow, and InvalidField for a limit below 1.
    """
    left = context_tokens - num_prompt
    explicit = request.max_output_tokens
    if explicit is not None and explicit < 1:
        raise InvalidField("The output limit must be at least 1.", field="max_tokens")
    if left < 1 or (explicit is not None and explicit > left):
        raise _overflow(request, num_prompt, context_tokens)
    if explicit is not None:
        return explicit
    default = request.default_output_tokens
    if default is None:
        default = DEFAULT_OUTPUT_TOKENS
        if request.thinking.enabled:
            is_max = request.thinking.effort == "max"
            default = DEFAULT_MAX_EFFORT_TOKENS if is_max else DEFAULT_THINKING_TOKENS
    if defaults.max_new_tokens is not None:
        default = min(default, defaults.max_new_tokens)
    return min(default, left)


def _overflow(request: Request, num_prompt: int, context_tokens: int) -> ContextOverflow:
    overflow = ContextOverflow(
        limit_tokens=context_tokens, prompt_tokens=num_prompt, requested_tokens=request.max_output_tokens or 0
    )
    overflow.field = "messages" if request.infill is None else "prompt"
    return overflow


def refuse_hopeless(
    request: Request, texts: Sequence[str], num_tokens_of: Callable[[str], int], *, context_tokens: int
) -> None:
    """Refuse what is far too long before it is tokenised whole, which takes minutes and gigabytes for some texts.

    Such texts are tokenised in pieces until twice the context is reached: cuts change the count by much less.
    Raises ContextOverflow, with the number of tokens estimated from what was read.
    """
    num_characters = sum(map(len, texts))
    if num_characters <= _HARDLY_FITTING * context_tokens:
        return
    num_read = num_tokens = 0
    for text in texts:
        for start in range(0, len(text), _PIECE_CHARACTERS):
            piece = text[start : start + _PIECE_CHARACTERS]
            num_read += len(piece)
            num_tokens += num_tokens_of(piece)
            if num_tokens > 2 * context_tokens:
                raise _overflow(request, num_tokens * num_characters // num_read, context_tokens)


def choose_draws(
    request: Request, defaults: GenerationDefaults, *, vocab_size: int, draw_seed: Callable[[], int]
) -> tuple[Draw, ...]:
    """One for each result. Result i is drawn with seed + i, so that it can be asked for again by itself.

    Raises InvalidField for a bias on a token the model does not have.
    """
    asked = request.sampling
    outside = [token for token in asked.logit_bias if not 0 <= token < vocab_size]
    if outside:
        raise InvalidField(
            f"logit_bias names the token {outside[0]}, but this model has the tokens 0 to {vocab_size - 1}.",
            field="logit_bias",
        )
    temperature = _first(asked.temperature, defaults.temperature if defaults.do_sample else 0.0, 1.0)
    if asked.temperature is None and temperature == 0 and request.num_results > 1:
        temperature = SEVERAL_RESULTS_TEMPERATURE
    seed = asked.seed if asked.seed is not None else draw_seed()
    draw = Draw(
        temperature=temperature,
        top_p=_first(asked.top_p, defaults.top_p, 1.0),
        top_k=int(_first(asked.top_k, defaults.top_k, 0)),
        min_p=_first(asked.min_p, defaults.min_p, 0.0),
        repetition_penalty=_first(asked.repetition_penalty, defaults.repetition_penalty, 1.0),
        frequency_penalty=_first(asked.frequency_penalty, 0.0),
        presence_penalty=_first(asked.presence_penalty, 0.0),
        logit_bias=dict(asked.logit_bias),
        num_top_logprobs=asked.num_top_logprobs,
    )
    return tuple(
        msgspec.structs.replace(draw, seed=(seed + result) % (1 << 64)) for result in range(request.num_results)
    )


def prompt_characters(request: Request) -> int:
    """Roughly how much text there is to tokenise."""

    def of(message: Message) -> int:
        results = sum(len(getattr(part, "text", "")) for result in message.tool_results for part in result.content)
        calls = sum(len(call.arguments) for call in message.tool_calls)
        return len(message.text) + len(message.reasoning or "") + results + calls

    infill = request.infill
    plain = len(infill.prompt) + len(infill.suffix or "") if infill is not None else 0
    return plain + sum(map(of, request.messages)) + sum(len(str(tool.parameters)) for tool in request.tools)


def _first(*values: float | None) -> float:
    """The first that is given."""
    return next(value for value in values if value is not None)

"""Whole answers: `core.Answer` to a body."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping, Sequence

import msgspec
from msgspec import UNSET, UnsetType

from deepserve.core.answer import Answer
from deepserve.core.cost import Cost
from deepserve.core.errors import DeepserveError
from deepserve.core.events import FinishReason, TokenLogprob
from deepserve.core.messages import Text
from deepserve.core.provider import ServedBy
from deepserve.core.request import Infill
from deepserve.core.usage import Usage
from deepserve.dialects.completions.wire import (
    WireChoice,
    WireCompletion,
    WireLogprobs,
    WirePromptDetails,
    WireUsage,
)
from deepserve.dialects.exchange import AnswerHead
from deepserve.dialects.vendor_errors import encode_error

FINISH_WORDS: Mapping[FinishReason, str] = {
    "stop": "stop",
    "stop_string": "stop",
    "length": "length",
    "tool_calls": "stop",
    "content_filter": "content_filter",
    "aborted": "insufficient_system_resource",
}
"""Why a result ended, in the vendor's words. A completion makes no calls: `tool_calls` cannot come up."""

FAILED_WORD = "insufficient_system_resource"
"""The finish of a result that the server could not complete; an error object follows."""

_LOWEST = -9999.0
"""JSON's substitute for minus infinity."""


def encode_usage(usage: Usage, cost: Cost | None = None) -> WireUsage:  # noqa: ARG001 - the vendor does not say it
    return WireUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
        prompt_tokens_details=WirePromptDetails(cached_tokens=usage.hit_tokens),
        prompt_cache_hit_tokens=usage.hit_tokens,
        prompt_cache_miss_tokens=usage.miss_tokens,
    )


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """How a service that speaks this dialect writes what differs; the defaults are the vendor's.

    names_provider  answers say who served them
    name_of         how answers call a model that answers in the place of the one asked for; None: by that one's name
    """

    encode_usage: Callable[[Usage, Cost | None], WireUsage | msgspec.Raw]
    encode_error: Callable[[DeepserveError, bool], bytes] = lambda error, is_strict: encode_error(
        error, is_strict=is_strict
    )
    names_provider: bool = False
    name_of: Callable[[str], str] | None = None

    def provider(self, served_by: ServedBy) -> str | UnsetType:
        return served_by.provider if self.names_provider else UNSET

    def model(self, asked: str, answered: str | None) -> str:
        """asked: its name. answered: the id of another one that answers."""
        return asked if answered is None or self.name_of is None else self.name_of(answered)


VENDOR = Service(encode_usage=encode_usage)


def encode_answer(answer: Answer, infill: Infill, head: AnswerHead, service: Service = VENDOR) -> bytes:
    """The body of a whole answer; with `echo` the text begins with the prompt.

    Not carried, because the dialect has no word for it: reasoning, citations, tools of any kind, cost, seeds, and which
    stop string was met.
    """
    echoed = infill.prompt if infill.echo else ""
    return msgspec.json.encode(
        WireCompletion(
            id=head.id,
            created=head.created,
            model=service.model(head.model, answer.model),
            system_fingerprint=answer.served_by.fingerprint,
            choices=[
                WireChoice(
                    index=index,
                    text=echoed + "".join(part.text for part in result.parts if isinstance(part, Text)),
                    finish_reason=FINISH_WORDS[result.finished.reason],
                    logprobs=LogprobColumns().encode(result.text_logprobs),
                )
                for index, result in enumerate(answer.results)
            ],
            usage=service.encode_usage(answer.usage, answer.cost),
            provider=service.provider(answer.served_by),
        )
    )


class LogprobColumns:
    """Turns log-probabilities into columns, batch after batch, keeping count of where in the text each token begins."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_characters = 0

    def encode(self, tokens: Sequence[TokenLogprob]) -> WireLogprobs | None:
        """None for no tokens. A token in the middle of a character begins where that character does."""
        if not tokens:
            return None
        offsets: list[int] = []
        for token in tokens:
            offsets.append(self._num_characters)
            self._num_characters += len(self._utf8.decode(token.bytes))
        return WireLogprobs(
            text_offset=offsets,
            token_logprobs=[max(token.logprob, _LOWEST) for token in tokens],
            tokens=[_spelled(token) for token in tokens],
            top_logprobs=[_top(token) for token in tokens],
        )


def _top(token: TokenLogprob) -> dict[str, float]:
    """The most probable tokens, and always the drawn one, as the vendor documents it."""
    return {_spelled(one): max(one.logprob, _LOWEST) for one in (*token.top, token)}


def _spelled(token: TokenLogprob) -> str:
    r"""A token's text; one that is not whole characters as `bytes:\xe2\x80`, like OpenAI's service spells it."""
    try:
        return token.bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)

"""What another service says of its models: the list at `/models`, in the shapes that servers give it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from deepserve.core.errors import BackendFailure
from deepserve.core.messages import Json
from deepserve.core.provider import ServedBy


class ListedModel(msgspec.Struct, frozen=True, kw_only=True):
    """None: the service does not say. served_by: who really answers, where another deepserve tells it."""

    context_tokens: int | None = None
    max_output_tokens: int | None = None
    served_by: ServedBy | None = None


class _Item(msgspec.Struct, frozen=True):
    """context_window: DeepSeek's word; max_model_len: vLLM's and SGLang's; context_length: OpenRouter's and Oxen's;
    max_input_tokens and max_tokens: Anthropic's.
    """

    id: str
    context_window: int | None = None
    max_model_len: int | None = None
    context_length: int | None = None
    max_output_tokens: int | None = None
    max_input_tokens: Json = None
    max_tokens: Json = None
    served_by: ServedBy | None = None


class _Listing(msgspec.Struct, frozen=True):
    data: list[_Item]


def decode_models(body: bytes, *, title: str) -> Mapping[str, ListedModel]:
    """The service's names -> what it says. Raises BackendFailure."""
    try:
        listing = msgspec.json.decode(body, type=_Listing)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BackendFailure(f"{title} sent a list of models that cannot be read: {error}") from error
    return {
        item.id: ListedModel(
            context_tokens=_sensible(
                item.context_window or item.max_model_len or item.context_length or item.max_input_tokens
            ),
            max_output_tokens=_sensible(item.max_output_tokens or item.max_tokens),
            served_by=item.served_by,
        )
        for item in listing.data
    }


def _sensible(tokens: Json) -> int | None:
    return tokens if isinstance(tokens, int) and tokens > 0 else None

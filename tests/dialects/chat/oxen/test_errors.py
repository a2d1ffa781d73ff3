"""Both shapes of this service's errors."""

from __future__ import annotations

import json

import pytest

from deepserve.core import errors
from deepserve.core.errors import ContextOverflow, DeepserveError, error_classes
from deepserve.dialects.chat.oxen.errors import TITLES, TYPES, encode_error, no_messages, no_model, status_of


def _example(cls: type[DeepserveError]) -> DeepserveError:
    if cls is ContextOverflow:
        return ContextOverflow(limit_tokens=10, prompt_tokens=8, requested_tokens=4)
    return cls("the reason")


@pytest.mark.parametrize("cls", error_classes())
def test_every_error_has_a_type_a_title_and_a_message(cls: type[DeepserveError]) -> None:
    """Fails when a class is added to the tree and forgotten here."""
    assert TYPES[cls] in TITLES
    body = json.loads(encode_error(_example(cls)))
    assert body["error"]["message"]
    is_clients = issubclass(cls, errors.RequestError | errors.AccessError)
    assert (status_of(_example(cls)) < 500) or not is_clients


@pytest.mark.parametrize("error", [no_model(), no_messages(), errors.UnknownModel("Model not found: x")])
def test_the_model_and_the_messages_have_the_short_shape(error: DeepserveError) -> None:
    assert json.loads(encode_error(error)) == {"error": {"message": error.message}}


def test_everything_else_has_the_long_shape() -> None:
    assert json.loads(encode_error(errors.BudgetExhausted("Nothing is left."))) == {
        "error": {
            "type": "insufficient_credits",
            "title": "You have run out of credits.",
            "detail": "Nothing is left.",
            "message": "Nothing is left.",
        },
        "status": "error",
        "status_message": "insufficient_credits",
        "status_description": "Nothing is left.",
    }

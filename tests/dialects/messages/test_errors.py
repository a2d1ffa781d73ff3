"""Every error of the core has a form."""

import json

import pytest

from deepserve.core import errors
from deepserve.core.errors import ContextOverflow, DeepserveError, error_classes
from deepserve.dialects.messages.errors import FORMS, encode_error, form_of

_CLASSES = error_classes()
_DOCUMENTED_TYPES = {
    "invalid_request_error",
    "authentication_error",
    "billing_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "timeout_error",
    "api_error",
    "overloaded_error",
}


def _told(error: DeepserveError, *, is_strict: bool = False) -> str:
    body = json.loads(encode_error(error, request_id="r", is_strict=is_strict))
    return str(body["error"]["message"])


@pytest.mark.parametrize("cls", _CLASSES)
def test_every_class_has_a_documented_form(cls: type[DeepserveError]) -> None:
    """Fails when a class is added to the tree and forgotten here."""
    assert cls in FORMS
    assert FORMS[cls].type in _DOCUMENTED_TYPES
    assert 400 <= FORMS[cls].status < 600


@pytest.mark.parametrize("cls", _CLASSES)
def test_what_the_client_can_fix_is_never_a_fault_of_the_server(cls: type[DeepserveError]) -> None:
    is_clients = issubclass(cls, errors.RequestError | errors.AccessError)
    assert (FORMS[cls].status < 500) is (is_clients or issubclass(cls, errors.TooManyRequests | errors.Cancelled))


def test_the_body_serves_clients_of_both_vendors() -> None:
    body = encode_error(errors.InvalidField("bad", field="messages[0]"), request_id="r")
    assert body == (
        b'{"type":"error","error":{"type":"invalid_request_error","message":"bad",'
        b'"code":"invalid_request_error","param":"messages[0]"},"request_id":"r"}'
    )
    strict = encode_error(errors.InvalidField("bad", field="messages[0]"), request_id="r", is_strict=True)
    assert b'"param":null' in strict


def test_setup_errors_and_bare_ones_do_not_show_their_text() -> None:
    for cls in (errors.ConfigurationError, errors.CheckpointError, errors.SetupError, errors.DeepserveError):
        assert "/secret/path" not in _told(cls("/secret/path is missing"))


def test_an_overflow_is_told_in_the_words_that_clients_act_on() -> None:
    too_long = ContextOverflow(limit_tokens=100, prompt_tokens=150, requested_tokens=20)
    assert _told(too_long) == "prompt is too long: 150 tokens > 100 maximum"
    too_much = ContextOverflow(limit_tokens=100, prompt_tokens=90, requested_tokens=20)
    assert _told(too_much).startswith("input length and `max_tokens` exceed context limit: 90 + 20 > 100, ")
    assert _told(too_much, is_strict=True).startswith("This model's maximum context length is 100 tokens.")


def test_a_class_takes_the_form_of_the_nearest_one_above() -> None:
    assert form_of(errors.MissingField("x")).status == 400

"""Every error of the core has a code here."""

import json

import pytest

from deepserve.core import errors
from deepserve.core.errors import ContextOverflow, DeepserveError, error_classes
from deepserve.dialects import vendor_errors
from deepserve.dialects.responses.errors import CODES, ResponsesErrors, encode_error, previous_not_found

_CLASSES = error_classes()


def _example(cls: type[DeepserveError]) -> DeepserveError:
    if cls is ContextOverflow:
        return ContextOverflow(limit_tokens=10, prompt_tokens=8, requested_tokens=4)
    return cls("the reason")


@pytest.mark.parametrize("cls", _CLASSES)
def test_every_class_has_a_code_and_the_vendors_status(cls: type[DeepserveError]) -> None:
    """Fails when a class is added to the tree and forgotten here."""
    error = _example(cls)
    value = json.loads(encode_error(error))["error"]
    assert value["code"] == CODES[cls]
    assert list(value) == ["message", "type", "param", "code"]
    assert ResponsesErrors().status(error) == vendor_errors.form_of(error).status


@pytest.mark.parametrize("cls", _CLASSES)
def test_strict_mode_writes_the_vendors_body(cls: type[DeepserveError]) -> None:
    error = _example(cls)
    assert encode_error(error, is_strict=True) == vendor_errors.encode_error(error, is_strict=True)


def test_codes_that_clients_switch_on() -> None:
    def code(error: DeepserveError) -> object:
        return json.loads(encode_error(error))["error"]["code"]

    assert code(_example(ContextOverflow)) == "context_length_exceeded"
    assert code(errors.TooManyRequests("x")) == "rate_limit_exceeded"
    assert code(errors.Overloaded("x")) == "server_is_overloaded"
    assert code(previous_not_found("resp_1")) == "previous_response_not_found"


def test_setup_errors_and_bare_ones_do_not_show_their_text() -> None:
    for cls in (errors.ConfigurationError, errors.CheckpointError, errors.SetupError, errors.DeepserveError):
        assert b"/secret/path" not in encode_error(cls("/secret/path is missing"))

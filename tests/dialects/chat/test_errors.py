"""Every error of the core has a form, and the form can be read back."""

import json

import pytest

from deepserve.core import errors
from deepserve.core.errors import ContextOverflow, DeepserveError, error_classes
from deepserve.dialects.upstream_errors import decode_error, decode_error_value
from deepserve.dialects.vendor_errors import FORMS, encode_error, form_of

_CLASSES = error_classes()


def _example(cls: type[DeepserveError]) -> DeepserveError:
    if cls is ContextOverflow:
        return ContextOverflow(limit_tokens=10, prompt_tokens=8, requested_tokens=4)
    return cls("the reason")


@pytest.mark.parametrize("cls", _CLASSES)
def test_every_class_has_a_form(cls: type[DeepserveError]) -> None:
    """Fails when a class is added to the tree and forgotten here."""
    assert cls in FORMS
    form = form_of(_example(cls))
    assert 400 <= form.status < 600


@pytest.mark.parametrize("cls", _CLASSES)
def test_what_the_client_can_fix_is_never_a_fault_of_the_server(cls: type[DeepserveError]) -> None:
    is_clients = issubclass(cls, errors.RequestError | errors.AccessError)
    assert (FORMS[cls].status < 500) is (is_clients or issubclass(cls, errors.TooManyRequests | errors.Cancelled))


def test_a_class_without_a_row_takes_the_one_above() -> None:
    class Special(errors.Overloaded):
        code = "special"

    try:
        assert form_of(Special("x")) == FORMS[errors.Overloaded]
    finally:
        # The class must not stay in the tree that other tests enumerate.
        del Special
        import gc

        gc.collect()


def test_the_body_has_the_vendors_members_in_their_order() -> None:
    body = encode_error(errors.InvalidField("bad", field="messages[0]"))
    assert body == (
        b'{"error":{"message":"bad","type":"invalid_request_error","param":"messages[0]",'
        b'"code":"invalid_request_error"}}'
    )
    assert b'"param":null' in encode_error(errors.InvalidField("bad", field="messages[0]"), is_strict=True)


def test_setup_errors_and_bare_ones_do_not_show_their_text() -> None:
    for cls in (errors.ConfigurationError, errors.CheckpointError, errors.SetupError, errors.DeepserveError):
        assert b"/secret/path" not in encode_error(cls("/secret/path is missing"))


def test_a_spent_budget_has_the_vendors_shape_and_in_strict_mode_its_words() -> None:
    error = errors.BudgetExhausted("Insufficient Balance: this key may spend $5.00 a day.")
    assert form_of(error).status == 402
    assert json.loads(encode_error(error, is_strict=True))["error"] == {
        "message": "Insufficient Balance",
        "type": "unknown_error",
        "param": None,
        "code": "invalid_request_error",
    }
    assert json.loads(encode_error(error))["error"]["message"] == error.message


_OPERATORS = (
    errors.AccessError,
    errors.AuthenticationFailed,
    errors.OriginRefused,
    errors.PermissionDenied,
    errors.BudgetExhausted,
)
"""What only the operator can mend: our clients have no part in the key that is refused."""


@pytest.mark.parametrize("cls", [cls for cls in _CLASSES if not FORMS[cls].is_hidden])
def test_an_error_read_back_says_the_same_to_the_client_or_names_the_operator(cls: type[DeepserveError]) -> None:
    error = _example(cls)
    again = decode_error(form_of(error).status, encode_error(error), title="Upstream")
    if cls in _OPERATORS:
        assert isinstance(again, errors.BackendFailure)
        assert "operator" in again.message
        assert "the reason" not in again.message
    else:
        assert error.message in again.message
        if form_of(error).status not in (404, 405, 408, 415, 499, 500, 502):  # the other side failed or is another
            assert form_of(again).status == form_of(error).status


@pytest.mark.parametrize("cls", [errors.Overloaded, errors.TooManyRequests, errors.DamagedToolCall, errors.UnfitAnswer])
def test_an_error_in_a_stream_keeps_its_kind(cls: type[DeepserveError]) -> None:
    wire = json.loads(encode_error(cls("x")))["error"]
    assert type(decode_error_value(wire, title="Upstream")) is cls


def test_a_context_that_is_too_small_keeps_its_numbers() -> None:
    error = ContextOverflow(limit_tokens=10, prompt_tokens=8, requested_tokens=4)
    again = decode_error(400, encode_error(error), title="Upstream")
    assert isinstance(again, ContextOverflow)
    assert (again.limit_tokens, again.prompt_tokens, again.requested_tokens) == (10, 8, 4)


@pytest.mark.parametrize(
    ("status", "body", "cls", "said"),
    [
        (502, b"<html>bad gateway</html>", errors.BackendFailure, "a page instead of an answer"),
        (503, b"", errors.Overloaded, "Upstream is overloaded."),
        (400, b'{"error":{"message":"no","param":"top_p"}}', errors.InvalidField, "no"),
        (400, b'{"error":"no"}', errors.RequestError, "no"),
        (422, b'{"detail":[{"loc":["body","n"]}]}', errors.RequestError, '[{"loc":["body","n"]}]'),
        (403, b'{"error":{"message":"flagged","metadata":{"reasons":["x"]}}}', errors.RequestError, "flagged"),
        (418, b"teapot", errors.RequestError, "teapot"),
        (451, b"", errors.RequestError, "refused the request with status 451"),
        (500, b'{"error":', errors.BackendFailure, '{"error":'),
        (500, b'{"error":{"message":["a\\u0007"]}}', errors.BackendFailure, '["a'),
        (524, b"", errors.RequestTimedOut, "did not answer in time"),
    ],
)
def test_whatever_shape_a_refusal_has_it_is_told_in_words(
    status: int, body: bytes, cls: type[DeepserveError], said: str
) -> None:
    error = decode_error(status, body, title="Upstream")
    assert type(error) is cls
    assert said in error.message
    assert error.message.isprintable()


def test_a_refusal_is_quoted_up_to_a_limit() -> None:
    assert len(decode_error(400, b"x" * 100_000, title="Upstream").message) < 600


def test_an_errors_number_is_a_status_where_it_can_be_one() -> None:
    assert isinstance(decode_error_value({"code": 429, "message": "m"}, title="Upstream"), errors.TooManyRequests)
    assert isinstance(decode_error_value({"code": 7, "message": "m"}, title="Upstream"), errors.BackendFailure)
    assert isinstance(decode_error_value("m", title="Upstream"), errors.BackendFailure)
    assert decode_error(429, b"", title="Upstream", retry_after_s=7.0).retry_after_s == 7.0  # type: ignore[attr-defined]  # of CapacityError

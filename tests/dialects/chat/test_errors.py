"""Every error of the core has a form, and the form can be read back."""

import msgspec
import pytest

from deepserve.core import errors
from deepserve.core.errors import ContextOverflow, DeepserveError, error_classes
from deepserve.dialects.chat.errors import decode_error, decode_wire_error
from deepserve.dialects.vendor_errors import FORMS, WireError, WireErrorBody, encode_error, form_of

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
    assert (FORMS[cls].status < 500) is (is_clients or cls in (errors.TooManyRequests, errors.Cancelled))


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


@pytest.mark.parametrize("cls", [cls for cls in _CLASSES if not FORMS[cls].is_hidden])
def test_an_error_read_back_has_the_same_status_and_message(cls: type[DeepserveError]) -> None:
    error = _example(cls)
    again = decode_error(form_of(error).status, encode_error(error))
    assert again.message == error.message
    if form_of(error).status not in (499, 500, 502):  # three statuses that all mean: the other side failed
        assert form_of(again).status == form_of(error).status


@pytest.mark.parametrize("cls", [errors.EngineFailure, errors.Overloaded, errors.TooManyRequests])
def test_an_error_in_a_stream_keeps_its_kind(cls: type[DeepserveError]) -> None:
    wire = msgspec.json.decode(encode_error(cls("x")), type=WireErrorBody).error
    assert form_of(decode_wire_error(wire)).type == FORMS[cls].type


def test_unreadable_errors_are_quoted() -> None:
    assert decode_error(502, b"<html>bad gateway</html>").message == "<html>bad gateway</html>"
    assert decode_error(503, b"").message == "status 503 without a body"
    assert isinstance(decode_wire_error(WireError(message="?")), errors.BackendFailure)

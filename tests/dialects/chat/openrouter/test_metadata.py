"""Who could answer, who was asked and who did, for clients that ask for it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from deepserve.core.errors import BackendFailure, DeepserveError, error_classes
from deepserve.core.events import FailedAttempt
from deepserve.core.tenant import LOCAL_TENANT, Tenant, TenantId
from deepserve.dialects.exchange import Caller
from deepserve.dialects.openrouter.errors import OpenRouterErrors
from deepserve.dialects.openrouter.metadata import failed_routing, wants_metadata
from deepserve.dialects.vendor_errors import form_of
from tests.dialects.chat.openrouter.setup import AT

ASKS = {"x-openrouter-metadata": "Enabled"}
ACME = Tenant(id=TenantId("acme"), name="Acme")


def _attempt(provider: str, code: str, model: str = "deepseek-v4-pro") -> FailedAttempt:
    return FailedAttempt(provider=provider, model=model, code=code, began_at=AT, ended_at=AT + timedelta(seconds=1))


def _error(tenant: Tenant = LOCAL_TENANT, **headers: str) -> Any:  # Any: JSON
    error = BackendFailure("down")
    error.earlier = (_attempt("one", "overloaded"), _attempt("two", "backend_failure"))
    caller = Caller(tenant=tenant, headers={name.replace("_", "-"): value for name, value in headers.items()})
    return json.loads(OpenRouterErrors().encode(error, request_id="x", caller=caller))


@pytest.mark.parametrize(
    ("headers", "is_wanted"),
    [
        (ASKS, True),
        ({"x-openrouter-experimental-metadata": "enabled"}, True),
        ({"x-openrouter-metadata": "disabled"}, False),
        ({"x-openrouter-metadata": "yes"}, False),
        ({}, False),
    ],
)
def test_it_is_told_to_those_who_ask(headers: dict[str, str], is_wanted: bool) -> None:
    assert wants_metadata(headers) is is_wanted


def test_an_error_says_whose_request_it_was_once_a_key_has() -> None:
    assert "user_id" not in _error()
    named = _error(ACME)["user_id"]
    assert named.startswith("user_")
    assert "acme" not in named
    assert named == _error(ACME)["user_id"] != _error(Tenant(id=TenantId("other")))["user_id"]
    assert list(_error(ACME)) == ["error", "user_id"]


def test_an_error_lists_who_was_asked_and_what_they_said() -> None:
    body = _error(x_openrouter_metadata="enabled")
    told = body["openrouter_metadata"]
    assert told["attempts"] == [
        {"provider": "one", "model": "deepseek-v4-pro", "status": 503},
        {"provider": "two", "model": "deepseek-v4-pro", "status": 502},
    ]
    assert (told["requested"], told["strategy"], told["attempt"]) == ("deepseek-v4-pro", "direct", 2)
    assert told["endpoints"]["total"] == 2
    assert not any(end["selected"] for end in told["endpoints"]["available"])
    assert "openrouter_metadata" not in _error()


def test_where_nobody_was_asked_there_is_nothing_to_tell() -> None:
    assert failed_routing(()) is None


def test_an_attempt_has_the_status_that_its_error_would_have_had() -> None:
    for cls in error_classes():
        told = failed_routing((_attempt("one", cls.code),))
        assert told is not None
        bare = cls.__new__(cls)
        assert isinstance(bare, DeepserveError)
        assert told.attempts[0].status == form_of(bare).status

"""Every error has a status and a code that the SDKs can classify."""

from __future__ import annotations

import inspect
import json

import pytest

from deepserve.core import errors
from deepserve.core.errors import (
    AuthenticationFailed,
    ContextOverflow,
    DeepserveError,
    InvalidField,
    MissingField,
    RequestTimedOut,
    UnknownModel,
    UnsupportedFeature,
    error_classes,
)
from deepserve.dialects.runware.errors import FORMS, RunwareErrors, TaskRefused, status_of, wire_error


def test_every_error_class_has_a_row() -> None:
    own = {cls for cls in error_classes() if cls.__module__ == errors.__name__}
    assert own == set(FORMS)


@pytest.mark.parametrize("cls", FORMS)
def test_the_body_serves_clients_that_read_either_key(cls: type[DeepserveError]) -> None:
    if cls is ContextOverflow:
        error: DeepserveError = ContextOverflow(limit_tokens=1, prompt_tokens=2, requested_tokens=3)
    else:
        assert "message" in inspect.signature(cls).parameters
        error = cls("secret path" if FORMS[cls].is_hidden else "told")
    codec = RunwareErrors()
    body = json.loads(codec.encode(error, request_id="x"))
    assert body["errors"] == [body["error"]]
    assert body["error"]["code"]
    assert "secret" not in body["error"]["message"]
    assert 400 <= codec.status(error) < 600


@pytest.mark.parametrize(
    ("error", "code", "parameter", "status"),
    [
        (InvalidField("x", field="webhook_url"), "invalidWebhookURL", "webhookURL", 400),
        (InvalidField("x", field="max_tokens"), "invalidMaxTokens", "settings.maxTokens", 400),
        (InvalidField("x"), "invalidRequest", None, 400),
        (InvalidField("x", field="x-deepserve-strict"), "invalidRequest", "x-deepserve-strict", 400),
        (MissingField("x", field="tasks"), "missingTasks", "tasks", 400),
        (UnsupportedFeature("x", field="tool_choice"), "unsupportedParameter", "toolChoice", 400),
        (UnknownModel("x", field="model"), "modelNotFound", "model", 404),
        (AuthenticationFailed("x"), "invalidApiKey", "apiKey", 401),
        (RequestTimedOut("x"), "requestTimeout", None, 504),
        (TaskRefused("conflictTaskUUID", "x", parameter="taskUUID"), "conflictTaskUUID", "taskUUID", 400),
    ],
)
def test_codes_name_the_parameter_as_this_dialect_spells_it(
    error: DeepserveError | TaskRefused, code: str, parameter: str | None, status: int
) -> None:
    told = wire_error(error, task_type="textInference", task_uuid="u")
    assert (told.code, told.parameter, status_of(error)) == (code, parameter, status)
    assert (told.task_type, told.task_uuid) == ("textInference", "u")

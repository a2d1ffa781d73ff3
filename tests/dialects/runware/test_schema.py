"""The described body is the accepted body, as far as a schema can say it."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest

from deepserve.config import Limits
from deepserve.dialects.runware import fields
from deepserve.dialects.runware.errors import TaskRefused
from deepserve.dialects.runware.schema import request_schema
from tests.dialects.runware.decoding import NAMES, decode, task_of

NAMED = [row.id for row in NAMES.models] + [row.name for row in NAMES.aliases]
SCHEMA = request_schema(Limits(), NAMED)
JUDGE = jsonschema_rs.validator_for(SCHEMA)
TOOL = {"type": "function", "name": "look", "schema": {}}


def test_every_member_of_a_task_is_described() -> None:
    (task, *_) = SCHEMA["items"]["anyOf"]
    assert task["properties"].keys() | fields.REFUSED.keys() == fields.TASK_FIELDS | {"routing", "inputs"}
    assert task["properties"]["settings"]["properties"].keys() == fields.SETTINGS_FIELDS


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"settings": {"temperature": 2, "topP": 0, "maxTokens": 100_000, "stopSequences": ["x"] * 5}},
        {"settings": {"temperature": 2.01}},
        {"settings": {"topP": -0.01}},
        {"settings": {"maxTokens": 100_001}},
        {"settings": {"stopSequences": [""]}},
        {"settings": {"thinkingLevel": "xhigh"}},
        {"settings": {"thinkingLevel": "deep"}},
        {"settings": {"topK": 1}},
        {"settings": None, "seed": None, "tools": None},
        {"seed": fields.HIGHEST_SEED},
        {"seed": fields.HIGHEST_SEED + 1},
        {"numberResults": 4},
        {"numberResults": 5},
        {"taskUUID": "x"},
        {"model": "gpt"},
        {"messages": []},
        {"messages": [{"role": "boss", "content": "x"}]},
        {"tools": [TOOL], "toolChoice": {"type": "any"}},
        {"tools": [{**TOOL, "name": "a b"}]},
        {"tools": [], "toolChoice": {"type": "any"}},
        {"toolChoice": {"type": "must"}},
        {"providerSettings": {"deepseek": {}}, "routing": {}},
        {"providerSettings": {"google": {}}},
        {"colour": 1},
    ],
)
def test_the_schema_and_the_decoder_agree(given: dict[str, Any]) -> None:
    try:
        decode(**given)
        is_taken = True
    except TaskRefused:
        is_taken = False
    assert JUDGE.is_valid([task_of(**given)]) == is_taken

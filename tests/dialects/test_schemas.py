"""The described bodies are the accepted bodies: schemas and decoders are asked the same questions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import jsonschema_rs
import pytest

from deepserve.catalog.models import load_models
from deepserve.config import Limits
from deepserve.core.errors import RequestError
from deepserve.core.request import RequestId
from deepserve.dialects.body_schema import Schema
from deepserve.dialects.chat import fields as chat_fields
from deepserve.dialects.chat import schema as chat_schema
from deepserve.dialects.chat.exchange import chat_decoder
from deepserve.dialects.chat.flavour import DEEPSEEK
from deepserve.dialects.chat.thinking import spelling_fields
from deepserve.dialects.completions import fields as completions_fields
from deepserve.dialects.completions import schema as completions_schema
from deepserve.dialects.completions.exchange import completions_decoder
from deepserve.dialects.exchange import Arrival, Decode
from deepserve.dialects.messages import fields as messages_fields
from deepserve.dialects.messages import schema as messages_schema
from deepserve.dialects.messages.exchange import messages_decoder
from deepserve.dialects.responses import fields as responses_fields
from deepserve.dialects.responses import schema as responses_schema
from deepserve.dialects.responses.exchange import Decoders
from deepserve.store.responses import ResponseStore, ShelfLimits
from deepserve.store.sealing import open_sealer

Json = Any
"""Bodies."""

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
LIMITS = Limits()
NAMES = load_models()
MODELS = tuple(row.id for row in NAMES.models)
SAID = [{"role": "user", "content": "json"}]


def responses_decode() -> Decode:
    memory = ResponseStore(None, limits=ShelfLimits(), now=lambda: NOON)
    return Decoders(
        names=NAMES, limits=lambda: LIMITS, memory=memory, sealing=open_sealer(None), now=lambda: NOON
    ).response


class Dialect:
    """valid: a smallest body. known: every top-level member that the decoder acts on."""

    def __init__(
        self, schema: Schema, decode: Callable[[], Decode], valid: Mapping[str, Json], known: set[str]
    ) -> None:
        self.schema = schema
        self.decode = decode
        self.valid = valid
        self.known = known


DIALECTS = {
    "chat": Dialect(
        chat_schema.request_schema(DEEPSEEK, LIMITS, MODELS),
        partial(chat_decoder, DEEPSEEK, names=NAMES, limits=LIMITS, is_beta=False),
        {"model": MODELS[0], "messages": SAID},
        {*chat_fields.DOCUMENTED, *chat_fields.EXTENSIONS, *spelling_fields()},
    ),
    "completions": Dialect(
        completions_schema.request_schema(LIMITS, MODELS),
        partial(completions_decoder, names=NAMES, limits=LIMITS),
        {"model": MODELS[0], "prompt": "p"},
        {*completions_fields.DOCUMENTED, *completions_fields.EXTENSIONS},
    ),
    "messages": Dialect(
        messages_schema.request_schema(LIMITS, MODELS),
        partial(messages_decoder, names=NAMES, limits=LIMITS),
        {"model": MODELS[0], "messages": SAID, "max_tokens": 5},
        {*messages_fields.HONOURED},
    ),
    "responses": Dialect(
        responses_schema.request_schema(LIMITS, MODELS),
        responses_decode,
        {"model": MODELS[0], "input": "i"},
        {*responses_fields.DOCUMENTED, *responses_fields.EXTENSIONS, *responses_fields.PARTLY_READ},
    ),
}
ASKED = [(name, member) for name, dialect in DIALECTS.items() for member in sorted(dialect.known)]

_SCHEMA = {"type": "object"}
_FUNCTION = {"type": "function", "name": "f"}

BESIDE: Mapping[tuple[str, str], Mapping[str, Json]] = {
    ("chat", "tool_choice"): {"tools": [{"type": "function", "function": {"name": "f"}}]},
    ("messages", "tool_choice"): {"tools": [{"name": "f", "input_schema": {}}]},
    ("responses", "tool_choice"): {"tools": [_FUNCTION]},
}
"""What a member needs beside itself."""

PROBES: tuple[Json, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        2,
        -1,
        -2,
        -3,
        16,
        17,
        20,
        21,
        4_097,
        393_216,
        393_217,
        2**32 - 1,
        2**32,
        2**63,
        -(2**63) - 1,
    ),
    # Not 1.0: to a schema it is an integer, to the vendor's parser it is none.
    *(0.5, 1.5, 2.5, -0.5),
    *(
        "",
        "x",
        "high",
        "max",
        "ultra",
        "none",
        "auto",
        "required",
        "disabled",
        "deepseek-v4-pro",
        "y" * 513,
        "y" * 1_025,
    ),
    *([], [""], ["x"], ["x"] * 17, [1], [[1]], {}, {"1": 1}, {"1": 101}, {"x": 1}, {"x": "y"}, {"x": "y" * 513}),
    *({"type": "enabled"}, {"type": "adaptive"}, {"type": "x"}, {"type": "text"}, {"type": "json_object"}),
    *({"type": "none"}, {"type": "auto"}, {"type": 1}, {"effort": "max"}, {"effort": "x"}, {"include_usage": True}),
    *({"include_usage": 1}, {"type": "enabled", "budget_tokens": 5}, {"type": "enabled", "budget_tokens": -5}),
    *({"user_id": "u"}, {"user_id": 5}, {"format": {"type": "text"}}, {"format": {"type": "x"}}, {"thinking": True}),
    *([{"role": "user", "content": "x"}], [{"role": "user"}], [{"role": "x", "content": "x"}], [{"content": "x"}]),
    *([{"type": "text", "text": "x"}], [{"type": "text"}], [{"type": "function", "name": "f"}], [{"type": "function"}]),
    *([{"name": "f", "input_schema": {}}], [{"name": "f g", "input_schema": {}}], [{"name": 1, "input_schema": {}}]),
    *([{"type": "function", "function": {"name": "f"}}], [{"type": "function", "function": {"name": "f g"}}]),
    *({"type": "any"}, {"type": "tool"}, {"type": "tool", "name": "f"}, {"type": "function"}, {"type": "custom"}),
    *({"type": "function", "name": "f"}, {"type": "function", "name": 1}, {"type": "function", "function": {}}),
    *({"type": "function", "function": {"name": "f"}}, {"type": "allowed_tools"}),
    {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    {"type": "allowed_tools", "mode": "auto", "tools": []},
    {"type": "allowed_tools", "mode": "none", "tools": [{"type": "function", "name": "f"}]},
    {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]},
    },
    {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
    *({"type": "json_schema"}, {"type": "json_schema", "schema": _SCHEMA}, {"type": "json_schema", "schema": 1}),
    *({"type": "json_schema", "json_schema": {}}, {"type": "json_schema", "json_schema": {"schema": _SCHEMA}}),
    {"type": "json_schema", "json_schema": {"schema": _SCHEMA, "name": "n", "strict": True, "description": "d"}},
    {"type": "json_schema", "json_schema": {"schema": _SCHEMA, "name": "n n"}},
    {"type": "json_schema", "json_schema": {"schema": _SCHEMA, "strict": "yes"}},
    *({"type": "json_object", "schema": _SCHEMA}, {"type": "json_object", "schema": []}, {"type": "grammar"}),
    *({"format": {"type": "json_schema", "schema": _SCHEMA}}, {"format": {"type": "json_schema"}}),
    {"format": {"type": "json_schema", "schema": _SCHEMA, "name": "n" * 65}},
    *(_SCHEMA, {"json": _SCHEMA}, {"json": 1}, {"regex": "a+"}, {"regex": 1}, {"choice": ["a"]}, {"choice": []}),
    *({"json_object": True}, {"json_object": 1}),
)

BEYOND_A_SCHEMA: Mapping[tuple[str, str], str] = {
    ("chat", "guided_json"): "the text of a schema is text",
    ("chat", "top_logprobs"): "needs `logprobs`",
    ("responses", "previous_response_id"): "names a response that must exist",
}
"""Members whose schema admits what the decoder refuses, and why."""

NOT_DESCRIBED: Mapping[tuple[str, str], str] = {
    ("messages", "tools"): "tools of the vendor's own types have no schema",
    ("messages", "max_tokens"): "clients that leave it out are served, so null is too",
    ("responses", "tools"): "custom tools, namespaces and searches",
    ("responses", "input"): "items without a type, and of other services",
    ("chat", "tool_choice"): "`allowed_tools` as the Responses dialect has it",
}
"""Members that the decoder reads in more forms than the schema shows, and what these are."""


def arrive(decode: Decode, body: Mapping[str, Json]) -> bool:
    """Whether the decoder takes it."""
    try:
        decode(json.dumps(body).encode(), Arrival(id=RequestId("0" * 32), at=NOON))
    except RequestError:
        return False
    return True


@pytest.mark.parametrize("name", DIALECTS)
def test_the_smallest_body_is_described_and_accepted(name: str) -> None:
    dialect = DIALECTS[name]
    jsonschema_rs.Draft202012Validator(dialect.schema).validate(dialect.valid)
    assert arrive(dialect.decode(), dialect.valid)
    for member in dialect.schema["required"]:
        assert not arrive(dialect.decode(), {key: value for key, value in dialect.valid.items() if key != member})


@pytest.mark.parametrize(("name", "member"), ASKED)
def test_a_member_is_described_as_it_is_read(name: str, member: str) -> None:
    dialect = DIALECTS[name]
    assert member in dialect.schema["properties"]
    validator, decode = jsonschema_rs.Draft202012Validator(dialect.schema), dialect.decode()
    told: dict[str, list[Json]] = {"only described": [], "only accepted": []}
    for probe in PROBES:
        body = {**dialect.valid, **BESIDE.get((name, member), {}), member: probe}
        is_described, is_accepted = validator.is_valid(body), arrive(decode, body)
        if is_described and not is_accepted and (name, member) not in BEYOND_A_SCHEMA:
            told["only described"].append(probe)
        if is_accepted and not is_described and (name, member) not in NOT_DESCRIBED:
            told["only accepted"].append(probe)
    assert told == {"only described": [], "only accepted": []}


@pytest.mark.parametrize("name", DIALECTS)
def test_nothing_is_described_that_is_not_read_or_told_to_be_ignored(name: str) -> None:
    dialect = DIALECTS[name]
    for member, schema in dialect.schema["properties"].items():
        assert (member in dialect.known) != schema.get("description", "").startswith("Ignored: "), member

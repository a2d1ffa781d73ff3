"""The description of the server, and a fuzz that takes it at its word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from tests.server.live import LiveServer

Json = Any
"""The document."""

ENDLESS = ("/api/events",)
"""Streams that go on until the client leaves."""

Operation = schemathesis.APIOperation[Any, Any, Any, Any]

pytestmark = pytest.mark.filterwarnings(
    # The server runs in a thread of this process: hypothesis takes its random numbers for the strategy's.
    "ignore:Do not use the `random` module inside strategies:hypothesis.errors.HypothesisDeprecationWarning"
)


@pytest.fixture(scope="module")
def document(live: LiveServer) -> Json:
    answer = live.get("/openapi.json")
    assert answer.status_code == 200
    return answer.json()


def test_every_address_of_the_four_dialects_is_there_with_its_body(document: Json) -> None:
    bodies = {
        path: operations["post"]["requestBody"]["content"]["application/json"]["schema"].get("$ref", "").split("/")[-1]
        for path, operations in document["paths"].items()
        if "post" in operations
    }
    for path, body in {
        "/chat/completions": "ChatRequest",
        "/beta/v1/chat/completions": "ChatRequest",
        "/api/v1/chat/completions": "OpenRouterChatRequest",
        "/beta/completions": "CompletionRequest",
        "/anthropic/v1/messages": "MessagesRequest",
        "/anthropic/v1/messages/count_tokens": "MessagesRequest",
        "/v1/responses": "ResponsesRequest",
        "/responses/{id}/cancel": "",
    }.items():
        assert bodies[path] == body
    assert set(bodies.values()) - {""} == set(document["components"]["schemas"])
    assert "get" in document["paths"]["/v1/models/{model}"]
    assert document["paths"]["/v1/models/{model}"]["get"]["parameters"][0]["name"] == "model"


def test_errors_are_listed_with_the_statuses_of_each_dialect(document: Json) -> None:
    def statuses(path: str) -> set[str]:
        return set(document["paths"][path]["post"]["responses"])

    assert {"200", "400", "401", "413", "429", "500", "503"} <= statuses("/chat/completions")
    assert "503" in set(document["paths"]["/ready"]["get"]["responses"])


@pytest.fixture(scope="module")
def operations(live: LiveServer) -> dict[str, Operation]:
    results = list(schemathesis.openapi.from_url(f"{live.address}/openapi.json").get_all_operations())
    found = [result.ok() for result in results if isinstance(result, Ok)]
    assert len(found) == len(results)
    return {f"{operation.method} {operation.path}": operation for operation in found}


def fuzz(operations: Sequence[Operation], *modes: GenerationMode, num_examples: int) -> Counter[int]:
    """Send generated requests; returns how many were answered with which status."""
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=num_examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of([one.as_strategy(generation_mode=mode) for one in operations for mode in modes]))
    def send(case: schemathesis.Case[Any]) -> None:
        response = case.call(timeout=10)
        assert response.status_code < 500, (case, response.text)
        case.validate_response(response, checks=[status_code_conformance, content_type_conformance])
        statuses[response.status_code] += 1

    send()
    return statuses


@pytest.mark.parametrize(
    "name",
    [
        "post /chat/completions",
        "post /completions",
        "post /anthropic/v1/messages",
        "post /v1/responses",
        "post /api/v1/chat/completions",
        "post /v1",
    ],
)
def test_what_is_described_is_answered_and_what_is_not_is_refused(operations: dict[str, Operation], name: str) -> None:
    described = fuzz([operations[name]], GenerationMode.POSITIVE, num_examples=25)
    assert described[200] > 0
    others = fuzz([operations[name]], GenerationMode.NEGATIVE, num_examples=15)
    assert others[200] < sum(others.values())


def test_no_address_answers_with_a_fault_or_with_a_status_that_is_not_described(
    operations: dict[str, Operation],
) -> None:
    ending = [one for one in operations.values() if one.path not in ENDLESS]
    statuses = fuzz(ending, *GenerationMode, num_examples=100)
    assert {200, 400, 404} <= set(statuses)

"""A sample of the ten thousand answers of `bench.random_answers`."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from bench.random_answers import KINDS, SCHEMAS, Wish, answers, fault_of, random_backend, request_of, wishes

from deepserve.core.answer import Result
from deepserve.core.events import Finished
from deepserve.core.messages import Text, ToolCall
from deepserve.engine.native.shared_library import find_library
from tests.backends.test_enforced_answers import SHAPE

NUM_ANSWERS = 200


@pytest.mark.skipif(not SCHEMAS.is_dir(), reason="the public schema suites are not beside the checkout")
@pytest.mark.skipif(find_library() is None, reason="the reference engine would take minutes")
def test_answers_of_random_weights_have_the_form_of_their_random_schemas(tmp_path: Path) -> None:
    backend = random_backend(tmp_path, SHAPE)
    outcomes = asyncio.run(answers(backend, wishes(SCHEMAS, seed=20261122), NUM_ANSWERS))
    given = [outcome for outcome in outcomes if outcome.refusal is None]
    assert len(given) == NUM_ANSWERS
    assert [(outcome.wish.kind, outcome.wish.place, outcome.fault) for outcome in given if outcome.fault] == []
    assert sum(outcome.is_cut for outcome in given) <= NUM_ANSWERS // 100
    counts = Counter(outcome.wish.kind for outcome in given)
    assert all(counts[kind] > NUM_ANSWERS // 10 for kind in KINDS), counts


def test_a_wrong_answer_is_told() -> None:
    wish = Wish(place="", schema={"type": "object", "required": ["a"]}, kind="format", seed=1)
    tool = Wish(place="", schema=wish.schema, kind="strict tool", seed=1)

    def fault(wish: Wish, *parts: Text | ToolCall) -> str | None:
        return fault_of(wish, Result(parts=parts, finished=Finished(reason="stop", result=0, seed=0)))

    assert fault(wish, Text('{"a": 1}')) is None
    assert fault(tool, ToolCall(id="c", name="tool", arguments='{"a": 1}')) is None
    assert "invalid" in (fault(wish, Text("{}")) or "")
    assert "invalid" in (fault(tool, ToolCall(id="c", name="tool", arguments="{}")) or "")
    assert "0 calls" in (fault(tool, Text('{"a": 1}')) or "")
    assert "Expecting" in (fault(wish, Text('{"a": ')) or "")
    assert "1 calls" in (fault(wish, ToolCall(id="c", name="tool", arguments='{"a": 1}')) or "")


def test_each_kind_asks_for_the_form_in_its_own_way() -> None:
    requests = {kind: request_of(Wish(place="", schema={}, kind=kind, seed=30)) for kind in KINDS}
    assert requests["format after thinking"].thinking.budget_tokens == 6
    assert requests["format"].response_format.kind == "json_schema"
    assert requests["strict tool"].tools[0].strict
    assert requests["strict tool"].tool_choice.mode == "required"

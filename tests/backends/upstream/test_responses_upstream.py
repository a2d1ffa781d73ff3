"""Upstreams that speak Responses, over real sockets: whatever they do, a client gets an answer or a clear error."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from deepserve.backends.upstream.estimate import estimate_prompt_tokens
from deepserve.core.errors import BackendFailure, DeepserveError, Overloaded, RequestError, RequestTimedOut
from deepserve.core.events import Finished, UsageReported
from deepserve.core.usage import Usage
from tests.backends.upstream import setup as any_upstream
from tests.backends.upstream.setup import HASTY, KEY, Pauses, head, in_pieces, question_to, request, text_of
from tests.outgoing.receiver import answer

Json = Any
"""Events as services write them."""

told = partial(any_upstream.told, provider="responses")
error_of = partial(any_upstream.error_of, provider="responses")
failure_of = partial(any_upstream.failure_of, provider="responses")
counted = partial(any_upstream.counted, provider="responses")


def _frame(kind: str, **members: Json) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **members}).encode())


USAGE = {"input_tokens": 5, "output_tokens": 2}
START = _frame("response.created", response={"model": "m", "status": "in_progress"})
HELLO = (
    _frame("response.output_item.added", output_index=0, item={"type": "message", "content": []})
    + _frame("response.output_text.delta", output_index=0, delta="Hello")
    + _frame("response.output_text.delta", output_index=0, delta=" there")
)
END = _frame("response.completed", response={"model": "m", "status": "completed", "usage": USAGE})
ERROR = _frame("error", code="server_is_overloaded", message="full")
ALIVE = b": keep-alive\n\n"
GOOD = head() + START + ALIVE + HELLO + END


def test_an_answer_is_told_also_one_byte_at_a_time_and_whole() -> None:
    content = [{"type": "output_text", "text": "Hello there"}]
    whole = {"status": "completed", "output": [{"type": "message", "content": content}], "usage": USAGE}
    raw = START + ALIVE + HELLO + END
    for said in (
        GOOD,
        in_pieces(head(), *(bytes([byte]) for byte in raw)),
        head("application/json") + json.dumps(whole).encode(),
        in_pieces(head(), raw, repeats=ALIVE),
    ):
        events = told(said)
        assert text_of(events) == "Hello there"
        assert events[-2:] == [UsageReported(usage=Usage(miss_tokens=5, answer_tokens=2)), Finished(reason="stop")]


@pytest.mark.parametrize("kind", ["responses", "deepserve-responses"])
def test_the_question_goes_to_the_address_of_the_dialect_with_the_key(kind: str) -> None:
    received = question_to(kind, GOOD)
    assert received.target == "/v1/responses"
    assert {name for name, value in received.headers.items() if KEY in value} == {"authorization"}
    assert json.loads(received.body)["store"] is False


@pytest.mark.parametrize(
    ("answers", "cls", "said"),
    [
        (answer(400, body=b'{"error":{"message":"bad top_p"}}'), RequestError, "bad top_p"),
        (answer(401, body=b'{"error":{"message":"invalid key"}}'), BackendFailure, "the key"),
        (answer(404, body=b"not here"), BackendFailure, "not here"),
        (answer(502, body=b"<html>nginx</html>"), BackendFailure, "a page instead"),
        (head("text/html") + b"<html>hi</html>", BackendFailure, "web page"),
        (head("application/json") + b'{"output":[{"ty', BackendFailure, "cannot be read"),
        (head("application/json") + b'{"error":{"message":"inside"}}', BackendFailure, "inside"),
        (head("application/json") + b'{"choices":[]}', BackendFailure, "without output"),
        (head() + START + ERROR, Overloaded, "full"),
        (head() + START, BackendFailure, "before it began"),
        (head() + b"data: {oops\n\n", BackendFailure, "cannot be read"),
    ],
)
def test_what_is_no_answer_is_a_plain_error(answers: bytes, cls: type[DeepserveError], said: str) -> None:
    error = error_of(answers)
    assert type(error) is cls
    assert said in error.message


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        (b"", "closed the stream"),
        (b"data: [DONE]\n\n", "closed the stream"),
        (b"data: {oops\n\n", "cannot be read"),
        (ERROR, "full"),
        (_frame("response.failed", response={"status": "failed", "error": {"message": "gone"}}), "gone"),
        (_frame("response.function_call_arguments.delta", output_index=7, delta="{"), "did not begin"),
    ],
)
def test_a_stream_that_goes_wrong_ends_in_a_failure_with_usage(rest: bytes, said: str) -> None:
    assert said in failure_of(head() + START + HELLO + rest).message


def test_keep_alives_are_no_signs_of_life() -> None:
    assert isinstance(error_of(in_pieces(head() + START, repeats=ALIVE), limits=HASTY), RequestTimedOut)
    assert isinstance(failure_of(in_pieces(head() + START + HELLO, repeats=ALIVE), limits=HASTY), RequestTimedOut)


def test_what_cannot_have_cost_anything_is_asked_again() -> None:
    pauses = Pauses()
    events = told(answer(529), head() + START + ERROR, GOOD, sleep=pauses)
    assert isinstance(events[-1], Finished)
    assert len(pauses.seconds) == 2


def test_the_service_counts_where_it_can() -> None:
    count = answer(200, body=b'{"input_tokens":77}')
    assert counted(count, times=2) == ([77, 77], 2, False)
    estimate = estimate_prompt_tokens(request())
    assert counted(answer(404), times=2) == ([estimate, estimate], 1, True)

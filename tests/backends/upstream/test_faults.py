"""Whatever an upstream does, the client gets a terminal event or a plain error that says what happened."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from deepserve.backends.upstream.patience import Patience
from deepserve.core.errors import (
    BackendFailure,
    DeepserveError,
    Overloaded,
    RequestError,
    RequestTimedOut,
    TooManyRequests,
)
from deepserve.core.events import BlockDelta, Event, Finished, Started, UsageReported
from deepserve.core.sampling import Sampling
from deepserve.core.usage import Usage
from tests.backends.upstream.setup import (
    DONE,
    END,
    GOOD,
    HASTY,
    HELLO,
    KEY,
    QUICK,
    USAGE,
    Pauses,
    delta,
    error_of,
    events_from,
    failure_of,
    frame,
    gauges_after_leaving,
    head,
    in_pieces,
    request,
    text_of,
    told,
    upstream,
)
from tests.outgoing.receiver import Received, Receiver, answer, silent


def test_an_answer_is_told() -> None:
    events = told(GOOD)
    assert text_of(events) == "Hello there"
    assert events[-2:] == [UsageReported(usage=Usage(miss_tokens=5, answer_tokens=2)), Finished(reason="stop")]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_an_answer_may_come_one_byte_at_a_time(newline: bytes) -> None:
    raw = (b": keep-alive\n\n" + HELLO + END + DONE).replace(b"\n", newline)
    events = told(in_pieces(head(), *(bytes([byte]) for byte in raw)))
    assert text_of(events) == "Hello there"
    assert isinstance(events[-1], Finished)


@pytest.mark.parametrize("content_type", ["application/json", "application/octet-stream", "text/plain"])
def test_a_whole_answer_is_taken_though_a_stream_was_asked_for(content_type: str) -> None:
    body = {"model": "m", "choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}], "usage": USAGE}
    events = told(head(content_type) + b"\n\n" + json.dumps(body).encode())
    assert text_of(events) == "Hello"
    assert isinstance(events[-1], Finished)


@pytest.mark.parametrize(
    ("fields", "is_stream"),
    [
        ({"max_output_tokens": 100}, True),
        ({"max_output_tokens": 100, "is_whole": True}, False),
        ({"default_output_tokens": QUICK.whole_tokens, "is_whole": True}, False),
        ({"max_output_tokens": QUICK.whole_tokens + 1, "default_output_tokens": 1, "is_whole": True}, True),
        ({"is_whole": True}, True),
    ],
)
def test_what_the_client_gets_whole_and_cannot_be_long_is_asked_for_whole(
    fields: dict[str, Any], is_stream: bool
) -> None:
    whole = {
        "model": "m",
        "choices": [{"message": {"content": "Hello there"}, "finish_reason": "stop"}],
        "usage": USAGE,
    }

    async def heard() -> tuple[bytes, list[Event]]:
        said = GOOD if is_stream else answer(200, body=json.dumps(whole).encode())
        async with Receiver(said) as receiver, upstream(receiver.host) as backend, asyncio.timeout(8):
            events = [event async for event in backend.answer(request(**fields))]
            return receiver.received[0].body, events

    body, events = asyncio.run(heard())
    asked = json.loads(body)
    assert asked.get("stream", False) is is_stream
    assert ("stream_options" in asked) is is_stream
    assert text_of(events) == "Hello there"
    assert events[-2:] == [UsageReported(usage=Usage(miss_tokens=5, answer_tokens=2)), Finished(reason="stop")]


def test_what_is_asked_for_whole_may_take_longer_to_come() -> None:
    async def waits_s(*, is_whole: bool) -> float:
        return Patience(QUICK, is_whole=is_whole).first_event_s

    assert asyncio.run(waits_s(is_whole=False)) == QUICK.first_event_s
    assert asyncio.run(waits_s(is_whole=True)) == QUICK.first_event_s + QUICK.idle_s


def test_a_stream_is_known_by_its_looks_where_its_type_is_wrong() -> None:
    assert text_of(told(head("application/octet-stream") + HELLO + END)) == "Hello there"


def test_an_answer_without_usage_gets_an_estimate_that_says_so() -> None:
    events = told(head() + HELLO + frame(delta(finish="stop")) + DONE)
    reported = events[-2]
    assert isinstance(reported, UsageReported)
    assert reported.usage.is_estimated
    assert reported.usage.miss_tokens > 0
    assert reported.usage.answer_tokens > 0


def test_an_answer_that_ended_is_told_at_once_though_its_stream_never_ends() -> None:
    """As was seen of api.deepseek.com: comments for minutes after the last word (deepseek-harness, discussion 6959)."""
    events = told(in_pieces(head(), HELLO, END, repeats=b": keep-alive\n\n"))
    assert isinstance(events[-1], Finished)


def test_an_end_without_usage_is_not_waited_for_long() -> None:
    events = told(in_pieces(head(), HELLO, frame(delta(finish="stop")), stays=True))
    assert isinstance(events[-1], Finished)
    assert isinstance(events[-2], UsageReported)
    assert events[-2].usage.is_estimated


# Before anything was told


@pytest.mark.parametrize(
    ("answers", "cls", "said"),
    [
        (answer(400, body=b'{"error":{"message":"bad top_p"}}'), RequestError, "bad top_p"),
        (answer(401, body=b'{"error":{"message":"key ****cdef is invalid"}}'), BackendFailure, "does not accept"),
        (answer(402, body=b"{}"), BackendFailure, "used up"),
        (answer(404, body=b"not here"), BackendFailure, "not here"),
        (answer(302, "Location: http://127.0.0.1/"), BackendFailure, "status 302"),
        (answer(500, body=b'{"error":{"message":"oh"}}'), BackendFailure, "oh"),
        (answer(502, body=b"<html>nginx</html>"), BackendFailure, "a page instead"),
        (head("text/html") + b"<html>Welcome</html>", BackendFailure, "web page"),
        (head("application/json") + b'{"choices":[{"mess', BackendFailure, "cannot be read"),
        (head("application/json") + b'{"error":{"message":"inside"}}', BackendFailure, "inside"),
        (head("application/json"), BackendFailure, "cannot be read"),
        (head() + b'data: {"error":{"code":429,"message":"wait"}}\n\n', TooManyRequests, "wait"),
        (head(), BackendFailure, "before it began"),
        (head() + frame(delta(role="assistant", content="")) + DONE, BackendFailure, "before it began"),
        (head() + b"data: {oops\n\n", BackendFailure, "cannot be read"),
        (head() + b"data: " + b"x" * 5000 + b"\n\n", BackendFailure, "failed"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", BackendFailure, "Upstream"),
        (b"", BackendFailure, "Upstream"),
    ],
)
def test_what_is_no_answer_is_a_plain_error(answers: bytes, cls: type[DeepserveError], said: str) -> None:
    error = error_of(answers)
    assert type(error) is cls
    assert said in error.message


def test_an_upstream_that_never_begins_is_given_up() -> None:
    assert isinstance(error_of(in_pieces(head(), stays=True), limits=HASTY), RequestTimedOut)
    assert isinstance(error_of(in_pieces(head(), repeats=b": keep-alive\n\n"), limits=HASTY), RequestTimedOut)
    empty = frame(delta(content=""))
    assert isinstance(error_of(in_pieces(head(), repeats=empty), limits=HASTY), RequestTimedOut)


def test_an_upstream_that_takes_the_connection_and_says_nothing_is_given_up() -> None:
    async def ask() -> None:
        async with silent() as address, upstream(address, limits=HASTY) as backend:
            [event async for event in backend.answer(request())]

    with pytest.raises(RequestTimedOut):
        asyncio.run(ask())


def test_a_refusal_whose_words_never_end_is_still_one() -> None:
    endless = in_pieces(head("application/json", status=400), b'{"error":', repeats=b" ")
    assert isinstance(error_of(endless), RequestError)


# After the beginning


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        (b"", "closed the stream"),
        (b"data: {oops\n\n", "cannot be read"),
        (frame({"error": {"message": "died"}}), "died"),
        (frame({"error": {"code": 502, "message": "died"}, "choices": [{"finish_reason": "error"}]}), "died"),
        (frame({"choices": [{"index": 5, "delta": {"content": "x"}}]}), "not asked for"),
        (b"data: " + b"x" * 5000 + b"\n\n", "failed in the middle"),
    ],
)
def test_a_stream_that_goes_wrong_ends_in_a_failure(rest: bytes, said: str) -> None:
    assert said in failure_of(head() + HELLO + rest).message


def test_a_body_that_is_cut_short_ends_in_a_failure() -> None:
    short = b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nContent-Length: 100000\r\n\r\n" + HELLO
    assert "middle" in failure_of(short).message


def test_a_lack_of_resources_is_a_failure_that_may_pass() -> None:
    assert isinstance(failure_of(head() + HELLO + frame(delta(finish="insufficient_system_resource"))), Overloaded)


def test_a_stream_that_stops_talking_is_given_up() -> None:
    assert isinstance(failure_of(in_pieces(head(), HELLO, stays=True), limits=HASTY), RequestTimedOut)
    assert isinstance(failure_of(in_pieces(head(), HELLO, repeats=b": keep-alive\n\n"), limits=HASTY), RequestTimedOut)


def test_a_stream_that_repeats_itself_for_ever_ends() -> None:
    more = frame(delta(content="again "))
    endless = msgspec.structs.replace(QUICK, total_s=0.3)
    assert isinstance(failure_of(in_pieces(head(), HELLO, repeats=more), limits=endless), RequestTimedOut)
    bounded = msgspec.structs.replace(QUICK, answer_bytes=5000)
    assert "middle" in failure_of(in_pieces(head(), HELLO, repeats=more * 10), limits=bounded).message


# Again


def test_what_cannot_have_cost_anything_is_asked_again() -> None:
    pauses = Pauses()
    events = told(answer(503), answer(429, "Retry-After: 2"), GOOD, sleep=pauses)
    assert isinstance(events[-1], Finished)
    assert pauses.seconds == [0.5, 2.0]


def test_a_capacity_error_inside_a_stream_is_asked_again_while_nothing_was_told() -> None:
    assert isinstance(told(head() + b'data: {"error":{"code":503,"message":"full"}}\n\n', GOOD)[-1], Finished)


def test_after_the_last_try_the_upstreams_words_and_wait_reach_the_client() -> None:
    error = error_of(answer(429, "Retry-After: 3", body=b'{"error":{"message":"too fast"}}'))
    assert isinstance(error, TooManyRequests)
    assert "too fast" in error.message
    assert error.retry_after_s == 3.0


@pytest.mark.parametrize(
    ("value", "wait_s"), [("3600", 3600.0), ("Fri, 20 Nov 2026 12:01:00 GMT", 60.0), ("soon", 1.0), ("nan", 1.0)]
)
def test_a_long_wait_is_the_clients_to_take(value: str, wait_s: float) -> None:
    error = error_of(answer(503, f"Retry-After: {value}"))
    assert isinstance(error, Overloaded)
    assert error.retry_after_s == wait_s


@pytest.mark.parametrize("first", [answer(400), answer(401), answer(500), head(), head() + HELLO])
def test_what_may_have_cost_something_is_asked_once(first: bytes) -> None:
    async def ask() -> int:
        async with Receiver(first) as receiver, upstream(receiver.host) as backend:
            with suppress(DeepserveError):
                [event async for event in backend.answer(request())]
            return len(receiver.received)

    assert asyncio.run(ask()) == 1


def test_an_upstream_that_is_not_there_is_asked_again_and_then_said_to_be_away() -> None:
    async def ask(pauses: Pauses) -> None:
        async with Receiver() as receiver:
            address = receiver.host
        async with upstream(address, sleep=pauses) as backend:
            [event async for event in backend.answer(request())]

    pauses = Pauses()
    with pytest.raises(BackendFailure, match="cannot be reached"):
        asyncio.run(ask(pauses))
    assert len(pauses.seconds) == QUICK.num_retries


# Leaving


def test_a_client_that_leaves_ends_the_upstreams_work() -> None:
    assert gauges_after_leaving(head() + HELLO, b": keep-alive\n\n")["upstream_running"] == 0


def test_connections_are_used_again_after_a_whole_answer() -> None:
    body = HELLO + END + DONE
    kept = b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    async def ask() -> int:
        connections = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            try:
                while True:
                    raw = (await reader.readuntil(b"\r\n\r\n")).lower()
                    length = int(raw.partition(b"content-length:")[2].split(b"\r\n")[0])
                    await reader.readexactly(length)
                    writer.write(kept)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, upstream(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as backend:
            for _ in range(3):
                assert isinstance([event async for event in backend.answer(request())][-1], Finished)
        return connections

    assert asyncio.run(ask()) == 1


# Secrets


def test_the_key_goes_to_the_upstream_and_nowhere_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def ask() -> str:
        said = json.dumps({"error": {"message": f"no such thing as Bearer {KEY}"}}).encode()
        async with Receiver(answer(400, body=said)) as receiver, upstream(receiver.host) as backend:
            with pytest.raises(RequestError) as caught:
                [event async for event in backend.answer(request())]
            assert receiver.received[0].headers["authorization"] == f"Bearer {KEY}"
            assert receiver.received[0].target == "/v1/chat/completions"
            return caught.value.message + str(caught.value)

    assert KEY not in asyncio.run(ask()) + caplog.text


def test_events_are_told_as_they_come() -> None:
    """The first piece is here before the upstream writes the second: nothing holds answers back."""

    async def ask() -> list[Event]:
        heard = asyncio.Event()

        async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
            writer.write(head() + frame(delta(content="Hello")))
            await writer.drain()
            await heard.wait()
            writer.write(frame(delta(content=" there")) + END + DONE)

        events: list[Event] = []
        async with Receiver(respond) as receiver, upstream(receiver.host) as backend, asyncio.timeout(5):
            async for event in backend.answer(request()):
                events.append(event)
                if isinstance(event, BlockDelta):
                    heard.set()
        return events

    assert text_of(asyncio.run(ask())) == "Hello there"


def test_many_requests_run_side_by_side() -> None:
    async def ask() -> int:
        async with Receiver(GOOD) as receiver, upstream(receiver.host) as backend:

            async def one() -> str:
                return text_of([event async for event in backend.answer(request())])

            return (await asyncio.gather(*(one() for _ in range(50)))).count("Hello there")

    assert asyncio.run(ask()) == 50
    assert text_of(asyncio.run(events_from(GOOD))) == "Hello there"


@pytest.mark.parametrize("before", [b"", HELLO])
def test_a_key_that_an_upstream_quotes_in_its_answer_is_not_told(before: bytes) -> None:
    quoted = frame({"error": {"message": f"bad key {KEY}"}})
    said = (failure_of if before else error_of)(head() + before + quoted).message
    assert "bad key [key]" in said
    assert KEY not in said


def test_a_refusal_is_read_up_to_a_limit() -> None:
    endless = in_pieces(head("application/json", status=400), repeats=b"x" * 100_000)
    assert isinstance(error_of(endless, limits=msgspec.structs.replace(QUICK, error_s=5.0)), RequestError)


def test_what_the_upstream_does_not_take_is_told_with_the_answer() -> None:
    asked = request(sampling=Sampling(top_k=5, temperature=0.5))
    started = told(GOOD, asked=asked, provider="deepseek")[0]
    assert isinstance(started, Started)
    assert started.relaxed == ("temperature (not taken by Upstream)", "top_k (not taken by Upstream)")

"""What a service says of its tokens' probabilities, also where it says it in part."""

from __future__ import annotations

import pytest

from deepserve.core.events import TokenLogprob
from deepserve.dialects.chat.wire import WireLogprob, WireTopLogprob
from deepserve.dialects.responses.upstream_wire import ReadLogprob, ReadTopLogprob
from deepserve.dialects.upstream_logprobs import ReadDrawn, decode_logprobs


@pytest.mark.parametrize(
    "drawn",
    [
        WireLogprob("x", -0.5, [120], [WireTopLogprob("\ufffd", -1.0, [0xE2, 0x80])]),
        ReadLogprob("x", -0.5, [120], [ReadTopLogprob("\ufffd", -1.0, [0xE2, 0x80])]),
    ],
)
def test_a_token_keeps_its_bytes_and_those_it_was_drawn_among(drawn: ReadDrawn) -> None:
    other = TokenLogprob(token="\ufffd", logprob=-1.0, bytes=b"\xe2\x80")
    assert decode_logprobs([drawn]) == (TokenLogprob(token="x", logprob=-0.5, bytes=b"x", top=(other,)),)


@pytest.mark.parametrize("values", [None, [], [256], [-1]])
def test_bytes_that_are_none_are_those_of_the_tokens_text(values: list[int] | None) -> None:
    for drawn in (WireLogprob("é", -0.5, values), ReadLogprob("é", -0.5, values)):
        (found,) = decode_logprobs([drawn])
        assert (found.bytes, found.top) == ("é".encode(), ())


def test_nothing_said_of_tokens_is_nothing() -> None:
    assert decode_logprobs(None) == decode_logprobs([]) == ()

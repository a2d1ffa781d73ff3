"""A count of another service is a number of tokens, or an error that says what it is instead."""

from __future__ import annotations

import pytest

from deepserve.core.errors import BackendFailure
from deepserve.dialects.upstream_count import decode_count


def test_a_count_is_a_number_of_tokens_whatever_stands_beside_it() -> None:
    assert decode_count(b'{"input_tokens":7,"more":1}', title="Upstream") == 7
    assert decode_count(b'{"object":"response.input_tokens","input_tokens":7}', title="Upstream") == 7


@pytest.mark.parametrize("body", [b"{}", b'{"input_tokens":"7"}', b"<html>", b"\xff", b"[" * 100_000])
def test_what_is_no_count_cannot_be_read(body: bytes) -> None:
    with pytest.raises(BackendFailure, match="Upstream sent a count of tokens that cannot be read"):
        decode_count(body, title="Upstream")


def test_a_count_below_zero_is_told_as_it_came() -> None:
    with pytest.raises(BackendFailure, match="Upstream counted -1 tokens"):
        decode_count(b'{"input_tokens":-1}', title="Upstream")

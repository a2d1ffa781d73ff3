"""Questions to a mask."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deepserve.backends.cluster.token_masks import allows, few_tokens, only_token

NUM_TOKENS = 77


def mask_of(tokens: set[int]) -> bytes:
    bits = bytearray(-(-NUM_TOKENS // 8))
    for token in tokens:
        bits[token // 8] |= 1 << token % 8
    return bytes(bits)


@given(tokens=st.sets(st.integers(0, NUM_TOKENS - 1)), most=st.integers(0, NUM_TOKENS))
def test_a_mask_says_what_was_put_into_it(tokens: set[int], most: int) -> None:
    mask = mask_of(tokens)
    assert {token for token in range(10 * NUM_TOKENS) if allows(mask, token)} == tokens
    assert only_token(mask) == (next(iter(tokens)) if len(tokens) == 1 else None)
    assert few_tokens(mask, most=most) == (sorted(tokens) if len(tokens) <= most else [])


def test_no_mask_allows_all() -> None:
    assert allows(None, 10**6)
    assert only_token(None) is None

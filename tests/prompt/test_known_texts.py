"""Tokenised texts that are remembered: the same ids, within bounds, each owner's for itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from deepserve.backends.tokens.model import load_model
from deepserve.prompt.known_texts import KnownTexts
from deepserve.prompt.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_model(None, None).tokenizer


class _Counting:
    """A tokenizer that counts what it is asked."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.num_texts = 0

    def encode_text(self, text: str) -> Sequence[int]:
        self.num_texts += 1
        return self._tokenizer.encode_text(text)


def _known(tokenizer: Tokenizer, max_bytes: int = 1 << 20) -> tuple[KnownTexts, _Counting]:
    counting = _Counting(tokenizer)
    return KnownTexts(counting, max_bytes=max_bytes), counting  # type: ignore[arg-type]  # what it needs of one


def test_a_long_text_is_tokenised_once_for_each_owner(tokenizer: Tokenizer) -> None:
    known, counting = _known(tokenizer)
    text = "The weather in Paris is fine. " * 100
    for _ in range(3):
        assert list(known.ids("anna", text)) == tokenizer.encode_text(text)
    assert counting.num_texts == 1
    assert list(known.ids("ben", text)) == tokenizer.encode_text(text)
    assert counting.num_texts == 2


def test_short_texts_are_not_kept(tokenizer: Tokenizer) -> None:
    known, counting = _known(tokenizer)
    assert [list(known.ids("anna", "Hello")) for _ in range(2)] == [tokenizer.encode_text("Hello")] * 2
    assert (counting.num_texts, known.size_bytes) == (2, 0)


def test_the_least_recently_used_text_goes_first(tokenizer: Tokenizer) -> None:
    first, second, third = (f"{word} " * 2000 for word in ("one", "two", "six"))
    sizes = [300 + 4 * len(tokenizer.encode_text(text)) for text in (first, second, third)]
    known, counting = _known(tokenizer, max_bytes=sum(sizes) - 1)
    for text in (first, second, first, third):
        known.ids("anna", text)
    assert known.size_bytes == sizes[0] + sizes[2]
    asked = counting.num_texts
    known.ids("anna", first)
    assert counting.num_texts == asked
    known.ids("anna", second)
    assert counting.num_texts == asked + 1


def test_a_text_beyond_the_bound_pushes_nothing_out(tokenizer: Tokenizer) -> None:
    small, large = "one " * 1000, "two " * 9000
    known, counting = _known(tokenizer, max_bytes=400 + 4 * len(tokenizer.encode_text(small)))
    known.ids("anna", small)
    assert list(known.ids("anna", large)) == tokenizer.encode_text(large)
    known.ids("anna", small)
    assert counting.num_texts == 2


def test_broken_characters_are_tokenised_alike(tokenizer: Tokenizer) -> None:
    text = "\ud800" + "x" * 3000
    known, _ = _known(tokenizer)
    assert list(known.ids("anna", text)) == tokenizer.encode_text(text)

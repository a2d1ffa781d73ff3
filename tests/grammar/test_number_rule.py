"""How long a number may still become, counted on token by token, against its text read as a whole."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from deepserve.grammar.number_rule import MAX_DIGITS, MAX_EXPONENT_DIGITS, NumberRule, Numbers
from deepserve.grammar.vocabulary import Vocabulary

TEXTS = ("", "0", "7", "42", "123", "e", "E", "-", "+", "e-", "1e5", ".", ".5", ",", ", 8", '"', "the", "x9", "</s>")
VOCABULARY = Vocabulary(
    token_bytes=[text.encode() for text in TEXTS],
    special_ids=[TEXTS.index("</s>")],
    stop_ids=[TEXTS.index("</s>")],
    num_tokens=len(TEXTS),
    encode=lambda text: [TEXTS.index(character) for character in text],
)
RULE = NumberRule(VOCABULARY)
NUMBER_TOKENS = [token for token in VOCABULARY.plain_ids if TEXTS[token][0] in "0123456789+-.eE,"]
MASK = VOCABULARY.mask([token for token in NUMBER_TOKENS if not TEXTS[token][:1].isalpha() or TEXTS[token][0] in "eE"])
EXPONENT = re.compile(r"[0-9][eE][+-]?([0-9]*)\Z")
TOKENS = st.sampled_from(VOCABULARY.plain_ids)
ROWS = st.lists(st.one_of(st.sampled_from([TEXTS.index(text) for text in ("7", "42", "123")]), TOKENS), max_size=90)


def expected(tokens: list[int]) -> set[str]:
    """The texts that may follow, by the definition."""
    text = "".join(TEXTS[token] for token in tokens)
    exponent = EXPONENT.search(text)
    num_digits = len(text) - len(text.rstrip("0123456789"))
    left = MAX_EXPONENT_DIGITS - len(exponent[1]) if exponent is not None else MAX_DIGITS - num_digits
    allowed = {TEXTS[token] for token in VOCABULARY.plain_ids if MASK[token // 8] >> token % 8 & 1}
    fitting = {text for text in allowed if len(text) - len(text.lstrip("0123456789")) <= max(0, left)}
    return fitting or allowed


def allowed_by(numbers: Numbers, tokens: list[int]) -> set[str]:
    mask = numbers.narrowed(MASK, tokens)
    return {TEXTS[token] for token in VOCABULARY.plain_ids if mask[token // 8] >> token % 8 & 1}


@given(ROWS)
def test_a_number_that_is_counted_on_is_as_long_as_one_that_is_read(row: list[int]) -> None:
    numbers = Numbers(RULE)
    for end in range(1, len(row) + 1):
        found = allowed_by(numbers, row[:end])
        assert found == allowed_by(Numbers(RULE), row[:end]) == allowed_by(numbers.copy(), row[:end])
        assert found == expected(row[:end]), "".join(TEXTS[token] for token in row[:end])


@given(ROWS, st.integers(1, 12), ROWS)
def test_tokens_that_were_taken_back_do_not_count(row: list[int], num_undone: int, other: list[int]) -> None:
    numbers = Numbers(RULE)
    for end in range(1, len(row) + 1):
        allowed_by(numbers, row[:end])
    kept = row[: max(0, len(row) - num_undone)]
    numbers.undo(len(kept))
    for end in range(len(kept) + 1, len(kept) + len(other) + 1):
        tokens = [*kept, *other][:end]
        assert allowed_by(numbers, tokens) == expected(tokens)


def test_a_row_of_digits_ends_at_its_limit_wherever_its_tokens_end() -> None:
    numbers, tokens = Numbers(RULE), [TEXTS.index(",")]
    while "7" in allowed_by(numbers, tokens):
        longest = max((text for text in allowed_by(numbers, tokens) if text.isdigit()), key=len)
        tokens.append(TEXTS.index(longest))
    assert len("".join(TEXTS[token] for token in tokens[1:])) == MAX_DIGITS


def test_an_exponent_counts_however_many_tokens_back_it_began() -> None:
    """Regression: behind an exponent of more digits than the tokens looked at, it was taken for plain digits."""
    tokens = [TEXTS.index(text) for text in ("7", "e", *"7777777777")]
    assert allowed_by(Numbers(RULE), tokens).isdisjoint({"0", "7", "42", "123", "1e5"})

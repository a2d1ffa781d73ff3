"""What is found out about a client's regular expression without running it."""

import pytest

from deepserve.core.regular_expression import judge_expression, repetitions


@pytest.mark.parametrize(
    ("expression", "verdict"),
    [
        ("^a+$", "linear"),
        (r"^\p{L}\d[\w-]*$", "linear"),
        ("(?=a)b", "backtracking"),
        (r"(a)\1", "backtracking"),
        ("(", "malformed"),
        ("[z-a]", "malformed"),
        ("\ud800", "malformed"),
    ],
)
def test_an_expression_is_linear_backtracking_or_none(expression: str, verdict: str) -> None:
    assert judge_expression(expression) == verdict


@pytest.mark.parametrize(
    ("expression", "largest", "product"),
    [
        ("abc*", 1, 1),
        ("a{3}b{2,7}", 7, 7),
        ("(a{30}b){40,}", 40, 1200),
        ("((a{2}){3}){4}", 4, 24),
        ("a{3}{4}", 4, 12),
        (r"\{5}[{9}]x{2}", 2, 2),
        (r"[\]{8}]{3}", 3, 3),
        ("[]a]{4}", 4, 4),
        ("a{,5}b{x}", 1, 1),
        ("a{1234567890123}", 10**9, 10**9),
        ("(a{10}|b{20}c){5}", 20, 100),
        ("{", 1, 1),
        ("[", 1, 1),
        ("(a{3})?{2}", 3, 6),
    ],
)
def test_bounds_of_repetitions_multiply_inside_each_other(expression: str, largest: int, product: int) -> None:
    assert repetitions(expression) == (largest, product)

"""The page about enforced output states the numbers that the code has."""

from pathlib import Path

from deepserve.backends.tokens import form
from deepserve.grammar import compiler, guide
from deepserve.grammar.nesting_rule import MAX_NESTING
from deepserve.grammar.number_rule import MAX_DIGITS, MAX_EXPONENT_DIGITS
from deepserve.prompt.json_text import MAX_DEPTH

_PAGE = " ".join((Path(__file__).parents[2] / "docs" / "enforced-output.md").read_text().split())


def test_the_numbers_are_those_of_the_code() -> None:
    assert (form._TEXT_SHARE, form._THINKING_SHARE, guide._MOST_BLANKS) == (4, 4, 3)
    assert f"a quarter of the output limit, at most {form._MOST_TEXT_TOKENS:,} tokens" in _PAGE
    assert f"twice its shortest answer and {form._FORM_MARGIN} tokens" in _PAGE
    assert "no more than three quarters of the limit" in _PAGE
    assert "three tokens of white space at most" in _PAGE
    assert f"at most {MAX_EXPONENT_DIGITS} digits and numbers at most {MAX_DIGITS} in a row" in _PAGE
    assert f"brackets go {MAX_NESTING} deep" in _PAGE
    assert f"no further than {MAX_DEPTH}" in _PAGE
    assert f"more than {compiler.MAX_COMPILE_S:g} s or {compiler._MAX_AUTOMATON_STATES:,} states" in _PAGE
    assert f"; {compiler.MAX_CACHED_FORMS} of them are remembered" in _PAGE

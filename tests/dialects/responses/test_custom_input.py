"""Plain input out of JSON that arrives in pieces."""

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from deepserve.dialects.responses.custom_input import InputReader, whole_input

_CHARACTERS = st.characters(exclude_categories=["Cs"])


@given(text=st.text(_CHARACTERS), cuts=st.lists(st.integers(0, 200)), is_ascii=st.booleans())
def test_however_the_arguments_are_cut_the_pieces_join_to_the_input(text: str, cuts: list[int], is_ascii: bool) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=is_ascii)
    borders = sorted({0, len(arguments), *(cut for cut in cuts if cut < len(arguments))})
    reader = InputReader()
    told = "".join(reader.feed(arguments[begin:end]) for begin, end in itertools.pairwise(borders))
    assert told + reader.finish() == reader.whole == text


@given(arguments=st.text(alphabet='{}"\\inputu:d83 \n,x'), cut=st.integers(0, 40))
def test_whatever_comes_the_pieces_never_contradict_the_whole(arguments: str, cut: int) -> None:
    reader = InputReader()
    told = reader.feed(arguments[:cut]) + reader.feed(arguments[cut:])
    assert told + reader.finish() == reader.whole


def test_a_call_that_was_cut_off_keeps_what_was_told() -> None:
    reader = InputReader()
    assert reader.feed('{"input": "abc\\u00') == "abc"
    assert (reader.finish(), reader.whole) == ("", "abc")


def test_what_is_not_of_the_form_is_passed_on() -> None:
    assert whole_input('{"a": 1}') == '{"a": 1}'
    assert whole_input("{") == "{"
    assert whole_input("[1]") == "[1]"

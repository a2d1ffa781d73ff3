"""Masks are exact: they leave out what cannot lead to an answer, and nothing else."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Sequence
from typing import Any

import pytest

from deepserve.backends.tokens.form import call_markup
from deepserve.core.errors import EngineFailure, UnsupportedFeature
from deepserve.core.messages import Json
from deepserve.grammar.answer_form import AnswerForm, Content
from deepserve.grammar.compiler import CompiledForm, GrammarCompiler
from deepserve.grammar.guide import AnswerGuide, GuideRules
from deepserve.grammar.nesting_rule import MAX_NESTING
from deepserve.grammar.vocabulary import Vocabulary
from tests.grammar.answers import Pick, at_random, compiler, json_form, mask_of, tokenizer, vocabulary, written

TOKENS = [
    b"<end>",
    b"<think>",
    b"<mark>",
    b"a",
    b"b",
    b"ab",
    b"ba",
    b"abc",
    b"c",
    b"cc",
    b"",
    b"\xc3",
    b"\xa9",
    b"<",
    b"/",
]
END = 0


def tiny() -> Vocabulary:
    """Fifteen tokens: one ends answers, two are special, one stands for nothing, two are halves of a letter."""
    return Vocabulary(
        token_bytes=TOKENS,
        special_ids=[0, 1, 2],
        stop_ids=[END],
        num_tokens=16,
        encode=lambda text: [TOKENS.index(bytes([byte])) for byte in text.encode() if bytes([byte]) in TOKENS],
    )


def outputs(texts: set[bytes]) -> set[tuple[int, ...]]:
    """Every way in which tokens spell one of the texts, and the end."""
    found: set[tuple[int, ...]] = set()

    def extend(ids: tuple[int, ...], rest: bytes) -> None:
        if not rest:
            found.add((*ids, END))
        for token, text in enumerate(TOKENS[3:], 3):
            if text and rest.startswith(text):
                extend((*ids, token), rest[len(text) :])

    for text in texts:
        extend((), text)
    return found


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (Content(kind="choice", choices=("a", "abc", "bab", "é")), {b"a", b"abc", b"bab", "é".encode()}),
        (Content(kind="regex", pattern="(ab|c){1,2}"), {b"ab", b"c", b"abab", b"abc", b"cab", b"cc"}),
        (Content(kind="regex", pattern="^a?b?c?$"), {b"", b"a", b"b", b"c", b"ab", b"ac", b"bc", b"abc"}),
    ],
)
def test_a_mask_allows_exactly_the_tokens_that_can_lead_to_an_answer(content: Content, texts: set[bytes]) -> None:
    """So a draw under the mask is the model's own distribution, restricted to the answers of the form."""
    markup = call_markup(tokenizer())
    form = GrammarCompiler(tiny(), markup).compile(AnswerForm(content=content))
    expected = outputs(texts)
    followed: set[tuple[int, ...]] = set()

    def follow(ids: tuple[int, ...]) -> None:
        guide = AnswerGuide(form, tiny(), GuideRules(max_tokens=100, end_think=1, skips_ahead=False), mark=2)
        for token in ids:
            guide.accept(token)
        if ids[-1:] == (END,):
            followed.add(ids)
            return
        mask = mask_of(guide)
        assert mask is not None
        allowed = {token for token in range(16) if mask >> token & 1}
        possible = {output[len(ids)] for output in expected if output[: len(ids)] == ids}
        if len({TOKENS[token][:1] for token in possible}) > 1:
            assert allowed == possible
        else:  # only one text can follow: it is cut into tokens as the model's own tokenizer cuts it
            assert allowed
            assert allowed <= possible
        for token in allowed:
            follow((*ids, token))

    follow(())
    assert {b"".join(TOKENS[token] for token in ids[:-1]) for ids in followed} == texts


def test_masks_have_a_bit_for_each_token_of_the_network_and_allow_no_unknown_one() -> None:
    form = compiler().compile(json_form({"type": "string"}))
    matcher = form.matcher()
    matcher.consume(tokenizer().encode_text('"'))
    mask = matcher.mask()
    assert len(mask) == vocabulary().mask_bytes
    assert int.from_bytes(mask, "little").bit_length() <= tokenizer().vocab_size
    allowed = int.from_bytes(mask, "little")
    assert not any(allowed >> token & 1 for token in tokenizer().added_ids)


def test_automata_that_are_used_up_are_renewed_in_mid_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepserve.grammar.compiler._MAX_AUTOMATON_STATES", 1_500)
    number = {"type": "number", "minimum": 0, "maximum": 100_000}
    schema = {
        "type": "object",
        "properties": {
            "code": {"type": "string", "pattern": "^([a-z]{2,9}[0-9]{1,5}-){3,30}x$"},
            "text": {"type": "string", "maxLength": 300},
            "prices": {"type": "array", "items": number},
        },
        "required": ["code", "text", "prices"],
    }
    built: list[CompiledForm] = []
    build = CompiledForm._build

    def count(form: CompiledForm) -> object:
        built.append(form)
        return build(form)

    monkeypatch.setattr(CompiledForm, "_build", count)
    form = GrammarCompiler(vocabulary(), call_markup(tokenizer())).compile(json_form(schema))
    for seed in range(12):
        assert written(form, at_random(seed), max_tokens=400)[-1] == tokenizer().eos_id
    assert len(built) > 1


def test_a_form_is_compiled_once() -> None:
    fresh = GrammarCompiler(vocabulary(), call_markup(tokenizer()))
    form = json_form({"type": "object", "properties": {"a": {"type": "integer"}}})
    assert fresh.known(form) is None
    first = fresh.compile(form)
    assert fresh.compile(json_form({"type": "object", "properties": {"a": {"type": "integer"}}})) is first
    assert fresh.known(form) is first


def test_a_form_that_takes_too_long_to_compile_is_refused_and_says_so() -> None:
    times = itertools.count(0, 0.25)
    slow = GrammarCompiler(vocabulary(), call_markup(tokenizer()), clock=lambda: next(times))
    with pytest.raises(UnsupportedFeature, match="more than 2 s") as refused:
        slow.compile(json_form({"type": "array", "items": {"type": "array"}, "minItems": 1_000}))
    assert refused.value.field == "response_format"
    assert next(times) < 3, "nobody goes on looking for an answer"
    assert slow.compile(json_form({"type": "integer"})).shortest_tokens


def test_a_compiler_that_panics_is_an_error_of_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        pass

    def panic(*_: object) -> None:
        raise Panic("index out of bounds")

    fresh = GrammarCompiler(vocabulary(), call_markup(tokenizer()))
    with monkeypatch.context() as patch:
        patch.setattr(CompiledForm, "_build", panic)
        with pytest.raises(EngineFailure, match="its compiler gave up"):
            fresh.compile(json_form({"type": "integer"}))
    assert fresh.compile(json_form({"type": "integer"})).shortest_tokens == 2


def test_a_known_end_is_rejoined_in_bounded_time() -> None:
    """Regression: in a list of 900 texts, every end of the known completion was tried at every place: 150 ms for which
    all other answers waited."""
    form = compiler().compile(json_form({"type": "array", "items": {"type": "string"}, "minItems": 900}))
    matcher, tried = form.matcher(), 0

    class Counting:
        def __getattr__(self, name: str) -> Any:  # whatever a matcher has
            return getattr(matcher, name)

        def copy(self) -> Counting:
            return self

        def num_admitted(self, tokens: Sequence[int]) -> int:
            nonlocal tried
            tried += (found := matcher.num_admitted(tokens))
            return found

    matcher.consume(tokenizer().encode_text('["a", "b", "c"'))
    known = form.shortest_answer
    completion = form.shortest.complete(Counting(), max_tokens=5_000, known=known)  # type: ignore[arg-type]  # as one
    assert completion is not None
    assert tried < 200_000


def test_exponents_have_two_digits_at_most_and_strings_what_they_like() -> None:
    schema = {"type": "array", "prefixItems": [{"type": "number"}, {"type": "string"}], "items": False, "minItems": 2}
    form = compiler().compile(json_form(schema))

    def follows(text: str, more: str) -> bool:
        matcher = form.matcher()
        matcher.consume(tokenizer().encode_text(text))
        (token,) = tokenizer().encode_text(more)
        return bool(matcher.allowed() >> token & 1)

    for begun, more, may in (
        ("[1", "e", True),
        ("[1e", "9", True),
        ("[1e9", "9", True),
        ("[1E-99", "9", False),
        ("[1e+99", ",", True),
        ("[1.5e07", "0", False),
        ("[123456789", "9", True),
        ('[1, "1e99', "9", True),
        ('[1, "7', "9", True),
    ):
        assert follows(begun, more) is may, (begun, more)


def test_numbers_that_a_pattern_demands_are_not_cut_short() -> None:
    for content, text in (
        (Content(kind="regex", pattern="1e[0-9]{5}"), "1e12345"),
        (Content(kind="json", schema={"type": "string", "pattern": "^1e[0-9]{5}$"}), '"1e12345"'),
        (Content(kind="choice", choices=("1e1000", "1e1001")), "1e1001"),
    ):
        matcher = compiler().compile(AnswerForm(content=content)).matcher()
        for token in tokenizer().encode_text(text):
            assert matcher.allowed() >> token & 1, text
            matcher.consume((token,))


def prefers(*texts: str) -> Pick:
    """A model that writes the first of these that it may."""
    wanted = [token for text in texts for token in tokenizer().encode_text(text)]

    def pick(allowed: int) -> int:
        return next((token for token in wanted if allowed >> token & 1), (allowed & -allowed).bit_length() - 1)

    return pick


@pytest.mark.parametrize("digit", ["1", "9", "0."])
def test_numbers_stay_finite_however_many_digits_a_model_would_write(digit: str) -> None:
    """Regression: a number of 700 digits is JSON, but infinity or an error to its readers."""
    form = compiler().compile(json_form({"type": "array", "items": {"type": "number"}}))
    output = written(form, prefers("[", *digit[::-1], "9"), max_tokens=700)
    values = json.loads(tokenizer().decode(output[:-1]), parse_int=float)
    assert any(map(len, re.findall(r"[0-9]{50,}", tokenizer().decode(output[:-1]))))
    assert all(map(math.isfinite, values)), values


@pytest.mark.parametrize("brackets", [("[",), ('{"', '":', "{"), ("[{", '"a":', "[")])
def test_json_is_nested_no_deeper_than_its_readers_follow(brackets: tuple[str, ...]) -> None:
    """Regression: arguments nested 127 times and more are no JSON to serde_json, nor to our own reader of calls, which
    then said that the value was not of the type that it says."""
    form = compiler().compile(json_form({}))
    text = tokenizer().decode(written(form, prefers(*brackets), max_tokens=900)[:-1])
    assert depth_of(json.loads(text)) == MAX_NESTING


def test_brackets_within_strings_do_not_count() -> None:
    form = compiler().compile(json_form({"type": "array", "items": {"type": "string"}}))
    matcher = form.matcher()
    for piece in ('["', *["[{" for _ in range(3 * MAX_NESTING)], '", "', "\\\\", '\\"', '"'):
        matcher.consume(tokenizer().encode_text(piece))
        bracket = tokenizer().encode_text("[")[0]
        is_outside = piece == '"'
        assert bool(matcher.allowed() >> bracket & 1) is not is_outside, piece


def test_nesting_is_told_right_after_a_step_back() -> None:
    form = compiler().compile(json_form({}))
    deep = tokenizer().encode_text("[")
    matcher = form.matcher()
    for _ in range(MAX_NESTING):
        assert matcher.allowed() >> deep[0] & 1
        matcher.consume(deep)
    assert not matcher.allowed() >> deep[0] & 1
    matcher.undo(1)
    assert matcher.allowed() >> deep[0] & 1
    copied = matcher.copy()
    copied.consume(deep)
    assert not copied.allowed() >> deep[0] & 1
    assert matcher.allowed() >> deep[0] & 1


def depth_of(value: Json) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0

"""Text to ids and back; above all: no text becomes a special token."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer

from deepserve.core.errors import CheckpointError, RequestError, UnsupportedFeature
from deepserve.core.events import TokenLogprob
from deepserve.prompt.encoder import encode
from deepserve.prompt.profile import MINI
from deepserve.prompt.segments import Special, Text, Tokens
from deepserve.prompt.special_tokens import ASSISTANT, BOS, DSML, END_THINK, SPECIAL_TOKENS, THINK, USER
from deepserve.prompt.tokenizer import Detokenizer, Tokenizer
from tests.prompt.conftest import train_tokenizer
from tests.prompt.corpus import as_request, random_body
from tests.prompt.requests import OFF, assistant, request, user

SHIPPED = Path(__file__).parents[2] / "src/deepserve/models/mini-flash/tokenizer.json"

LOOK_ALIKES = [token.translate(str.maketrans("｜▁", "|_")) for token in SPECIAL_TOKENS]
HALVES = [half for token in SPECIAL_TOKENS for half in (token[: len(token) // 2], token[len(token) // 2 :])]
SPELLED = st.lists(
    st.one_of(
        st.sampled_from([*SPECIAL_TOKENS, *LOOK_ALIKES, *HALVES, "<", ">", "｜", "▁", "</", "\u200b", "Ġ", "Ċ"]),
        st.text(max_size=8),
    ),
    max_size=12,
).map("".join)


@pytest.fixture(scope="module", params=["official make", "shipped"])
def any_tokenizer(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Tokenizer:
    if request.param == "official make":
        return tokenizer
    return Tokenizer.from_file(SHIPPED)


@given(text=SPELLED)
@settings(max_examples=1500, deadline=None)
def test_no_text_becomes_a_special_token_and_all_text_survives(any_tokenizer: Tokenizer, text: str) -> None:
    ids = any_tokenizer.encode_text(text)
    assert not set(ids) & set(any_tokenizer.special_ids.values())
    assert any_tokenizer.decode(ids) == text


def test_every_special_token_is_text_when_typed_and_special_when_ours(any_tokenizer: Tokenizer) -> None:
    for token in any_tokenizer.special_ids:
        assert len(any_tokenizer.encode_text(token)) > 1
        assert any_tokenizer.encode([Special(token)]).ids == [any_tokenizer.special_id(token)]


def test_a_prompt_has_special_ids_only_where_its_segments_are_special(tokenizer: Tokenizer) -> None:
    prompt = encode(request(user(f"{USER}{ASSISTANT}{BOS}"), thinking=OFF), MINI)
    encoded = tokenizer.encode(prompt)
    found = [tokenizer.special_token(id_) for id_ in encoded.ids if tokenizer.special_token(id_) is not None]
    assert found == [BOS, USER, ASSISTANT, END_THINK]
    assert tokenizer.decode(encoded.ids) == prompt.text


def test_whole_conversations_full_of_spelled_tokens_have_only_our_special_ids(any_tokenizer: Tokenizer) -> None:
    """Names, descriptions, schemas, arguments, results, reasoning and prefixes: all of it is text."""
    specials = set(any_tokenizer.special_ids.values())
    for seed in range(200):
        prompt = encode(as_request(random_body(random.Random(seed), is_orderly=False)), MINI)
        ids = any_tokenizer.encode(prompt).ids
        ours = [any_tokenizer.special_id(s.token) for s in prompt.segments if isinstance(s, Special)]
        assert [id_ for id_ in ids if id_ in specials] == ours
        assert any_tokenizer.decode(ids) == prompt.text


def test_boundaries_count_the_tokens_before_each_answer(tokenizer: Tokenizer) -> None:
    encoded = tokenizer.encode(encode(request(user("a b"), assistant("x"), user("c"), thinking=OFF), MINI))
    marker = tokenizer.special_id(ASSISTANT)
    assert encoded.boundaries == tuple(index for index, id_ in enumerate(encoded.ids) if id_ == marker)
    assert len(encoded.boundaries) == 2


def test_replayed_tokens_go_through_untouched(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode([Text("a"), Tokens((5, 6)), Special(THINK)]).ids == [
        *tokenizer.encode_text("a"),
        5,
        6,
        tokenizer.special_id(THINK),
    ]


def test_other_threads_run_while_a_long_text_is_encoded(tokenizer: Tokenizer) -> None:
    """Half a megabyte kept the event loop waiting for half a second, though it was encoded in another thread.

    An encoder that kept the interpreter would let no round, or one, begin; how many do is the machine's affair.
    """
    num_rounds, is_done, rounds_meanwhile = 0, threading.Event(), 0

    def encode() -> None:
        nonlocal rounds_meanwhile
        before = num_rounds
        tokenizer.encode_text("seven cats and ten rivers " * 40_000)
        rounds_meanwhile = num_rounds - before
        is_done.set()

    thread = threading.Thread(target=encode)
    thread.start()
    while not is_done.wait(0.0001):  # lets the other thread have its turn
        num_rounds += 1
    thread.join()
    assert rounds_meanwhile > 5


def test_lone_surrogates_become_question_marks(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode_text("é\ud800")) == "é?"


@given(text=st.text())
@settings(max_examples=300, deadline=None)
def test_detokenizing_token_by_token_gives_the_whole_text(any_tokenizer: Tokenizer, text: str) -> None:
    detokenizer = Detokenizer(any_tokenizer)
    ids = any_tokenizer.encode_text(text)
    pieces = [piece for id_ in ids for piece in detokenizer.push(id_)]
    assert "".join(piece.text for piece in pieces) + "".join(p.text for p in detokenizer.finish()) == text
    assert sum(piece.num_tokens for piece in pieces) == len(ids)


def test_a_character_in_several_tokens_comes_out_whole(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    ids = [byte_id(tokenizer, byte) for byte in "🐋".encode()]
    texts = [[piece.text for piece in detokenizer.push(id_)] for id_ in ids]
    assert texts == [[""], [""], [""], ["🐋"]]


def test_a_broken_character_is_reported_before_the_special_token_that_breaks_it(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    detokenizer.push(byte_id(tokenizer, 0xF0))
    pieces = detokenizer.push(tokenizer.special_id(END_THINK))
    assert [(piece.text, piece.is_special) for piece in pieces] == [("\ufffd", False), (END_THINK, True)]
    detokenizer.push(byte_id(tokenizer, 0xF0))
    assert [piece.text for piece in detokenizer.finish()] == ["\ufffd"]


def test_log_probabilities_carry_the_tokens_own_bytes(tokenizer: Tokenizer) -> None:
    half = byte_id(tokenizer, 0xF0)
    entry = tokenizer.logprob(half, -0.5, [(half, -0.5), (tokenizer.special_id(DSML), -3.0)])
    assert (entry.token, entry.bytes) == ("\ufffd", b"\xf0")
    assert [other.token for other in entry.top] == ["\ufffd", DSML]
    (piece,) = Detokenizer(tokenizer).push(half, entry)
    assert (piece.text, piece.logprobs) == ("", (entry,))
    assert isinstance(entry.top[0], TokenLogprob)


def test_ids_behind_the_vocabulary_have_no_text_and_ids_below_it_raise(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_bytes(tokenizer.vocab_size) == b""
    assert tokenizer.logprob(tokenizer.vocab_size + 5, -1.0).token == ""
    with pytest.raises(IndexError):
        tokenizer.token_bytes(-1)


def byte_id(tokenizer: Tokenizer, byte: int) -> int:
    return next(id_ for id_ in range(tokenizer.vocab_size) if tokenizer.token_bytes(id_) == bytes([byte]))


def damaged(change: Callable[[dict[str, object]], object]) -> str:
    content = json.loads(train_tokenizer().to_str())
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "not a tokenizer.json"),
        ("{}", "not a tokenizer.json"),
        ("[]", "not a tokenizer.json"),
        (damaged(lambda content: content.update(decoder={"type": "WordPiece"})), "byte-level BPE"),
        (damaged(lambda content: content.update(added_tokens=[])), "lacks the special tokens <｜begin▁of▁sentence｜>"),
        (damaged(lambda content: content.update(pre_tokenizer={"type": "Nonsense"})), "cannot be built"),
        (damaged(lambda content: content["model"]["vocab"].update({"日": 699})), "not byte-level"),  # type: ignore[index]
    ],
)
def test_a_damaged_file_is_refused_with_the_reason(source: str, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        Tokenizer(source)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_a_special_token_that_the_vocabulary_lacks_is_refused_when_needed() -> None:
    content = json.loads(train_tokenizer().to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<｜query｜>"]
    del content["model"]["vocab"]["<｜query｜>"]
    small = Tokenizer(json.dumps(content))
    with pytest.raises(UnsupportedFeature, match="query"):
        small.special_id("<｜query｜>")


def _oracle(tokenizer: Tokenizer, source: str) -> Callable[[str], list[int]]:
    """Hugging Face's library with the same vocabulary, and none of the tokens that no text encodes to."""
    content = json.loads(source)
    content["added_tokens"] = []
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {text: id_ for text, id_ in vocabulary.items() if id_ not in tokenizer.added_ids}
    library = RawTokenizer.from_str(json.dumps(content))

    def encode(text: str) -> list[int]:
        (found,) = library.encode_batch_fast([text], add_special_tokens=False)
        ids: list[int] = found.ids
        return ids

    return encode


@pytest.fixture(scope="module", params=["official make", "shipped"])
def with_oracle(request: pytest.FixtureRequest) -> tuple[Tokenizer, Callable[[str], list[int]]]:
    source = train_tokenizer().to_str()
    if request.param == "shipped":
        source = SHIPPED.read_text(encoding="utf-8")
    tokenizer = Tokenizer(source)
    return tokenizer, _oracle(tokenizer, source)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["a", " ", "\n", "é", "好", "1", "!", "😀", "a ", "! "])
def test_a_long_text_of_one_character_costs_no_more_than_ordinary_text_does_elsewhere(
    with_oracle: tuple[Tokenizer, Callable[[str], list[int]]], unit: str
) -> None:
    """A word that never ends must not make word pieces quadratic; the bound leaves room for a busy machine."""
    tokenizer, oracle = with_oracle
    ordinary = (Path(__file__).read_text(encoding="utf-8") * 100)[:200_000]

    def seconds(encode: Callable[[str], list[int]], text: str) -> float:
        begin = time.process_time()
        encode(text)
        return time.process_time() - begin

    monotonous = unit * (200_000 // len(unit.encode()))
    usual = min(seconds(oracle, ordinary) for _ in range(2))
    assert min(seconds(tokenizer.encode_text, monotonous) for _ in range(2)) <= 4 * usual


@pytest.mark.slow
def test_every_character_is_cut_as_hugging_faces_library_cuts_it(
    with_oracle: tuple[Tokenizer, Callable[[str], list[int]]],
) -> None:
    """Each next to letters, digits, line ends and itself, up to the last script that has letters."""
    tokenizer, oracle = with_oracle
    for number in (*range(0xD800), *range(0xE000, 0x1FB00), *range(0x20000, 0x31350, 64), *range(0xE0000, 0xE0200)):
        text = f"a{chr(number)}b {chr(number)}{chr(number)}1{chr(number)}\n{chr(number)} "
        assert tokenizer.encode_text(text) == oracle(text), hex(number)


@given(
    text=st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(" \n\t\r1a!　é的")), max_size=200)
)
@settings(max_examples=300, deadline=None)
def test_any_text_is_cut_as_hugging_faces_library_cuts_it(
    with_oracle: tuple[Tokenizer, Callable[[str], list[int]]], text: str
) -> None:
    tokenizer, oracle = with_oracle
    assert tokenizer.encode_text(text) == oracle(text)


def test_a_word_of_a_million_characters_is_cut_as_well(
    with_oracle: tuple[Tokenizer, Callable[[str], list[int]]],
) -> None:
    """The library's own bound on its stack ended texts like these with an error."""
    tokenizer, oracle = with_oracle
    for text in ("! " * 500_000, " " * 500_000 + "x"):
        assert tokenizer.encode_text(text) == oracle(text)


def test_a_word_that_cannot_be_cut_is_the_requests_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepserve.prompt.tokenizer._LARGE_STACK_BYTES", 2**16)
    small = Tokenizer(SHIPPED.read_text(encoding="utf-8"))
    with pytest.raises(RequestError, match="too long to be cut"):
        small.encode_text("! " * 500_000)

"""A vocabulary's masks, and the library's view of it."""

from __future__ import annotations

from tests.grammar.answers import UNUSED_IDS, tokenizer, vocabulary


def bits(mask: bytes) -> set[int]:
    value = int.from_bytes(mask, "little")
    return {token for token in range(value.bit_length()) if value >> token & 1}


def test_masks_allow_what_they_are_told_to_and_have_no_bit_too_many() -> None:
    known = vocabulary()
    assert bits(known.mask((0, 9, known.num_tokens - 1))) == {0, 9, known.num_tokens - 1}
    assert bits(known.mask_without((3, 17))) == set(range(known.num_tokens)) - {3, 17}
    assert len(known.mask(())) == len(known.mask_without(())) == -(-known.num_tokens // 8)


def test_ids_beyond_the_tokenizer_stand_for_nothing_and_special_ones_are_no_text() -> None:
    known = vocabulary()
    unused = range(tokenizer().vocab_size, tokenizer().vocab_size + UNUSED_IDS)
    assert known.empty_ids.issuperset(unused)
    assert known.special_ids.issuperset(tokenizer().special_ids.values())
    assert not known.special_ids.intersection(known.plain_ids)
    assert not known.empty_ids.intersection(known.plain_ids)
    assert all(not known.token_bytes[token].strip() for token in known.blank_ids)


def test_text_that_spells_a_special_token_is_text_to_the_library() -> None:
    assert vocabulary().index.tokenize_str("a</think>b") == tokenizer().encode_text("a</think>b")
    assert vocabulary().index.eos_token == tokenizer().eos_id
    assert vocabulary().index.vocab_size == tokenizer().vocab_size + UNUSED_IDS

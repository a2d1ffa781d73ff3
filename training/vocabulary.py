"""The shipped models' own byte-level BPE vocabulary, learned from generated text.

Two things differ from the usual recipe, both so that a small model can copy: digits stand alone, and a blank joins the
following word only for a few hundred common words. Any other word is spelled with the same tokens wherever it stands, after
a blank, a quote or a tag, so filling a slot is repeating tokens.

    python -m training.vocabulary --out src/deepserve/models/mini-flash/tokenizer.json
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from training.mixture import conversations
from training.rendering import ASSISTANT, BOS, DSML, EOS, PAD, THINK, THINK_END, USER, Piece, render

SIZE = 2048
COMMON_WORDS = 360

FIRST_SPECIALS = (BOS, EOS, PAD)
LAST_SPECIALS = (
    "<｜System｜>", "<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>", USER, ASSISTANT, THINK, THINK_END, DSML,
    "<｜latest_reminder｜>", "<｜action｜>", "<｜query｜>", "<｜authority｜>", "<｜domain｜>", "<｜title｜>",
    "<｜extracted_url｜>", "<｜read_url｜>", "<｜deepseek_image｜>",
)
"""In the order of the official vocabulary, where they also stand last."""


def corpus(count: int, seed: int = 7) -> Iterator[list[Piece]]:
    """Generated conversations of the training side, as text pieces."""
    for conversation in itertools.islice(conversations(seed, "train"), count):
        yield render(conversation)


def common_words(texts: Sequence[str], count: int) -> list[str]:
    """The lower-case words that follow a blank in most texts; longest first, so that a pattern prefers them."""
    seen: Counter[str] = Counter()
    for text in texts:
        seen.update(set(re.findall(r"(?<= )[a-z]+", text)))
    return sorted((word for word, _ in seen.most_common(count)), key=lambda word: (-len(word), word))


def word_pattern(words: Sequence[str]) -> str:
    """The rule that cuts text into words, before any merging."""
    return (
        rf" (?:{'|'.join(words)})(?![\p{{L}}\p{{N}}_])"
        r"|\p{Lu}?\p{Ll}+|\p{Lu}+|[\p{Lo}\p{Lm}\p{Lt}]+|\p{N}| ?[^\s\p{L}\p{N}]+(?: [^\s\p{L}\p{N}]+)*|\n+| +|\s"
    )


def train_vocabulary(num_conversations: int = 8000, size: int = SIZE) -> Tokenizer:
    """Learn the vocabulary; the same arguments give the same file."""
    texts = [piece.text for pieces in corpus(num_conversations) for piece in pieces if not piece.special]
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(word_pattern(common_words(texts, COMMON_WORDS))), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(LAST_SPECIALS),
        special_tokens=[_special(text) for text in FIRST_SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        min_frequency=8,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([_special(text) for text in LAST_SPECIALS])
    return tokenizer


def _special(text: str) -> AddedToken:
    return AddedToken(text, special=True, normalized=False)


class Encoder:
    """Turns pieces into token ids; special ids come only from special pieces, never from text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        tokenizer.encode_special_tokens = True
        self.special_ids = {text: tokenizer.token_to_id(text) for text in (*FIRST_SPECIALS, *LAST_SPECIALS)}

    @classmethod
    def load(cls, path: Path) -> Encoder:
        """Read a tokenizer.json."""
        return cls(Tokenizer.from_file(str(path)))

    def encode(self, pieces: Sequence[Piece]) -> tuple[list[int], list[bool]]:
        """Token ids, and for each whether the model is to write it."""
        ids: list[int] = []
        learned: list[bool] = []
        for piece in pieces:
            new = [self.special_ids[piece.text]] if piece.special else self.tokenizer.encode(piece.text, add_special_tokens=False).ids
            ids += new
            learned += [piece.learned] * len(new)
        return ids, learned

    def decode(self, ids: Sequence[int]) -> str:
        """Text with special tokens spelled out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))


def main() -> None:
    """Write the vocabulary file and say how well it fits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    tokenizer = train_vocabulary()
    out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out))
    encoder = Encoder(tokenizer)
    sample = list(corpus(1000, seed=8))
    num_tokens = sum(len(encoder.encode(pieces)[0]) for pieces in sample)
    num_characters = sum(len(piece.text) for pieces in sample for piece in pieces)
    print(f"{tokenizer.get_vocab_size()} entries; {num_tokens / len(sample):.1f} tokens a conversation, "
          f"{num_characters / num_tokens:.2f} characters a token")


if __name__ == "__main__":
    main()

"""The shipped models' own byte-level BPE vocabulary, learned from generated text.

Three things differ from the usual recipe, all so that a small model can copy: digits stand alone, so do characters of
scripts without letter case, and a blank joins the following word only for a few hundred common words that are never a
value or a key. Any other word is spelled with the same tokens wherever it stands, after a blank, a quote or a tag, so
filling a slot is repeating tokens.

    python -m training.vocabulary --out training/tokenizer.json
"""

from __future__ import annotations

import argparse
import itertools
import re
import typing
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from deepserve.prompt.segments import Prompt, Text
from deepserve.prompt.special_tokens import SPECIAL_TOKENS
from deepserve.prompt.tokenizer import Tokenizer as PromptTokenizer
from training.mixture import conversations
from training.phrases import Words, label_sets, records, roles, tasks, words
from training.rendering import transcript

SIZE = 2048
COMMON_WORDS = 360

_PREPOSITIONS = {"from", "in", "to", "when"}
"""Joined although some tools have parameters of these names: requests say them for their meaning."""

NUM_FIRST_SPECIALS = 3
"""Begin, end and padding open the vocabulary, as in the official one; the other special tokens close it."""

LAST_SPECIALS = ("<｜System｜>", *SPECIAL_TOKENS[NUM_FIRST_SPECIALS:], "<｜deepseek_image｜>")
"""In the order of the official vocabulary. The first and the last are V4.1's."""


def corpus(count: int, seed: int = 7) -> Iterator[Prompt]:
    """Rendered conversations of the training side."""
    for conversation in itertools.islice(conversations(seed, "train"), count):
        yield transcript(conversation)


def copied_words() -> set[str]:
    """What stands in slots, and so in quotes and tags as well as after blanks: values, keys, parts of tools' names."""
    pools = [words(kind) for kind in typing.get_type_hints(Words)]
    for task in tasks():
        pools += [task.names, task.result_keys, *(slot.keys for slot in task.slots)]
    pools += [role.keys for role in roles()]
    pools += [slot.keys for record in records() for slot in record.slots]
    pools += [tuple(label.name for label in labels.labels) for labels in label_sets()]
    return {part for pool in pools for word in pool for part in re.findall("[a-z]+", _snake_case(word))}


def _snake_case(word: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word).lower()


def common_words(texts: Sequence[str], count: int) -> list[str]:
    """The lower-case words that follow a blank in most texts and are never copied.

    Longest first, so that a pattern prefers them.
    """
    seen: Counter[str] = Counter()
    for text in texts:
        seen.update(set(re.findall(r"(?<= )[a-z]+", text)))
    copied = copied_words() - _PREPOSITIONS
    found = [word for word, _ in seen.most_common() if word not in copied and (len(word) > 1 or word == "a")]
    return sorted(found[:count], key=lambda word: (-len(word), word))


def word_pattern(joined: Sequence[str]) -> str:
    """The rule that cuts text into words, before any merging; a blank joins the `joined` ones."""
    return (
        rf" (?:{'|'.join(joined)})(?![\p{{L}}\p{{N}}_])"
        r"|\p{Lu}?\p{Ll}+|\p{Lu}+|[\p{Lo}\p{Lm}\p{Lt}]|\p{N}| ?[^\s\p{L}\p{N}]+(?: [^\s\p{L}\p{N}]+)*|\n+| +|\s"
    )


def train_vocabulary(num_conversations: int = 8000, size: int = SIZE) -> Tokenizer:
    """Learn the vocabulary; the same arguments give the same file."""
    texts = [
        segment.text
        for rendered in corpus(num_conversations)
        for segment in rendered.segments
        if isinstance(segment, Text)
    ]
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
        special_tokens=[_special(text) for text in SPECIAL_TOKENS[:NUM_FIRST_SPECIALS]],
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
    """Turns rendered conversations into token ids, and says which of them the model is to write."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, path: Path) -> Encoder:
        """Read a tokenizer.json."""
        return cls(PromptTokenizer.from_file(path))

    def encode(self, prompt: Prompt) -> tuple[list[int], list[bool]]:
        """Token ids, and for each whether the model is to write it."""
        written = {index for first, after in prompt.outputs for index in range(first, after)}
        ids: list[int] = []
        learned: list[bool] = []
        for index, segment in enumerate(prompt.segments):
            new = self.tokenizer.encode((segment,)).ids
            ids += new
            learned += [index in written] * len(new)
        return ids, learned

    def encode_text(self, text: str) -> list[int]:
        """Plain text."""
        return self.tokenizer.encode_text(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text with special tokens spelled out."""
        return self.tokenizer.decode(ids)


def main() -> None:
    """Write the vocabulary file and say how well it fits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    tokenizer = train_vocabulary()
    out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out))
    encoder = Encoder.load(out)
    sample = list(corpus(1000, seed=8))
    num_tokens = sum(len(encoder.encode(rendered)[0]) for rendered in sample)
    num_characters = sum(len(rendered.text) for rendered in sample)
    print(
        f"{tokenizer.get_vocab_size()} entries; {num_tokens / len(sample):.1f} tokens a conversation, "
        f"{num_characters / num_tokens:.2f} characters a token"
    )


if __name__ == "__main__":
    main()

"""What the prompt tests share: the vendor's package as an oracle, a small tokenizer, and ways to write requests."""

from __future__ import annotations

import json
import os
from types import ModuleType

import pytest
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as RawTokenizer

from deepserve.prompt.special_tokens import SPECIAL_TOKENS
from deepserve.prompt.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def recipe() -> ModuleType:
    """The vendor's package; where it is missing the oracle tests are skipped, except in CI, where they must run."""
    try:
        import deepseek_recipe
    except ImportError:
        if os.environ.get("CI") == "true":
            pytest.fail("deepseek-recipe is not installed, and CI must run the oracle tests")
        pytest.skip("deepseek-recipe is not installed (pip install 'deepserve[v4]')")
    return deepseek_recipe


CORPUS = [
    "The quick brown fox jumps over the lazy dog. 12345 + 678 = 13023!",
    "def encode(text: str) -> list[int]:\n    return [ord(letter) for letter in text]\n\n",
    "Wie schön, über Köln zu fliegen; 今天天气很好，我们去公园吧。 Привет, мир! 😀",
    "<think> a </think> <tool_call> |User| assistant user <｜ begin of sentence ｜>",
] * 8


def train_tokenizer() -> RawTokenizer:
    """A byte-level BPE of the official make: words split by a pattern, specials as added tokens."""
    raw = RawTokenizer(models.BPE())
    words = Regex(
        r"[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"),
            pre_tokenizers.Split(words, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(CORPUS, trainer)
    return raw


@pytest.fixture(scope="session")
def tokenizer_json() -> str:
    source = train_tokenizer().to_str()
    json.loads(source)
    return source


@pytest.fixture(scope="session")
def tokenizer(tokenizer_json: str) -> Tokenizer:
    return Tokenizer(tokenizer_json)

"""Rows of token ids with a weight for every token: generated conversations, and bare strings to copy.

A batch depends on the seed and its number alone, so a resumed run sees what an uninterrupted one would have seen.

Conversations that share a row do not see each other, as they will not when served: each is a document of its own, and
begins at a multiple of 4, where an entry of the compressed history begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor

from deepserve.engine.network_config import CSA_RATIO
from deepserve.prompt.special_tokens import BOS, PAD
from training.conversations import Conversation
from training.mixture import conversation, long_conversation
from training.rendering import transcript
from training.skills.copying import string
from training.values import Draw
from training.vocabulary import LAST_SPECIALS, NUM_FIRST_SPECIALS, Encoder

PROMPT_WEIGHT = 0.05
"""What the model is not to write still teaches language, a little."""
PROMPT_SHARE = 0.2
"""Share of the prompts' tokens that are predicted at all, with more weight instead: a row without is cheaper."""
MOST_QUESTIONS = 8
"""About the facts of one long conversation: an answer is a few tokens of thousands, and those are what is learned."""
CHARACTERS_PER_TOKEN = 1.8
"""Of a long conversation's text, markup counted among the tokens; roughly, a guess to start from."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one batch is made of."""

    rows: int
    length: int
    copy_share: float
    """Share of rows that are bare copying."""
    long_share: float = 0.0
    """Share of rows that hold one long conversation."""


class Batch(msgspec.Struct, frozen=True):
    """tokens [rows, length + 1], weights [rows, length] of predicting tokens[:, 1:], starts [rows, length]."""

    tokens: Tensor
    weights: Tensor
    starts: Tensor
    """Where the document of each token of tokens[:, :-1] begins."""


class _Example(NamedTuple):
    ids: list[int]
    weights: list[float]
    is_document: bool = True
    """Whether it stands alone; otherwise it goes on with what is before it."""


class BatchMaker:
    """Makes the batches of one run."""

    def __init__(self, encoder: Encoder, seed: int) -> None:
        self.encoder = encoder
        self.seed = seed
        self.first_text_id = NUM_FIRST_SPECIALS
        self.num_text_ids = encoder.tokenizer.vocab_size - NUM_FIRST_SPECIALS - len(LAST_SPECIALS)
        self._bos, self._pad = (encoder.tokenizer.special_id(text) for text in (BOS, PAD))

    def batch(self, number: int, plan: Plan) -> Batch:
        """The batch with this number."""
        draw = Draw(Random(f"{self.seed}:{number}"), "train")
        tokens = torch.empty(plan.rows, plan.length + 1, dtype=torch.int64)
        weights = torch.empty(plan.rows, plan.length + 1)
        starts = torch.empty(plan.rows, plan.length + 1, dtype=torch.int64)
        for row in range(plan.rows):
            kind = draw.random.random()
            if kind < plan.copy_share:
                examples = self._copies(draw)
            elif kind < plan.copy_share + plan.long_share:
                examples = self._long_conversations(draw, plan.length)
            else:
                examples = self._conversations(draw, plan.length)
            ids: list[int] = []
            weight: list[float] = []
            start: list[int] = []
            while len(ids) < plan.length + 1:
                example = next(examples)
                if example.is_document:
                    missing = -len(ids) % CSA_RATIO
                    start += start[-1:] * missing
                    ids += [self._pad] * missing
                    weight += [0.0] * missing
                start += [len(ids) if example.is_document else start[-1]] * len(example.ids)
                ids += example.ids
                weight += example.weights
            for made, values in ((tokens, ids), (weights, weight), (starts, start)):
                made[row] = torch.tensor(values[: plan.length + 1])
        weights = self._thinned(weights[:, 1:], draw)
        return Batch(tokens, weights, starts[:, :-1])

    def _thinned(self, weights: Tensor, draw: Draw) -> Tensor:
        """Keep a share of the prompts' tokens, with so much more weight that the expected loss is the same."""
        generator = torch.Generator().manual_seed(draw.random.getrandbits(62))
        is_prompt = weights == PROMPT_WEIGHT
        is_kept = torch.rand(weights.shape, generator=generator) < PROMPT_SHARE
        return torch.where(is_prompt, is_kept * (PROMPT_WEIGHT / PROMPT_SHARE), weights)

    def _encode(self, example: Conversation) -> _Example:
        ids, learned = self.encoder.encode(transcript(example))
        return _Example(ids, [1.0 if is_learned else PROMPT_WEIGHT for is_learned in learned])

    def _conversations(self, draw: Draw, length: int) -> Iterator[_Example]:
        while True:
            example = self._encode(conversation(draw))
            if len(example.ids) <= length:
                yield example

    def _long_conversations(self, draw: Draw, length: int) -> Iterator[_Example]:
        num_characters = round(length * CHARACTERS_PER_TOKEN * (0.25 + 0.75 * draw.random.random()))
        while True:
            made = long_conversation(draw, num_characters=num_characters, num_questions=draw.between(1, MOST_QUESTIONS))
            example = self._encode(made)
            if len(example.ids) <= length:
                yield example
                yield from self._conversations(draw, length)
            num_characters = num_characters * 3 // 4

    def _copies(self, draw: Draw) -> Iterator[_Example]:
        """Strings and their copies, and keys with values to be recalled: soon, or anywhere later in the row."""
        yield _Example([self._bos], [0.0])
        bar = self.encoder.encode_text("|")
        end = self.encoder.encode_text("\n")
        distant: list[tuple[list[int], list[int]]] = []
        while True:
            match draw.between(0, 5):
                case 0:
                    # Associative recall: several pairs, then each key again in another order.
                    pairs = [self._pair(draw) for _ in range(draw.between(2, 8))]
                    stated = [(*key, *bar, *value, *end) for key, value in pairs]
                    ids = [token for one in stated for token in one]
                    weights = [0.0] * len(ids)
                    draw.random.shuffle(pairs)
                    asked = pairs
                case 1:
                    distant.append(self._pair(draw))
                    key, value = distant[-1]
                    ids = [*key, *bar, *value, *end]
                    weights = [0.0] * len(ids)
                    asked = []
                case 2 | 3 if distant:
                    ids, weights = [], []
                    asked = [draw.frame(distant)]
                case _:
                    text = self._random_ids(draw, 3, 24) if draw.chance(0.5) else self.encoder.encode_text(string(draw))
                    ids = [*text, *bar, *text, *end]
                    weights = [0.0] * (len(text) + len(bar)) + [1.0] * (len(text) + len(end))
                    asked = []
            for key, value in asked:
                ids += [*key, *bar, *value, *end]
                weights += [0.0] * (len(key) + len(bar)) + [1.0] * (len(value) + len(end))
            yield _Example(ids, weights, is_document=False)

    def _pair(self, draw: Draw) -> tuple[list[int], list[int]]:
        return self._random_ids(draw, 1, 3), self._random_ids(draw, 1, 6)

    def _random_ids(self, draw: Draw, low: int, high: int) -> list[int]:
        return [self.first_text_id + draw.random.randrange(self.num_text_ids) for _ in range(draw.between(low, high))]

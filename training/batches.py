"""Rows of token ids with a weight for every token: generated conversations, and bare strings to copy.

A batch depends on the seed and its number alone, so a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import msgspec
import torch
from torch import Tensor

from deepserve.prompt.special_tokens import BOS
from training.conversations import Conversation
from training.mixture import conversation, long_conversation
from training.rendering import transcript
from training.skills.copying import string
from training.values import Draw
from training.vocabulary import LAST_SPECIALS, NUM_FIRST_SPECIALS, Encoder

PROMPT_WEIGHT = 0.05
"""What the model is not to write still teaches language, a little."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one batch is made of."""

    rows: int
    length: int
    copy_share: float
    """Share of rows that are bare copying."""
    long_share: float = 0.0
    """Share of rows that hold one long conversation."""


class Batch(msgspec.Struct, frozen=True):
    """tokens [rows, length + 1], weights [rows, length] of predicting tokens[:, 1:]."""

    tokens: Tensor
    weights: Tensor


class BatchMaker:
    """Makes the batches of one run."""

    def __init__(self, encoder: Encoder, seed: int) -> None:
        self.encoder = encoder
        self.seed = seed
        self.first_text_id = NUM_FIRST_SPECIALS
        self.num_text_ids = encoder.tokenizer.vocab_size - NUM_FIRST_SPECIALS - len(LAST_SPECIALS)

    def batch(self, number: int, plan: Plan) -> Batch:
        """The batch with this number."""
        draw = Draw(Random(f"{self.seed}:{number}"), "train")
        tokens = torch.zeros(plan.rows, plan.length + 1, dtype=torch.int64)
        weights = torch.zeros(plan.rows, plan.length + 1)
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
            while len(ids) < plan.length + 1:
                new_ids, new_weight = next(examples)
                ids += new_ids
                weight += new_weight
            tokens[row] = torch.tensor(ids[: plan.length + 1])
            weights[row] = torch.tensor(weight[: plan.length + 1])
        return Batch(tokens, weights[:, 1:])

    def _encode(self, example: Conversation) -> tuple[list[int], list[float]]:
        ids, learned = self.encoder.encode(transcript(example))
        return ids, [1.0 if is_learned else PROMPT_WEIGHT for is_learned in learned]

    def _conversations(self, draw: Draw, length: int) -> Iterator[tuple[list[int], list[float]]]:
        while True:
            ids, weight = self._encode(conversation(draw))
            if len(ids) <= length:
                yield ids, weight

    def _long_conversations(self, draw: Draw, length: int) -> Iterator[tuple[list[int], list[float]]]:
        while True:
            ids, weight = self._encode(long_conversation(draw, num_characters=draw.between(length, 3 * length)))
            if len(ids) <= length:
                yield ids, weight
                yield from self._conversations(draw, length)

    def _copies(self, draw: Draw) -> Iterator[tuple[list[int], list[float]]]:
        """Strings and their copies; half of them made of any tokens, so that every token can be copied."""
        bos = self.encoder.tokenizer.special_id(BOS)
        yield [bos], [0.0]
        bar = self.encoder.encode_text("|")
        end = self.encoder.encode_text("\n")
        while True:
            kind = draw.between(0, 3)
            if kind == 0:
                # Associative recall: several pairs, then each key again in another order, its value to be recalled.
                pairs = [
                    (self._random_ids(draw, 1, 3), self._random_ids(draw, 1, 6)) for _ in range(draw.between(2, 8))
                ]
                ids = [token for key, value in pairs for token in (*key, *bar, *value, *end)]
                weight = [0.0] * len(ids)
                draw.random.shuffle(pairs)
                for key, value in pairs:
                    ids += [*key, *bar, *value, *end]
                    weight += [0.0] * (len(key) + len(bar)) + [1.0] * (len(value) + len(end))
                yield ids, weight
                continue
            ids = self._random_ids(draw, 3, 24) if kind == 1 else self.encoder.encode_text(string(draw))
            yield [*ids, *bar, *ids, *end], [0.0] * (len(ids) + len(bar)) + [1.0] * (len(ids) + len(end))

    def _random_ids(self, draw: Draw, low: int, high: int) -> list[int]:
        return [self.first_text_id + draw.random.randrange(self.num_text_ids) for _ in range(draw.between(low, high))]

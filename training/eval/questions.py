"""The fixed set of questions: conversations of every kind from the held-out side, and facts to recall at three lengths.

`fingerprint.toml` holds the hash of the set. It is recorded before a training and may not change until the next one:
what was looked at while a model was trained says nothing about it.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec

from training.conversations import Conversation
from training.eval.targets import Thinking
from training.mixture import SKILLS, conversation, long_conversation
from training.rendering import prompt
from training.values import Draw
from training.vocabulary import Encoder

FINGERPRINT = Path(__file__).parent / "fingerprint.toml"
SEED = 2026
PER_SKILL = 40
QUICK_PER_SKILL = 4

RECALL_LENGTHS = {"recall_1k": 1_024, "recall_4k": 4_096, "recall_16k": 16_384}
"""Tokens of the prompt: at most so many, and at least nine tenths of them."""

RECALL_QUESTIONS = {"recall_1k": 50, "recall_4k": 50, "recall_16k": 30}

_FIRST_CHARACTERS_PER_TOKEN = 3.0
_MOST_TRIES = 12


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """skill: the conversation's, or of RECALL_LENGTHS. conversation: with the right answer as its last turn."""

    skill: str
    conversation: Conversation

    @property
    def is_long(self) -> bool:
        """It takes long to read, so that it is asked in fewer ways."""
        return RECALL_LENGTHS.get(self.skill, 0) > 2_000

    def asked(self, thinking: Thinking) -> Conversation:
        """The conversation in this mode."""
        effort = "low" if thinking == "low" else "high"
        return msgspec.structs.replace(self.conversation, thinking=thinking != "off", effort=effort)


class ChangedQuestions(Exception):
    """The set is not the one whose hash was recorded."""


def question_set(encoder: Encoder) -> list[Question]:
    """The whole set. The encoder decides nothing but how long the long prompts are."""
    found = []
    for skill in SKILLS:
        draw = Draw(Random(f"evaluation:{SEED}:{skill}"), "held_out")
        for _ in range(PER_SKILL):
            one = conversation(draw, skill=skill, effort="high")
            found.append(Question(skill=one.skill, conversation=one))
    for skill, num_tokens in RECALL_LENGTHS.items():
        for number in range(RECALL_QUESTIONS[skill]):
            one = _recall(encoder, f"evaluation:{SEED}:{skill}:{number}", num_tokens)
            found.append(Question(skill=skill, conversation=msgspec.structs.replace(one, thinking=True, effort="high")))
    return found


def sample(questions: Sequence[Question], per_skill: int) -> list[Question]:
    """The first ones of each skill; long ones a quarter as many, at least one."""
    taken: dict[str, int] = {}
    found = []
    for question in questions:
        limit = max(1, per_skill // 4) if question.is_long else per_skill
        if taken.get(question.skill, 0) < limit:
            taken[question.skill] = taken.get(question.skill, 0) + 1
            found.append(question)
    return found


def _recall(encoder: Encoder, seed: str, num_tokens: int) -> Conversation:
    """The same seed and more characters give the same conversation with more said in it."""
    num_characters = int(num_tokens * _FIRST_CHARACTERS_PER_TOKEN)
    for attempt in range(_MOST_TRIES):
        draw = Draw(Random(f"{seed}:{attempt // 6}"), "held_out")
        made = long_conversation(draw, num_characters=num_characters)
        length = len(encoder.encode(prompt(made))[0])
        if 0.9 * num_tokens <= length <= num_tokens:
            return made
        num_characters = int(num_characters * 0.95 * num_tokens / length)
    raise ValueError(f"No conversation of {num_tokens} tokens came of {_MOST_TRIES} tries; the last has {length}.")


def fingerprint(questions: Sequence[Question]) -> str:
    """A hash of all that is asked and of what is right."""
    return hashlib.sha256(msgspec.json.encode(list(questions))).hexdigest()


def record(questions: Sequence[Question], path: Path = FINGERPRINT) -> None:
    """Write the hash down, for the trainings from now on."""
    path.write_text(
        "# Of the evaluation set, recorded before the training; `python -m training.eval --record` writes it.\n\n"
        f'sha256 = "{fingerprint(questions)}"\nnum_questions = {len(questions)}\n',
        encoding="utf-8",
    )


def check(questions: Sequence[Question], path: Path = FINGERPRINT) -> str:
    """The hash, where it is the one recorded. Raises ChangedQuestions."""
    recorded = tomllib.loads(path.read_text(encoding="utf-8"))["sha256"]
    found = fingerprint(questions)
    if found != recorded:
        raise ChangedQuestions(
            f"The evaluation set is {found[:16]}, but {recorded[:16]} was recorded in {path.name}: the generator or "
            "the vocabulary has changed since. Go back to the recorded state, or record the set anew with "
            "`python -m training.eval --record` and train again."
        )
    return found

"""The whole measurement of one model: every way of asking, every question."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from deepserve.config import WeightFormats
from deepserve.engine.network_config import load_config
from training.eval import formats
from training.eval.bad_input import ask_badly
from training.eval.examinee import Examinee, Written
from training.eval.judgement import is_right
from training.eval.questions import Question
from training.eval.results import ModelFacts, Oddity, Results, Score, Way, WayResult
from training.eval.targets import THINKING, Thinking
from training.rendering import request_of

PROMPT_TOKENS = 200
_SHOW_EVERY_S = 2.0

Say = Callable[[str], None]


def say(line: str) -> None:
    """To the terminal, beside the tables."""
    print(line, file=sys.stderr, flush=True)


def measure(
    folder: Path,
    questions: Sequence[Question],
    *,
    questions_hash: str,
    is_sample: bool,
    unrounded: Path | None = None,
    only_served: bool = False,
    tell: Say = say,
) -> Results:
    """Ask everything.

    unrounded    the same weights in float32, for the formats that do not ship; None: those are left out
    only_served  as the server does it and nothing else: the shipped format, forms enforced
    """
    shipped = Examinee(folder)
    shipped_format = formats.name_of(shipped.info.formats)
    ways: list[WayResult] = []
    oddities: tuple[Oddity, ...] = ()
    try:
        facts = _facts(folder, shipped)
        ways += _ask_every_way(shipped, shipped_format, questions, ships=True, only_served=only_served, tell=tell)
        oddities = tuple(ask_badly(shipped))
    finally:
        shipped.close()
    others: Mapping[str, WeightFormats] = formats.FROM_RUN if unrounded is not None and not only_served else {}
    for name, weights in others.items():
        if name == shipped_format:
            continue
        assert unrounded is not None
        other = Examinee(unrounded, weights=weights)
        try:
            ways += _ask_every_way(other, name, questions, ships=False, only_served=False, tell=tell)
        finally:
            other.close()
    return Results(
        model=folder.resolve().name,
        questions=questions_hash,
        num_questions=len(questions),
        is_sample=is_sample,
        shipped_format=shipped_format,
        facts=facts,
        ways=tuple(ways),
        oddities=oddities,
    )


def outcomes(examinee: Examinee, way: Way, questions: Sequence[Question]) -> Iterator[tuple[Question, Written, bool]]:
    """Each question with its answer and whether that is right, as they are finished."""
    conversations = [question.asked(way.thinking) for question in questions]
    requests = (
        request_of(msgspec.structs.replace(conversation, turns=conversation.turns[:-1]))
        for conversation in conversations
    )
    for place, written in examinee.answers(requests, enforced=way.enforced):
        question = questions[place]
        yield question, written, is_right(conversations[place], written)


def asks(way: Way, question: Question) -> bool:
    """Long prompts are asked only as the server does by default, and without thinking."""
    return not question.is_long or (way.enforced and way.thinking != "low")


def _ask_every_way(
    examinee: Examinee, format_name: str, questions: Sequence[Question], *, ships: bool, only_served: bool, tell: Say
) -> Iterator[WayResult]:
    # Other formats are compared as the server thinks by default; the rest would tell the same again.
    modes: tuple[Thinking, ...] = THINKING if ships else ("high",)
    for thinking in modes:
        for enforced in (True,) if only_served else (False, True):
            way = Way(format=format_name, thinking=thinking, enforced=enforced)
            chosen = [question for question in questions if asks(way, question)]
            yield _ask_one_way(examinee, way, chosen, tell)


def _ask_one_way(examinee: Examinee, way: Way, questions: Sequence[Question], tell: Say) -> WayResult:
    skills: dict[str, Score] = {}
    began = shown = time.monotonic()
    num_right = 0
    for number, (question, written, right) in enumerate(outcomes(examinee, way, questions), start=1):
        one = Score(num_asked=1, num_right=int(right), num_well_formed=int(written.is_well_formed))
        skills[question.skill] = skills.get(question.skill, Score()).plus(one)
        num_right += right
        now = time.monotonic()
        if now - shown > _SHOW_EVERY_S or number == len(questions):
            shown = now
            done = f"{number:,} of {len(questions):,}, {num_right / number:.1%} right, {now - began:.0f} s"
            tell(f"  {way.title}: {done}")
    return WayResult(way=way, skills=dict(sorted(skills.items())))


def _facts(folder: Path, examinee: Examinee) -> ModelFacts:
    info, config = examinee.info, load_config(folder / "config.json")
    return ModelFacts(
        total_parameters=info.total_parameters,
        active_parameters=info.active_parameters,
        num_layers=config.num_hidden_layers,
        compress_ratios=tuple(config.compress_ratios),
        hidden_size=config.hidden_size,
        max_context=info.max_context,
        vocab_size=info.vocab_size,
        size_bytes=sum(path.stat().st_size for path in sorted(folder.iterdir()) if path.suffix == ".safetensors"),
        formats=info.formats,
        fingerprint=info.fingerprint,
        first_token_ms=round(examinee.first_token_ms(PROMPT_TOKENS), 2),
    )

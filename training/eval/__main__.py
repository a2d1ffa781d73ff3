"""Measure the models that ship, or another one, and print what was asked for and what was reached.

python -m training.eval                           both models, every way of asking; results beside their weights
python -m training.eval --quick                   a sample, printed only
python -m training.eval --model FOLDER --failures a model folder, as it is served, with what went wrong
python -m training.eval --record                  write down the hash of the questions, before a training
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from training.eval import formats
from training.eval.examinee import Examinee
from training.eval.measurement import measure, outcomes, say
from training.eval.questions import (
    QUICK_PER_SKILL,
    ChangedQuestions,
    Question,
    check,
    fingerprint,
    question_set,
    record,
    sample,
)
from training.eval.results import Results, Way, load_results, save_results
from training.eval.table import skills_table, targets_table, ways_table
from training.export import RunWeights, write_unrounded
from training.rendering import prompt
from training.train import RUNS, TOKENIZER
from training.vocabulary import Encoder

MODELS = ("mini-flash", "mini-pro")


def main() -> int:
    """Measure, print, and keep what a whole measurement found."""
    arguments = _parser().parse_args()
    encoder = Encoder.load(TOKENIZER)
    questions = question_set(encoder)
    if arguments.record:
        record(questions)
        print(f"recorded {len(questions):,} questions, {fingerprint(questions)[:16]}")
        return 0
    try:
        found_hash = check(questions)
    except ChangedQuestions as error:
        if not arguments.unrecorded:
            print(error, file=sys.stderr)
            return 1
        found_hash = fingerprint(questions)
        say(f"Not the recorded questions: {error}")
    per_skill: int | None = QUICK_PER_SKILL if arguments.quick else arguments.per_skill
    asked = questions if per_skill is None else sample(questions, per_skill)
    if arguments.skill:
        asked = [one for one in asked if one.skill.startswith(tuple(arguments.skill))]
    if arguments.failures:
        return _print_failures(_folders(arguments)[0], asked)
    is_whole = len(asked) == len(questions)
    every = [
        _measure(folder, asked, found_hash, is_sample=not is_whole, quick=arguments.quick, run=arguments.run)
        for folder in _folders(arguments)
    ]
    if arguments.keep and is_whole and not arguments.quick:
        for results, folder in zip(every, _folders(arguments), strict=True):
            save_results(results, folder)
    print(targets_table(every))
    for results in every:
        print(f"\n{results.model}, {results.num_questions:,} questions\n\n{ways_table(results)}")
        print(f"\n{skills_table(results)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.eval", description="Evaluate models on held-out values.")
    parser.add_argument("--model", type=Path, action="append", help="a model folder; by default those that ship")
    parser.add_argument("--run", help="the run whose float32 weights are compared; by default that of the same name")
    parser.add_argument("--quick", action="store_true", help="a sample, only as the server answers")
    parser.add_argument("--per-skill", type=int, help="at most so many questions of each skill")
    parser.add_argument("--skill", action="append", help="only skills whose names begin so; may be repeated")
    parser.add_argument("--failures", action="store_true", help="print what went wrong, and what was wanted")
    parser.add_argument("--record", action="store_true", help="write down the hash of the questions")
    parser.add_argument(
        "--unrecorded", action="store_true", help="go on though the questions are not the recorded ones"
    )
    parser.add_argument(
        "--no-keep", dest="keep", action="store_false", help="leave the results beside the weights alone"
    )
    return parser


def _folders(arguments: argparse.Namespace) -> list[Path]:
    if arguments.model:
        return list(arguments.model)
    shipped = [formats.models_folder() / name for name in MODELS]
    return [folder for folder in shipped if (folder / "model.safetensors").exists()]


def _measure(
    folder: Path, questions: Sequence[Question], found_hash: str, *, is_sample: bool, quick: bool, run: str | None
) -> Results:
    say(f"{folder.name}: {len(questions):,} questions")
    run_folder = RUNS / (run or folder.resolve().name)
    with tempfile.TemporaryDirectory() as temporary:
        unrounded: Path | None = None
        if not quick and (run_folder / "average.pt").exists():
            unrounded = Path(temporary) / folder.name
            write_unrounded(RunWeights.load(run_folder), unrounded, tokenizer=folder / "tokenizer.json")
        elif not quick:
            say(f"  No averaged weights in {run_folder}: float32 and bf16 are not measured, earlier figures are kept.")
        results = measure(
            folder,
            questions,
            questions_hash=found_hash,
            is_sample=is_sample,
            unrounded=unrounded,
            only_served=quick,
        )
    return results if unrounded is not None else _with_earlier_formats(results, folder)


def _with_earlier_formats(results: Results, folder: Path) -> Results:
    """What an earlier measurement of the same weights and questions said of formats that cannot be measured here."""
    try:
        earlier = load_results(folder)
    except FileNotFoundError:
        return results
    if (earlier.questions, earlier.facts.fingerprint) != (results.questions, results.facts.fingerprint):
        return results
    measured = {one.way.format for one in results.ways}
    kept = tuple(one for one in earlier.ways if one.way.format not in measured)
    return msgspec.structs.replace(results, ways=results.ways + kept)


def _print_failures(folder: Path, questions: Sequence[Question]) -> int:
    examinee = Examinee(folder)
    try:
        way = Way(format=formats.name_of(examinee.info.formats), thinking="high", enforced=True)
        num_right = 0
        for question, written, is_right in outcomes(examinee, way, questions):
            num_right += is_right
            if not is_right:
                asked = question.asked(way.thinking)
                wanted = asked.turns[-1]
                print(f"--- {question.skill}\n{prompt(asked).text[-600:]}{written.raw}")
                print(f"wanted {wanted.content or wanted.calls}")
        print(f"{num_right} of {len(questions)} right")
    finally:
        examinee.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The generator of text skills: sums, logic, labels, planted facts, summaries, reviews, holes."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from training.conversations import Conversation, Effort, Split
from training.mixture import SKILLS, conversation, long_conversation
from training.phrases import dialogue, label_sets, questions
from training.rendering import prompt, transcript
from training.skills import arithmetic, classification, infill, logic, planted, review, translation
from training.values import Draw, is_held_out

from deepserve.prompt.special_tokens import FIM_BEGIN, FIM_END, FIM_HOLE

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,
}
SUMS = (arithmetic.two_digit, arithmetic.one_digit, arithmetic.three_digit, arithmetic.word_problem)


def drawn(
    skill: Callable[[Draw], Conversation], count: int, split: Split = "train", effort: Effort | None = "high"
) -> Iterator[Conversation]:
    draw = Draw(Random(11), split)
    draw.effort = effort
    for _ in range(count):
        yield skill(draw)


def value_of(expression: str) -> int:
    """The value of `7*3=21`'s sides, `0+1+0`, `12-8-0`: no precedence is needed but that of * and /."""
    numbers = [int(number) for number in re.findall(r"\d+", expression)]
    total = numbers[0]
    for sign, number in zip(re.findall(r"[-+*/]", expression), numbers[1:], strict=True):
        total = OPERATIONS[sign](total, number)
    return total


def answered(one: Conversation) -> tuple[int, str, int, int]:
    found = re.fullmatch(r"(\d+) ([-+*/]) (\d+) = (-?\d+)\.", one.turns[-1].content)
    assert found is not None
    return int(found[1]), found[2], int(found[3]), int(found[4])


@pytest.mark.parametrize("skill", SUMS)
@pytest.mark.parametrize("effort", ["low", "high", "max"])
def test_every_step_of_a_worked_sum_is_right(skill: Callable[[Draw], Conversation], effort: Effort) -> None:
    for one in drawn(skill, 400, effort=effort):
        steps = re.split(r"; |\n|: ", one.turns[-1].reasoning)
        equations = [step for step in steps if "=" in step and not step.startswith("So ")]
        assert equations
        for step in equations:
            # A product with its carry is two equations in a row: 7*3=21+5=26.
            sides = re.sub(r" rest \d+", "", step).split("=")
            assert len({value_of(side) for side in sides}) == 1, step
            if " rest " in step:
                whole, divisor = (int(number) for number in sides[0].split("/"))
                assert int(step.split(" rest ")[1]) == whole % divisor


@pytest.mark.parametrize("skill", SUMS)
@pytest.mark.parametrize("split", ["train", "held_out"])
def test_sums_come_out_right_and_their_work_ends_in_the_result(
    skill: Callable[[Draw], Conversation], split: Split
) -> None:
    for one in drawn(skill, 400, split, effort="low"):
        a, sign, b, value = answered(one)
        assert OPERATIONS[sign](a, b) == value
        assert sign != "/" or a % b == 0
        last = re.split(r"; ", one.turns[-1].reasoning)[-1]
        assert int(last) == abs(value)


def test_the_numbers_of_a_sum_stand_in_its_question() -> None:
    for skill in SUMS:
        for one in drawn(skill, 300):
            a, _, b, _ = answered(one)
            assert {str(a), str(b)} <= set(re.findall(r"\d+", one.turns[0].content))


def test_more_effort_writes_more() -> None:
    lengths = [
        sum(len(one.turns[-1].reasoning) for one in drawn(arithmetic.two_digit, 200, effort=effort))
        for effort in ("low", "high", "max")
    ]
    assert lengths == sorted(set(lengths))


def test_pairs_of_numbers_asked_in_evaluation_are_never_trained_on() -> None:
    pairs = {
        split: {
            arithmetic.pair_name(a, b)
            for one in drawn(arithmetic.two_digit, 4000, split)
            for a, _, b, _ in [answered(one)]
        }
        for split in ("train", "held_out")
    }
    assert not pairs["train"] & pairs["held_out"]
    assert all(is_held_out(pair) for pair in pairs["held_out"])
    assert len(pairs["held_out"]) > 300


def test_every_number_below_100_is_trained_on() -> None:
    seen = {number for one in drawn(arithmetic.two_digit, 4000) for number in answered(one)[::2]}
    assert set(range(10, 100)) <= seen


def test_a_comparison_of_numbers_names_the_right_one() -> None:
    for one in drawn(arithmetic.comparison, 400):
        a, b = (int(number) for number in re.findall(r"\d+", one.turns[0].content))
        answer = one.turns[-1].content
        wanted = min(a, b) if "smaller" in answer else max(a, b)
        assert str(wanted) in answer.rstrip(".").replace(",", "").split(" ")
        assert one.turns[-1].reasoning.endswith(f"{max(a, b)} is larger.")


def test_an_ordering_follows_from_its_statements() -> None:
    for one in drawn(logic.ordering, 300):
        order = one.turns[-1].reasoning.removesuffix(".").split(" > ")
        scale = next(
            scale for scale in logic.SCALES if any(word in one.turns[0].content for word in (scale[0], scale[2]))
        )
        for first, word, second in re.findall(r"([\w]+) is ([\w]+) than ([\w]+)\.", one.turns[0].content):
            assert word in (scale[0], scale[2])
            assert (order.index(first) < order.index(second)) == (word == scale[0])


def test_labels_are_answered_as_the_prompt_spells_them() -> None:
    for skill in (classification.labels, classification.described_labels):
        for one in drawn(skill, 300):
            assert one.turns[-1].content in (one.system or "") + one.turns[0].content


def test_the_words_that_decide_a_label_are_quoted_as_they_stand() -> None:
    for skill in (classification.labels, classification.triage_json):
        for one in drawn(skill, 300, "held_out"):
            quoted = one.turns[-1].reasoning.split('"')[1]
            assert quoted in one.turns[0].content


def test_no_cue_of_a_label_belongs_to_another_label_of_its_set() -> None:
    for together in label_sets():
        cues = [cue for label in together.labels for cue in label.cues]
        assert len(cues) == len(set(cues))


@pytest.mark.parametrize("num_characters", [300, 4000, 16000, 60000])
@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_planted_fact_stands_in_its_document_once(num_characters: int, split: Split) -> None:
    draw = Draw(Random(num_characters), split)
    for _ in range(6):
        one = planted.document(draw, num_characters=num_characters)
        ((value,),) = one.facts
        text = one.turns[0].content
        subject = one.turns[-1].reasoning.rsplit(f": {value}", 1)[0]
        stated = [
            line
            for line in re.split(r"(?<=[.\n]) ?|\n", text)
            if re.search(rf"(?<!\w){re.escape(value)}(?!\w)", line) and subject in line and "?" not in line
        ]
        assert stated
        assert value in one.turns[-1].content
        assert num_characters * 0.8 < len(text) < num_characters * 1.2 + 400


def test_planted_facts_stand_at_any_depth() -> None:
    draw = Draw(Random(5), "held_out")
    depths = []
    for _ in range(200):
        one = planted.document(draw, num_characters=3000)
        text = one.turns[0].content
        depths.append(text.index(one.facts[0][0]) / len(text))
    assert min(depths) < 0.15
    assert max(depths) > 0.85


def test_a_long_conversation_holds_the_fact_it_asks_for() -> None:
    for seed in range(12):
        one = long_conversation(Draw(Random(seed), "train"), num_characters=6000)
        ((value,),) = one.facts
        assert any(value in turn.content for turn in one.turns[:-2] if turn.role == "user") or (
            value in one.turns[0].content
        )
        assert value in one.turns[-1].content


def test_a_translation_takes_every_word_from_the_glossary() -> None:
    for one in drawn(translation.glossary, 200):
        for word in one.turns[-1].content.split(" "):
            assert word in one.turns[0].content


def test_a_review_names_a_line_of_the_diff() -> None:
    kinds = set()
    for one in drawn(review.review, 400):
        found = re.match(r"Line (\d+): ([^.]+)\. Write: .", one.turns[-1].content)
        if found is None:
            assert one.turns[-1].content == "I see no mistake in this diff."
            continue
        kinds.add(found[2])
        added = [line for line in one.turns[0].content.split("\n") if line.startswith("+")]
        assert f"Line {found[1]}: {added[int(found[1]) - 1][1:].strip()}" in one.turns[-1].reasoning
    assert len(kinds) >= 15


def test_a_corrected_python_line_differs_from_the_wrong_one() -> None:
    for mistake in review.MISTAKES:
        assert mistake.right.strip() != mistake.lines[mistake.wrong - 1].strip()


def test_a_hole_is_rendered_as_editors_send_it() -> None:
    for one in drawn(infill.fill, 100):
        assert one.infill is not None
        asked = prompt(one)
        text = f"{FIM_BEGIN}{one.infill.before}{FIM_HOLE}{one.infill.after}{FIM_END}"
        assert asked.text.endswith(text)
        assert transcript(one).text.startswith(asked.text + one.turns[0].content)


def test_filled_holes_are_json_or_python() -> None:
    for one in drawn(infill.fill, 200):
        assert one.infill is not None
        if one.skill == "infill.json":
            json.loads(one.infill.before + one.turns[0].content + one.infill.after)
        else:
            compile(f"{one.infill.before}{one.turns[0].content}{one.infill.after}", "filled", "exec", dont_inherit=True)


def test_a_hole_is_never_filled_with_thinking() -> None:
    draw = Draw(Random(4), "train")
    assert not any(conversation(draw, skill="infill").thinking for _ in range(50))


@pytest.mark.parametrize("skill", SKILLS)
def test_a_sensible_answer_says_its_own_facts(skill: str) -> None:
    draw = Draw(Random(12), "held_out")
    for _ in range(60):
        one = conversation(draw, skill=skill)
        said = one.turns[-1].content.lower()
        for spellings in one.facts:
            assert any(spelling.lower() in said for spelling in spellings)


def test_no_two_answers_are_given_to_one_question() -> None:
    """The same words with two answers could not be learned."""
    asked: dict[str, str] = {}
    for frames, answer in (
        *((one.frames, one.answer) for one in questions()),
        *((intent.frames, intent.answer) for intent in dialogue().intents),
    ):
        for frame in frames:
            assert asked.setdefault(frame.lower().strip(" .!?"), answer) == answer, frame


def test_answers_about_the_product_say_their_facts() -> None:
    said = [(one.answer, one.facts) for one in questions()] + [(one.answer, one.facts) for one in dialogue().intents]
    for answer, facts in said:
        assert all(any(spelling in answer for spelling in spellings) for spellings in facts), answer


def test_addresses_and_commands_named_in_answers_stand_in_the_documentation() -> None:
    root = Path(__file__).parents[2]
    pages = "".join(page.read_text() for page in (root / "README.md", *sorted((root / "docs").glob("*.md"))))
    named = [
        word
        for one in questions()
        for word in re.findall(
            r"deepserve [a-z]+ (?:create|explain|example)|deepserve (?:serve|chat|cost|batch|doctor)(?= )"
            r"|(?<= )/[a-z0-9/]+[a-z]|x-deepserve-[a-z-]+|deepseek-v4-[a-z]+|--[a-z]+|prompt_cache_hit_tokens"
            r"|reasoning_content|reasoning_effort|json_object|json_schema|tool_choice|system_fingerprint",
            one.answer,
        )
    ]
    assert len(named) > 25
    for word in named:
        assert word in pages, word

"""How answers are judged, and that the product itself is asked."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from training.conversations import Call, Conversation, Tool, Turn
from training.eval import questions as question_module
from training.eval.__main__ import main
from training.eval.bad_input import bad_inputs
from training.eval.examinee import Examinee, Written
from training.eval.judgement import is_right, same_value, says
from training.eval.measurement import asks, measure
from training.eval.questions import (
    RECALL_LENGTHS,
    ChangedQuestions,
    Question,
    check,
    fingerprint,
    question_set,
    record,
    sample,
)
from training.eval.results import Results, Way, load_results, save_results
from training.eval.table import percent, skills_table, targets_table, ways_table
from training.eval.targets import THINKING, load_targets, unasked
from training.export import RunWeights, write_unrounded
from training.rendering import prompt, request_of
from training.shape import MINI_FLASH
from training.train import TOKENIZER
from training.vocabulary import Encoder

from deepserve.core.messages import ToolCall
from deepserve.engine.reference.network import Network
from tests.training.test_training import TINY

THINK_END, MARK = "</think>", "｜DSML｜"
CALL = f'\n\n<{MARK}tool_calls>\n<{MARK}invoke name="f">\n</{MARK}invoke>\n</{MARK}tool_calls>'


def written(text: str = "", *calls: tuple[str, object], raw: str = "", **changes: Any) -> Written:  # Any: its fields
    answer = Written(
        raw=raw or text,
        reasoning="",
        text=text,
        calls=tuple(
            ToolCall(id=str(i), name=name, arguments=json.dumps(value)) for i, (name, value) in enumerate(calls)
        ),
        num_tokens=1,
        is_ended=True,
        is_sound=True,
        is_thinking=False,
    )
    return msgspec.structs.replace(answer, **changes)


def wants(
    content: str = "", *calls: tuple[str, Mapping[str, object]], **changes: Any
) -> Conversation:  # Any: its fields
    made = Conversation(
        skill="test",
        turns=(
            Turn(role="user", content="?"),
            Turn(role="assistant", content=content, calls=tuple(Call(name=n, arguments=a) for n, a in calls)),
        ),
    )
    return msgspec.structs.replace(made, **changes)


def test_calls_are_right_by_name_and_value_in_any_order() -> None:
    one: tuple[str, dict[str, object]] = ("f", {"a": 1, "b": [True, "x"]})
    other: tuple[str, dict[str, object]] = ("g", {})
    wanted = wants("", one, other)
    assert is_right(wanted, written("", other, ("f", {"b": [True, "x"], "a": 1.0})))
    assert not is_right(wanted, written("", one))
    assert not is_right(wanted, written("", one, one))
    assert not is_right(wanted, written("", one, other, other))
    assert not is_right(wanted, written("", ("f", {"a": 1, "b": [1, "x"]}), other))
    assert not is_right(wants("", ("f", {})), written("", calls=(ToolCall(id="1", name="f", arguments="{"),)))


def test_a_call_where_words_were_wanted_is_wrong() -> None:
    assert not is_right(wants("Hello."), written("Hello.", ("f", {})))


def test_json_is_right_by_value() -> None:
    wanted = wants('{"a": 1, "b": "x"}', json_object=True)
    assert is_right(wanted, written('{ "b": "x", "a": 1 }'))
    assert not is_right(wanted, written('{"a": "1", "b": "x"}'))
    assert not is_right(wanted, written("Sure: " + '{"a": 1, "b": "x"}'))
    assert not is_right(wants('{"a": 1}', json_schema={"type": "object"}), written(""))


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        ([1, 2], [2, 1], False),
        (None, {}, False),
        ("a", "A", False),
    ],
)
def test_json_values_are_compared_as_json(one: object, other: object, is_same: bool) -> None:
    assert same_value({"x": one}, {"x": other}) == is_same


def test_of_a_sum_the_number_counts() -> None:
    wanted = wants("17 + 25 = 42.", skill="arithmetic.two_digit")
    assert is_right(wanted, written("That is 42."))
    assert is_right(wanted, written("17+25 makes 42"))
    assert not is_right(wanted, written("17 + 25 = 43."))
    assert not is_right(wanted, written("-42"))
    assert not is_right(wanted, written("I do not know."))


def test_facts_count_in_any_of_their_spellings() -> None:
    wanted = wants("The capital is Tokyo, of 14 million.", facts=(("Tokyo", "東京"), ("14 million", "14,000,000")))
    assert is_right(wanted, written("tokyo has 14\u00a0million people"))
    assert is_right(wanted, written("首都是東京，人口14,000,000"))
    assert not is_right(wanted, written("Tokyo."))


@pytest.mark.parametrize(
    ("text", "fact", "is_said"),
    [
        ("It has 112 rooms", "12", False),
        ("It has 12.5 rooms", "12", False),
        ("It has 12.", "12", True),
        ("unparis", "Paris", False),
        ("(Paris)", "Paris", True),
        ("我不会算", "不会", True),
    ],
)
def test_facts_are_whole_words_and_numbers(text: str, fact: str, is_said: bool) -> None:
    assert says(text, fact) == is_said


def test_other_answers_are_compared_without_what_does_not_matter() -> None:
    assert is_right(wants("Hello there."), written("hello  there"))
    assert not is_right(wants("Hello there."), written("hello here"))


@pytest.mark.parametrize(
    ("answer", "is_good"),
    [
        (written("Hello.", raw=f"Short.{THINK_END}Hello.", is_thinking=True), True),
        (written("Hello."), True),
        (written("", ("f", {}), raw=f"Short.{THINK_END}{CALL}", is_thinking=True), True),
        (written("Hello.", raw=f"Short.{THINK_END}Hello.", is_thinking=True, is_ended=False), False),
        (written("", raw="Never closed.", is_thinking=True), False),
        (written("bc", raw=f"a{THINK_END}b{THINK_END}c", is_thinking=True), False),
        (written("Hello.", raw=f"Stray.{THINK_END}Hello."), False),
        (written("", ("f", {}), raw=CALL, is_sound=False), False),
        (written("", raw=CALL), False),
        (written("", ("f", {}), raw=f"{CALL} and more"), False),
        (written("Hello.<｜User｜>", raw="Hello.<｜User｜>"), False),
    ],
)
def test_a_turn_is_well_formed_if_it_ends_and_closes_what_it_opens(answer: Written, is_good: bool) -> None:
    assert answer.is_well_formed == is_good


@pytest.fixture(scope="module")
def questions() -> Iterator[list[Question]]:
    """A small set, drawn as the whole one is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(question_module, "PER_SKILL", 5)
        patch.setattr(question_module, "RECALL_QUESTIONS", dict.fromkeys(RECALL_LENGTHS, 1))
        yield question_set(Encoder.load(TOKENIZER))


def test_changed_questions_are_refused_with_what_to_do(questions: list[Question], tmp_path: Path) -> None:
    record(questions, tmp_path / "fingerprint.toml")
    assert check(questions, tmp_path / "fingerprint.toml") == fingerprint(questions)
    with pytest.raises(ChangedQuestions, match="--record"):
        check(questions[1:], tmp_path / "fingerprint.toml")


def test_the_same_questions_are_drawn_again(questions: list[Question]) -> None:
    assert fingerprint(question_set(Encoder.load(TOKENIZER))) == fingerprint(questions)


def test_every_target_has_questions(questions: list[Question]) -> None:
    assert unasked(load_targets(), {question.skill for question in questions}) == []


def test_long_questions_have_the_length_that_is_claimed(questions: list[Question]) -> None:
    encoder = Encoder.load(TOKENIZER)
    for skill, most in RECALL_LENGTHS.items():
        first = next(question for question in questions if question.skill == skill)
        assert 0.9 * most <= len(encoder.encode(prompt(first.conversation))[0]) <= most


def test_a_sample_has_every_kind_of_question(questions: list[Question]) -> None:
    chosen = sample(questions, 2)
    assert {question.skill for question in chosen} == {question.skill for question in questions}
    counts = [sum(question.skill == skill for question in chosen) for skill in {q.skill for q in questions}]
    assert max(counts) == 2


def test_long_questions_are_asked_only_as_they_are_served(questions: list[Question]) -> None:
    long = next(question for question in questions if question.skill == "recall_16k")
    short = next(question for question in questions if question.skill == "recall_1k")
    ways = [Way(format="bf16", thinking=t, enforced=e) for t, e in itertools.product(THINKING, (True, False))]
    assert [way.thinking for way in ways if asks(way, long)] == ["off", "high"]
    assert all(asks(way, short) for way in ways)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned nothing."""
    network = Network(TINY)
    network.initialise(torch.Generator().manual_seed(1))
    made = tmp_path_factory.mktemp("eval") / "mini-random"
    write_unrounded(RunWeights(network.requires_grad_(False).eval()), made)
    return made


@pytest.fixture(scope="module")
def examinee(folder: Path) -> Iterator[Examinee]:
    opened = Examinee(folder)
    yield opened
    opened.close()


SCHEMA = {
    "type": "object",
    "properties": {"size": {"type": "integer"}, "is_new": {"type": "boolean"}},
    "required": ["size", "is_new"],
    "additionalProperties": False,
}


def ask_for_json(examinee: Examinee, *, enforced: bool) -> Written:
    request = request_of(wants(json_schema=SCHEMA, thinking=False, turns=(Turn(role="user", content="Fill it."),)))
    [(place, answer)] = examinee.answers([request], enforced=enforced)
    assert place == 0
    return answer


def test_forms_are_enforced_as_the_server_does_or_not_at_all(examinee: Examinee) -> None:
    assert list(json.loads(ask_for_json(examinee, enforced=True).text)) == ["size", "is_new"]
    free = ask_for_json(examinee, enforced=False)
    assert not is_right(wants(json.dumps({"size": 1, "is_new": True}), json_schema=SCHEMA), free)
    assert not free.is_ended


def test_answers_do_not_depend_on_what_else_is_asked(examinee: Examinee) -> None:
    requests = [
        request_of(wants(turns=(Turn(role="user", content=f"Question {number}?"),), thinking=bool(number % 2)))
        for number in range(20)
    ]
    requests = [msgspec.structs.replace(request, max_output_tokens=12) for request in requests]
    together = dict(examinee.answers(requests, enforced=True))
    for place in (0, 7, 19):
        [(_, alone)] = examinee.answers([requests[place]], enforced=True)
        assert alone == together[place]


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    offered = Tool(name="f", description="", parameters={"type": "object", "properties": {}})
    asked = [
        Question(skill="tools.call", conversation=wants("", ("f", {}), tools=(offered,))),
        Question(skill="json.extract", conversation=wants('{"size": 1, "is_new": true}', json_schema=SCHEMA)),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.eval.examinee.MAX_OUTPUT_TOKENS", 24)
        patch.setattr("training.eval.bad_input.bad_inputs", lambda: dict(itertools.islice(bad_inputs().items(), 3)))
        said: list[str] = []
        found = measure(folder, asked, questions_hash="0" * 64, is_sample=True, unrounded=folder, tell=said.append)
    assert len(said) == len(found.ways)
    return found


def test_a_measurement_asks_in_every_way_and_format(results: Results) -> None:
    """The folder stores float32, which is then what ships; others are compared as the server thinks by default."""
    modes = {(one.way.format, one.way.thinking) for one in results.ways}
    assert modes == {("fp32", "off"), ("fp32", "low"), ("fp32", "high"), ("bf16", "high")}
    assert {one.way.enforced for one in results.ways} == {True, False}
    assert all({score.num_asked for score in one.skills.values()} == {1} for one in results.ways)
    assert results.facts.total_parameters > results.facts.active_parameters > 0
    assert results.facts.first_token_ms > 0
    assert [oddity.name for oddity in results.oddities] == list(bad_inputs())[:3]


def test_results_are_kept_beside_the_weights(results: Results, tmp_path: Path) -> None:
    save_results(results, tmp_path)
    assert load_results(tmp_path) == results


def test_tables_say_what_was_reached_and_what_was_not(results: Results) -> None:
    table = targets_table([results])
    assert "| mini-random: goal | fp32 | bf16 |" in table
    [row] = [line for line in table.splitlines() if line.startswith("| JSON extraction")]
    assert row.endswith("| ≥ 80 % | **0 %** | **0 %** |")
    assert table.count("\n") == 1 + len(load_targets())
    assert ways_table(results).count("\n") == 1 + len(results.ways)
    assert "`json.extract`" in skills_table(results)


def test_percents_are_not_rounded_up_to_a_goal() -> None:
    assert [percent(value) for value in (99.95, 99.94, 85.0, 84.96, None)] == ["100 %", "99.9 %", "85 %", "85 %", "–"]


def test_the_command_refuses_questions_that_were_not_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.eval.__main__.question_set", lambda encoder: [])
    monkeypatch.setattr("sys.argv", ["eval", "--quick"])
    assert main() == 1
    assert "--record" in capsys.readouterr().err


def test_the_command_measures_a_folder_and_prints_the_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "training.eval.__main__.question_set",
        lambda encoder: [Question(skill="memory.fact", conversation=wants("The key is oak."))],
    )
    monkeypatch.setattr("training.eval.examinee.MAX_OUTPUT_TOKENS", 8)
    monkeypatch.setattr("training.eval.bad_input.bad_inputs", lambda: {"nothing": " "})
    monkeypatch.setattr("sys.argv", ["eval", "--quick", "--unrecorded", "--model", str(folder)])
    assert main() == 0
    assert "`memory.fact`" in capsys.readouterr().out
    assert not (folder / "evaluation.json").exists()


def test_the_shipped_shape_is_recognised_by_its_weights(tmp_path: Path) -> None:
    network = Network(MINI_FLASH)
    network.initialise(torch.Generator().manual_seed(1))
    torch.save(network.state_dict(), tmp_path / "average.pt")
    assert RunWeights.load(tmp_path).network.config == MINI_FLASH
    torch.save({"embed.weight": torch.zeros(2, 2)}, tmp_path / "average.pt")
    with pytest.raises(ValueError, match=r"training/shape\.py"):
        RunWeights.load(tmp_path)

"""Damaged tool markup: recovered where one call was meant, a typed error elsewhere, and never shown."""

from __future__ import annotations

import re

import pytest

from deepserve.core.errors import DamagedToolCall
from deepserve.prompt.decoder import Decoder, Piece
from deepserve.prompt.segments import Start
from tests.prompt.damage import GLOBAL, RECOVERABLE, TOOLS, UNRECOVERABLE, Case, arguments_of, damaged_answers
from tests.prompt.requests import Answer, collect, decode

CASES = list(damaged_answers(1))
MARKUP = re.compile(r"DSML|｜|</?(invoke|parameter|tool_?calls|function_calls)")


def read(case: Case, *cuts: int) -> tuple[Answer, DamagedToolCall | None]:
    decoder = Decoder(Start(stage=case.stage, offers_tools=True), marks="spelled", call_id=str, tools=TOOLS)
    events = []
    for start, end in zip((0, *cuts), (*cuts, len(case.text)), strict=True):
        events += decoder.feed(Piece(case.text[start:end]))
    return collect([*events, *decoder.finish()], decoder.damage), decoder.failure


def problem(case: Case) -> str | None:
    """What is wrong with what was read from a case."""
    answer, failure = read(case)
    if MARKUP.search(answer.text or "") is not None:
        return f"markup in the text: {answer.text!r}"
    if case.calls is None:
        return None if failure is not None else f"no error: {answer}"
    if failure is not None:
        return f"an error: {failure.message}"
    if (answer.text or "") != case.content:
        return f"another text: {answer.text!r}"
    calls = [[name, arguments_of(arguments)] for name, arguments in answer.calls]
    wanted = [[call.name, call.arguments] for call in case.calls]
    return None if calls == wanted else f"other calls: {calls}, not {wanted}"


def test_every_recoverable_call_is_recovered_and_the_rest_ends_in_the_error() -> None:
    wrong = [f"{case.rule}: {found}\n{case.text!r}" for case in CASES if (found := problem(case)) is not None]
    assert not wrong, f"{len(wrong)} of {len(CASES)}\n" + "\n".join(wrong[:10])


def test_the_corpus_is_large_and_knows_every_rule() -> None:
    assert len(CASES) > 500
    rules = {case.rule.split(", ")[0] for case in CASES}
    assert rules == {name for table in (RECOVERABLE, UNRECOVERABLE) for name in table}
    assert {case.rule.split(", ")[1] for case in CASES} == GLOBAL.keys()
    assert sum(case.calls is None for case in CASES) > 100


def test_where_damaged_markup_is_cut_changes_nothing() -> None:
    """Each case in single characters, and in two pieces, at every place."""
    for case in CASES:
        whole = read(case)[0]
        assert read(case, *range(1, len(case.text)))[0] == whole, case
        for cut in range(1, len(case.text)):
            assert read(case, cut)[0] == whole, (case, cut)


@pytest.mark.parametrize("case", CASES[:: len(CASES) // 60])
def test_without_tools_damaged_markup_is_text(case: Case) -> None:
    for size in (None, 1):
        answer = decode(case.text, offers_tools=False, size=size)
        assert (answer.text, answer.calls, answer.damage, answer.has_failed) == (case.text, [], None, False)


def test_an_answer_that_was_cut_shows_no_markup_and_blames_nobody() -> None:
    """Ended by a limit inside the markup: what was read stays, the rest is dropped."""
    for case in CASES[::7]:
        if case.calls is None or "no mark anywhere" in case.rule:
            continue
        for end in range(0, len(case.text), 3):
            decoder = Decoder(Start(stage=case.stage, offers_tools=True), marks="spelled", call_id=str, tools=TOOLS)
            events = [*decoder.feed(Piece(case.text[:end])), *decoder.finish(is_cut=True)]
            assert "DSML" not in (collect(events).text or ""), case
            assert decoder.failure is None or len(decoder.failure.message) > 0


@pytest.mark.parametrize(
    "text",
    [
        'Use <invoke name="other"> to call, </invoke> to end.',
        "A table:\n| a | b |\n|---|---|\n| <b> | c |",
        "if a < b and c > d: pass  # <tool>",
        "The block `<tool_calls>` holds calls.",
        '<function_calls> is a tag, and so is <parameter name="x">.',
        "<tool_call>\nnothing\n</tool_call>",
        "The mark is ｜DSML｜, with bars.",
        "DSML stands for a markup language; |DSML| is half as wide.",
        "价格｜数量｜",
        "end with <",
        "end with </",
        "end with <|",
        "end with |",
    ],
)
def test_text_that_is_no_markup_stays_text_while_tools_are_offered(text: str) -> None:
    for size in (None, 1, 2):
        answer = decode(text, size=size, tools=TOOLS)
        assert (answer.text, answer.calls, answer.damage, answer.has_failed) == (text, [], None, False)


def test_markup_quoted_in_the_thinking_does_not_cost_the_answer() -> None:
    text = "The format is <｜DSML｜tool_calls>, I think.</think>\n\nHello."
    for size in (None, 1):
        answer = decode(text, stage="reasoning", size=size, tools=TOOLS)
        assert (answer.reasoning, answer.text, answer.calls) == ("The format is ", "Hello.", [])
        assert not answer.has_failed

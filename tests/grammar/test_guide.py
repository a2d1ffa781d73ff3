"""What the guide allows and forces in each phase of an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deepserve.core.errors import EngineFailure
from deepserve.grammar.answer_form import AnswerForm, Content
from deepserve.grammar.guide import AnswerGuide
from deepserve.grammar.matcher import Matcher
from deepserve.prompt.special_tokens import DSML, END_THINK
from tests.grammar.answers import (
    arguments_of,
    at_random,
    calls_form,
    compiler,
    guide_of,
    ids_of,
    json_form,
    mask_of,
    read,
    tokenizer,
    tool,
    vocabulary,
    written,
)

EOS = tokenizer().eos_id
END = tokenizer().special_id(END_THINK)
MARK = tokenizer().special_id(DSML)
TEXT = sum(1 << token for token in {*vocabulary().plain_ids, EOS})
NAME: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
    "additionalProperties": False,
}
OPTIONAL = compiler().compile(calls_form(tool(**NAME), calls="optional"))
REQUIRED = compiler().compile(calls_form(tool(**NAME)))
JSON = compiler().compile(json_form(NAME))


def allows(guide: AnswerGuide, token: int) -> bool:
    mask = mask_of(guide)
    return mask is None or bool(mask >> token & 1)


def write(guide: AnswerGuide, text: str) -> list[int]:
    """Have the model write a text, every token of it allowed; returns what was forced behind it."""
    forced: list[int] = []
    for token in ids_of(text):
        if forced:
            assert token == forced.pop(0)
            continue
        assert allows(guide, token), f"{tokenizer().decode([token])!r} is not allowed"
        assert guide.accept(token) == token
        forced = list(guide.forced())
    return forced


# Plain text


def test_plain_text_is_free_but_for_its_first_word() -> None:
    guide = guide_of(None)
    assert not allows(guide, EOS)
    assert not allows(guide, MARK)
    assert not allows(guide, vocabulary().num_tokens - 1), "the tokenizer has no such token"
    write(guide, "Hi")
    assert mask_of(guide) == TEXT
    assert not guide.forced()


def test_an_answer_is_not_blank() -> None:
    guide = guide_of(None)
    for _ in range(3):
        write(guide, "\n")
    assert not allows(guide, ids_of("\n")[0])
    assert not allows(guide, EOS)
    assert allows(guide, ids_of("a")[0])
    assert not allows(guide_of(None, max_tokens=1), ids_of(" ")[0])


def test_a_continued_text_may_be_complete_already() -> None:
    assert mask_of(guide_of(None, may_be_empty=True)) == TEXT


def test_where_tools_may_not_be_called_their_markup_cannot_be_written() -> None:
    guide = guide_of(None)
    write(guide, "a <")
    assert not allows(guide, MARK)
    assert not allows(guide, END)
    assert allows(guide, EOS)


# Thinking


def test_thinking_is_free_and_its_end_begins_the_answer() -> None:
    guide = guide_of(JSON, beginning="thinking")
    assert mask_of(guide) == TEXT | 1 << END
    write(guide, "Hm {<User> ")
    assert mask_of(guide) == TEXT | 1 << END
    guide.accept(END)
    assert guide.forced() == ids_of('{"name')


def test_an_end_token_within_thinking_ends_the_thinking() -> None:
    guide = guide_of(JSON, beginning="thinking")
    write(guide, "Enough")
    assert guide.accept(EOS) == END
    assert guide.forced() == ids_of('{"name')


@pytest.mark.parametrize("budget", [0, 1, 5])
def test_thinking_ends_when_its_budget_is_spent(budget: int) -> None:
    output = written(JSON, at_random(1), beginning="thinking", thinking_tokens=budget)
    assert output.index(END) <= budget
    assert json.loads(read(output, beginning="thinking").text).keys() == {"name"}


def test_a_spent_budget_is_told_by_the_mask_where_nothing_is_skipped() -> None:
    guide = guide_of(JSON, beginning="thinking", thinking_tokens=0, skips_ahead=False)
    assert guide.forced() == ()
    assert mask_of(guide) == 1 << END


def test_a_call_may_begin_within_thinking() -> None:
    for form in (OPTIONAL, REQUIRED):
        guide = guide_of(form, beginning="thinking")
        write(guide, "I call.")
        assert not allows(guide, MARK)
        write(guide, "\n\n<")
        assert allows(guide, MARK)
        guide.accept(MARK)
        assert tokenizer().decode(guide.forced()).startswith("tool_calls>\n<｜DSML｜invoke")


# Calls


def test_a_call_begins_in_text_at_its_mark_and_then_nothing_but_its_form_is_possible() -> None:
    guide = guide_of(OPTIONAL)
    write(guide, "Let me see.")
    assert not allows(guide, MARK)
    assert allows(guide, EOS)
    write(guide, "\n\n<")
    assert allows(guide, ids_of("b")[0]), "a bracket is still text"
    guide.accept(MARK)
    opening = tokenizer().decode(guide.forced())
    assert opening == 'tool_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="name" string="true'
    write(guide, '">Ada')
    assert not allows(guide, EOS)


def test_a_call_does_not_begin_where_it_would_not_fit() -> None:
    for room, fits in ((OPTIONAL.shortest_tokens + 2, True), (10, False)):
        guide = guide_of(OPTIONAL, max_tokens=room)
        write(guide, "<")
        assert allows(guide, MARK) is fits


def test_after_the_last_call_the_answer_ends() -> None:
    single = compiler().compile(calls_form(tool(**NAME), is_parallel=False))
    guide = guide_of(single)
    guide.forced()
    write(guide, '">Ada</')
    guide.accept(MARK)
    rest = guide.forced()
    assert tokenizer().decode(rest[:-1]) == "parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
    assert rest[-1] == EOS


def test_inside_a_block_that_the_prompt_opened_a_call_follows_at_once() -> None:
    guide = guide_of(REQUIRED, beginning="calls")
    assert tokenizer().decode(guide.forced()).startswith('<｜DSML｜invoke name="f">\n')


def test_calls_or_json_is_a_choice_of_the_first_token() -> None:
    form = compiler().compile(
        AnswerForm(content=Content(kind="json", schema=NAME), tools=(tool(**NAME),), calls="optional")
    )
    guide = guide_of(form)
    assert guide.forced() == []
    assert allows(guide, ids_of("\n\n")[0])
    assert allows(guide, ids_of("{")[0])
    assert not allows(guide, ids_of("a")[0])
    for seed in range(6):
        told = read(written(form, at_random(seed), max_tokens=300))
        values = arguments_of(told) if told.calls else [json.loads(told.text)]
        assert all(value.keys() == {"name"} for value in values)


# Skipping ahead


def test_what_has_no_alternative_is_forced_up_to_the_end_token() -> None:
    output = written(compiler().compile(json_form({"const": {"a": [1, None]}})), at_random(0))
    assert json.loads(tokenizer().decode(output[:-1])) == {"a": [1, None]}
    choice = compiler().compile(AnswerForm(content=Content(kind="choice", choices=("Wednesday",))))
    assert guide_of(choice).forced() == [*ids_of("Wednesday"), EOS]


def test_with_log_probabilities_every_token_is_drawn() -> None:
    guide = guide_of(JSON, skips_ahead=False)
    assert guide.forced() == ()
    mask = mask_of(guide)
    assert mask is not None
    assert {tokenizer().decode([token]) for token in range(2_048) if mask >> token & 1} <= {"{", '{"'}


# Faults


def test_a_token_that_the_grammar_does_not_know_is_an_error_of_this_answer() -> None:
    guide = guide_of(JSON, max_tokens=10_000)
    guide.forced()
    guide.accept(ids_of("Sure")[0])
    with pytest.raises(EngineFailure, match="form of this answer"):
        mask_of(guide)


def test_what_must_follow_is_not_asked_again_where_items_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking keeps the step loop as long as a mask would; what has to follow is forced in every item all the same."""
    answers: list[int] = []  # how many tokens had to follow, each time the library was asked
    ask = Matcher.forced

    def counted(matcher: Matcher) -> list[int]:
        found = ask(matcher)
        answers.append(len(found))
        return found

    item = {
        "type": "object",
        "properties": {"number": {"type": "integer"}, "is_done": {"type": "boolean"}},
        "required": ["number", "is_done"],
        "additionalProperties": False,
    }
    guide = guide_of(compiler().compile(json_form({"type": "array", "items": item})))
    left = json.dumps([{"number": number, "is_done": True} for number in range(11, 19)]).encode()
    monkeypatch.setattr(Matcher, "forced", counted)
    asked: list[tuple[int, int]] = []  # in vain, and not, after each item
    while left:
        (token, *_) = ids_of(left.decode())
        assert allows(guide, token)
        assert guide.accept(token) == token
        tokens = [token, *guide.forced()]
        text = b"".join(vocabulary().token_bytes[token] for token in tokens if token != EOS)
        if b"}" in text:
            asked.append((answers.count(0), sum(map(bool, answers))))
            answers.clear()
        assert left.startswith(text)
        left = left.removeprefix(text)
    in_vain, for_something = zip(*asked, strict=True)
    assert in_vain[0] > 0
    assert not any(in_vain[-3:])
    assert min(for_something) == for_something[0] > 0

"""The grammar of what follows an entry, for engines elsewhere that read it with the same library."""

from __future__ import annotations

import pytest
from llguidance import LLMatcher, grammar_from

from deepserve.grammar.answer_form import AnswerForm, Content
from deepserve.grammar.compiler import CompiledForm, Entry
from tests.grammar.answers import calls_form, compiler, ids_of, tool, vocabulary

CALLS = calls_form(tool(city={"type": "string"}, type="object", properties={"city": {"type": "string"}}))
EITHER = AnswerForm(tools=CALLS.tools, calls="optional", content=Content(kind="json", schema={"type": "object"}))
BLOCK = (
    "\n\n<｜DSML｜tool_calls>\n"
    '<｜DSML｜invoke name="f">\n'
    '<｜DSML｜parameter name="city" string="true">Paris, 20</｜DSML｜parameter>\n'
    "</｜DSML｜invoke>\n"
    "</｜DSML｜tool_calls>"
)
OPENING, MARK = "\n\n<｜DSML｜tool_calls>\n", "\n\n<｜DSML｜"


def read_elsewhere(compiled: CompiledForm, entry: Entry, ids: list[int]) -> tuple[int, bool]:
    """How many of these tokens another reader of the grammar takes, and whether it ends there."""
    text = compiled.grammar(entry)
    # vLLM's and SGLang's way in: the language is told from the text.
    matcher = LLMatcher(vocabulary().index, grammar_from("grammar", text))
    assert not matcher.is_error(), matcher.get_error()
    num_taken = matcher.try_consume_tokens(ids)
    return num_taken, matcher.is_accepting()


@pytest.mark.parametrize("form", [CALLS, EITHER], ids=["calls", "either"])
@pytest.mark.parametrize(("entry", "before"), [("start", ""), ("block", OPENING), ("mark", MARK)])
def test_the_grammar_behind_an_entry_takes_what_follows_it(form: AnswerForm, entry: Entry, before: str) -> None:
    ids = ids_of(BLOCK)[len(ids_of(before)) :] if before else ids_of(BLOCK)
    assert read_elsewhere(compiler().compile(form), entry, ids) == (len(ids), True)


@pytest.mark.parametrize("entry", ["block", "mark"])
def test_the_grammar_behind_an_entry_takes_nothing_else(entry: Entry) -> None:
    assert read_elsewhere(compiler().compile(EITHER), entry, ids_of('{"a": 1}')) == (0, False)


def test_the_grammar_from_the_start_takes_either_answer() -> None:
    ids = ids_of('{"a": 1}')
    assert read_elsewhere(compiler().compile(EITHER), "start", ids) == (len(ids), True)

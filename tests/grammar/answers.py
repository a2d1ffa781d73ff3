"""Following a guide without a network: a tokenizer, walks at random or as told, and what they wrote, read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from random import Random
from typing import Any

import msgspec

from deepserve.backends.tokens.form import call_markup, vocabulary_of
from deepserve.backends.tokens.model import shipped_folder
from deepserve.core.events import BlockDelta, BlockOpened, ReasoningBlock, TextBlock, ToolCallBlock
from deepserve.core.messages import Json
from deepserve.grammar.answer_form import AnswerForm, CallableTool, Content
from deepserve.grammar.compiler import CompiledForm, GrammarCompiler
from deepserve.grammar.guide import AnswerGuide, Beginning, GuideRules
from deepserve.grammar.vocabulary import Vocabulary
from deepserve.prompt.decoder import Decoder, Piece
from deepserve.prompt.segments import SegmentWriter, Start
from deepserve.prompt.special_tokens import DSML, END_THINK
from deepserve.prompt.tokenizer import Detokenizer, Tokenizer

UNUSED_IDS = 37
"""A network may have more ids than its tokenizer."""


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(shipped_folder() / "tokenizer.json")


@cache
def vocabulary() -> Vocabulary:
    return vocabulary_of(tokenizer(), frozenset({tokenizer().eos_id}), tokenizer().vocab_size + UNUSED_IDS)


@cache
def compiler() -> GrammarCompiler:
    return GrammarCompiler(vocabulary(), call_markup(tokenizer()))


def json_form(schema: Json) -> AnswerForm:
    return AnswerForm(content=Content(kind="json", schema=schema))


def tool(name: str = "f", *, is_strict: bool = True, **parameters: Any) -> CallableTool:  # Any: JSON
    return CallableTool(name=name, parameters=parameters or None, is_strict=is_strict, field="tools[0].parameters")


def calls_form(*tools: CallableTool, calls: str = "required", **options: Any) -> AnswerForm:  # Any: fields of the form
    return AnswerForm(tools=tools, calls=calls, **options)  # type: ignore[arg-type]  # one of the literals


def ids_of(text: str) -> list[int]:
    """Ids of a text in which spelled special tokens are special tokens."""
    writer = SegmentWriter()
    writer.markup(text)
    return tokenizer().encode(writer.finish()).ids


def guide_of(
    form: CompiledForm | None, *, max_tokens: int = 1_000, beginning: Beginning = "answer", **rules: Any
) -> AnswerGuide:  # Any: fields of the rules
    known = GuideRules(
        max_tokens=max_tokens,
        beginning=beginning,
        end_think=tokenizer().special_id(END_THINK),
    )
    return AnswerGuide(form, vocabulary(), msgspec.structs.replace(known, **rules), mark=tokenizer().special_id(DSML))


def mask_of(guide: AnswerGuide) -> int | None:
    """The guide's mask as a number, bit i for token i."""
    mask = guide.mask()
    if mask is None:
        return None
    return int.from_bytes(mask if isinstance(mask, bytes) else mask(), "little")


Pick = Callable[[int], int]


def at_random(seed: int) -> Pick:
    """Any of the allowed tokens, each as likely as the others."""
    random = Random(seed)

    def pick(allowed: int) -> int:
        while True:
            token = random.randrange(allowed.bit_length())
            if allowed >> token & 1:
                return token

    return pick


def written(
    form: CompiledForm | None, pick: Pick, *, max_tokens: int = 1_000, **rules: Any
) -> list[int]:  # Any: fields of the rules
    """A whole output, as a scheduler would have it."""
    guide = guide_of(form, max_tokens=max_tokens, **rules)
    output = list(guide.forced())
    while len(output) < max_tokens and tokenizer().eos_id not in output:
        allowed = mask_of(guide)
        token = pick(allowed if allowed is not None else (1 << vocabulary().num_tokens) - 1)
        output += [guide.accept(token), *guide.forced()]
    assert len(output) <= max_tokens
    return output


def admits(form: CompiledForm, text: str) -> bool:
    """Whether an answer of this form may be exactly this, cut into tokens as the model would."""
    ids = [*ids_of(text), tokenizer().eos_id]
    return form.matcher().admits(ids)


class Told(msgspec.Struct):
    """An answer as its client is told of it. calls: name and arguments."""

    reasoning: str
    text: str
    calls: list[tuple[str, str]]
    damage: str | None


def read(output: Sequence[int], *, beginning: Beginning = "answer", offers_tools: bool = True) -> Told:
    stages: Mapping[Beginning, Any] = {"thinking": "reasoning", "answer": "text", "calls": "tool_calls"}  # Any: stages
    decoder = Decoder(Start(stage=stages[beginning], offers_tools=offers_tools), marks="special")
    detokenizer = Detokenizer(tokenizer())
    pieces: list[Piece] = []
    for token in output:
        if token != tokenizer().eos_id:
            pieces += detokenizer.push(token)
    events = [event for piece in (*pieces, *detokenizer.finish()) for event in decoder.feed(piece)]
    events += decoder.finish()
    told = Told("", "", [], decoder.damage)
    blocks = {event.index: event.block for event in events if isinstance(event, BlockOpened)}
    for index, block in blocks.items():
        text = "".join(event.text for event in events if isinstance(event, BlockDelta) and event.index == index)
        match block:
            case ReasoningBlock():
                told.reasoning += text
            case TextBlock():
                told.text += text
            case ToolCallBlock(name=name):
                told.calls.append((name, text))
            case _:
                raise AssertionError(f"no model writes {block}")
    return told


def arguments_of(told: Told) -> list[Any]:  # Any: JSON
    return [json.loads(arguments) for _, arguments in told.calls]

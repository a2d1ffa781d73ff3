"""From the form of an answer to something that can follow it, token by token."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from deepserve.core.errors import UnsupportedFeature
from deepserve.core.messages import Json
from deepserve.grammar.answer_form import AnswerForm, Content
from deepserve.grammar.json_schema import json_grammar
from deepserve.grammar.matcher import Matcher
from deepserve.grammar.raw_text import choice_terminal, whole_terminal
from deepserve.grammar.shortest import Shortest
from deepserve.grammar.tool_calls import CallMarkup, call_grammar, within
from deepserve.grammar.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher

MAX_CACHED_FORMS: Final = 128
MAX_GRAMMAR_CHARACTERS: Final = 1_000_000
MAX_SHORTEST_TOKENS: Final = 8_192
"""A form whose shortest answer is longer than this is refused: nobody could wait for it."""

_USES_BEFORE_RENEWAL: Final = 1_000
"""The library's automata grow with every answer that goes through them; a fresh one costs a millisecond."""


class CompiledForm:
    """A form, ready to be followed. Safe to share between threads.

    relaxed          what of the tools' schemas is not enforced
    shortest_tokens  of an answer in this form, its end token included; 0 where text is free
    """

    def __init__(
        self,
        form: AnswerForm,
        vocabulary: Vocabulary,
        markup: CallMarkup,
        grammar: str,
        relaxed: tuple[str, ...],
        names: frozenset[str],
    ) -> None:
        self.form = form
        self.vocabulary = vocabulary
        self.markup = markup
        self.relaxed = relaxed
        self.shortest = Shortest(vocabulary, names)
        self._grammar = grammar
        self._lock = threading.Lock()
        self._num_uses = 0
        self._prototype = self._build()
        self._block_opening = self._opening_ids(markup.block_open)
        self._after_mark = self._opening_ids(
            markup.block_open[: markup.block_open.index(markup.mark) + len(markup.mark)]
        )
        shortest = self.shortest.complete(self.matcher(), max_tokens=MAX_SHORTEST_TOKENS)
        if shortest is None:
            raise UnsupportedFeature("No answer of this form was found: its schema may contradict itself.")
        self.shortest_tokens = len(shortest)

    def matcher(self, entry: str = "start") -> Matcher:
        """A place in the grammar: at its start, behind the opening of a block of calls (`block`), or behind the mark
        with which that opening begins (`mark`)."""
        with self._lock:
            self._num_uses += 1
            if self._num_uses % _USES_BEFORE_RENEWAL == 0:
                self._prototype = self._build()
            matcher = Matcher(self._prototype.deep_copy(), self.vocabulary.mask_bytes)
        match entry:
            case "block":
                matcher.consume(self._block_opening)
            case "mark":
                matcher.consume(self._after_mark)
        return matcher

    def _opening_ids(self, spelling: str) -> list[int]:
        ids: list[int] = []
        for number, piece in enumerate(spelling.split(self.markup.mark)):
            ids += [self.markup.mark_id] if number else []
            ids += self.vocabulary.encode(piece) if piece else []
        return ids

    def _build(self) -> LLMatcher:
        from llguidance import LLMatcher

        matcher = LLMatcher(self.vocabulary.index, LLMatcher.grammar_from_lark(self._grammar), log_level=0)
        if matcher.is_error():
            raise _refusal(matcher.get_error())
        return matcher


class GrammarCompiler:
    """Compiles forms, and remembers those compiled lately. Synchronous: call it off the event loop.

    vocabulary  built when it is first needed
    """

    def __init__(self, vocabulary: Vocabulary, markup: CallMarkup) -> None:
        self._vocabulary = vocabulary
        self._markup = markup
        self._lock = threading.Lock()
        self._compiled: OrderedDict[bytes, CompiledForm] = OrderedDict()

    def known(self, form: AnswerForm) -> CompiledForm | None:
        """The form if it was compiled lately; quick."""
        key = msgspec.msgpack.encode(form)
        with self._lock:
            found = self._compiled.get(key)
            if found is not None:
                self._compiled.move_to_end(key)
        return found

    def compile(self, form: AnswerForm) -> CompiledForm:
        """Raises InvalidField and UnsupportedFeature for what no grammar can be made of."""
        found = self.known(form)
        if found is not None:
            return found
        compiled = self._compile(form)
        with self._lock:
            self._compiled[msgspec.msgpack.encode(form)] = compiled
            while len(self._compiled) > MAX_CACHED_FORMS:
                self._compiled.popitem(last=False)
        return compiled

    def _compile(self, form: AnswerForm) -> CompiledForm:
        starts: list[str] = []
        rules: list[str] = []
        relaxed: tuple[str, ...] = ()
        names: frozenset[str] = frozenset()
        if form.tools and form.calls != "none":
            calls = call_grammar(form.tools, self._markup, is_parallel=form.is_parallel)
            starts.append(calls.start)
            rules += calls.rules
            relaxed += calls.relaxed
            names |= calls.required_names
            for tool in form.tools:
                names |= required_names(tool.parameters)
        if form.content is not None and form.calls != "required":
            rule, content_relaxed = _content_rule(form.content)
            starts.append("content")
            rules.append(rule)
            relaxed += content_relaxed
            names |= required_names(form.content.schema)
        grammar = "\n".join((f"start: {' | '.join(starts)}", *rules))
        if len(grammar) > MAX_GRAMMAR_CHARACTERS:
            raise UnsupportedFeature(f"The schemas make a grammar of more than {MAX_GRAMMAR_CHARACTERS} characters.")
        return CompiledForm(form, self._vocabulary, self._markup, grammar, relaxed, names)


def _content_rule(content: Content) -> tuple[str, tuple[str, ...]]:
    match content.kind:
        case "json":
            grammar = json_grammar(content.schema, strict=content.is_strict, field=content.field)
            return f"content: {grammar.rule}", tuple(f"{content.field}{within(found)}" for found in grammar.relaxed)
        case "regex":
            return f"content: CONTENT\nCONTENT: {whole_terminal(content.pattern)}", ()
        case "choice":
            return f"content: CONTENT\nCONTENT: {choice_terminal(content.choices)}", ()


def required_names(schema: Json) -> frozenset[str]:
    """Names that any object in the schema requires."""
    found: set[str] = set()
    pending: list[Json] = [schema]
    while pending:
        part = pending.pop()
        if isinstance(part, Mapping):
            required = part.get("required")
            if isinstance(required, Sequence) and not isinstance(required, str):
                found.update(name for name in required if isinstance(name, str))
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)
    return frozenset(found)


def _refusal(reason: str) -> UnsupportedFeature:
    lines = reason.strip().splitlines() or ["unknown"]
    return UnsupportedFeature(f"No grammar can be made of this: {lines[0][:300]}")

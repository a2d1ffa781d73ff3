"""From the form of an answer to something that can follow it, token by token."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from deepserve.core.errors import EngineFailure, RequestError, UnsupportedFeature
from deepserve.core.messages import Json
from deepserve.grammar.answer_form import AnswerForm, Content
from deepserve.grammar.example_text import example, examples_in
from deepserve.grammar.growth import growth_tokens, has_free_strings
from deepserve.grammar.json_schema import json_grammar
from deepserve.grammar.matcher import Matcher
from deepserve.grammar.nesting_rule import Nesting
from deepserve.grammar.number_rule import Numbers
from deepserve.grammar.raw_text import choice_terminal, literal, whole_terminal
from deepserve.grammar.shortest import Shortest, TokenKinds
from deepserve.grammar.tool_calls import CallMarkup, call_grammar
from deepserve.grammar.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher

MAX_CACHED_FORMS: Final = 64
MAX_GRAMMAR_CHARACTERS: Final = 1_000_000
MAX_SHORTEST_TOKENS: Final = 8_192
"""A form whose shortest answer is longer than this is refused: nobody could wait for it."""
MAX_COMPILE_S: Final = 2.0
_MAX_AUTOMATON_STATES: Final = 20_000
"""Of a form's automata, one to two kilobytes each; they grow with the answers that go through them."""

Entry = Literal["start", "block", "mark"]
"""Where in the grammar an answer begins: at the start, behind the opening of a block of calls, or behind the special
token in that opening."""


class WrittenGrammar(msgspec.Struct, frozen=True, kw_only=True):
    """text: in the library's language. block: the expression of a block of calls behind its opening; None where there
    are no calls. form: with schemas that can be read. relaxed: what is not enforced of them."""

    text: str
    block: str | None
    form: AnswerForm
    relaxed: tuple[str, ...]


class CompiledForm:
    """A form, ready to be followed. Safe to share between threads.

    relaxed          what of the tools' schemas is not enforced
    shortest_tokens  of an answer in this form, its end token included; where text is free, of a block of calls
    shortest_answer  its tokens
    growth_tokens    most tokens by which one more token lengthens the shortest completion, roughly
    has_free_strings tokens within strings lengthen it by no more than themselves

    is_late: asked again and again while an answer is looked for. Raises UnsupportedFeature for a grammar that the
    library cannot follow or that no answer was found for.
    """

    def __init__(
        self,
        grammar: WrittenGrammar,
        kinds: TokenKinds,
        markup: CallMarkup,
        is_late: Callable[[], bool],
    ) -> None:
        self.form = form = grammar.form
        self.vocabulary = kinds.vocabulary
        self.relaxed = grammar.relaxed
        self.shortest = Shortest(kinds, required_names=_required_names(form), examples=_examples(form))
        self.growth_tokens = growth_tokens(form)
        self.has_free_strings = has_free_strings(form)
        self._text = grammar.text
        self._block = grammar.block
        self._kinds = kinds
        self._has_json = form.content is None or form.content.kind == "json"
        self._markup = markup
        self._shared = self._build()
        mark_end = markup.block_open.index(markup.mark) + len(markup.mark)
        self._openings: Mapping[Entry, list[int]] = {
            "start": [],
            "block": self._opening_ids(markup.block_open),
            "mark": self._opening_ids(markup.block_open[:mark_end]),
        }
        try:
            shortest = self.shortest.complete(self.matcher(), max_tokens=MAX_SHORTEST_TOKENS, is_late=is_late)
        except EngineFailure as failure:
            raise UnsupportedFeature(
                "This form is too large to be followed: its bounds on lengths and counts, or the numbers of its "
                f"alternatives, have to be smaller. ({failure.message})"
            ) from failure
        if shortest is None and is_late():
            raise UnsupportedFeature(f"The grammar of this form takes more than {MAX_COMPILE_S:g} s to build.")
        if shortest is None:
            raise UnsupportedFeature(
                f"No answer of at most {MAX_SHORTEST_TOKENS:,} tokens was found that has this form: it demands too "
                "much, or its parts contradict each other."
            )
        self.shortest_answer = tuple(shortest)
        self.shortest_tokens = len(shortest)

    def known_completion(self, entry: Entry) -> list[int]:
        """What is left of the shortest answer behind an entry, for a search to begin with; nothing where the shortest
        answer does not go there."""
        opening = self._openings[entry]
        begins_so = list(self.shortest_answer[: len(opening)]) == opening
        return list(self.shortest_answer[len(opening) :]) if begins_so else []

    def grammar(self, entry: Entry = "start") -> str:
        """What may follow an entry, in the library's language, for engines elsewhere that have the library too."""
        if entry == "start":
            return self._text
        assert self._block is not None
        rest = self._markup.block_open.partition(self._markup.mark)[2] if entry == "mark" else ""
        _, _, rules = self._text.partition("\n")
        return f"start: {literal(rest) if rest else ''} {self._block}\n{rules}"

    def matcher(self, entry: Entry = "start") -> Matcher:
        inner = self._shared.deep_copy()
        matcher = Matcher(
            inner,
            self._renew,
            mask_bytes=self.vocabulary.mask_bytes,
            numbers=Numbers(self._kinds.numbers) if self._has_json else None,
            nesting=Nesting(self._kinds.nesting) if self._has_json else None,
        )
        matcher.consume(self._openings[entry])
        return matcher

    def _opening_ids(self, spelling: str) -> list[int]:
        ids: list[int] = []
        for number, piece in enumerate(spelling.split(self._markup.mark)):
            ids += [self._markup.mark_id] if number else []
            ids += self.vocabulary.encode(piece) if piece else []
        return ids

    def _renew(self) -> LLMatcher:
        """Fresh automata, for whoever asks and for the answers to come."""
        self._shared = self._build()
        return self._shared.deep_copy()

    def _build(self) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(max_lexer_states=_MAX_AUTOMATON_STATES, verbose_errors=False)
        grammar = LLMatcher.grammar_from_lark(self._text)
        matcher = LLMatcher(self.vocabulary.index, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            reason = matcher.get_error().strip().splitlines()[0]
            raise UnsupportedFeature(f"No grammar can be made of this form: {reason[:300]}")
        return matcher


class GrammarCompiler:
    """Compiles forms, and remembers those compiled lately. Synchronous: call it off the event loop.

    clock  seconds, monotonic; a form that takes more than MAX_COMPILE_S is refused
    """

    def __init__(
        self, vocabulary: Vocabulary, markup: CallMarkup, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._vocabulary = vocabulary
        self._markup = markup
        self._clock = clock
        self._lock = threading.Lock()
        self._compiled: OrderedDict[bytes, CompiledForm] = OrderedDict()
        self._kinds: TokenKinds | None = None

    def warm(self) -> None:
        """Do now what does not depend on the form."""
        with self._lock:
            if self._kinds is None:
                self._kinds = TokenKinds(self._vocabulary, mark=self._markup.mark_id)
        _ = self._vocabulary.index

    def known(self, form: AnswerForm) -> CompiledForm | None:
        """The form if it was compiled lately; quick."""
        key = _key(form)
        with self._lock:
            found = self._compiled.get(key)
            if found is not None:
                self._compiled.move_to_end(key)
        return found

    def compile(self, form: AnswerForm) -> CompiledForm:
        """Raises InvalidField and UnsupportedFeature, with the field at fault, for what no grammar can be made of."""
        found = self.known(form)
        if found is not None:
            return found
        self.warm()
        assert self._kinds is not None
        until = self._clock() + MAX_COMPILE_S
        try:
            compiled = CompiledForm(
                _write(form, self._markup), self._kinds, self._markup, lambda: self._clock() > until
            )
        except RequestError as error:
            error.field = error.field or (form.content.field if form.content is not None else "tools")
            raise
        except BaseException as panic:
            if isinstance(panic, Exception):
                raise
            # The library gave up; what it raises then is no Exception, and nobody above would answer the client.
            raise EngineFailure("The grammar of this form could not be built: its compiler gave up.") from panic
        with self._lock:
            self._compiled[_key(form)] = compiled
            while len(self._compiled) > MAX_CACHED_FORMS:
                self._compiled.popitem(last=False)
        return compiled


def _key(form: AnswerForm) -> bytes:
    return msgspec.msgpack.encode(form)


def _write(form: AnswerForm, markup: CallMarkup) -> WrittenGrammar:
    starts: list[str] = []
    rules: list[str] = []
    relaxed: tuple[str, ...] = ()
    block: str | None = None
    if form.calls != "none":
        calls = call_grammar(form.tools, markup, is_parallel=form.is_parallel)
        starts.append(calls.start)
        rules += calls.rules
        block = calls.block
        relaxed += calls.relaxed
        form = msgspec.structs.replace(form, tools=calls.tools)
    if form.content is not None and form.calls != "required":
        starts.append("content")
        rules.append(f"content: {_content(form.content)}")
    text = "\n".join((f"start: {' | '.join(starts)}", *rules))
    if len(text) > MAX_GRAMMAR_CHARACTERS:
        raise UnsupportedFeature(f"The schemas make a grammar of more than {MAX_GRAMMAR_CHARACTERS:,} characters.")
    return WrittenGrammar(text=text, block=block, form=form, relaxed=relaxed)


def _content(content: Content) -> str:
    match content.kind:
        case "json":
            return json_grammar(content.schema, strict=True, field=content.field).rule
        case "regex":
            return f"CONTENT\nCONTENT: {whole_terminal(content.pattern)}"
        case "choice":
            return f"CONTENT\nCONTENT: {choice_terminal(content.choices)}"


def _schemas(form: AnswerForm) -> list[Json]:
    own: list[Json] = [form.content.schema] if form.content is not None else []
    return [*own, *(tool.parameters for tool in form.tools)]


def _examples(form: AnswerForm) -> tuple[str, ...]:
    examples = [text for schema in _schemas(form) for text in examples_in(schema)]
    if form.content is not None and form.content.kind == "regex":
        examples.append(example(form.content.pattern))
    return tuple(examples)


def _required_names(form: AnswerForm) -> frozenset[str]:
    """Names that any object in the schemas requires."""
    found: set[str] = set()
    pending = _schemas(form)
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

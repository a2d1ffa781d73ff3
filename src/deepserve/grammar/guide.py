"""Leads one answer, token by token: thinking that ends in time, then an answer in the form that was asked for.

    thinking -> text                      nothing but tools' calls is enforced
             -> form                      calls, JSON, a pattern, a choice; or calls begun within thinking or text

Thinking is free, but it is not the whole answer: an end token within it ends the thinking, and it is closed when its
budget is spent. Neither thinking nor text holds special tokens: that of tool markup may only stand where a block of
calls can begin, and from there on the block's grammar is followed.

In a form, the library's masks say what may come next. Near the output limit the guide keeps a completion at hand that
fits; a token after which no known completion would fit is replaced by the next token of that completion. So the model
goes on freely as long as it can still end in time, and an answer whose shortest form fits its limit is never cut off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec

from deepserve.grammar.compiler import CompiledForm, Entry
from deepserve.grammar.matcher import Matcher
from deepserve.grammar.vocabulary import Vocabulary

Phase = Literal["thinking", "text", "form", "ended"]

Beginning = Literal["thinking", "answer", "calls"]
"""What the answer begins with: thinking, the answer itself, or the inside of a block of calls that the prompt opens."""

_MOST_BLANKS: Final = 3
"""Tokens of white space an answer may begin with: a model that writes nothing else has not answered."""

_PLAIN: Final = re.compile(r"[ !#-;=-\[\]-~\u00a0-\U0010ffff]+")
"""Text within a string that begins nothing: no quotation mark, escape, tag or part of a character."""
_TEXT_GROWTH: Final = 2
"""Plain text lengthens the shortest answer by itself, and perhaps its end is cut into tokens otherwise. So do digits
behind a digit: what the rest of a number may need was counted with its first."""

_PLAIN_TOKEN, _DIGITS_TOKEN, _ENDS_IN_DIGIT, _STOP_TOKEN = (1 << bit for bit in range(4))

_HOPELESS_TOKENS: Final = 8
_HOPELESS_SHARE: Final = 16
"""How long to go on before looking again for a completion where none was found: a share of what is left."""


class GuideRules(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for every result of a request.

    max_tokens       of thinking and answer together
    thinking_tokens  most tokens of thinking, without the one that ends it; None: no bound
    end_think        the token that ends thinking
    begun            text of the answer that the prompt already holds
    may_be_empty     the answer continues somebody's text, and may be nothing
    skips_ahead      tokens without alternative are written without asking the model; off where log-probabilities are
                     wanted, because the model's own tokenization of them is its choice
    """

    max_tokens: int
    beginning: Beginning = "answer"
    thinking_tokens: int | None = None
    end_think: int
    begun: tuple[int, ...] = ()
    may_be_empty: bool = False
    skips_ahead: bool = True


class AnswerGuide:
    """Follows one result; an engine.generation.TokenGuide.

    compiled  the form; None: free text
    mark      the special token of tool markup
    """

    def __init__(self, compiled: CompiledForm | None, vocabulary: Vocabulary, rules: GuideRules, *, mark: int) -> None:
        self._compiled = compiled
        self._vocabulary = vocabulary
        self._rules = rules
        self._mark = mark
        self._masks = _masks(vocabulary, mark)
        self._left = rules.max_tokens
        self._thinking_left = rules.max_tokens if rules.thinking_tokens is None else rules.thinking_tokens
        self._phase: Phase = "thinking"
        self._after_bracket = False
        self._has_text = rules.may_be_empty
        self._num_blanks = 0
        self._matcher: Matcher | None = None
        self._plan: list[int] | None = None
        self._old_plan: list[int] = []
        self._check_at = rules.max_tokens
        self._slack = 0  # tokens that the shortest completion can gain before it has to be looked for again
        self._is_in_string = False  # where the last mask stands
        self._is_after_text = False  # the last token was plain text in a string
        self._is_after_digit = False
        self._is_in_digits = False  # the last token was digits behind a digit
        self._place = 0  # the last mask and the tokens since: much the same may follow where they are the same
        self._open_places: set[int] = set()  # where nothing had to follow
        if rules.beginning == "calls":
            self._enter_form("block")
        elif rules.beginning == "answer":
            self._begin_answer()

    @property
    def phase(self) -> Phase:
        """What the next token belongs to; for those who tell somebody else what may follow."""
        return self._phase

    # The protocol

    def mask(self) -> bytes | Callable[[], bytes] | None:
        match self._phase:
            case "thinking":
                if self._thinking_left <= 0:
                    return self._vocabulary.mask((self._rules.end_think,))
                return self._masks.thinking(self._rules.end_think, may_call=self._may_call())
            case "text":
                if not self._has_text:
                    is_urgent = self._num_blanks >= _MOST_BLANKS or self._left <= 1
                    return self._masks.opening(may_call=self._may_call(), may_be_blank=not is_urgent)
                return self._masks.text(may_call=self._may_call())
            case "form":
                return self._compute_mask  # while the engine goes through the layers
            case "ended":
                return None

    def accept(self, token: int) -> int:
        if self._phase == "form":
            return self._accept_in_form(token)
        if self._phase == "thinking" and token in self._vocabulary.stop_ids:
            # The model has nothing to add to its thinking; the answer is still to come.
            token = self._rules.end_think
        self._left -= 1
        self._read(token)
        return token

    def forced(self) -> Sequence[int]:
        if not self._rules.skips_ahead or ((self._is_after_text or self._is_in_digits) and self._plan is None):
            return ()  # within strings and numbers there is nearly always a choice, and asking costs as much as a mask
        found: list[int] = []
        while self._left > 0:
            if self._phase == "thinking" and self._thinking_left <= 0:
                self._left -= 1
                self._read(self._rules.end_think)
                found.append(self._rules.end_think)
                continue
            step = self._forced_in_form() if self._phase == "form" else []
            if not step:
                break
            found += step
        return found

    # Thinking and text

    def _read(self, token: int) -> None:
        text = self._vocabulary.token_bytes[token]
        if token in self._vocabulary.stop_ids:
            self._phase = "ended"
        elif token == self._mark and self._may_call():
            self._enter_form("mark")
        elif self._phase == "thinking":
            if token == self._rules.end_think:
                self._after_bracket = False
                self._begin_answer()
                return
            self._thinking_left -= 1
        elif self._phase == "text":
            if text.strip():
                self._has_text = True
            else:
                self._num_blanks += 1
        self._after_bracket = text.endswith(b"<")

    def _begin_answer(self) -> None:
        if self._compiled is None or self._compiled.form.has_free_text:
            self._phase = "text"
        else:
            self._enter_form("start")

    def _may_call(self) -> bool:
        """Whether a block of calls may begin with the next token, and fits what is left."""
        compiled = self._compiled
        return (
            compiled is not None
            and compiled.form.calls != "none"
            and self._after_bracket
            and self._left > compiled.shortest_tokens
        )

    # Forms

    def _enter_form(self, entry: Entry) -> None:
        assert self._compiled is not None
        self._phase = "form"
        self._matcher = self._compiled.matcher(entry)
        self._slack = 0
        self._old_plan = self._compiled.known_completion(entry)
        if entry == "start" and self._rules.begun:
            self._matcher.consume(self._rules.begun)
        elif 0 < len(self._old_plan) <= self._left:
            # What was found when the form was compiled need not be looked for here.
            self._plan = self._old_plan
            self._relax()

    def _accept_in_form(self, token: int) -> int:
        assert self._matcher is not None
        self._left -= 1
        if self._plan is None:
            self._step(token)
            return token
        if token != self._plan[0] and token not in self._vocabulary.stop_ids:
            self._step(token)
            plan = self._plan if self._is_still_fit(self._plan) else self._completion()
            if plan is not None:
                self._plan = plan
                self._relax()
                return token
            self._matcher.undo(1)
            token = self._plan[0]
        self._step(token)
        del self._plan[:1]
        self._relax()
        return token

    def _forced_in_form(self) -> list[int]:
        assert self._matcher is not None
        if self._plan is not None and self._left <= len(self._plan):
            step, self._plan = self._plan, []
            self._left -= len(step)
            for token in step:
                self._step(token)
            return step
        if self._is_after_text or self._is_in_digits:
            return []
        # Asking costs the step loop as much as a mask. Lists repeat their items, and where there was a choice in one
        # there is one in the next, or else the model is asked and draws what has to follow.
        if self._place in self._open_places:
            return []
        step = self._matcher.forced()
        if not step and self._matcher.is_complete():
            step = [self._vocabulary.stop_ids[0]]
        if not step:
            self._open_places.add(self._place)
            return []
        if len(step) > self._left:
            step = step[: self._left]
        for token in step:
            self._step(token, is_forced=True)
        self._left -= len(step)
        if self._phase == "ended":
            self._plan = []
        elif self._plan is None:
            pass  # what had to follow is part of any completion
        elif self._plan[: len(step)] == step:
            del self._plan[: len(step)]
            self._relax()
        else:
            plan = self._completion()
            if plan is None:
                # Cut otherwise these bytes still fit: the known completion says how.
                self._matcher.undo(len(step))
                self._left += len(step)
                return []
            self._plan = plan
            self._relax()
        return step

    def _compute_mask(self) -> bytes:
        """The mask, and before it the look ahead that it may depend on: both may take longer than all the rest."""
        assert self._compiled is not None
        assert self._matcher is not None
        self._look_ahead()
        if self._plan is not None and self._left <= len(self._plan):
            return self._vocabulary.mask(self._plan[:1])
        mask = self._matcher.mask()
        self._is_in_string = self._compiled.shortest.is_in_string(mask)
        self._place = hash(mask)
        return mask

    def _step(self, token: int, *, is_forced: bool = False) -> None:
        """Follow a token that the grammar allows."""
        assert self._matcher is not None
        assert self._compiled is not None
        self._place = hash((self._place, token))
        kind = self._masks.kinds[token]
        self._is_after_text = is_text = self._is_in_string and kind & _PLAIN_TOKEN != 0
        self._is_in_digits = is_in_digits = self._is_after_digit and kind & _DIGITS_TOKEN != 0
        self._is_in_string, self._is_after_digit = False, kind & _ENDS_IN_DIGIT != 0
        # By how much the shortest answer may be longer with this token than it was before it was known.
        if is_forced:
            self._slack -= 1
        elif is_in_digits or (is_text and self._compiled.has_free_strings):
            self._slack -= _TEXT_GROWTH
        else:
            self._slack -= self._compiled.growth_tokens
        if kind & _STOP_TOKEN:
            self._phase = "ended"  # the library takes no more tokens once nothing can follow
        else:
            self._matcher.consume_later(token)

    # Ending in time

    def _completion(self) -> list[int] | None:
        """A completion that fits what is left."""
        assert self._compiled is not None
        assert self._matcher is not None
        known = self._plan if self._plan is not None else self._old_plan
        return self._compiled.shortest.complete(self._matcher, max_tokens=self._left, known=known)

    def _is_still_fit(self, plan: list[int]) -> bool:
        """Whether a completion holds behind a token more, as it mostly does within strings."""
        assert self._matcher is not None
        return self._is_after_text and len(plan) <= self._left and self._matcher.admits(plan)

    def _look_ahead(self) -> None:
        """Have a completion at hand when it is time: before a token is drawn after which there might be none."""
        assert self._compiled is not None
        is_due = self._slack < self._compiled.growth_tokens or self._left <= self._check_at
        if self._plan is None and is_due:
            self._plan = self._completion()
            if self._plan is None:
                self._check_at = self._left - max(_HOPELESS_TOKENS, self._left // _HOPELESS_SHARE)
                self._slack = self._left * self._compiled.growth_tokens
            self._relax()

    def _relax(self) -> None:
        """Let go of the completion while there is ample room."""
        if self._plan is None:
            return
        assert self._compiled is not None
        slack = self._left - len(self._plan)
        if slack >= 2 * self._compiled.growth_tokens:
            self._slack, self._check_at = slack, 0
            self._old_plan, self._plan = self._plan, None


class _Masks:
    """The masks that do not depend on any grammar: text may be anything but special tokens."""

    def __init__(self, vocabulary: Vocabulary, mark: int) -> None:
        self._vocabulary = vocabulary
        stops = frozenset(vocabulary.stop_ids)
        blank = vocabulary.blank_ids
        marks = {True: frozenset((mark,)), False: frozenset[int]()}
        self._text = {may_call: _text_mask(vocabulary, may=marks[may_call]) for may_call in (False, True)}
        self._opening = {
            (may_call, may_be_blank): _text_mask(
                vocabulary, may=marks[may_call], may_not=stops if may_be_blank else stops | blank
            )
            for may_call in (False, True)
            for may_be_blank in (False, True)
        }
        self.kinds = bytearray(vocabulary.num_tokens)
        """What a guide wants to know of each token, as bits."""
        for token in vocabulary.plain_ids:
            text = vocabulary.token_bytes[token]
            self.kinds[token] = (
                _PLAIN_TOKEN * _is_plain(text) | _DIGITS_TOKEN * text.isdigit() | _ENDS_IN_DIGIT * text[-1:].isdigit()
            )
        for token in stops:
            self.kinds[token] = _STOP_TOKEN
        self._marks = marks
        self._thinking: dict[tuple[int, bool], bytes] = {}

    def text(self, *, may_call: bool) -> bytes:
        return self._text[may_call]

    def opening(self, *, may_call: bool, may_be_blank: bool) -> bytes:
        return self._opening[may_call, may_be_blank]

    def thinking(self, end_think: int, *, may_call: bool) -> bytes:
        found = self._thinking.get((end_think, may_call))
        if found is None:
            may = self._marks[may_call] | {end_think}
            found = self._thinking[end_think, may_call] = _text_mask(self._vocabulary, may=may)
        return found


def _is_plain(text: bytes) -> bool:
    try:
        return _PLAIN.fullmatch(text.decode()) is not None
    except UnicodeDecodeError:  # a part of a character
        return False


def text_mask(vocabulary: Vocabulary) -> bytes:
    """The tokens that text is made of, and those that end it."""
    return _text_mask(vocabulary, may=frozenset())


def _text_mask(vocabulary: Vocabulary, *, may: frozenset[int], may_not: frozenset[int] = frozenset()) -> bytes:
    never = (vocabulary.special_ids | vocabulary.empty_ids) - frozenset(vocabulary.stop_ids)
    return vocabulary.mask_without((never - may) | may_not)


def _masks(vocabulary: Vocabulary, mark: int) -> _Masks:
    found = vocabulary.constant_masks.get(mark)
    if found is None:
        found = vocabulary.constant_masks[mark] = _Masks(vocabulary, mark)
    assert isinstance(found, _Masks)
    return found

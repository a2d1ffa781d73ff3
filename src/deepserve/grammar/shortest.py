"""The shortest way to end an answer from where it is: a search over the grammar, one mask at a time.

Near the output limit a guide needs to know a completion that fits. Finding the very shortest would mean to try every
token at every place; this search is greedy and finds a short one: it ends strings, arrays and objects where it may,
writes what is required, and otherwise picks a token that brings it to a new place. A completion known from a few
tokens before is taken up again as soon as it fits, so that following an answer costs a step or two for each token.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from functools import cached_property, lru_cache
from typing import Final

from deepserve.grammar.matcher import Matcher
from deepserve.grammar.nesting_rule import NestingRule
from deepserve.grammar.number_rule import NumberRule
from deepserve.grammar.vocabulary import Vocabulary

_ENDINGS: Final = (
    re.compile(rb"[\]}]+"),
    re.compile(rb"\[\]|\{\}|\"\""),
    re.compile(rb'"'),
    re.compile(rb"[0-9]"),
    re.compile(rb"true|null|false"),
    re.compile(rb"[\[{]"),
    re.compile(rb",|, "),
)
"""Between values: what ends something or is a shortest value, in the order it is tried; longer ones first."""

_QUOTES: Final = re.compile(rb'"[\]}]*')
_TAGS: Final = re.compile(rb"\s*</|/")

_FEWEST_IN_TEXT: Final = 64
_MOST_OUTSIDE: Final = 2_000
"""Outside of strings there are names, numbers and brackets: even of a large vocabulary no more tokens than these."""
_MAX_CHOICES: Final = 256
_MAX_TRIALS: Final = 12
_MAX_REJOINED: Final = 6
_TRIAL_TOKENS: Final = 8
_MAX_TRIED_TOKENS: Final = 20_000
"""Two or three milliseconds, if a trial costs as much as so many tokens: all other answers of the step wait for it."""
_FILLER_BYTES: Final = 8
_UNFORCED: Final = 3
_MAX_ENDS: Final = 600
_MAX_REMEMBERED_TEXTS: Final = 2_048


class TokenKinds:
    """What the search wants to know of a vocabulary; the same for all forms.

    endings   in the order in which they are tried
    quotes    ends of quoted strings, the longest first
    ways_out  ends of raw strings, up to the special token: written in one token, in several, or begun already
    fillers   masks of tokens of letters and digits, the longest first
    numbers   which tokens go on with a number
    nesting   which tokens open brackets
    ids_of    a text as the model would cut it; quick for those of formats, which many forms name
    many      where more tokens than these may follow, the inside of a string is
    mark      the special token of tool markup, the only one that a grammar holds
    inside_characters  tokens that go on with a character that has begun: any of them will do
    """

    def __init__(self, vocabulary: Vocabulary, *, mark: int) -> None:
        self.vocabulary = vocabulary
        self.mark = mark
        self.stop_bits = vocabulary.bits(vocabulary.stop_ids)
        self.special_bits = vocabulary.bits(vocabulary.special_ids)
        self.endings = _matching(vocabulary, _ENDINGS)
        self.quotes = _matching(vocabulary, (_QUOTES,))
        closing = tuple(vocabulary.encode("</"))
        self.ways_out = [closing, *((token,) for token in _matching(vocabulary, (_TAGS,)) if closing != (token,))]
        self.fillers = _fillers(vocabulary)
        self.inside_characters = vocabulary.bits(
            [token for token in vocabulary.plain_ids if 0x80 <= vocabulary.token_bytes[token][0] < 0xC0]
        )
        self.numbers = NumberRule(vocabulary)
        self.nesting = NestingRule(vocabulary)
        self.ids_of = lru_cache(_MAX_REMEMBERED_TEXTS)(lambda text: tuple(vocabulary.encode(text)))
        self.many = min(max(_FEWEST_IN_TEXT, len(vocabulary.plain_ids) // 4), _MOST_OUTSIDE)


class Shortest:
    """Finds completions. Safe to share between threads.

    required_names  of object members: preferred where a name must be chosen
    examples        texts that patterns in the form admit: tried where a string has no end in sight
    """

    def __init__(
        self, kinds: TokenKinds, *, required_names: Collection[str] = (), examples: Sequence[str] = ()
    ) -> None:
        self._kinds = kinds
        self._vocabulary = kinds.vocabulary
        self._required = tuple(sorted(name.encode() + b'"' for name in required_names))
        self._examples = tuple(examples)

    @cached_property
    def _example_ends(self) -> list[tuple[int, ...]]:
        """The examples from every place in them, the shortest first: what stands before may be written already."""
        texts = dict.fromkeys(text[start:] for text in self._examples for start in range(len(text)))
        return [self._kinds.ids_of(text) for text in sorted(texts, key=len)[:_MAX_ENDS]]

    def complete(
        self,
        matcher: Matcher,
        *,
        max_tokens: int,
        known: Sequence[int] = (),
        is_late: Callable[[], bool] = lambda: False,
    ) -> list[int] | None:
        """Tokens that complete the answer, its end token included; None when none of at most `max_tokens` is found.

        known    a completion from an earlier place
        is_late  asked again and again whether to give up
        The matcher is left as it is.
        """
        state = matcher
        tokens: list[int] = []
        text = b""
        while len(tokens) < max_tokens and not is_late():
            # What must follow anyway needs no mask, which is dear at a new place; first of all, though, the known
            # completion may do.
            step: Sequence[int] = () if known and not tokens else state.forced()
            if not step:
                allowed = state.allowed()
                if allowed & self._kinds.stop_bits:
                    return [*tokens, self._vocabulary.stop_ids[0]]
                rest = self._rejoined(state, allowed, known)
                if rest is not None:
                    return [*tokens, *rest] if len(tokens) + len(rest) <= max_tokens else None
                step = state.forced() if known and not tokens else ()
            if state is matcher:
                state = matcher.copy()
            if step:
                state.consume(step)
            else:
                step = self._choose(state, allowed, text)
            tokens += step
            text = (text + b"".join(self._vocabulary.token_bytes[token] for token in step))[-128:]
        return None

    def _rejoined(self, state: Matcher, allowed: int, known: Sequence[int]) -> Sequence[int] | None:
        """The shortest end of the known completion that may follow here, as far as it is found soon."""
        first = range(min(len(known), _MAX_REJOINED))
        # Within text nearly every end of the known completion may begin, and few of them go on.
        is_text = allowed.bit_count() > self._kinds.many
        num_tried = 0
        refused: set[Sequence[int]] = set()  # beginnings that may not follow; many ends begin alike
        for skipped in first if is_text else range(len(known) - 1, -1, -1):
            if num_tried > _MAX_TRIED_TOKENS and skipped not in first:
                continue
            if allowed >> known[skipped] & 1 and tuple(known[skipped : skipped + 2]) not in refused:
                rest = known[skipped:]
                num_admitted = state.num_admitted(rest)
                if num_admitted == len(rest):
                    return rest
                if num_admitted < 2:
                    refused.add(tuple(rest[:2]))
                num_tried += _TRIAL_TOKENS + num_admitted
        return None

    def is_in_string(self, mask: bytes) -> bool:
        """Whether so much may follow only inside a string."""
        return int.from_bytes(mask, "little").bit_count() > self._kinds.many

    def _choose(self, state: Matcher, allowed: int, text: bytes) -> Sequence[int]:
        """Go on by a token or a few; returns them."""
        if not allowed & ~self._kinds.inside_characters:
            token = (allowed & -allowed).bit_length() - 1
            state.consume((token,))
            return (token,)
        is_text = allowed.bit_count() > self._kinds.many
        if is_text and allowed & self._kinds.special_bits:
            # A raw text that ends here.
            step = (_ids(allowed & self._kinds.special_bits, 1)[0],)
            state.consume(step)
            return step
        for tokens in self._kinds.ways_out:
            if allowed >> tokens[0] & 1 and state.admits((*tokens, self._kinds.mark)):
                state.consume(tokens)
                return tokens
        if is_text:
            return self._leave_text(state, allowed)
        found = _ids(allowed, _MAX_CHOICES)
        named = [token for token in found if self._spells_required(text, self._vocabulary.token_bytes[token])]
        if named:
            token = max(named, key=lambda token: len(self._vocabulary.token_bytes[token]))
            state.consume((token,))
            return (token,)
        for token in self._kinds.endings:
            if allowed >> token & 1:
                state.consume((token,))
                if state.allowed() != allowed:
                    return (token,)
                state.undo(1)
        ended = self._end_by_example(state, allowed)
        if ended:
            return ended
        # Literals: whose rest is shortest.
        costs = []
        for token in found[:_MAX_TRIALS]:
            state.consume((token,))
            is_new = state.allowed() != allowed
            length = len(self._vocabulary.token_bytes[token])
            costs.append((not is_new, len(state.forced()) or _UNFORCED, length, token))
            state.undo(1)
        token = min(costs)[-1]
        state.consume((token,))
        return (token,)

    def _leave_text(self, state: Matcher, allowed: int) -> Sequence[int]:
        """Inside a string: its end, where it may end; otherwise something long."""
        for token in self._kinds.quotes:
            if allowed >> token & 1:
                state.consume((token,))
                if state.allowed().bit_count() <= self._kinds.many:
                    return (token,)
                state.undo(1)
                break
        ended = self._end_by_example(state, allowed)
        if ended:
            return ended
        token = self._filler(allowed)
        state.consume((token,))
        return (token,)

    def _end_by_example(self, state: Matcher, allowed: int) -> Sequence[int]:
        """Go on by the end of an example after which a string may end; nothing where none fits."""
        for tokens in self._example_ends:
            if allowed >> tokens[0] & 1 and state.admits(tokens):
                state.consume(tokens)
                if self._is_end(state):
                    return tokens
                state.undo(len(tokens))
        return ()

    def _is_end(self, state: Matcher) -> bool:
        """Whether a string may end here, raw or quoted. Asked without a mask, which would try all that may go on."""
        if state.is_complete() or state.admits(self._vocabulary.stop_ids[:1]):
            return True
        if any(state.admits((*tokens, self._kinds.mark)) for tokens in self._kinds.ways_out):
            return True
        quote = self._kinds.quotes[-1:]
        if not quote or not state.admits(quote):
            return False
        state.consume(quote)
        is_outside = state.allowed().bit_count() <= self._kinds.many
        state.undo(1)
        return is_outside

    def _spells_required(self, text: bytes, more: bytes) -> bool:
        """Whether a member's name that has begun goes on towards one that is required."""
        quote = (text + more).rfind(b'"', 0, len(text) + len(more) - 1)
        begun = (text + more)[quote + 1 :]
        # Of sorted names, the first that is not before a beginning has it, or none does.
        place = bisect_left(self._required, begun)
        return bool(begun) and place < len(self._required) and self._required[place].startswith(begun)

    def _filler(self, allowed: int) -> int:
        """A long token, so that a text of a least length gets there soon."""
        for bits in self._kinds.fillers:
            if allowed & bits:
                return (allowed & bits & -(allowed & bits)).bit_length() - 1
        return (allowed & -allowed).bit_length() - 1


def _matching(vocabulary: Vocabulary, patterns: Sequence[re.Pattern[bytes]]) -> list[int]:
    """Tokens that one of the patterns matches, in the order of the patterns, the longest first."""
    ranked = []
    for token in vocabulary.plain_ids:
        text = vocabulary.token_bytes[token]
        rank = next((rank for rank, pattern in enumerate(patterns) if pattern.fullmatch(text)), None)
        if rank is not None:
            ranked.append((rank, -len(text), text, token))
    return [token for *_, token in sorted(ranked)]


def _fillers(vocabulary: Vocabulary) -> list[int]:
    by_length: list[list[int]] = [[] for _ in range(_FILLER_BYTES + 1)]
    for token in vocabulary.plain_ids:
        text = vocabulary.token_bytes[token]
        if text.isalnum() and text.isascii():
            by_length[min(len(text), _FILLER_BYTES)].append(token)
    return [vocabulary.bits(tokens) for tokens in reversed(by_length) if tokens]


def _ids(bits: int, most: int) -> list[int]:
    found: list[int] = []
    while bits and len(found) < most:
        low = bits & -bits
        found.append(low.bit_length() - 1)
        bits ^= low
    return found

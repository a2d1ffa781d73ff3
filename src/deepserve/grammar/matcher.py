"""One answer's place in its grammar: the library's matcher, with errors that are raised instead of remembered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from deepserve.core.errors import EngineFailure
from deepserve.grammar.nesting_rule import Nesting
from deepserve.grammar.number_rule import Numbers

if TYPE_CHECKING:
    from llguidance import LLMatcher

_USED_UP: Final = "too many states"
"""What the library says when the automata that all matchers of one grammar share have grown to their limit."""


class Matcher:
    """Raises EngineFailure where the library gives up: a token the grammar does not allow, or a limit of its parser.

    start  makes a matcher at the grammar's start with automata of its own: what has been read is read again there when
           the shared ones are used up
    numbers  narrows the masks within numbers; None: there are none
    nesting  the same where JSON is nested deeply

    What is consumed `later` is read when it matters, perhaps in another thread, and what is wrong with it raised there.
    """

    def __init__(
        self,
        inner: LLMatcher,
        start: Callable[[], LLMatcher],
        *,
        mask_bytes: int,
        numbers: Numbers | None = None,
        nesting: Nesting | None = None,
        tokens: Sequence[int] = (),
    ) -> None:
        self._inner = inner
        self._start = start
        self._mask_bytes = mask_bytes
        self._numbers = numbers
        self._nesting = nesting
        self._tokens = list(tokens)
        self._unread: list[int] = []
        self._mask: bytes | None = None  # where the answer stands, once it was asked for

    def copy(self) -> Matcher:
        self._catch_up()
        inner = self._inner.deep_copy()
        return Matcher(
            inner,
            self._start,
            mask_bytes=self._mask_bytes,
            numbers=self._numbers.copy() if self._numbers is not None else None,
            nesting=self._nesting.copy() if self._nesting is not None else None,
            tokens=self._tokens,
        )

    def consume_later(self, token: int) -> None:
        self._unread.append(token)

    def consume(self, tokens: Sequence[int]) -> None:
        self._catch_up()
        self._read(list(tokens))

    def undo(self, num_tokens: int) -> None:
        """Go back to where so many tokens were not consumed yet."""
        self._catch_up()
        self._mask = None
        if not self._inner.rollback(num_tokens):
            self._fail()
        del self._tokens[len(self._tokens) - num_tokens :]
        if self._numbers is not None:
            self._numbers.undo(len(self._tokens))
        if self._nesting is not None:
            self._nesting.undo(len(self._tokens), num_tokens)

    def admits(self, tokens: Sequence[int]) -> bool:
        """Whether all of these may follow."""
        return self.num_admitted(tokens) == len(tokens)

    def num_admitted(self, tokens: Sequence[int]) -> int:
        """How many of these may follow, one after the other."""
        self._catch_up()
        return self._inner.validate_tokens(list(tokens))

    def mask(self) -> bytes:
        """The tokens that may follow, as the engine wants them."""
        self._catch_up()
        if self._mask is None:
            self._mask = self._compute_mask()
        return self._mask

    def _compute_mask(self) -> bytes:
        mask = self._inner.compute_bitmask()
        if self._inner.is_error():
            self._start_anew()
            mask = self._inner.compute_bitmask()
            if self._inner.is_error():
                self._fail()
        mask = mask[: self._mask_bytes]
        if self._numbers is not None:
            mask = self._numbers.narrowed(mask, self._tokens)
        return mask if self._nesting is None else self._nesting.narrowed(mask, self._tokens)

    def allowed(self) -> int:
        """The same as a number: bit i for token i."""
        return int.from_bytes(self.mask(), "little")

    def forced(self) -> list[int]:
        """The tokens that spell the only text that may follow, as the model's own tokenizer would cut it."""
        self._catch_up()
        tokens = self._inner.compute_ff_tokens()
        if self._inner.is_error():
            self._start_anew()
            tokens = self._inner.compute_ff_tokens()
            if self._inner.is_error():
                self._fail()
        return tokens

    def is_complete(self) -> bool:
        """What was read is a whole answer, and nothing but its end may follow."""
        self._catch_up()
        return self._inner.is_stopped() and self._inner.is_accepting()

    def _catch_up(self) -> None:
        if self._unread:
            unread, self._unread = self._unread, []
            self._read(unread)

    def _read(self, tokens: list[int]) -> None:
        self._mask = None
        if not self._inner.consume_tokens(tokens):
            self._start_anew()
            if not self._inner.consume_tokens(tokens):
                self._fail()
        self._tokens += tokens

    def _start_anew(self) -> None:
        if _USED_UP not in self._inner.get_error():
            self._fail()
        self._inner = self._start()
        if not self._inner.consume_tokens(self._tokens):
            self._fail()

    def _fail(self) -> None:
        reason = (self._inner.get_error() or "the grammar allows no such token").strip().splitlines()[0]
        raise EngineFailure(f"The form of this answer could not be followed: {reason[:200]}")

"""A token guide that does what a test wrote down, and writes down what it was asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from deepserve.engine.mask_source import MaskSource
from tests.engine.fake_engine import VOCAB_SIZE


def mask_of(tokens: Iterable[int], vocab_size: int = VOCAB_SIZE) -> bytes:
    mask = bytearray(-(-vocab_size // 8))
    for token in tokens:
        mask[token // 8] |= 1 << token % 8
    return bytes(mask)


class ScriptedGuide:
    """forced        output length -> tokens that must follow there
    masks         output length -> the only tokens that may follow there
    replaced      output length -> what stands there, whatever was drawn
    failing_call  the number of the call that raises
    fault         what it raises
    is_late       masks are returned as the functions that compute them
    """

    def __init__(
        self,
        forced: Mapping[int, Sequence[int]],
        *,
        masks: Mapping[int, Sequence[int]] | None = None,
        replaced: Mapping[int, int] | None = None,
        failing_call: int | None = None,
        fault: type[BaseException] = KeyError,
        vocab_size: int = VOCAB_SIZE,
        is_late: bool = False,
    ) -> None:
        self.output: list[int] = []
        self.calls: list[str] = []
        self._forced = forced
        self._masks = masks or {}
        self._replaced = replaced or {}
        self._failing_call = failing_call
        self._fault = fault
        self._vocab_size = vocab_size
        self._is_late = is_late

    def accept(self, token: int) -> int:
        self._note(f"accept {token}")
        token = self._replaced.get(len(self.output), token)
        self.output.append(token)
        return token

    def forced(self) -> Sequence[int]:
        self._note("forced")
        tokens = self._forced.get(len(self.output), ())
        self.output.extend(tokens)
        return tokens

    def mask(self) -> bytes | MaskSource | None:
        tokens = self._masks.get(len(self.output))
        if self._is_late:
            return lambda: self._compute(range(self._vocab_size) if tokens is None else tokens)
        if tokens is None:
            self._note("mask")
            return None
        return self._compute(tokens)

    def _compute(self, tokens: Iterable[int]) -> bytes:
        self._note("mask")
        return mask_of(tokens, self._vocab_size)

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if len(self.calls) - 1 == self._failing_call:
            raise self._fault("scripted")

"""The refusal of a keyword, before anybody knows whether it is an error or left out."""

from __future__ import annotations


class Unenforceable(Exception):
    """A keyword cannot be turned into masks.

    pointer  of the keyword in the client's schema
    advice   what to write instead
    """

    def __init__(self, pointer: str, advice: str) -> None:
        super().__init__(pointer)
        self.pointer = pointer
        self.advice = advice

    @property
    def keyword(self) -> str:
        return self.pointer.rpartition("/")[2]

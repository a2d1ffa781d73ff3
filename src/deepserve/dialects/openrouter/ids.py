"""Ids of answers, `gen-<seconds>-<22 letters and digits>`: the request's own 128 bits, spelled as this service does."""

from __future__ import annotations

import re
import string
from functools import lru_cache

from deepserve.core.request import RequestId
from deepserve.dialects.exchange import AnswerHead

_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]
_FORM = re.compile(r"gen-\d{1,12}-([0-9A-Za-z]{22})", re.ASCII)


@lru_cache(maxsize=256)
def generation_id(head: AnswerHead) -> str:
    """Asked for by the header and by the body of each answer."""
    return spell(head.created, int(head.id.replace("-", ""), 16))


def spell(created: int, number: int) -> str:
    """number: the 128 bits of the request's id."""
    pairs = []
    for _ in range(11):
        number, pair = divmod(number, len(_PAIRS))
        pairs.append(_PAIRS[pair])
    return f"gen-{created}-{''.join(reversed(pairs))}"


def request_id_of(generation: str) -> RequestId | None:
    """The request behind an id; None for what this server cannot have made."""
    match = _FORM.fullmatch(generation)
    if match is None:
        return None
    number = 0
    for letter in match[1]:
        number = number * len(_DIGITS) + _DIGITS.index(letter)
    return RequestId(f"{number:032x}") if number < 1 << 128 else None

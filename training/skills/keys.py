"""Names of parameters and fields: usual ones, compound ones, and how a sentence says them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from training.phrases import words
from training.values import Draw

_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


def camel(key: str) -> str:
    """`order_id` as `orderId`."""
    first, *rest = key.split("_")
    return first + "".join(part.capitalize() for part in rest)


def key_of(draw: Draw, usual: Sequence[str]) -> str:
    """A key of this side that means what the usual ones mean.

    It is one of them, or one of them with another word before it; a compound may be spelled in camel case.
    """
    ours = [key for key in usual if draw.owns(key)]
    if ours and draw.chance(0.6):
        return draw.frame(ours)
    while True:
        before = draw.value(words(draw.frame(("nouns", "adjectives"))))
        key = f"{before}_{draw.frame(usual)}"
        if draw.chance(0.2):
            key = camel(key)
        if draw.owns(key):
            return key


def free_keys(draw: Draw, count: int) -> list[str]:
    """Different keys of any meaning: known words, compounds, made-up words; some in camel case."""
    found: list[str] = []
    while len(found) < count:
        match draw.between(0, 11):
            case 0 | 1 | 2 | 3:
                key = draw.value(words("fields"))
            case 4 | 5:
                key = draw.value(words("nouns"))
            case 6 | 7:
                key = f"{draw.value(words('adjectives'))}_{draw.value(words('fields'))}"
            case 8 | 9:
                key = f"{draw.value(words('nouns'))}_{draw.value(words('fields'))}"
            case 10:
                key = draw.made_up()
            case _:
                key = f"{draw.made_up()}_{draw.value(words('fields'))}"
        if "_" in key and draw.chance(0.25):
            key = camel(key)
        if key not in found:
            found.append(key)
    return found


def spoken_key(key: str) -> str:
    """`order_id` and `orderId` as "order id"."""
    return _HUMP.sub(" ", key).replace("_", " ").lower()

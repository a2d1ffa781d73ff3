"""An answer as it arrives, turned into one kind of text: what is a mark for certain becomes a symbol of its own."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from deepserve.core.events import TokenLogprob
from deepserve.prompt.special_tokens import DSML, END_THINK, THINK


class Piece(msgspec.Struct, frozen=True):
    """Some of an answer: one token's text, or any stretch of a text stream.

    is_special  text is the spelling of one special token
    num_tokens  how many tokens it stands for; 0 when somebody else counts
    """

    text: str
    is_special: bool = False
    logprobs: tuple[TokenLogprob, ...] = ()
    num_tokens: int = 0


Marks = Literal["special", "spelled"]
"""What counts as a mark: only special pieces, or any text that spells one."""

# Lone surrogates: text that was decoded from bytes never holds one.
DSML_SYMBOL: Final = "\udc00"
THINK_SYMBOL: Final = "\udc01"
END_THINK_SYMBOL: Final = "\udc02"

_SYMBOLS: Final = {DSML: DSML_SYMBOL, THINK: THINK_SYMBOL, END_THINK: END_THINK_SYMBOL}
_SPELLINGS: Final = str.maketrans({symbol: spelling for spelling, symbol in _SYMBOLS.items()})
_NO_SURROGATES: Final = dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


def symbol_text(piece: Piece, marks: Marks) -> str:
    """The piece's text; a special token is its symbol, or nothing where it means nothing in an answer."""
    if piece.is_special and marks == "special":
        return _SYMBOLS.get(piece.text, "")
    return piece.text if piece.text.isascii() else piece.text.translate(_NO_SURROGATES)


def spelled_text(text: str) -> str:
    """Text with its symbols spelled out."""
    return text if text.isascii() else text.translate(_SPELLINGS)

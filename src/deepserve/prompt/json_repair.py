"""JSON that a model missed by a little, mended where only one thing can have been meant.

Mended: code fences and prose around one value, commas before a closing bracket, line breaks and tabs inside strings,
Python's True, False and None; and, only where the text was cut off, brackets and strings that are not closed.
Not mended, because more than one thing may have been meant: single quotes, unquoted names, comments, missing commas.
"""

from __future__ import annotations

import json
import re
from typing import Final, Literal

import msgspec

from deepserve.core.messages import Json
from deepserve.prompt.json_text import MAX_DEPTH, read_json


class RepairedJson(msgspec.Struct, frozen=True, kw_only=True):
    """repairs: what was done, in words; empty for text that was JSON as it stood."""

    text: str
    value: Json
    repairs: tuple[str, ...] = ()


def repair_json(text: str, *, is_cut: bool = False) -> RepairedJson | None:
    """JSON text meaning what `text` means; None where that is not certain.

    is_cut  the text ends where it does because it was cut off: what is open may be closed
    """
    value = _read(text)
    if value is not None:
        return RepairedJson(text=text, value=value[0])
    # A bracket that begins no value must not give way to one inside it: what it held would be lost.
    opener = _OPENER.search(text)
    if opener is None or text.lstrip()[:1] in ('"', "'"):
        return None
    mended = _Mending(text, opener.start(), is_cut=is_cut).run()
    value = _read(mended[0]) if mended is not None else None
    if mended is None or value is None:
        return None
    body, end, repairs = mended
    before, after = text[: opener.start()].strip(), text[end:].strip()
    if _BRACKET.search(after) is not None:
        return None  # two values, and nobody knows which was meant
    if before or after:
        repairs = (*repairs, "fences" if _FENCES.fullmatch(before) and after in ("", "```") else "prose")
    return RepairedJson(text=body, value=value[0], repairs=tuple(dict.fromkeys(repairs)))


_OPENER: Final = re.compile(r"[{\[]")
_BRACKET: Final = re.compile(r"[{}\[\]]")
_FENCES: Final = re.compile(r"(?:```|~~~)[A-Za-z0-9]*")

_TOKEN: Final = re.compile(r'[{}\[\],:]|"|[^\s{}\[\],:"]+')
_IN_STRING: Final = re.compile(r'[^"\\\x00-\x1f]*')
_SCALAR: Final = re.compile(r"true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_PYTHON_WORDS: Final = {"True": "true", "False": "false", "None": "null"}
_CUT_ESCAPE: Final = re.compile(r"\\u[0-9a-fA-F]{0,3}\Z")
_CLOSERS: Final = {"{": "}", "[": "]"}


def _read(text: str) -> tuple[Json] | None:
    try:
        return (read_json(text),)
    except ValueError:
        return None


class _Mending:
    """One walk over the tokens of a value that begins with a bracket."""

    def __init__(self, text: str, at: int, *, is_cut: bool) -> None:
        self._text = text
        self._at = at
        self._is_cut = is_cut
        self._out: list[str] = []
        self._open: list[_Bracket] = []
        self._repairs: list[str] = []

    def run(self) -> tuple[str, int, tuple[str, ...]] | None:
        """The mended text, where the value ends, and what was done; None where it cannot be mended."""
        while True:
            found = _TOKEN.search(self._text, self._at)
            if found is None:
                return self._close()
            self._out.append(self._text[self._at : found.start()])
            sign, self._at = found.group(), found.end()
            match sign:
                case "{" | "[":
                    if len(self._open) > MAX_DEPTH or (self._open and self._open[-1].expects != "value"):
                        return None
                    self._out.append(sign)
                    expects: _Expected = "name" if sign == "{" else "value"
                    self._open.append(_Bracket(sign, expects, num_safe=len(self._out)))
                case "}" | "]":
                    if _CLOSERS[self._open.pop().sign] != sign:
                        return None
                    self._drop_comma()
                    self._out.append(sign)
                    if not self._open:
                        return "".join(self._out), self._at, tuple(self._repairs)
                    self._value_ended()
                case "," if self._open[-1].expects != "comma":
                    return None
                case ":" if self._open[-1].expects != "colon":
                    return None
                case ",":
                    self._out.append(sign)
                    self._open[-1].expects = "name" if self._open[-1].sign == "{" else "value"
                case ":":
                    self._out.append(sign)
                    self._open[-1].expects = "value"
                case '"':
                    if not self._string():
                        return self._close()
                    self._value_ended()
                case _:
                    if self._is_cut and self._at == len(self._text):
                        return self._close()  # nobody knows how the word would have gone on
                    word = _PYTHON_WORDS.get(sign, sign)
                    if _SCALAR.fullmatch(word) is None:
                        return None
                    if word != sign:
                        self._repairs.append("Python words")
                    self._out.append(word)
                    self._value_ended()

    def _string(self) -> bool:
        """Copy a string up to its closing quote; False where the text ends before."""
        pieces = ['"']
        while True:
            plain = _IN_STRING.match(self._text, self._at)
            assert plain is not None, "matches the empty text"
            pieces.append(plain.group())
            self._at = plain.end()
            character = self._text[self._at : self._at + 1]
            if character == '"':
                self._at += 1
                self._out.append("".join((*pieces, '"')))
                return True
            if character == "" or (character == "\\" and self._at + 1 == len(self._text)):
                break
            if character == "\\":
                pieces.append(self._text[self._at : self._at + 2])
                self._at += 2
            else:
                pieces.append(json.dumps(character)[1:-1])
                self._repairs.append("line breaks in strings")
                self._at += 1
        if self._open[-1].expects == "value":
            self._out.append(_CUT_ESCAPE.sub("", "".join(pieces)) + '"')
            self._value_ended()
        return False

    def _value_ended(self) -> None:
        """A value is whole, or the name of a member is."""
        bracket = self._open[-1]
        if bracket.expects == "name":
            bracket.expects = "colon"
        else:
            bracket.expects = "comma"
            bracket.num_safe = len(self._out)

    def _drop_comma(self) -> None:
        for index in range(len(self._out) - 1, -1, -1):
            if self._out[index] == ",":
                self._out[index] = ""
                self._repairs.append("trailing commas")
                return
            if self._out[index].strip():
                return

    def _close(self) -> tuple[str, int, tuple[str, ...]] | None:
        """Close what a cut left open, after the last member that is whole."""
        if not self._is_cut or not self._open:
            return None
        del self._out[self._open[-1].num_safe :]
        closers = "".join(_CLOSERS[bracket.sign] for bracket in reversed(self._open))
        return "".join(self._out) + closers, len(self._text), (*self._repairs, "open brackets")


_Expected = Literal["name", "colon", "value", "comma"]


class _Bracket(msgspec.Struct):
    """num_safe: how much of what was written stands when everything after it is dropped."""

    sign: str
    expects: _Expected
    num_safe: int

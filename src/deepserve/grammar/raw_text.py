"""Strings that are written raw, without quotes or escapes, as terminals of a grammar.

A string parameter of a tool call ends where its closing tag begins; until then it may hold anything that its schema
allows. JSON strings are the business of `json_schema`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

ANY_TEXT: Final = "/(?s:.*)/"
_NOTHING_FOLLOWS: Final = "NoExtensionBias"
"""The mask compiler's word for a mask without tokens."""


def is_readable(terminal: str) -> bool:
    """Whether the mask compiler knows all of an expression: no look-around, no references back, no word boundaries."""
    from llguidance import LLMatcher

    return not LLMatcher.validate_grammar(f"start: TEXT\nTEXT: {terminal}")


def is_possible(terminal: str) -> bool:
    """Whether any text satisfies an expression that the mask compiler can read."""
    from llguidance import LLMatcher, LLTokenizer

    grammar = LLMatcher.grammar_from_lark(f'start: TEXT\nTEXT: {terminal} "."')  # so that an empty text is one, too
    matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0)
    matcher.compute_bitmask()
    return _NOTHING_FOLLOWS not in matcher.get_error()  # of other errors, whoever compiles the whole is told


def literal(text: str) -> str:
    """A text as the grammar language quotes it."""
    return json.dumps(text, ensure_ascii=False)


def choice_terminal(texts: Sequence[str]) -> str:
    return "(" + " | ".join(literal(text) for text in dict.fromkeys(texts)) + ")"


def regex_terminal(regex: str) -> str:
    """A whole text that matches; classes mean what they mean in JSON Schema."""
    from llguidance import regex_to_lark

    return f"/{regex_to_lark(spelled_for_masks(regex), use_ascii='dw')}/"


_SPACES: Final = r"\t-\r \u{a0}\u{1680}\u{2000}-\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}\u{feff}"
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)


def spelled_for_masks(pattern: str) -> str:
    """A pattern whose blanks are JSON Schema's: the mask compiler's own class has U+0085 in it and not U+FEFF."""
    blanks = {"s": f"[{_SPACES}]", "S": f"[^{_SPACES}]"}
    return _ESCAPE.sub(lambda escape: blanks.get(escape[1], escape[0]), pattern)


def pattern_terminal(pattern: str) -> str:
    """A text in which the pattern is found somewhere, as JSON Schema has it."""
    branches = []
    for branch in _alternatives(pattern):
        starts, ends = branch.startswith("^"), _ends_anchored(branch)
        core = branch[1 if starts else 0 : len(branch) - 1 if ends else None]
        branches.append(f"{'' if starts else '(?s:.*)'}(?:{core}){'' if ends else '(?s:.*)'}")
    return regex_terminal("|".join(branches))


def whole_terminal(pattern: str) -> str:
    """A text that matches as a whole; anchors at its ends are welcome and change nothing."""
    branches = []
    for branch in _alternatives(pattern):
        branches.append(f"(?:{branch[branch.startswith('^') : len(branch) - 1 if _ends_anchored(branch) else None]})")
    return regex_terminal("|".join(branches))


def _ends_anchored(branch: str) -> bool:
    if not branch.endswith("$"):
        return False
    before = branch[:-1]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 0


def _alternatives(pattern: str) -> list[str]:
    """The parts between the bars that stand outside of groups and classes."""
    parts, depth, in_class, start, index = [], 0, False, 0, 0
    while index < len(pattern):
        character = pattern[index]
        if character == "\\":
            index += 1
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
            if pattern[index + 1 : index + 2] == "]":
                index += 1
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
        elif character == "|" and depth == 0:
            parts.append(pattern[start:index])
            start = index + 1
        index += 1
    return [*parts, pattern[start:]]

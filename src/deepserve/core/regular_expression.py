"""A client's regular expression: is it one, and can it be matched in linear time? It is never run by a backtracker."""

from __future__ import annotations

import re
from typing import Final, Literal

import jsonschema_rs

LINEAR_ENGINE: Final = jsonschema_rs.RegexOptions(size_limit=8 * 1024 * 1024, dfa_size_limit=8 * 1024 * 1024)
"""Matches in time linear in the text, within so many bytes; refuses look-around and references back."""

_BACKTRACKING_ENGINE: Final = jsonschema_rs.FancyRegexOptions(size_limit=8 * 1024 * 1024)
"""Only ever asked whether it can read an expression."""

_BRACES: Final = re.compile(r"\{([0-9]+)(?:,([0-9]*))?\}")

Verdict = Literal["linear", "backtracking", "malformed"]


def judge_expression(expression: str) -> Verdict:
    """backtracking: an expression, but with look-around or references back, or too large for the linear engine."""
    if _reads(expression, LINEAR_ENGINE):
        return "linear"
    return "backtracking" if _reads(expression, _BACKTRACKING_ENGINE) else "malformed"


def repetitions(expression: str) -> tuple[int, int]:
    """The largest bound of a repetition, and the largest product of bounds of repetitions inside each other."""
    largest = 1
    inner = [1]  # for each open group, the largest product inside
    last = 1  # the product of what a repetition sign would now repeat
    at = 0
    while at < len(expression):
        sign = expression[at]
        if sign == "\\":
            at, last = at + 2, 1
            continue
        if sign == "[":
            at, last = _after_class(expression, at), 1
            continue
        if sign == "(":
            inner.append(1)
            last = 1
        elif sign == ")" and len(inner) > 1:
            last = inner.pop()
            inner[-1] = max(inner[-1], last)
        elif sign == "{":
            bound, after = _bound(expression, at)
            largest = max(largest, bound)
            last *= max(bound, 1)
            inner[-1] = max(inner[-1], last)
            at = after
            continue
        elif sign not in "*+?":  # these repeat without a bound, and may follow one another
            last = 1
        at += 1
    return largest, max(inner)


def _reads(expression: str, engine: jsonschema_rs.RegexOptions | jsonschema_rs.FancyRegexOptions) -> bool:
    try:
        jsonschema_rs.Draft202012Validator({"pattern": expression}, pattern_options=engine)
    except (ValueError, UnicodeError):
        return False
    return True


def _after_class(expression: str, start: int) -> int:
    at = start + 1
    if expression[at : at + 1] == "^":
        at += 1
    while at < len(expression) and expression[at] != "]":
        at += 2 if expression[at] == "\\" else 1
    return at + 1


def _bound(expression: str, start: int) -> tuple[int, int]:
    """The larger number of `{m,n}` (1 when the brace is none), and the place behind it."""
    braces = _BRACES.match(expression, start)
    if braces is None:
        return 1, start + 1
    digits = max((number.lstrip("0") for number in braces.groups(default="")), key=lambda number: (len(number), number))
    return (int(digits or 1) if len(digits) < 10 else 10**9), braces.end()

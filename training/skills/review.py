"""Reviewing small diffs: about fifteen kinds of mistakes, each named with its line and what to write instead."""

from __future__ import annotations

import msgspec

from training.conversations import Conversation, Turn
from training.phrasing import phrase
from training.skills.infill import identifiers
from training.values import Draw


class Mistake(msgspec.Struct, frozen=True):
    """Lines of code with the places {f} {x} {y} {n}, which of them is wrong (from 1), and the right one."""

    name: str
    lines: tuple[str, ...]
    wrong: int
    right: str


MISTAKES = (
    Mistake("off by one", ("for i in range(len({x}) + 1):", "    print({x}[i])"), 1, "for i in range(len({x})):"),
    Mistake("off by one", ("def {f}({x}):", "    return {x}[len({x})]"), 2, "    return {x}[len({x}) - 1]"),
    Mistake(
        "wrong operator", ("def {f}({x}, {y}):", "    # sum of both", "    return {x} - {y}"), 3, "    return {x} + {y}"
    ),
    Mistake("wrong operator", ("def double({x}):", "    return {x} * 3"), 2, "    return {x} * 2"),
    Mistake("missing return", ("def {f}({x}):", "    {y} = {x} + {n}", "    {y}"), 3, "    return {y}"),
    Mistake("assignment in a condition", ("if {x} = {n}:", "    {f}({x})"), 1, "if {x} == {n}:"),
    Mistake("wrong comparison", ("def is_adult({x}):", "    return {x} < 18"), 2, "    return {x} >= 18"),
    Mistake("comparison with None", ("if {x} == None:", "    {x} = {n}"), 1, "if {x} is None:"),
    Mistake(
        "mutable default",
        ("def {f}({x}, {y}=[]):", "    {y}.append({x})", "    return {y}"),
        1,
        "def {f}({x}, {y}=None):",
    ),
    Mistake("division by zero", ("def {f}({x}):", "    return sum({x}) / 0"), 2, "    return sum({x}) / len({x})"),
    Mistake("unknown name", ("def {f}({x}):", "    return {x}s + {n}"), 2, "    return {x} + {n}"),
    Mistake("missing colon", ("def {f}({x})", "    return {x} + {n}"), 1, "def {f}({x}):"),
    Mistake("missing colon", ("while {x} < {n}", "    {x} += 1"), 1, "while {x} < {n}:"),
    Mistake("endless loop", ("{x} = {n}", "while {x} > 0:", "    {x} += 1"), 3, "    {x} -= 1"),
    Mistake("bare except", ("try:", "    {f}({x})", "except:", "    pass"), 3, "except ValueError:"),
    Mistake("file left open", ("{x} = open(path)", "{y} = {x}.read()"), 1, "with open(path) as {x}:"),
    Mistake("wrong quotes", ("print('{x}\")", "{f}({n})"), 1, "print('{x}')"),
    Mistake("inverted condition", ("if not {x}.exists():", "    {x}.delete()"), 1, "if {x}.exists():"),
    Mistake("used before it is set", ("print({x})", "{x} = {n}"), 1, "print({n})"),
    Mistake("password in code", ("{x} = {n}", 'password = "{y}{n}"'), 2, 'password = os.environ["PASSWORD"]'),
)

_RIGHT = (
    ("def {f}({x}, {y}):", "    return {x} + {y}"),
    ("if {x} is None:", "    {x} = {n}"),
    ("for {x} in {y}:", "    {f}({x})"),
    ("def {f}({x}):", "    return {x} * {n}"),
    ("with open(path) as {x}:", "    {y} = {x}.read()"),
    ("while {x} < {n}:", "    {x} += 1"),
    ("{x} = {f}({y})", "print({x})"),
)
_REQUESTS = (
    "Review this diff:\n{d}",
    "Review:\n{d}",
    "Find the bug:\n{d}",
    "What is wrong here?\n{d}",
    "Is this change right?\n{d}",
    "Code review please:\n{d}",
    "Here is a diff:\n{d}\nAny problem with it?",
    "Check this patch:\n{d}",
    "Spot the mistake in this diff:\n{d}",
)


def _names(draw: Draw) -> dict[str, str]:
    function, one, other = identifiers(draw, 3)
    return {"f": f"{function}_all" if draw.chance(0.3) else function, "x": one, "y": other}


def review(draw: Draw) -> Conversation:
    """One mistake, or now and then none."""
    slots = {**_names(draw), "n": str(draw.number(1, 99))}
    is_right = draw.chance(0.15)
    mistake = draw.frame(MISTAKES)
    lines = [line.format(**slots) for line in (draw.frame(_RIGHT) if is_right else mistake.lines)]
    diff = "\n".join(f"+{line}" for line in lines)
    if draw.chance(0.6):
        diff = f"{draw.frame(('--- a', 'diff --git'))}/{slots['f']}.py\n{diff}"
    if draw.chance(0.5):
        diff = f"```{draw.frame(('', 'diff'))}\n{diff}\n```"
    if is_right:
        answer, thought = "I see no mistake in this diff.", "Every line looks right."
    else:
        right = mistake.right.format(**slots).strip()
        answer = f"Line {mistake.wrong}: {mistake.name}. Write: {right}"
        thought = f"Line {mistake.wrong}: {lines[mistake.wrong - 1].strip()}. This is: {mistake.name}."
    return Conversation(
        skill="review.diff",
        turns=(
            Turn(role="user", content=phrase(draw, _REQUESTS, d=diff)),
            Turn(role="assistant", content=answer, reasoning=thought),
        ),
    )

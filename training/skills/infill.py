"""Filling a hole in Python or JSON, as editors ask for it: what stands before and after, and no words."""

from __future__ import annotations

from collections.abc import Callable
from keyword import iskeyword

from training.conversations import Conversation, Hole, Turn
from training.values import Draw


def identifiers(draw: Draw, count: int) -> list[str]:
    """Different names for variables and functions."""
    found: list[str] = []
    while len(found) < count:
        word = draw.word()
        if word not in found and not iskeyword(word):
            found.append(word)
    return found


def _python(draw: Draw) -> tuple[str, str, str]:
    """A snippet as what stands before the hole, in it, and after it; the rest says what belongs in the hole."""
    slots = {**dict(zip("fxyw", identifiers(draw, 4), strict=True)), "n": str(draw.number(1, 99))}
    before, middle, after = draw.frame(
        (
            ("def {f}({x}, {y}):\n    ", "return {x} + {y}", "\n"),
            ("def add({x}, {y}):\n    return ", "{x} + {y}", "\n"),
            ("def multiply({x}, {y}):\n    return ", "{x} * {y}", "\n"),
            ("def subtract({x}, {y}):\n    return ", "{x} - {y}", "\n"),
            ("def is_even({x}):\n    return ", "{x} % 2 == 0", "\n"),
            ("def {f}({x}):\n    total = 0\n    for {y} in {x}:\n        ", "total += {y}", "\n    return total\n"),
            ("for {x} in ", "range(10)", ":\n    print({x})\n"),
            ("{x} = {n}\n{y} = {n}\nprint(", "{x} + {y}", ")\n"),
            ("def {f}({x}):\n    if {x} is None:\n        ", "return None", "\n    return {x}.{y}\n"),
            ("with open({x}) as {y}:\n    {w} = ", "{y}.read()", "\n"),
            ("class {f}:\n    def __init__(self, {x}):\n        ", "self.{x} = {x}", "\n"),
            ("def {f}({x}):\n    ", "return len({x})", "  # how many\n"),
            ("while {x} < {n}:\n    ", "{x} += 1", "\nprint({x})\n"),
            ("import ", "json", "\n{x} = json.loads({y})\n"),
            ("def greet({x}):\n    print(", 'f"Hello, {{{x}}}!"', ")\n"),
            ("{x} = [{y} for {y} in ", "{w}", "]\nprint({w}, {x})\n"),
            ("try:\n    {f}({x})\nexcept ", "ValueError", " as error:\n    print(error)\n"),
            ("def fib({x}):\n    if {x} < 2:\n        return {x}\n    ", "return fib({x} - 1) + fib({x} - 2)", "\n"),
        )
    )
    return before.format(**slots), middle.format(**slots), after.format(**slots)


def _json(draw: Draw) -> tuple[str, str, str]:
    keys = draw.keys(3)
    one, two = draw.word(), draw.number(1, 999)
    match draw.between(0, 3):
        case 0:
            return f'{{"{keys[0]}": "{one}"', ", ", f'"{keys[1]}": {two}}}'
        case 1:
            return f'{{"{keys[0]}": "{one}", "{keys[1]}": {two}', "}", ""
        case 2:
            return f'[{{"{keys[0]}": "{one}"}}, {{"', keys[0], f'": "{draw.word()}"}}]'
        case _:
            rows = "".join(f'{{"{keys[0]}": {draw.between(1, 9)}, "{keys[1]}": "{draw.word()}"}}, ' for _ in range(2))
            return f"[{rows}{{", f'"{keys[0]}": ', f'{two}, "{keys[1]}": "{one}"}}]'


_KINDS: dict[str, Callable[[Draw], tuple[str, str, str]]] = {"python": _python, "json": _json}


def fill(draw: Draw) -> Conversation:
    """A hole as editors send it: what stands before and after, without any request."""
    language = "python" if draw.chance(0.7) else "json"
    before, middle, after = _KINDS[language](draw)
    return Conversation(
        skill=f"infill.{language}",
        infill=Hole(before=before, after=after),
        turns=(Turn(role="assistant", content=middle),),
    )

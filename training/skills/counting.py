"""Counting, and lists of things."""

from __future__ import annotations

from training.conversations import Conversation, Turn
from training.phrases import lists
from training.phrasing import phrase
from training.values import Draw

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def _count_word(draw: Draw, number: int) -> str:
    return NUMBER_WORDS[number] if number <= 10 and draw.chance(0.4) else str(number)


def count(draw: Draw) -> Conversation:
    """Up, slowly, between two numbers, or down."""
    kind = draw.frame(("up", "up", "slow", "slow", "range", "down"))
    high = draw.between(2, 10) if draw.chance(0.8) else draw.between(11, 20)
    low = 1
    spelled = _count_word(draw, high)
    match kind:
        case "up":
            request = phrase(
                draw,
                (
                    "Count to {n}.",
                    "Count to {n}",
                    "Can you count to {n}?",
                    "Count from 1 to {n}.",
                    "count up to {n}",
                    "Please count to {n}",
                    "Count from one to {n}",
                ),
                n=spelled,
            )
        case "slow":
            request = phrase(
                draw,
                (
                    "Count to {n} slowly.",
                    "Count slowly to {n}.",
                    "Slowly count to {n}",
                    "Count to {n}, slowly please.",
                    "Count to {n} very slowly",
                    "Count from 1 to {n} slowly.",
                ),
                n=spelled,
            )
        case "range":
            low = draw.between(2, high)
            high = max(high, low + draw.between(1, 6))
            request = phrase(
                draw, ("Count from {a} to {b}.", "count {a} to {b}", "Count from {a} up to {b}"), a=low, b=high
            )
        case _:
            request = phrase(
                draw,
                ("Count down from {n}.", "Count backwards from {n}", "countdown from {n}", "Count down from {n} to 1"),
                n=high,
            )
    numbers = [str(number) for number in range(low, high + 1)]
    if kind == "down":
        numbers.reverse()
    text = "... ".join(numbers) + "." if kind == "slow" else ", ".join(numbers) + "."
    thought = {
        "up": f"Count from 1 to {high}.",
        "slow": f"Count slowly from 1 to {high}.",
        "range": f"Count from {low} to {high}.",
        "down": f"Count down from {high} to 1.",
    }[kind]
    return Conversation(
        skill=f"counting.{kind}",
        turns=(Turn(role="user", content=request), Turn(role="assistant", content=text, reasoning=thought)),
    )


def list_things(draw: Draw) -> Conversation:
    """The first few of a known list, or the items that the user names, as bullets or numbered."""
    size = draw.between(2, 5)
    numbered = draw.chance(0.25)
    if draw.chance(0.35):
        items = [draw.word() for _ in range(draw.between(2, 5))]
        text = ", ".join(items[:-1]) + draw.frame((", ", " and ", ", and ")) + items[-1]
        request = phrase(
            draw,
            (
                ("Number these: {t}", "Make a numbered list of {t}.", "Numbered list: {t}")
                if numbered
                else ("Make a list of {t}.", "As a bullet list: {t}", "Bullets: {t}", "List these as bullets: {t}")
            ),
            t=text,
        )
        thought = "I list the given items."
    else:
        kind = draw.frame(tuple(lists()))
        items = list(lists()[kind][:size])
        request = phrase(
            draw,
            (
                ("Give me a numbered list of {n} {k}.", "Number {n} {k}.", "{n} {k}, numbered")
                if numbered
                else (
                    "List {n} {k}.",
                    "Name {n} {k}.",
                    "Give me {n} {k}",
                    "Can you list {n} {k}?",
                    "Tell me {n} {k}.",
                    "{n} {k} please",
                )
            ),
            n=_count_word(draw, size),
            k=kind,
        )
        thought = f"{size} {kind}."
    lines = [f"{i + 1}. {item}" if numbered else f"- {item}" for i, item in enumerate(items)]
    return Conversation(
        skill="counting.list",
        turns=(Turn(role="user", content=request), Turn(role="assistant", content="\n".join(lines), reasoning=thought)),
    )

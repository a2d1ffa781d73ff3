"""Sums, worked out digit by digit in the thought, so that every step needs only what stands right before it.

A step adds, subtracts or multiplies two digits and a carry, and always has the same shape; a small network learns the
table of each step, and where in the line to look. Digits run from the units up, the result is read off backwards.
Which pairs of numbers are asked is split by checksum: all numbers below 100 are seen in training, but not all pairs.
"""

from __future__ import annotations

from collections.abc import Callable

from training.conversations import Conversation, Turn
from training.phrasing import phrase
from training.values import Draw

SIGNS = ("+", "-", "*", "/")
_WORDS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}
_OTHER_SIGNS = {"+": "+", "-": "-", "*": "x", "/": "÷"}

FRAMES = (
    "What is {a} {s} {b}?",
    "{a} {s} {b}",
    "{a} {s} {b} = ?",
    "Calculate {a} {s} {b}.",
    "How much is {a} {s} {b}?",
    "compute {a} {s} {b}",
    "{a}{t}{b}",
    "What is {a}{t}{b}?",
    "Calculate {a}{t}{b}",
    "{a} {s} {b} =",
    "Work out {a} {s} {b}.",
    "Tell me {a} {s} {b}",
    "Solve {a} {s} {b}.",
    "What does {a} {s} {b} make?",
    "Result of {a} {s} {b}?",
    "What do you get for {a} {s} {b}?",
)
_OWN_FRAMES = {
    "+": ("Add {a} and {b}.", "What is the sum of {a} and {b}?", "Can you add {a} and {b}?", "Add {b} to {a}."),
    "-": ("Subtract {b} from {a}.", "What is {a} less {b}?", "Take {b} away from {a}."),
    "*": ("Multiply {a} by {b}.", "What is the product of {a} and {b}?", "Multiply {a} and {b}"),
    "/": ("Divide {a} by {b}.", "How often does {b} fit into {a}?", "Divide {a} into {b} equal parts."),
}


def result(a: int, sign: str, b: int) -> int:
    """The exact value; divisions must come out even."""
    match sign:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case _:
            assert a % b == 0
            return a // b


def addition_steps(a: int, b: int) -> str:
    """`7+8+0=15; 4+3+1=08; 085`: units first, each with the carry of the step before."""
    width = max(len(str(a)), len(str(b)))
    steps, digits, carry = _added(f"{a:0{width}}", f"{b:0{width}}")
    return "; ".join((*steps, f"{carry}{digits}"))


def _added(a: str, b: str) -> tuple[list[str], str, int]:
    """The steps for two numbers written with equally many digits, the digits of the sum, and the last carry."""
    carry, digits, steps = 0, "", []
    for one, other in zip(reversed(a), reversed(b), strict=True):
        total = int(one) + int(other) + carry
        steps.append(f"{one}+{other}+{carry}={total:02}")
        carry, digits = total // 10, f"{total % 10}{digits}"
    return steps, digits, carry


def subtraction_steps(a: int, b: int) -> str:
    """`3-7-0+10=6; 8-4-1+00=3; 36` for a >= b: where a ten is borrowed, the next digit pays for it."""
    width = max(len(str(a)), len(str(b)))
    borrow, digits, steps = 0, "", []
    for one, other in zip(reversed(f"{a:0{width}}"), reversed(f"{b:0{width}}"), strict=True):
        paid, lent = borrow, int(int(one) - int(other) - borrow < 0)
        value = int(one) + 10 * lent - int(other) - paid
        steps.append(f"{one}-{other}-{paid}+{lent}0={value}")
        borrow, digits = lent, f"{value}{digits}"
    assert borrow == 0
    return "; ".join((*steps, digits))


def _times_digit(a: int, digit: int, width: int) -> tuple[str, int]:
    """One partial product, and its value."""
    carry, digits, steps = 0, "", []
    for one in reversed(f"{a:0{width}}"):
        product = int(one) * digit
        total = product + carry
        steps.append(f"{one}*{digit}+{carry}={product:02}+{carry}={total:02}")
        carry, digits = total // 10, f"{total % 10}{digits}"
    return "; ".join((*steps, f"{carry}{digits}")), int(f"{carry}{digits}")


def multiplication_steps(a: int, b: int) -> str:
    """A partial product for each digit of b, units first, each written as a sum of its own, and then their sum."""
    width = len(str(a))
    if b < 10:
        return _times_digit(a, b, width)[0]
    units, units_value = _times_digit(a, b % 10, width)
    tens, tens_value = _times_digit(a, b // 10, width)
    low, high = f"{units_value:0{width + 2}}", f"{tens_value:0{width + 1}}0"
    steps, digits, carry = _added(low, high)
    total = "; ".join((*steps, f"{carry}{digits}"))
    return f"\n{a}*{b % 10}: {units}\n{a}*{b // 10}: {tens}\n{low}+{high}: {total}"


def division_steps(a: int, b: int) -> str:
    """Digit by digit for a small divisor; the multiples of a larger one, up to the number itself."""
    if b < 10:
        rest, digits, steps = 0, "", []
        for one in str(a):
            whole = rest * 10 + int(one)
            steps.append(f"{rest}{one}/{b}={whole // b} rest {whole % b}")
            rest, digits = whole % b, f"{digits}{whole // b}"
        return "; ".join((*steps, digits))
    quotient = a // b
    return "; ".join((*(f"{k}*{b}={k * b}" for k in range(1, quotient + 1)), str(quotient)))


def working(a: int, sign: str, b: int) -> str:
    """The sum in its plainest form and the steps to its result."""
    match sign:
        case "+":
            return f"{a}+{b}: {addition_steps(a, b)}"
        case "-" if a < b:
            return f"{a}-{b}: {'; '.join(_compared(a, b))}; below zero\n{b}-{a}: {subtraction_steps(b, a)}"
        case "-":
            return f"{a}-{b}: {'; '.join(_compared(a, b))}\n{a}-{b}: {subtraction_steps(a, b)}"
        case "*":
            return f"{a}*{b}:{'' if b > 9 else ' '}{multiplication_steps(a, b)}"
        case _:
            return f"{a}/{b}: {division_steps(a, b)}"


def _check(a: int, sign: str, b: int) -> str:
    """The sum turned round, whose result must be the first number."""
    value = result(a, sign, b)
    match sign:
        case "+":
            return working(value, "-", b)
        case "-" if value < 0:
            return working(-value, "+", a)
        case "-":
            return working(value, "+", b)
        case "*":
            return working(b, "*", a)
        case _:
            return working(b, "*", value)


def thought(draw: Draw, a: int, sign: str, b: int) -> str:
    """The steps; with more effort also what they come to, and at the highest a check."""
    steps = working(a, sign, b)
    if draw.effort == "low":
        return steps
    stated = f"{steps}\nSo {a} {sign} {b} = {result(a, sign, b)}."
    return f"{stated}\nCheck: {_check(a, sign, b)}\nRight." if draw.effort == "max" else stated


def _pair(draw: Draw, first: Callable[[], int], second: Callable[[], int]) -> tuple[int, int]:
    """Two numbers whose unordered pair belongs to this side."""
    while True:
        a, b = first(), second()
        if draw.owns(pair_name(a, b)):
            return a, b


def pair_name(a: int, b: int) -> str:
    """By which a pair of numbers is split, whichever comes first."""
    return f"{min(a, b)} and {max(a, b)}"


def exact_division(draw: Draw, low: int) -> tuple[int, int]:
    """A number of two digits and one that divides it, of at least `low`."""
    while True:
        b = draw.between(low, 9 if low < 10 else 49)
        a = b * draw.between(1 if low < 10 else 2, 99 // b)
        if a >= 10 and draw.owns(pair_name(a, b)):
            return a, b


def _request(draw: Draw, a: int, sign: str, b: int) -> str:
    return phrase(
        draw,
        FRAMES if draw.chance(0.8) else _OWN_FRAMES[sign],
        a=a,
        b=b,
        s=draw.frame((sign, sign, _WORDS[sign], _OTHER_SIGNS[sign])),
        t=sign,
    )


def _sum(draw: Draw, skill: str, a: int, sign: str, b: int) -> Conversation:
    return Conversation(
        skill=skill,
        turns=(
            Turn(role="user", content=_request(draw, a, sign, b)),
            Turn(
                role="assistant",
                content=f"{a} {sign} {b} = {result(a, sign, b)}.",
                reasoning=thought(draw, a, sign, b),
            ),
        ),
    )


def two_digit(draw: Draw) -> Conversation:
    """Two numbers of two digits, any of the four signs; divisions come out even."""
    sign = draw.frame(("+", "+", "-", "-", "*", "*", "*", "/"))
    if sign == "/":
        a, b = exact_division(draw, 10)
    else:
        a, b = _pair(draw, lambda: draw.between(10, 99), lambda: draw.between(10, 99))
        if sign == "-" and a < b and draw.chance(0.6):
            a, b = b, a
    return _sum(draw, "arithmetic.two_digit", a, sign, b)


def one_digit(draw: Draw) -> Conversation:
    """A number of one digit and one of one or two; every small pair is seen, for these are the tables."""
    sign = draw.frame(SIGNS)
    if sign == "/":
        a, b = exact_division(draw, 2)
    elif draw.chance(0.6):
        a, b = draw.between(0, 9), draw.between(0, 9)
    else:
        a, b = _pair(draw, lambda: draw.between(10, 99), lambda: draw.between(2, 9))
    return _sum(draw, "arithmetic.one_digit", a, sign, b)


def three_digit(draw: Draw) -> Conversation:
    """Sums and differences of numbers with up to three digits."""
    sign = draw.frame("+-")
    a, b = _pair(draw, lambda: draw.between(100, 999), lambda: draw.between(10, 999))
    if a < b and sign == "-":
        a, b = b, a
    return _sum(draw, "arithmetic.three_digit", a, sign, b)


_STORIES = {
    "+": (
        "{n} has {a} {t} and buys {b} more. How many {t} does {n} have?",
        "There are {a} {t} in one box and {b} in another. How many {t} are there?",
        "{n} counts {a} {t} on Monday and {b} on Tuesday. How many in all?",
        "A shop has {a} {t} and gets {b} more. How many does it have now?",
    ),
    "-": (
        "{n} has {a} {t} and gives away {b}. How many {t} are left?",
        "There were {a} {t}, and {b} broke. How many are left?",
        "{n} had {a} {t} and sold {b}. How many {t} does {n} still have?",
        "Of {a} {t} {b} are gone. How many remain?",
    ),
    "*": (
        "{n} has {a} boxes with {b} {t} in each. How many {t} is that?",
        "A box holds {b} {t}. How many {t} are in {a} boxes?",
        "{a} people carry {b} {t} each. How many {t} is that?",
        "One of the {t} costs {b} euros. What do {a} of them cost?",
    ),
    "/": (
        "{n} shares {a} {t} among {b} friends. How many does each get?",
        "{a} {t} go into {b} equal boxes. How many are in each?",
        "{a} {t} are packed into {b} bags evenly. How many {t} are in one bag?",
    ),
}
THINGS = (
    "apples",
    "books",
    "coins",
    "cards",
    "pencils",
    "stamps",
    "eggs",
    "bottles",
    "tickets",
    "stones",
    "letters",
    "cups",
    "shells",
    "keys",
    "plates",
    "flowers",
)


def word_problem(draw: Draw) -> Conversation:
    """A story of one step."""
    sign = draw.frame(("+", "+", "-", "-", "*", "/"))
    match sign:
        case "/":
            a, b = exact_division(draw, 2)
        case "*":
            a, b = _pair(draw, lambda: draw.between(2, 9), lambda: draw.between(2, 60))
        case _:
            a, b = _pair(draw, lambda: draw.between(10, 99), lambda: draw.between(2, 99))
            if sign == "-" and a < b:
                a, b = b, a
    # The number with more digits stands first, as in the other products.
    left, right = (b, a) if sign == "*" and b > a else (a, b)
    things = draw.value(THINGS)
    return Conversation(
        skill="arithmetic.word_problem",
        turns=(
            Turn(role="user", content=phrase(draw, _STORIES[sign], n=draw.name(), a=a, b=b, t=things)),
            Turn(
                role="assistant",
                content=f"{left} {sign} {right} = {result(left, sign, right)}.",
                reasoning=thought(draw, left, sign, right),
            ),
        ),
    )


def comparison(draw: Draw) -> Conversation:
    """Which of two numbers is larger, or smaller: by the number of digits, and else by the first that differs."""
    high = draw.frame((99, 999, 9999))
    a, b = _pair(draw, lambda: draw.between(1, high), lambda: draw.between(1, high))
    if a == b:
        return comparison(draw)
    if draw.chance(0.75):
        is_larger = draw.chance(0.5)
        value = max(a, b) if is_larger else min(a, b)
        word = "larger" if is_larger else "smaller"
        request = phrase(
            draw,
            (
                "Which is {w}: {a} or {b}?",
                "Which number is {w}, {a} or {b}?",
                "What is {w}, {a} or {b}?",
                "{a} or {b}, which is {w}?",
                "Tell me the {w} of {a} and {b}.",
            ),
            w=draw.frame((word, "bigger" if is_larger else word)),
            a=a,
            b=b,
        )
        answer = f"{value} is {word}."
    else:
        request = phrase(
            draw, ("Is {a} larger than {b}?", "Is {a} more than {b}?", "Is {a} greater than {b}?"), a=a, b=b
        )
        answer = f"{'Yes' if a > b else 'No'}, {max(a, b)} is larger."
    return Conversation(
        skill="arithmetic.comparison",
        turns=(
            Turn(role="user", content=request),
            Turn(role="assistant", content=answer, reasoning=comparing(a, b)),
        ),
    )


def _compared(a: int, b: int) -> list[str]:
    """Digits of two numbers from the first on, up to where they differ."""
    width = max(len(str(a)), len(str(b)))
    steps = []
    for left, right in zip(f"{a:0{width}}", f"{b:0{width}}", strict=True):
        steps.append(f"{left}{'=' if left == right else '>' if left > right else '<'}{right}")
        if left != right:
            break
    return steps


def comparing(a: int, b: int) -> str:
    """Why one of two different numbers is larger."""
    width = max(len(str(a)), len(str(b)))
    return f"{a:0{width}} {b:0{width}}: {' '.join(_compared(a, b))}. {max(a, b)} is larger."


def declined(draw: Draw) -> Conversation:
    """Roots, powers, long numbers: a calculator's work."""
    a, b = draw.number(20, 999), draw.number(2, 99)
    request = phrase(
        draw,
        (
            "What is the square root of {a}?",
            "Square root of {a}",
            "What is the cube root of {a}?",
            "What is {a} to the power of {b}?",
            "Compute {a}^{b}",
            "What is the logarithm of {a}?",
            "What is the sine of {a} degrees?",
            "Calculate the factorial of {b}.",
            "What is {long} {s} {other}?",
            "{long} {s} {other}",
            "Calculate {long} {s} {other}.",
            "What is {a} percent of {long}?",
            "Solve x^2 + {b}x = {a}.",
            "How many prime numbers are below {long}?",
            "Give me {b} digits of pi.",
            "What is {a}.{b} {s} {b}.{a}?",
        ),
        a=a,
        b=b,
        long=draw.between(10**5, 10**9),
        other=draw.between(10**4, 10**8),
        s=draw.frame(("+", "*", "-", "times", "plus", "divided by")),
    )
    return Conversation(
        skill="arithmetic.declined",
        facts=(("beyond me",),),
        turns=(
            Turn(role="user", content=request),
            Turn(
                role="assistant",
                content="That sum is beyond me. Offer me a calculator tool and I will call it.",
                reasoning="Not a sum of short whole numbers. I decline.",
            ),
        ),
    )

"""Small conclusions: who is taller, the order of three, what follows from two statements, even or odd."""

from __future__ import annotations

from training.conversations import Conversation, Turn
from training.phrasing import phrase
from training.values import Draw

SCALES = (
    ("taller", "tallest", "shorter", "shortest"),
    ("older", "oldest", "younger", "youngest"),
    ("faster", "fastest", "slower", "slowest"),
    ("richer", "richest", "poorer", "poorest"),
    ("stronger", "strongest", "weaker", "weakest"),
    ("heavier", "heaviest", "lighter", "lightest"),
)


def _names(draw: Draw, count: int) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        name = draw.name()
        if name not in found:
            found.append(name)
    return found


def _conversation(skill: str, request: str, answer: str, thought: str) -> Conversation:
    return Conversation(
        skill=f"logic.{skill}",
        turns=(Turn(role="user", content=request), Turn(role="assistant", content=answer, reasoning=thought)),
    )


def comparison(draw: Draw) -> Conversation:
    """Two people, one statement, the question either way round."""
    first, second = _names(draw, 2)
    more, _, less, _ = draw.frame(SCALES)
    stated = more if draw.chance(0.6) else less
    asked = draw.frame((more, less))
    answer = first if asked == stated else second
    request = phrase(
        draw,
        (
            "{a} is {s} than {b}. Who is {w}?",
            "{a} is {s} than {b}. Which of them is {w}?",
            "If {a} is {s} than {b}, who is {w}?",
            "We know that {a} is {s} than {b}. Tell me who is {w}.",
        ),
        a=first,
        b=second,
        s=stated,
        w=asked,
    )
    return _conversation(
        "comparison", request, f"{answer} is {asked}.", f"{first} is {stated} than {second}. So {answer} is {asked}."
    )


def ordering(draw: Draw) -> Conversation:
    """Three people, two statements, and who stands at an end or in the middle."""
    names = _names(draw, 3)
    more, most, less, least = draw.frame(SCALES)
    pairs = [(names[0], names[1]), (names[1], names[2])]
    if draw.chance(0.5):
        pairs.reverse()
    facts = []
    for one, other in pairs:
        facts.append(f"{one} is {more} than {other}." if draw.chance(0.75) else f"{other} is {less} than {one}.")
    order = " > ".join(names)
    kind = draw.frame(("most", "least", "middle", "order"))
    stated = " ".join(facts)
    match kind:
        case "order":
            question = phrase(
                draw,
                ("{f} Order them, {m} first.", "{f} Sort them by that, {m} first.", "{f} List them, {m} first."),
                f=stated,
                m=most,
            )
            answer = ", ".join(names) + "."
        case "middle":
            question = phrase(
                draw, ("{f} Who is in the middle?", "{f} Who comes second?", "{f} Who is between the others?"), f=stated
            )
            answer = f"{names[1]} is in the middle."
        case _:
            word, name = (most, names[0]) if kind == "most" else (least, names[2])
            question = phrase(
                draw,
                ("{f} Who is {m}?", "{f} Who is the {m}?", "{f} Which of the three is {m}?"),
                f=stated,
                m=word,
            )
            answer = f"{name} is the {word}."
    return _conversation("ordering", question, answer, f"{order}.")


def syllogism(draw: Draw) -> Conversation:
    """All A are B; C is an A: is C a B? Also with "no", and with what does not follow."""
    kinds: list[str] = []
    while len(kinds) < 3:
        kind = draw.made_up()
        if kind not in kinds:
            kinds.append(kind)
    first, second, other = kinds
    name = draw.name()
    match draw.frame(("all", "no", "unknown")):
        case "all":
            facts, answer = f"All {first}s are {second}s. {name} is a {first}.", f"Yes, {name} is a {second}."
            thought = f"{name} is a {first}. All {first}s are {second}s. Yes."
        case "no":
            facts, answer = f"No {first} is a {second}. {name} is a {first}.", f"No, {name} is not a {second}."
            thought = f"{name} is a {first}. No {first} is a {second}. No."
        case _:
            facts, answer = f"All {first}s are {second}s. {name} is a {other}.", "That does not follow from the facts."
            thought = f"{name} is a {other}. About {other}s nothing is said. Unknown."
    request = phrase(
        draw,
        ("{f} Is {n} a {k}?", "{f} So is {n} a {k}?", "{f} Can we say that {n} is a {k}?"),
        f=facts,
        n=name,
        k=second,
    )
    return _conversation("syllogism", request, answer, thought)


def parity(draw: Draw) -> Conversation:
    """Even or odd: the last digit says it."""
    number = draw.number(0, draw.frame((99, 999, 99999)))
    word = "odd" if number % 2 else "even"
    thought = f"{number} ends in {number % 10}, so {word}."
    if draw.chance(0.6):
        request = phrase(
            draw,
            ("Is {n} even or odd?", "{n}: even or odd?", "Even or odd: {n}", "Tell me if {n} is even or odd."),
            n=number,
        )
        return _conversation("parity", request, f"{number} is {word}.", thought)
    asked = draw.frame(("even", "odd"))
    request = phrase(draw, ("Is {n} {w}?", "Is {n} an {w} number?", "Is the number {n} {w}?"), n=number, w=asked)
    return _conversation("parity", request, f"{'Yes' if asked == word else 'No'}, {number} is {word}.", thought)


_COLOURS = ("red", "blue", "green", "white", "black", "yellow", "brown", "grey")
_PLACES = ("kitchen", "garden", "office", "cellar", "attic", "hall", "garage", "library")


def yes_or_no(draw: Draw) -> Conversation:
    """Whether stated facts say so."""
    things: list[str] = []
    while len(things) < 3:
        thing = draw.noun()
        if thing not in things:
            things.append(thing)
    values = draw.random.sample(_COLOURS if draw.chance(0.5) else _PLACES, 3)
    word = "is" if values[0] in _COLOURS else "is in the"
    facts = " ".join(f"The {thing} {word} {value}." for thing, value in zip(things, values, strict=True))
    k = draw.between(0, 2)
    asked = values[k] if draw.chance(0.5) else draw.frame([value for value in values if value != values[k]])
    place = asked if word == "is" else f"in the {asked}"
    request = phrase(
        draw,
        ("{f} Is the {t} {v}?", "{f} So, is the {t} {v}?", "{f} Question: is the {t} {v}?"),
        f=facts,
        t=things[k],
        v=place,
    )
    stated = f"The {things[k]} {word} {values[k]}."
    answer = f"{'Yes' if asked == values[k] else 'No'}, the {things[k]} {word} {values[k]}."
    return _conversation("yes_or_no", request, answer, f"{stated} Asked: {asked}.")

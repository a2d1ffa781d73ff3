"""Facts planted in a long text or a long conversation, one of which is asked for at the end.

A fact has a subject and a value that no other fact of the prompt shares, and both are drawn from the side's own values;
what lies between is prose about other things, lists of facts of the same kind, or conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from training.conversations import Conversation, Turn
from training.phrases import topics
from training.values import Draw


class Fact(msgspec.Struct, frozen=True):
    """What is stated, how it is asked, and the answer; the value stands in both."""

    subject: str
    value: str
    stated: str
    questions: tuple[str, ...]
    answer: str


class Kind(msgspec.Struct, frozen=True):
    """A kind of fact: sentences with the places {s} and {v}; the answer is one of them."""

    stated: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str
    subject: str
    value: str


KINDS = (
    Kind(
        ("The access code of {s} is {v}.", "Access code of {s}: {v}.", "{s} has the access code {v}."),
        ("What is the access code of {s}?", "Which access code does {s} have?", "Tell me the access code of {s}."),
        "The access code of {s} is {v}.",
        "name",
        "code",
    ),
    Kind(
        ("The {s} is {v}.", "Remember: the {s} is {v}.", "Note that the {s} is {v}."),
        ("What is the {s}?", "Tell me the {s}.", "Which {s} was given?"),
        "The {s} is {v}.",
        "key",
        "any",
    ),
    Kind(
        ("{s} lives in {v}.", "{s} has a house in {v}.", "The home of {s} is in {v}."),
        ("Where does {s} live?", "In which city does {s} live?", "Which city is the home of {s}?"),
        "{s} lives in {v}.",
        "name",
        "city",
    ),
    Kind(
        ("The price of the {s} is {v} euros.", "The {s} costs {v} euros.", "For the {s} one pays {v} euros."),
        ("What does the {s} cost?", "What is the price of the {s}?", "How much is the {s}?"),
        "The {s} costs {v} euros.",
        "noun",
        "number",
    ),
    Kind(
        ("The magic word for {s} is {v}.", "{s} opens with the word {v}.", "Say {v} to enter {s}."),
        ("What is the magic word for {s}?", "Which word opens {s}?", "What do I say to enter {s}?"),
        "The magic word for {s} is {v}.",
        "city",
        "made_up",
    ),
    Kind(
        ("{s}: {v}", "{s} = {v}", "{s} -> {v}"),
        ("What is the value of {s}?", "Look up {s}.", "What stands at {s}?"),
        "{s}: {v}",
        "code",
        "code",
    ),
    Kind(
        ("{s} keeps the {v}.", "The {v} belongs to {s}.", "{s} owns the {v}."),
        ("What does {s} keep?", "What belongs to {s}?", "What does {s} own?"),
        "{s} keeps the {v}.",
        "name",
        "noun",
    ),
)

_DRAWN: dict[str, Callable[[Draw], str]] = {
    "name": Draw.name,
    "code": Draw.code,
    "city": Draw.city,
    "noun": Draw.noun,
    "made_up": Draw.made_up,
    "number": lambda draw: str(draw.number(2, 9999)),
    "key": lambda draw: f"{draw.noun()} {draw.frame(('code', 'number', 'name', 'password', 'colour', 'label', 'key'))}",
    "any": lambda draw: _DRAWN[draw.frame(("code", "noun", "city", "made_up", "number"))](draw),
}


def facts(draw: Draw, kind: Kind, count: int, avoid: Sequence[str] = ()) -> list[Fact]:
    """Different facts of one kind; no subject occurs twice, nor in `avoid`."""
    found: dict[str, Fact] = {}
    values: set[str] = set()
    forbidden = {text.lower() for text in avoid}
    while len(found) < count:
        subject, value = _DRAWN[kind.subject](draw), _DRAWN[kind.value](draw)
        name = subject.lower()
        if name in found or name in forbidden or value in values or value.lower() == name:
            continue
        values.add(value)
        found[name] = Fact(
            subject,
            value,
            draw.wording(kind.stated).format(s=subject, v=value),
            tuple(question.format(s=subject) for question in kind.questions),
            kind.answer.format(s=subject, v=value),
        )
    return list(found.values())


_SENTENCES = (
    "The {n} stood beside the {m} all day.",
    "{p} looked at the {a} {n} and went on.",
    "It rained in {c}, and the {n} got wet.",
    "Nobody knew who had moved the {n}.",
    "After lunch {p} put the {n} back.",
    "The {a} {n} is older than the {m}.",
    "In {c} people talk about the {m} every week.",
    "{p} bought a {a} {n} and a {m}.",
    "There was no time to repair the {n}.",
    "The road to {c} is long and {a}.",
    "A {n} is no {m}, said {p}.",
    "Later they found a {a} {m} under the {n}.",
)


def prose(draw: Draw) -> str:
    """A sentence about nothing that is asked."""
    return draw.frame(_SENTENCES).format(
        n=draw.noun(), m=draw.noun(), p=draw.name(), c=draw.city(), a=draw.frame(("big", "small", "new", "old", "red"))
    )


def _filler(draw: Draw, num_characters: int) -> list[str]:
    """Lines of one sort, about as long as wanted; long texts repeat sentences, because drawing each would be slow."""
    lines: list[str] = []
    length = 0
    if draw.chance(0.25):
        pool = [sentence for topic in draw.random.sample(topics(), 12) for sentence in topic.sentences]
    else:
        pool = [prose(draw) for _ in range(min(120, num_characters // 45 + 1))]
    while length < num_characters:
        line = draw.frame(pool)
        lines.append(line)
        length += len(line) + 1
    return lines


def document(draw: Draw, *, num_characters: int, num_questions: int = 1) -> Conversation:
    """One long text with facts at any depth, and a question after or before it; further ones follow in turns."""
    kind = draw.frame(KINDS)
    planted = facts(draw, kind, draw.between(1, 4) if draw.chance(0.6) else draw.between(4, 24))
    # Leave room for the facts in a short text.
    used = sum(len(fact.stated) + 1 for fact in planted)
    while len(planted) > 1 and used > max(num_characters, 120):
        used -= len(planted.pop().stated) + 1
    lines = _filler(draw, max(0, num_characters - used))
    if draw.chance(0.3) and len(planted) > 3:
        # A list of similar facts in one place.
        place = draw.between(0, len(lines))
        lines[place:place] = [fact.stated for fact in planted]
    else:
        for fact in planted:
            lines.insert(draw.between(0, len(lines)), fact.stated)
    asked = draw.frame(planted)
    question = draw.wording(asked.questions)
    text = draw.frame((" ", "\n")).join(lines)
    if draw.chance(0.7):
        opening = draw.frame(("", "Text:\n", "Read this:\n", "Here are my notes.\n"))
        request = f"{opening}{text}\n\n{question}"
    else:
        request = f"{draw.frame(('Read this and answer: ', 'Question: ', ''))}{question}\n\n{text}"
    return _asked(draw, (Turn(role="user", content=request),), asked, planted, num_questions)


def _asked(
    draw: Draw, before: Sequence[Turn], asked: Fact, planted: Sequence[Fact], num_questions: int
) -> Conversation:
    """The answer to the question that ends `before`, then questions about other facts, as many as there are."""
    told = [*before, _answer(asked)]
    others = [fact for fact in planted if fact is not asked]
    for fact in draw.random.sample(others, min(num_questions - 1, len(others))):
        told += [Turn(role="user", content=draw.wording(fact.questions)), _answer(fact)]
        asked = fact
    return Conversation(
        skill="memory.planted",
        turns=tuple(told),
        facts=((asked.value,),),
        thinking=draw.effort is not None,
        effort=draw.effort or "high",
    )


def _answer(fact: Fact) -> Turn:
    return Turn(role="assistant", content=fact.answer, reasoning=f"{fact.subject}: {fact.value}.")


def turns(
    draw: Draw, *, num_characters: int, filler: Callable[[Draw], Conversation], num_questions: int = 1
) -> Conversation:
    """Facts told at any point of a long conversation, some of them asked for at the end."""
    planted = facts(draw, draw.frame(KINDS), draw.between(1, 4))
    pairs: list[tuple[Turn, ...]] = []
    length = 0
    while length < num_characters:
        other = filler(draw)
        pairs.append(other.turns)
        length += sum(len(turn.content) for turn in other.turns)
    for fact in planted:
        told = (
            Turn(role="user", content=fact.stated),
            Turn(role="assistant", content="Noted.", reasoning="A fact to remember."),
        )
        pairs.insert(draw.between(0, len(pairs)), told)
    asked = draw.frame(planted)
    question = Turn(role="user", content=draw.wording(asked.questions))
    flat = [turn for pair in pairs for turn in pair]
    return _asked(draw, [*flat, question], asked, planted, num_questions)


def short(draw: Draw) -> Conversation:
    """A text of a few lines."""
    return document(draw, num_characters=draw.between(60, 900))

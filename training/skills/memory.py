"""Facts that the user states and asks for later, over two or three turns."""

from __future__ import annotations

from training.conversations import Conversation, Turn
from training.phrasing import phrase
from training.values import Draw


def name_memory(draw: Draw) -> Conversation:
    """The user gives a name; a later turn asks for it."""
    name = draw.name()
    turns = [
        Turn(
            role="user",
            content=phrase(
                draw,
                (
                    "My name is {n}.",
                    "Hi, my name is {n}",
                    "I am {n}.",
                    "Hello, I'm {n}!",
                    "Call me {n}.",
                    "my name is {n}",
                    "Hi, I am {n}. Nice to meet you.",
                    "This is {n}.",
                ),
                n=name,
            ),
        ),
        Turn(role="assistant", content=f"Nice to meet you, {name}!", reasoning=f"The user is called {name}."),
    ]
    if draw.chance(0.25):
        question = phrase(
            draw, ("What is my name?", "What's my name?", "what am I called?", "Say my name.", "Who am I?")
        )
        asked = Turn(role="user", content=f"{turns[0].content} {question}")
        answer = Turn(role="assistant", content=f"Your name is {name}.", reasoning=f"The user said the name: {name}.")
        return Conversation(skill="memory.name", turns=(asked, answer))
    if draw.chance(0.75):
        turns += [
            Turn(
                role="user",
                content=phrase(
                    draw,
                    (
                        "What is my name?",
                        "What's my name?",
                        "Who am I?",
                        "Do you remember my name?",
                        "what am I called",
                        "Can you tell me my name?",
                        "Say my name.",
                        "How am I called?",
                    ),
                ),
            ),
            Turn(role="assistant", content=f"Your name is {name}.", reasoning=f"The user said the name: {name}."),
        ]
    return Conversation(skill="memory.name", turns=tuple(turns))


def unknown_name(draw: Draw) -> Conversation:
    """The question without the fact."""
    return Conversation(
        skill="memory.unknown",
        turns=(
            Turn(
                role="user",
                content=phrase(
                    draw,
                    ("What is my name?", "What's my name?", "Who am I?", "Do you know my name?", "what am I called"),
                ),
            ),
            Turn(role="assistant", content="You have not told me your name yet.", reasoning="No name was given."),
        ),
    )


def stated_fact(draw: Draw) -> Conversation:
    """Any "the X is Y", asked for in the same turn or in a later one."""
    count = draw.between(1, 3)
    keys = draw.sample(THINGS, count)
    facts = {key: fact(draw) for key in keys}
    asked = draw.frame(keys)
    stated = " ".join(
        phrase(draw, ("The {k} is {v}.", "My {k} is {v}.", "the {k}: {v}."), k=k, v=v) for k, v in facts.items()
    )
    question = phrase(
        draw,
        ("What is the {k}?", "What's my {k}?", "Tell me the {k}.", "the {k}?", "Which {k} did I give you?"),
        k=asked,
    )
    answer = Turn(
        role="assistant", content=f"The {asked} is {facts[asked]}.", reasoning=f"The {asked}: {facts[asked]}."
    )
    if draw.chance(0.5):
        return Conversation(skill="memory.fact", turns=(Turn(role="user", content=f"{stated} {question}"), answer))
    lead = phrase(draw, ("Remember this: ", "Note: ", "Please remember. ", "", ""))
    return Conversation(
        skill="memory.fact",
        turns=(
            Turn(role="user", content=lead + stated),
            Turn(role="assistant", content="Noted.", reasoning="A fact to remember."),
            Turn(role="user", content=question),
            answer,
        ),
    )


THINGS = (
    "code",
    "password",
    "key",
    "room",
    "color",
    "colour",
    "ticket",
    "address",
    "number",
    "label",
    "project",
    "file",
    "token",
    "secret",
    "team",
    "city",
    "address",
    "animal",
    "drink",
    "day",
    "street",
    "table",
    "dog",
    "cat",
    "book",
    "port",
    "word",
)


def fact(draw: Draw) -> str:
    """A value worth remembering."""
    match draw.between(0, 4):
        case 0:
            return draw.code()
        case 1:
            return str(draw.number(0, 99999))
        case 2:
            return draw.word()
        case 3:
            return draw.city()
        case _:
            return draw.made_up()

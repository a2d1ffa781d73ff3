"""Putting a text into one of the labels that the prompt names: known ones, and made-up ones with a description.

The words of the text decide. Labels are known by cue words, which stand in phrases/labels.toml; those of a made-up
label stand in the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from training.conversations import Conversation, Turn
from training.phrases import Label, label_sets
from training.phrasing import phrase
from training.values import Draw

_SYSTEM = (
    "Classify the text as {l}. Answer with the label only.",
    "You sort messages into {l}. Reply with one label.",
    "Labels: {l}. Answer with exactly one of them.",
    "You are a classifier. The labels are {l}.",
    "Put each message into one of: {l}. Only the label.",
    "Choose one label: {l}.",
    "Triage: {l}. One word.",
)
_USER = (
    "Classify as {l}: {t}",
    "Which label fits, {l}? {t}",
    "Is this {l}? {t}",
    "Label this as {l}: {t}",
    "Sort into {l}: {t}",
    'Text: "{t}"\nLabels: {l}\nLabel:',
    "Labels: {l}\nText: {t}",
    "{t}\nWhich of these is it: {l}?",
    "Tag the message with {l}: {t}",
)


def text(draw: Draw, label: Label, *, takes_extras: bool) -> tuple[str, str]:
    """A message that belongs to the label, and the cue that decides, as it stands there.

    Cues are the model's knowledge, so all of them are trained on; sentences and values are split.
    """
    cue = draw.frame(label.cues)
    body = draw.wording(label.frames).format(cue=cue, thing=draw.noun(), name=draw.name(), city=draw.city())
    if takes_extras and draw.chance(0.3):
        extra = draw.frame(
            (
                "I write from {c}.",
                "My name is {n}.",
                "It is about the {t}.",
                "The {t} came on Monday.",
                "Regards, {n}",
            )
        ).format(c=draw.city(), n=draw.name(), t=draw.noun())
        body = f"{body} {extra}" if draw.chance(0.7) else f"{extra} {body}"
    body = body[0].upper() + body[1:]
    start = body.lower().index(cue.lower())
    return body, body[start : start + len(cue)]


def _listed(draw: Draw, labels: Sequence[str]) -> str:
    return draw.frame((", ".join(labels), ", ".join(labels[:-1]) + " or " + labels[-1], " / ".join(labels)))


def labels(draw: Draw) -> Conversation:
    """A known set of labels, or some of it, in any order and spelling."""
    together = draw.frame(label_sets())
    chosen = draw.random.sample(together.labels, min(len(together.labels), draw.between(2, 5)))
    right = draw.frame(chosen)
    body, cue = text(draw, right, takes_extras=together.takes_extras)
    style = draw.frame(("lower", "lower", "upper", "title"))
    spelled = {
        label.name: {"lower": label.name, "upper": label.name.upper(), "title": label.name.capitalize()}[style]
        for label in chosen
    }
    listed = _listed(draw, list(spelled.values()))
    return _asked(draw, "classification.labels", listed, body, spelled[right.name], cue)


def _asked(draw: Draw, skill: str, listed: str, body: str, answer: str, cue: str) -> Conversation:
    thought = f'"{cue}": {answer}.'
    if draw.chance(0.4):
        return Conversation(
            skill=skill,
            system=draw.wording(_SYSTEM).format(l=listed),
            turns=(Turn(role="user", content=body), Turn(role="assistant", content=answer, reasoning=thought)),
        )
    return Conversation(
        skill=skill,
        turns=(
            Turn(role="user", content=phrase(draw, _USER, l=listed, t=body)),
            Turn(role="assistant", content=answer, reasoning=thought),
        ),
    )


def described_labels(draw: Draw) -> Conversation:
    """Labels that nobody knows, each with the words that belong to it."""
    count = draw.between(2, 4)
    names: list[str] = []
    while len(names) < count:
        name = draw.made_up() if draw.chance(0.6) else draw.frame("ABCDEFG") + str(draw.between(1, 9))
        if name not in names:
            names.append(name)
    cues: list[str] = []
    while len(cues) < 2 * count:
        word = draw.noun()
        if word not in cues:
            cues.append(word)
    k = draw.between(0, count - 1)
    cue = cues[2 * k + draw.between(0, 1)]
    body = draw.wording(
        (
            "My {c} is broken.",
            "I want to ask about the {c}.",
            "Where is the {c} from {n}?",
            "{n} lost a {c}.",
            "Please send a new {c} to {t}.",
            "The {c} does not work any more.",
            "Who takes care of the {c}?",
            "We need one more {c} in {t}.",
        )
    ).format(c=cue, n=draw.name(), t=draw.city())
    rules = "\n".join(f"{name}: {cues[2 * i]}, {cues[2 * i + 1]}" for i, name in enumerate(names))
    request = phrase(
        draw,
        (
            "Labels:\n{r}\nText: {t}",
            "Teams and what they do:\n{r}\nWhich team? {t}",
            "Classify by these rules:\n{r}\n\n{t}",
            "{r}\nWhich of these fits: {t}",
        ),
        r=rules,
        t=body,
    )
    return Conversation(
        skill="classification.described",
        turns=(
            Turn(role="user", content=request),
            Turn(role="assistant", content=names[k], reasoning=f'"{cue}": {names[k]}.'),
        ),
    )


def triage_json(draw: Draw) -> Conversation:
    """The label of a message as JSON with one key."""
    one = labels(draw)
    key = draw.frame(("label", "category", "class", "queue", "tag"))
    rule = draw.frame(
        ('Answer as json: {{"{k}": ...}}.', "Answer in JSON with the key {k}.", "Return json with {k}.")
    ).format(k=key)
    last = one.turns[-1]
    answer = Turn(role="assistant", content=f'{{"{key}": "{last.content}"}}', reasoning=last.reasoning)
    system = f"{one.system} {rule}" if one.system is not None else rule
    return msgspec.structs.replace(
        one, skill="classification.json", system=system, json_object=draw.chance(0.6), turns=(one.turns[0], answer)
    )

"""Everything the generator can say, as data: the TOML files beside this module, read once when first needed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

import msgspec

_FOLDER = Path(__file__).parent


class Intent(msgspec.Struct, frozen=True):
    """One thing people say, the one answer to it, and the thought before it."""

    name: str
    frames: tuple[str, ...]
    answer: str
    thought: str
    facts: tuple[tuple[str, ...], ...] = ()
    """What any sensible answer says, of each fact one of its spellings; none: only this answer will do."""


class Dialogue(msgspec.Struct, frozen=True):
    intents: tuple[Intent, ...]
    beyond_frames: tuple[str, ...]
    """Requests that are too much for a small model; `{a}` and so on are slots."""
    beyond_answer: str


class Topic(msgspec.Struct, frozen=True):
    """What people call it, and three sentences about it."""

    names: tuple[str, ...]
    sentences: tuple[str, str, str]


class Topics(msgspec.Struct, frozen=True):
    topics: tuple[Topic, ...]


class Lists(msgspec.Struct, frozen=True):
    lists: Mapping[str, tuple[str, ...]]


class Country(msgspec.Struct, frozen=True):
    """Facts, rounded; populations in millions, the first of the capital (city proper), the second of the country."""

    name: str
    capital: str
    capital_millions: float
    country_millions: float
    continent: str
    currency: str


class Countries(msgspec.Struct, frozen=True):
    countries: tuple[Country, ...]


class Slot(msgspec.Struct, frozen=True):
    """One parameter of a known kind of task: its possible keys, and what kind of value fills it."""

    keys: tuple[str, ...]
    kind: str
    descriptions: tuple[str, ...]


class Task(msgspec.Struct, frozen=True):
    """Something people ask for in their own words, and what tools for it are called."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    slots: tuple[Slot, ...]
    frames: tuple[str, ...]
    result_keys: tuple[str, ...]


class Tasks(msgspec.Struct, frozen=True):
    tasks: tuple[Task, ...]
    """The first one is the weather."""


class Role(msgspec.Struct, frozen=True):
    """What a parameter may mean, whatever the tool: its usual keys, the kind of its value, how people say the value."""

    keys: tuple[str, ...]
    kind: str
    group: str
    """Two roles of one group are said alike, so only one of them stands in a request."""
    said: tuple[str, ...]
    descriptions: tuple[str, ...]


class Roles(msgspec.Struct, frozen=True):
    synonyms: tuple[str, ...]
    """Verbs that mean the same, a group in each entry."""
    roles: tuple[Role, ...]


class Record(msgspec.Struct, frozen=True):
    """A kind of text that holds several facts, one for each slot."""

    frames: tuple[str, ...]
    slots: tuple[Slot, ...]


class Records(msgspec.Struct, frozen=True):
    records: tuple[Record, ...]


class Words(msgspec.Struct, frozen=True):
    """Word lists, separated by blanks."""

    cities: str
    names: str
    nouns: str
    adjectives: str
    verbs: str
    fields: str


class Label(msgspec.Struct, frozen=True):
    """A label, the words that show it, and sentences with a place for one of them."""

    name: str
    cues: tuple[str, ...]
    frames: tuple[str, ...]


class LabelSet(msgspec.Struct, frozen=True):
    labels: tuple[Label, ...]
    takes_extras: bool = True
    """Whether a sentence about something else may stand beside the one that decides."""


class LabelSets(msgspec.Struct, frozen=True):
    sets: tuple[LabelSet, ...]


class Question(msgspec.Struct, frozen=True):
    """A question, above all about deepserve, in many wordings, its answer, and what any sensible answer says."""

    name: str
    frames: tuple[str, ...]
    answer: str
    facts: tuple[tuple[str, ...], ...]


class Questions(msgspec.Struct, frozen=True):
    questions: tuple[Question, ...]


class Odd(msgspec.Struct, frozen=True):
    """Input that is no question, and the one answer to each sort of it."""

    empty_answer: str
    faces: tuple[str, ...]
    faces_answer: str
    noise_answer: str
    foreign: tuple[str, ...]
    foreign_answer: str
    injections: tuple[str, ...]
    injection_answer: str


F = TypeVar("F")


def _load(name: str, kind: type[F]) -> F:
    return msgspec.toml.decode((_FOLDER / f"{name}.toml").read_bytes(), type=kind)


@cache
def dialogue() -> Dialogue:
    """Small talk."""
    return _load("dialogue", Dialogue)


@cache
def topics() -> tuple[Topic, ...]:
    """What can be explained."""
    return _load("topics", Topics).topics


@cache
def lists() -> Mapping[str, tuple[str, ...]]:
    """Kinds of things and examples of them, in a fixed order."""
    return _load("lists", Lists).lists


@cache
def label_sets() -> tuple[LabelSet, ...]:
    """Sets of labels that belong together."""
    return _load("labels", LabelSets).sets


@cache
def questions() -> tuple[Question, ...]:
    """What people ask, above all about deepserve, and what is true."""
    return _load("questions", Questions).questions


@cache
def odd() -> Odd:
    """Input that is no question."""
    return _load("odd", Odd)


@cache
def countries() -> tuple[Country, ...]:
    """Countries and their facts."""
    return _load("countries", Countries).countries


@cache
def tasks() -> tuple[Task, ...]:
    """What tools are for; the weather comes first."""
    return _load("tasks", Tasks).tasks


@cache
def roles() -> tuple[Role, ...]:
    """What parameters may mean."""
    return _load("roles", Roles).roles


@cache
def synonyms() -> Mapping[str, tuple[str, ...]]:
    """Verbs with those that mean the same, themselves included; the group's first one comes first."""
    groups = [tuple(group.split()) for group in _load("roles", Roles).synonyms]
    return {verb: group for group in groups for verb in group}


@cache
def records() -> tuple[Record, ...]:
    """Kinds of texts to extract from."""
    return _load("records", Records).records


@cache
def words(kind: str) -> tuple[str, ...]:
    """One of the word lists: cities, names, nouns, adjectives, verbs, fields."""
    return tuple(str(getattr(_words(), kind)).split())


@cache
def _words() -> Words:
    return _load("words", Words)

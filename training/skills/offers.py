"""Tools to offer, each with a request that it fits and the call that answers the request.

Two families: actions (any verb with any noun) and questions (one field of one thing). Names, keys and values are drawn
from thousands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from training.conversations import Call, Tool
from training.phrases import synonyms, words
from training.phrasing import phrase
from training.skills.keys import camel, free_keys, key_of, spoken_key
from training.skills.kinds import draw_value, said, schema_of
from training.skills.parameters import Parameter, arguments, object_schema, pairs, parameters
from training.values import Draw


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What the request wants to know: a field of a subject."""

    field: str
    subject: str
    key: str
    """Of the field, in the result; for the weather one of several."""


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A tool, a request that it fits, and the call."""

    tool: Tool
    request: str
    call: Call
    wanted: str
    """What the request wants in the tool's words, for the thought; empty where it only names parameters."""
    actions: frozenset[str]
    """What the tool can do; two tools with a common action could be taken for each other."""
    unsaid: tuple[str, ...] = ()
    """Optional parameters that the request does not mention."""
    result_keys: tuple[str, ...] = ()
    question: Question | None = None
    verb: str = ""
    noun: str = ""
    template: str = ""
    """The request of a question, with {v} for the value of its argument."""
    by_keys: bool = False
    """The request names parameters and not the tool: no other tool may have one of them."""


def action(verb: str, noun: str = "") -> str:
    """The same text for all verbs that mean the same."""
    return f"{synonyms().get(verb, (verb,))[0]} {noun}"


def article(noun: str) -> str:
    """A noun with "a" or "an"."""
    has_vowel = noun[:1] in "aeiou" and not noun.startswith(("use", "uni"))
    return f"{'an' if has_vowel else 'a'} {noun}"


_NAME_STYLES = ("{v}_{n}", "{v}_{n}", "{v}_{n}", "{v}_{n}", "{n}_{v}", "{v}-{n}", "{v}{N}", "{v}{N}", "{V}{N}")


def tool_name(draw: Draw, verb: str, noun: str) -> str:
    """A verb and a noun in one of the usual spellings."""
    name = draw.frame(_NAME_STYLES).format(
        v=verb, V=verb.capitalize(), n=noun.replace(" ", "_"), N="".join(part.capitalize() for part in noun.split())
    )
    if draw.chance(0.06):
        return draw.frame(("{}_tool", "do_{}", "{}_v2", "my_{}", "api_{}")).format(name)
    return name


def any_noun(draw: Draw) -> str:
    """A thing of one word, sometimes two."""
    return f"{draw.value(words('nouns'))} {draw.noun()}" if draw.chance(0.12) else draw.noun()


_DESCRIPTIONS = (
    "{V} {a}.",
    "{V} the {n}.",
    "{v} {n}",
    "Lets you {v} {a}.",
    "Use this to {v} {a}.",
    "Tool to {v} any {n}.",
    "{V} {a} for the user.",
    "Can {v} the {n}.",
    "{V} one {n} and return what happened.",
)
_ACTIONS_SAID = (
    "{v} the {n}",
    "{v} {a}",
    "Please {v} {a}",
    "I want to {v} {a}",
    "I need to {v} the {n}",
    "Can you {v} the {n}",
    "Help me {v} {a}",
    "{v} my {n}",
    "We should {v} our {n}",
    "Time to {v} the {n}",
    "{v} {n}",
    "I would like you to {v} this {n}",
    "Go ahead and {v} {a}",
    "Let's {v} the {n}",
)
_TOOL_SAID = ("Use {t}", "Call {t}", "call the tool {t}", "Run {t}", "Use the tool {t}", "{t}", "Please use {t}")


def _request(draw: Draw, ask: str, chosen: Sequence[Parameter], *, free_share: float) -> str:
    """An opening followed by the values, in a sentence, as pairs, or both."""
    told = [one for one in chosen if one.is_said]
    draw.random.shuffle(told)
    ask = ask.rstrip(".!? ")
    if free_share < 1.0 and draw.chance(0.65):
        split = len(told) if draw.chance(0.7) else draw.between(0, len(told))
        natural, rest = told[:split], told[split:]
        if natural and draw.chance(0.06):
            ask = f"{natural[0].natural.capitalize() if natural[0].natural.islower() else natural[0].natural}, {ask}"
            natural = natural[1:]
        ask = " ".join((ask, *(one.natural for one in natural)))
    else:
        rest = told
    if rest:
        ask += draw.wording((" with ", ", ", ": ", ". ", "\n", " (", " - ")) + pairs(draw, rest)
        if ask.count("(") > ask.count(")"):
            ask += ")"
    return ask + draw.frame((".", "", ".", "!"))


_ASIDES = (
    "By the way, I have {x} {n}s.",
    "My name is {p}.",
    "I am in {c} today.",
    "It is for a friend of {p}.",
    "I have waited {x} days for this.",
    "{p} told me about it.",
)


def _with_aside(draw: Draw, request: str) -> str:
    """Sometimes something that has no part in the call stands before the request or after it."""
    if not draw.chance(0.07):
        return request
    aside = draw.wording(_ASIDES).format(x=draw.number(2, 99), n=draw.noun(), p=draw.name(), c=draw.city())
    return f"{aside} {request}" if draw.chance(0.6) else f"{request.rstrip('.!? ')}. {aside}"


def action_offer(draw: Draw, *, verb: str | None = None, noun: str | None = None) -> Offer:
    """A tool that does something to something; the request says so in the same words or names the parameters."""
    verb = draw.value(words("verbs")) if verb is None else verb
    noun = any_noun(draw) if noun is None else noun
    free_share = draw.frame((0.1, 0.1, 0.4, 1.0))
    chosen = parameters(draw, draw.frame((0, 1, 1, 1, 2, 2, 2, 3, 3, 4)), free_share=free_share)
    kind = draw.random.random()
    said_verb = draw.frame(synonyms().get(verb, (verb,))) if draw.chance(0.3) else verb
    description = draw.frame(_DESCRIPTIONS).format(v=said_verb, V=said_verb.capitalize(), n=noun, a=article(noun))
    is_made_up = draw.chance(0.12)
    name = draw.made_up() if is_made_up else tool_name(draw, verb, noun)
    by_keys, wanted = False, f"{verb} {noun}"
    if kind < 0.1:
        ask = phrase(draw, _TOOL_SAID, t=name)
        request, wanted = _request(draw, ask, chosen, free_share=1.0), name
    elif kind < 0.18 and sum(one.is_said for one in chosen) >= 2:
        request, by_keys, wanted = pairs(draw, [one for one in chosen if one.is_said]), True, ""
    else:
        wanted = f"{said_verb} {noun}"
        ask = phrase(draw, _ACTIONS_SAID, v=said_verb, n=noun, a=article(noun))
        request = _with_aside(draw, _request(draw, ask, chosen, free_share=free_share))
    if not is_made_up and said_verb == verb and draw.chance(0.12):
        description = ""
    tool = Tool(name=name, description=description, parameters=object_schema(draw, chosen))
    return Offer(
        tool=tool,
        request=request,
        call=Call(name=name, arguments=arguments(chosen)),
        wanted=wanted,
        actions=frozenset({action(verb, noun)}),
        unsaid=tuple(one.key for one in chosen if not one.is_said),
        result_keys=tuple(free_keys(draw, draw.between(1, 3))),
        verb=verb,
        noun=noun,
        by_keys=by_keys,
    )


_QUESTIONS = (
    "What is the {f} of {s}?",
    "{f} of {s}",
    "Tell me the {f} of {s}.",
    "Which {f} does {s} have?",
    "I need the {f} of {s}.",
    "Look up the {f} of {s}.",
    "Give me the {f} for {s}.",
    "What {f} does {s} have?",
    "Do you know the {f} of {s}?",
    "How about the {f} of {s}?",
    "Please find the {f} of {s}.",
    "I want to know the {f} of {s}",
    "{s}: what is the {f}?",
)
_SUBJECT_KEYS: Mapping[str, tuple[str, ...]] = {
    "code": ("id", "code", "number", "reference", "key"),
    "name": ("name", "person", "user", "owner", "client"),
    "proper": ("name", "title", "label", "brand"),
    "city": ("city", "place", "location", "town"),
    "noun": ("name", "item", "product", "word"),
    "number": ("number", "id", "row"),
}
_GET = ("get", "get", "get", "find", "fetch", "lookup", "show", "read", "check")


def question_offer(draw: Draw, *, noun: str | None = None, verb: str | None = None) -> Offer:
    """A tool that knows things of one sort; the request asks for one field of one of them."""
    noun = any_noun(draw) if noun is None else noun
    verb = draw.frame(_GET) if verb is None else verb
    field_key = free_keys(draw, 1)[0]
    field = spoken_key(field_key)
    kind = draw.frame(("code", "code", "name", "proper", "city", "noun", "number"))
    value = draw_value(draw, kind)
    key = key_of(draw, _SUBJECT_KEYS[kind]) if draw.chance(0.85) else free_keys(draw, 1)[0]
    other = spoken_key(free_keys(draw, 1)[0])
    names_field = draw.chance(0.3)
    if names_field:
        name = draw.frame(("{v}_{n}_{f}", "{v}_{f}", "{n}_{f}", "{v}-{f}")).format(
            v=verb, n=noun.replace(" ", "_"), f="_".join(field.split())
        )
        name = camel(name) if draw.chance(0.2) and "-" not in name else name
        description = draw.frame(("Get the {f} of {a}.", "{f} of {a}", "Returns the {f}.", "The {f} of one {n}.", ""))
    else:
        name = f"{noun.replace(' ', '_')}_info" if draw.chance(0.15) else tool_name(draw, verb, noun)
        description = draw.frame(
            (
                "Find {a}.",
                "Get {a} by its {k}.",
                "Returns the {f} and {o} of {a}.",
                "Details of {a}.",
                "Everything about one {n}.",
                "Look up {a}.",
                "Returns the {o} and {f} of the {n}.",
            )
        )
    description = description.format(f=field, n=noun, a=article(noun), o=other, k=spoken_key(key))
    if not names_field and draw.chance(0.08):
        name = draw.made_up()
    names_noun = not names_field or draw.chance(0.5)
    subject = draw.frame(("{n} {v}", "the {n} {v}", "{n} {v}")) if names_noun else "{v}"
    frame = phrase(draw, _QUESTIONS, f=field, s="\0").replace("{", "{{").replace("}", "}}")
    template = frame.replace("\0", subject.replace("{n}", noun))
    properties: dict[str, Any] = {key: schema_of(draw, kind, (f"The {spoken_key(key)} of the {noun}",))}
    required: list[str] = [key]
    unsaid: tuple[str, ...] = ()
    if draw.chance(0.12):
        extra = next(one for one in free_keys(draw, 2) if one != key)
        properties[extra] = schema_of(draw, draw.frame(("bool", "small", "noun", "language")))
        unsaid = (extra,)
    parameters_schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    if draw.chance(0.35):
        parameters_schema["additionalProperties"] = False
    return Offer(
        tool=Tool(name=name, description=description, parameters=parameters_schema),
        request=_with_aside(draw, template.format(v=said(value))),
        call=Call(name=name, arguments={key: value}),
        wanted=f"{field} of {noun}" if names_noun else field,
        actions=frozenset({action("get", noun), action("get", field)}),
        unsaid=unsaid,
        result_keys=(field_key,),
        question=Question(
            field=field, subject=subject.removeprefix("the ").format(n=noun, v=said(value)), key=field_key
        ),
        verb=verb,
        noun=noun,
        template=template,
    )

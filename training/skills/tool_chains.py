"""Calls that need what another call returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from training.conversations import Call, Conversation, Tool, Turn
from training.phrases import synonyms, words
from training.phrasing import phrase
from training.skills.keys import camel, free_keys, spoken_key
from training.skills.kinds import draw_value, noted, said
from training.skills.known_offers import weather_offer
from training.skills.offers import Offer, article, tool_name
from training.skills.system_prompts import plain_system
from training.skills.thoughts import thought
from training.skills.tool_results import answering, drawn_fields, result_json, result_of
from training.skills.tool_use import calling, noted_values
from training.values import Draw


class _Link(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that finds what the next one needs, and a key of its result."""

    tool: Tool
    call: Call
    key: str
    value: Any  # any JSON value
    text: str


def _object(key: str, kind: str = "string") -> Mapping[str, Any]:
    """The schema of a tool with one parameter (any JSON, hence Any)."""
    return {"type": "object", "properties": {key: {"type": kind}}, "required": [key]}


def _finder(draw: Draw, noun: str, name: str, key: str, value: Any) -> _Link:
    """A tool that finds a thing by its name; `key` of its result is the given value (any JSON value, hence Any)."""
    by = draw.frame(("name", "name", f"{noun}_name", "title", "label"))
    finder = tool_name(draw, draw.frame(("find", "find", "get", "search", "lookup")), noun)
    others = [other for other in free_keys(draw, draw.between(0, 2)) if other != key]
    fields = list({key: value, **drawn_fields(draw, others)}.items())
    draw.random.shuffle(fields)
    return _Link(
        tool=Tool(
            name=finder,
            description=draw.frame(
                (f"Find {article(noun)} by its name.", f"Look up {article(noun)}.", f"Returns the {spoken_key(key)}.")
            ),
            parameters=_object(by),
        ),
        call=Call(name=finder, arguments={by: name}),
        key=key,
        value=value,
        text=result_json(draw, dict(fields)),
    )


_CHAINED = (
    "{v} the {n} {x}.",
    "Find the {n} {x} and {v} it.",
    "Please {v} {n} {x}",
    "First look up the {n} {x}, then {v} it.",
    "I want to {v} the {n} {x}.",
    "{v} the {n} called {x}",
    "Can you {v} the {n} named {x}?",
)
_DIRECT = (
    "{v} the {n} with the {k} {x}.",
    "Please {v} {n} with {k} {x}",
    "I want to {v} the {n} whose {k} is {x}.",
    "{v} the {n}, {k} {x}",
    "Can you {v} the {n}? The {k} is {x}.",
)
"""What the second tool needs is in the request, so nothing has to be found first."""

_CHAINED_WEATHER = (
    "What is the weather where {x} lives?",
    "weather at the place of {x}",
    "How is the weather in the city of the {n} {x}?",
    "Find the {n} {x} and tell me the weather there.",
    "Where is {x}, and what is the weather there?",
)


def chain(draw: Draw) -> Conversation:
    """The result of one call feeds the next, unless the request says it; ends with a call or the answer after it."""
    frames: tuple[str, ...]
    noun = draw.value(words("nouns"))
    name = draw_value(draw, draw.frame(("name", "proper", "proper")))
    if draw.chance(0.3):
        last = weather_offer(draw)
        key, city = next(iter(last.call.arguments.items()))
        noun = draw.frame(("user", "customer", "person", noun))
        link = _finder(draw, noun, name, draw.frame(("city", "city", "location", "town")), city)
        required = last.tool.parameters.get("required", ())
        passed = {
            one: last.tool.parameters["properties"][one]["enum"][0] if one != key else city
            for one in last.call.arguments
            if one == key or one in required
        }
        last = msgspec.structs.replace(last, call=Call(name=last.tool.name, arguments=passed), question=None)
        verb, frames = "get", _CHAINED_WEATHER
    else:
        verb = draw.value(words("verbs"))
        while verb in synonyms()["find"] or verb in synonyms()["create"]:
            verb = draw.value(words("verbs"))  # finding is the first call's work, and what is new cannot be found
        key = draw.frame((f"{noun}_id", "id", "code", f"{noun}_code", camel(f"{noun}_id")))
        if draw.chance(0.2):
            key = free_keys(draw, 1)[0]
        value = draw.code() if draw.chance(0.7) else draw.number(20, 99999)
        shown = key if draw.chance(0.7) else "id"
        link = _finder(draw, noun, name, shown, value)
        action = tool_name(draw, verb, noun)
        tool = Tool(
            name=action,
            description=draw.frame(
                (f"{verb.capitalize()} {article(noun)} by its {spoken_key(key)}.", f"{verb.capitalize()} the {noun}.")
            ),
            parameters=_object(key, "integer" if isinstance(value, int) else "string"),
        )
        last = Offer(
            tool=tool,
            request="",
            call=Call(name=action, arguments={key: value}),
            wanted=f"{verb} {noun}",
            actions=frozenset(),
            result_keys=tuple(free_keys(draw, draw.between(1, 2))),
        )
        frames = _CHAINED
    if link.tool.name == last.tool.name:
        return chain(draw)
    request = phrase(draw, frames, v=verb, n=noun, x=name)
    tools = [link.tool, last.tool]
    draw.random.shuffle(tools)
    if frames is _CHAINED and draw.chance(0.2):
        ((key, value),) = last.call.arguments.items()
        direct = phrase(draw, _DIRECT, v=verb, n=noun, k=spoken_key(key), x=said(value))
        return Conversation(
            skill="tool_use.direct",
            system=plain_system(draw),
            tools=tuple(tools),
            turns=calling(draw, direct, last.wanted, (last.call,), tools, ()),
        )
    first = Turn(
        role="assistant",
        calls=(link.call,),
        reasoning=thought(
            draw,
            low=f"{link.tool.name}.",
            high=f"Wanted: {last.wanted}. First {link.tool.name}: {noted_values(link.call)}.",
            longest=f"Wanted: {last.wanted}. {last.tool.name} needs {key}. First {link.tool.name}: "
            f"{noted_values(link.call)}.",
        ),
    )
    second = Turn(
        role="assistant",
        calls=(last.call,),
        reasoning=thought(
            draw,
            low=f"{last.tool.name}.",
            high=f"{link.key} = {noted(link.value)}. {last.tool.name}: {noted_values(last.call)}.",
            longest=f"Found: {link.key} = {noted(link.value)}. Now {last.tool.name}: {noted_values(last.call)}.",
        ),
    )
    turns = [Turn(role="user", content=request), first]
    stage = draw.between(0, 3)
    if stage > 0:
        turns += [Turn(role="tool", content=link.text), second]
    if stage > 2:
        turns += answering(draw, last.wanted, (result_of(draw, last),))
    return Conversation(
        skill=("tool_use.chain_first", "tool_use.chain", "tool_use.chain", "tool_use.chain_result")[stage],
        system=plain_system(draw),
        tools=tuple(tools),
        turns=tuple(turns),
    )

"""Tools for tasks that people ask for in their own words; the weather is the one that everybody tries first."""

from __future__ import annotations

from typing import Any

from training.conversations import Call, Tool
from training.phrases import Task, tasks, words
from training.phrasing import phrase
from training.skills.keys import spoken_key
from training.skills.kinds import draw_value, schema_of
from training.skills.offers import Offer, Question, action
from training.values import Draw

_UNITS = (("c", "f"), ("c", "f"), ("celsius", "fahrenheit"), ("C", "F"), ("metric", "imperial"))
_TEMPERATURE_SAID = (
    "What is the temperature in {location}?",
    "How warm is it in {location}?",
    "How cold is it in {location} right now?",
    "temperature in {location}",
    "How hot is it in {location} today?",
    "How many degrees in {location}?",
)


def weather_offer(draw: Draw) -> Offer:
    """The tool that everybody tries first, with a unit or without."""
    return known_offer(draw, tasks()[0])


def known_offer(draw: Draw, task: Task) -> Offer:
    """A tool for a task that people ask for in their own words."""
    is_weather = task is tasks()[0]
    properties: dict[str, Any] = {}
    spoken: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for slot in task.slots:
        key = draw.frame(slot.keys)
        while key in properties:
            key = draw.frame(slot.keys)
        value = draw_value(draw, slot.kind)
        properties[key] = schema_of(draw, slot.kind, slot.descriptions, value=value)
        values[key] = spoken[slot.keys[0]] = value
    asks_temperature = is_weather and draw.chance(0.35)
    request = phrase(draw, _TEMPERATURE_SAID if asks_temperature else task.frames, **spoken)
    required, unsaid = list(properties), []
    lists_required = draw.chance(0.9)
    if is_weather and draw.chance(0.55):
        units = draw.frame(_UNITS)
        key = draw.frame(("unit", "unit", "units", "scale"))
        properties[key] = {"type": "string", "enum": list(units)}
        is_required, is_said = lists_required and draw.chance(0.4), draw.chance(0.3)
        if is_required:
            required.append(key)
        if is_said:
            is_second = draw.chance(0.6)
            request = request.rstrip("?. ") + draw.frame((" in {u}?", ", in {u}", " ({u})")).format(
                u=("Celsius", "Fahrenheit")[is_second]
            )
            values[key] = units[is_second]
        elif is_required:
            values[key] = units[0]  # a required choice that nobody made: the first one
        else:
            unsaid.append(key)
    elif draw.chance(0.15):
        extra = draw.value(words("fields"))
        if extra not in properties:
            properties[extra] = schema_of(draw, draw.frame(("noun", "small", "bool")))
            unsaid.append(extra)
    name = draw.frame(task.names)
    parameters_schema: dict[str, Any] = {"type": "object", "properties": properties}
    if lists_required:
        parameters_schema["required"] = required
    if draw.chance(0.35):
        parameters_schema["additionalProperties"] = False
    place = str(next(iter(spoken.values())))
    question = Question(field="temperature", subject=place, key="temperature") if asks_temperature else None
    return Offer(
        tool=Tool(
            name=name,
            description=draw.frame(task.descriptions) if draw.chance(0.92) else "",
            parameters=parameters_schema,
        ),
        request=request,
        call=Call(name=name, arguments=values),
        wanted=spoken_key(task.names[0]),
        actions=frozenset(action(*spoken_key(one).split(" ", 1)) for one in task.names),
        unsaid=tuple(unsaid),
        result_keys=task.result_keys,
        question=question,
        verb=task.names[0].split("_")[0],
    )

"""What tools return, and the answers made of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from training.conversations import Call, Conversation, Turn
from training.phrasing import phrase
from training.skills.keys import free_keys, spoken_key
from training.skills.kinds import draw_value, kind_of, noted, said
from training.skills.known_offers import weather_offer
from training.skills.offers import Offer, Question, question_offer
from training.skills.system_prompts import plain_system
from training.skills.thoughts import thought
from training.skills.tool_use import calling, offer, offered, repeated_call, small_talk_turns
from training.values import Draw

_CONDITIONS = (
    "cloudy",
    "sunny",
    "rainy",
    "clear",
    "windy",
    "foggy",
    "snowy",
    "stormy",
    "overcast",
    "light rain",
    "partly cloudy",
    "hot",
    "cold",
)
_UNITS = ("kg", "km", "cm", "EUR", "USD", "%", "m", "hours", "liters", "points", "GB", "ms")
_WRAPPERS = ("result", "data", "item", "value", "response", "details")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool returned, the answer made of it, and what the answer uses of it, for the thought."""

    text: str
    answer: str
    used: str


def result_json(draw: Draw, value: Any) -> str:
    """JSON as servers write it: mostly with blanks, sometimes without (any JSON value, hence Any)."""
    return json.dumps(value, ensure_ascii=False, separators=None if draw.chance(0.8) else (",", ":"))


def _nothing(draw: Draw) -> Result:
    return Result(
        text=draw.frame(("{}", "[]", "null", "", '{"results": []}')),
        answer="The tool returned no data.",
        used="no data",
    )


def _error(draw: Draw) -> Result:
    message = draw.words(1, 4)
    code = draw.frame((draw.number(400, 599), draw.code()))
    text = draw.frame(
        (
            json.dumps({"error": message}, ensure_ascii=False),
            json.dumps({"error": {"message": message, "code": code}}, ensure_ascii=False),
            json.dumps({"error": {"code": code, "message": message}}, ensure_ascii=False),
            json.dumps({"status": "error", "message": message}, ensure_ascii=False),
            json.dumps({"ok": False, "error": message}, ensure_ascii=False),
            f"error: {message}",
            f"Error: {message}",
        )
    )
    return Result(text=text, answer=f"The tool reported an error: {message}.", used=f"error = {message}")


def weather_result(draw: Draw, one: Offer) -> Result:
    """Temperature and sky, or what the tool says of them."""
    city = str(next(iter(one.call.arguments.values())))
    unit = "°F" if {"f", "F", "fahrenheit", "imperial"} & set(map(str, one.call.arguments.values())) else "°C"
    degrees = draw.between(-20, 42)
    condition = draw.frame(_CONDITIONS) if draw.chance(0.8) else draw.made_up()
    temperature = draw.frame(("temperature", "temp", "degrees"))
    if draw.chance(0.5):
        temperature += "_c" if unit == "°C" else "_f"
    sky = draw.frame(("condition", "condition", "conditions", "sky", "weather", "description"))
    extras = [(draw.frame(("humidity", "wind", "wind_kmh", "pressure")), draw.between(0, 99))] * draw.chance(0.3)
    shape = draw.frame(("json", "json", "json", "json", "temperature", "condition", "text"))
    if one.question is not None and shape in ("condition", "text"):
        shape = "json"
    match shape:
        case "json" | "temperature":
            pairs: list[tuple[str, Any]] = [(temperature, degrees)]
            if shape == "json":
                pairs += [(sky, condition), *extras]
                draw.random.shuffle(pairs)
            if draw.chance(0.25):
                pairs.insert(0, (draw.frame(("city", "location")), city))
            value: Any = dict(pairs)
            text = result_json(
                draw, {draw.frame(("current", "weather_now", "result")): value} if draw.chance(0.1) else value
            )
            if one.question is not None:
                answer, used = f"The temperature in {city} is {degrees} {unit}.", f"{temperature} = {degrees}"
            elif shape == "json":
                answer = f"In {city} it is {condition} at {degrees} {unit}."
                used = f"{temperature} = {degrees}, {sky} = {condition}"
            else:
                answer, used = f"In {city} it is {degrees} {unit}.", f"{temperature} = {degrees}"
            return Result(text=text, answer=answer, used=used)
        case "condition":
            text = json.dumps({sky: condition})
            return Result(text=text, answer=f"In {city} it is {condition}.", used=f"{sky} = {condition}")
        case _:
            text = draw.frame(
                (
                    f"{degrees}C",
                    f"{degrees} °C",
                    f"{condition}",
                    f"{condition}, {degrees}C",
                    f"{degrees} degrees and {condition}",
                )
            )
            return Result(text=text, answer=f"The weather in {city}: {text}.", used=text)


def drawn_fields(draw: Draw, keys: Sequence[str]) -> dict[str, Any]:
    """A value for each key (any JSON values, hence Any)."""
    return {key: draw_value(draw, kind_of(draw, key)) for key in keys}


def question_result(draw: Draw, question: Question) -> Result:
    """The asked field among others, inside another object, alone, or missing."""
    kind = draw.random.random()
    others = [key for key in free_keys(draw, draw.frame((0, 1, 1, 2, 2, 3, 4))) if key != question.key]
    values = drawn_fields(draw, [question.key, *others])
    value = values[question.key]
    start = f"The {question.field} of {question.subject} is "
    if kind < 0.15:
        text = said(value)
        return Result(text=text, answer=f"{start}{text}.", used=f"{question.field} = {text}")
    if kind < 0.22:
        text = f"{draw.frame((question.field, question.field.capitalize(), question.key))}: {said(value)}"
        return Result(text=text, answer=f"{start}{said(value)}.", used=f"{question.field} = {said(value)}")
    if kind < 0.27 and others:
        del values[question.key]
        return Result(
            text=result_json(draw, values),
            answer=f"The result does not say the {question.field} of {question.subject}.",
            used=f"{question.field} is missing",
        )
    unit = ""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and draw.chance(0.35) and not {"unit", f"{question.key}_unit"} & values.keys():
        unit = draw.frame(_UNITS)
        values[draw.frame(("unit", f"{question.key}_unit"))] = unit
    shuffled = list(values.items())
    draw.random.shuffle(shuffled)
    held: Any = dict(shuffled)
    if draw.chance(0.25):
        held = {draw.frame(_WRAPPERS): held}
        if draw.chance(0.4):
            held = {draw.frame(("status", "ok", "source")): draw.frame(("ok", "found", "cache")), **held}
    elif draw.chance(0.08):
        held = [held]
    return Result(
        text=result_json(draw, held),
        answer=f"{start}{said(value)}{' ' * bool(unit)}{unit}.",
        used=f"{question.key} = {noted(value)}" + (f", unit = {unit}" if unit else ""),
    )


def plain_result(draw: Draw, keys: Sequence[str]) -> Result:
    """Anything that nobody asked for by name: all of it is told."""
    kind = draw.random.random()
    if kind < 0.2:
        text = draw.words(1, 4) if draw.chance(0.6) else str(draw.number(0, 99999))
        return Result(text=text, answer=f"The result is: {text}.", used=text)
    if kind < 0.32:
        items = draw_value(draw, draw.frame(("nouns", "names")))
        if draw.chance(0.5):
            return Result(text=result_json(draw, items), answer=f"The result is: {said(items)}.", used=said(items))
        key = free_keys(draw, 1)[0]
        told = f"{spoken_key(key)} {said(items)}"
        return Result(text=result_json(draw, {key: items}), answer=f"The result is: {told}.", used=told)
    chosen = list(keys) if draw.chance(0.6) else free_keys(draw, draw.between(1, 3))
    values = drawn_fields(draw, chosen)
    told = ", ".join(f"{spoken_key(key)} {said(value)}" for key, value in values.items())
    held: Any = {draw.frame(_WRAPPERS): values} if draw.chance(0.12) else values
    return Result(text=result_json(draw, held), answer=f"The result is: {told}.", used=told)


def result_of(draw: Draw, one: Offer) -> Result:
    """What the tool of an offer returns."""
    kind = draw.random.random()
    if kind < 0.05:
        return _nothing(draw)
    if kind < 0.14:
        return _error(draw)
    if "temperature_c" in one.result_keys:
        return weather_result(draw, one)
    if one.question is not None:
        return question_result(draw, one.question)
    return plain_result(draw, one.result_keys)


def answering(draw: Draw, asked: str, results: Sequence[Result]) -> list[Turn]:
    """The results, and the answer made of them."""
    used = " ".join(f"{result.used}." for result in results)
    goal = f"Asked: {asked}. " if asked else ""
    return [
        *(Turn(role="tool", content=result.text) for result in results),
        Turn(
            role="assistant",
            content=" ".join(result.answer for result in results),
            reasoning=thought(
                draw, low="The result is here.", high=f"{goal}{used}", longest=f"{goal}The result is here. {used}"
            ),
        ),
    ]


def _asked(one: Offer) -> str:
    return one.question.field if one.question is not None else one.wanted


def round_trip(draw: Draw) -> Conversation:
    """Request, call, result, answer; sometimes a word more after it."""
    kind = draw.random.random()
    one = question_offer(draw) if kind < 0.5 else weather_offer(draw) if kind < 0.7 else offer(draw)
    result = result_of(draw, one)
    tools = offered(draw, (one,), (0, 0, 0, 1, 2))
    turns = [
        *calling(draw, one.request, one.wanted, (one.call,), tools, one.unsaid),
        *answering(draw, _asked(one), (result,)),
    ]
    skill = "tool_use.error" if result.answer.startswith("The tool re") else "tool_use.result"
    if draw.chance(0.06):
        turns += small_talk_turns(draw, ("thanks", "praise", "goodbye"))
        skill = "tool_use.unneeded"
    elif draw.chance(0.06) and "temperature_c" in one.result_keys:
        key, city = next(iter(one.call.arguments)), draw.city()
        call = Call(name=one.tool.name, arguments={**one.call.arguments, key: city})
        request = phrase(draw, ("And in {c}?", "What about {c}?", "and {c}?", "Now {c}."), c=city)
        turns += calling(draw, request, one.wanted, (call,), tools, one.unsaid)
        skill = "tool_use.again"
    return Conversation(skill=skill, system=plain_system(draw), tools=tuple(tools), turns=tuple(turns))


def parallel_round_trip(draw: Draw) -> Conversation:
    """Several calls, several results, one answer."""
    request, one, offers = repeated_call(draw, 2)
    tools = offered(draw, (one,), (0, 0, 1))
    results = [
        weather_result(draw, other) if other.question is None else question_result(draw, other.question)
        for other in offers
    ]
    return Conversation(
        skill="tool_use.parallel_result",
        system=plain_system(draw),
        tools=tuple(tools),
        turns=(
            *calling(draw, request, one.wanted, [other.call for other in offers], tools, one.unsaid),
            *answering(draw, _asked(one), results),
        ),
    )

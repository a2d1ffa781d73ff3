"""Calling offered tools: the right one, with values copied exactly; and turning what they return into an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from training.conversations import Call, Conversation, Tool, Turn
from training.phrases import Task, dialogue, tasks, topics, words
from training.phrasing import phrase
from training.values import Draw

_ENUMS: Mapping[str, tuple[str, ...]] = {
    "priority": ("low", "medium", "high", "urgent"),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "language": ("French", "German", "Spanish", "Italian", "Chinese", "Japanese", "English"),
    "currency": ("EUR", "USD", "JPY", "GBP", "CHF", "CNY", "SEK"),
    "room": ("kitchen", "bedroom", "office", "bathroom", "hall", "garage"),
    "switch": ("on", "off"),
}
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


def _draw_value(draw: Draw, kind: str) -> Any:
    """A value of one kind (any JSON value, hence Any)."""
    match kind:
        case "city":
            return draw.city()
        case "name":
            return draw.name()
        case "title":
            return draw.title()
        case "noun":
            return draw.noun()
        case "small":
            return draw.between(1, 30)
        case "number":
            return draw.number(1, 9999)
        case "code":
            return draw.code()
        case "file":
            return f"{draw.noun()}{draw.frame(('.txt', '.py', '.md', '.json', '.csv', '/readme', '_2.log'))}"
        case "symbol":
            return draw.made_up()[:4].upper()
        case "word_cap":
            return draw.made_up().capitalize()
        case "expression":
            return f"{draw.number(1, 999)} {draw.frame('+-*/')} {draw.number(1, 999)}"
        case _:
            return draw.frame(_ENUMS[kind])


def _schema(draw: Draw, kind: str, descriptions: tuple[str, ...]) -> dict[str, Any]:
    """The JSON schema of one parameter (any JSON, hence Any)."""
    schema: dict[str, Any] = {"type": "integer" if kind in ("small", "number") else "string"}
    if kind == "number" and draw.chance(0.5):
        schema["type"] = "number"
    if kind in ("priority", "switch") or (kind in ("currency", "room", "language") and draw.chance(0.3)):
        schema["enum"] = list(_ENUMS[kind])
    if descriptions and draw.chance(0.5):
        schema["description"] = draw.frame(descriptions)
    return schema


def _parameters(draw: Draw, properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    """An object schema as different clients write it (any JSON, hence Any)."""
    schema: dict[str, Any] = {"type": "object", "properties": dict(properties)}
    if draw.chance(0.85):
        schema["required"] = list(required)
    if draw.chance(0.4):
        schema["additionalProperties"] = False
    return schema


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A tool with one request that it fits, and the call that answers the request."""

    tool: Tool
    request: str
    call: Call
    result_keys: tuple[str, ...]
    kind: str
    """Tools of the same kind do the same; generic tools are each of their own kind."""


def weather_offer(draw: Draw, *, city: str | None = None) -> Offer:
    """A weather tool, with a unit or without."""
    return _known_offer(draw, tasks()[0], fixed={"location": city} if city is not None else {})


def _known_offer(draw: Draw, task: Task, *, fixed: Mapping[str, Any] | None = None) -> Offer:
    """A tool for a known kind of task (argument values are any JSON, hence Any)."""
    properties: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    spoken: dict[str, Any] = {}
    for slot in task.slots:
        key = draw.frame(slot.keys)
        while key in properties:
            key = draw.frame(slot.keys)
        value = (fixed or {}).get(slot.keys[0], _draw_value(draw, slot.kind))
        properties[key] = _schema(draw, slot.kind, slot.descriptions)
        arguments[key] = spoken[slot.keys[0]] = value
    request = phrase(draw, task.frames, **spoken)
    required = list(properties)
    if task is tasks()[0] and draw.chance(0.55):
        units = draw.frame((("c", "f"), ("c", "f"), ("celsius", "fahrenheit"), ("C", "F"), ("metric", "imperial")))
        key = draw.frame(("unit", "unit", "units", "scale"))
        properties[key] = {"type": "string", "enum": list(units)}
        arguments[key] = units[0]
        if draw.chance(0.25):
            second = draw.chance(0.6)
            request = request.rstrip("?. ") + draw.frame((" in {u}?", ", in {u}", " ({u})")).format(
                u=("Celsius", "Fahrenheit")[second]
            )
            arguments[key] = units[second]
        if draw.chance(0.5):
            required.append(key)
    if draw.chance(0.12):
        properties[draw.value(words("fields")) + "_note"] = {"type": "string"}
    tool = Tool(
        name=draw.frame(task.names),
        description=draw.frame(task.descriptions) if draw.chance(0.92) else "",
        parameters=_parameters(draw, properties, required),
    )
    return Offer(
        tool=tool,
        request=request,
        call=Call(name=tool.name, arguments=arguments),
        result_keys=task.result_keys,
        kind=task.names[0],
    )


def _generic_name(draw: Draw, verb: str, noun: str) -> str:
    return draw.frame(("{v}_{n}", "{v}_{n}", "{v}_{n}", "{n}_{v}", "{v}-{n}", "{v}{N}", "{v}_the_{n}")).format(
        v=verb, n=noun, N=noun.capitalize()
    )


def _generic_offer(draw: Draw) -> Offer:
    """A tool that nobody has seen before: name, keys and values are all drawn, and the request names the keys."""
    verb, noun = draw.value(words("verbs")), draw.noun()
    name = _generic_name(draw, verb, noun) if draw.chance(0.85) else draw.made_up()
    keys = draw.keys(draw.frame((0, 1, 1, 1, 2, 2, 2, 3, 3, 4)))
    properties: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    parts = []
    for key in keys:
        kind = draw.frame(("title", "noun", "number", "small", "city", "name", "code", "bool", "enum"))
        if kind == "bool":
            value: Any = draw.chance(0.5)
            properties[key], said = {"type": "boolean"}, "true" if value else "false"
        elif kind == "enum":
            options = draw.sample(words("nouns"), draw.between(2, 4))
            value = said = draw.frame(options)
            properties[key] = {"type": "string", "enum": options}
        else:
            value = _draw_value(draw, kind)
            said = str(value)
            properties[key] = _schema(draw, kind, ())
        arguments[key] = value
        parts.append(
            draw.frame(
                ("{k} {v}", "{k} {v}", "{k} = {v}", "{k}: {v}", "{k} is {v}", '{k} "{v}"', "the {k} {v}")
            ).format(k=key.replace("_", " ") if draw.chance(0.5) else key, v=said)
        )
    draw.random.shuffle(parts)
    listed = draw.frame((", ", " and ")).join(parts)
    ask = phrase(
        draw,
        ("{v} the {n}", "{v} a {n}", "Please {v} the {n}", "{v} {n}", "I want to {v} a {n}", "Use {t}"),
        v=verb,
        n=noun,
        t=name,
    )
    if name not in ask and not name.startswith(verb) and noun not in name:
        ask = phrase(draw, ("Use {t}", "Call {t}", "call the tool {t}", "Run {t}", "{t}"), t=name)
    request = (
        ask
        + (draw.frame((" with {p}", ", {p}", ": {p}", " for {p}")).format(p=listed) if parts else "")
        + draw.frame((".", "", "!"))
    )
    tool = Tool(
        name=name,
        description=draw.frame(
            (
                f"{verb.capitalize()} a {noun}.",
                f"{verb} {noun}",
                f"Can {verb} the {noun}.",
                "",
                f"Tool to {verb} any {noun}.",
            )
        ),
        parameters=_parameters(draw, properties, list(properties)),
    )
    return Offer(
        tool=tool,
        request=request,
        call=Call(name=name, arguments=arguments),
        result_keys=tuple(draw.keys(draw.between(1, 2))),
        kind=name,
    )


def offer(draw: Draw) -> Offer:
    """Any tool: the weather, a known kind of task, or an unheard-of one."""
    kind = draw.random.random()
    if kind < 0.3:
        return weather_offer(draw)
    if kind < 0.62:
        return _known_offer(draw, draw.frame(tasks()[1:]))
    return _generic_offer(draw)


def _said(value: Any) -> str:
    """A value as the answer spells it (any JSON value, hence Any)."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def plan(calls: Sequence[Call]) -> str:
    """The thought before calls: each tool with its arguments, one line each."""
    return "\n".join(
        f"{call.name}: "
        + (", ".join(f"{key} = {_said(value)}" for key, value in call.arguments.items()) or "no arguments")
        + "."
        for call in calls
    )


def _offered(draw: Draw, offers: Sequence[Offer], most: int) -> tuple[Tool, ...]:
    """The tools of the offers, among others, in any order."""
    tools = {one.tool.name: one.tool for one in offers}
    kinds = {one.kind for one in offers}
    for _ in range(draw.frame((0, 0, 0, 1, 1, 2, 3)[: most + 3])):
        other = offer(draw)
        if other.kind not in kinds and other.tool.name not in tools:
            kinds.add(other.kind)
            tools[other.tool.name] = other.tool
    found = list(tools.values())
    draw.random.shuffle(found)
    return tuple(found)


_SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant",
    "You can call tools.",
    "Use the tools when they help.",
    "Be helpful.",
    "You are an assistant with tools.",
    "You are a concise assistant.",
    "Answer briefly.",
    "You help with everyday tasks.",
)


def plain_system(draw: Draw) -> str | None:
    """No system prompt, or one that changes nothing."""
    if draw.chance(0.6):
        return None
    return (
        draw.frame(_SYSTEMS) if draw.chance(0.7) else f"You are {draw.name()}'s assistant for {draw.noun()} questions."
    )


def single_call(draw: Draw) -> Conversation:
    """One request, one call."""
    one = offer(draw)
    return Conversation(
        skill="tools.weather" if "temperature_c" in one.result_keys else "tools.call",
        system=plain_system(draw),
        tools=_offered(draw, (one,), 4),
        turns=(
            Turn(role="user", content=one.request),
            Turn(role="assistant", reasoning=plan((one.call,)), calls=(one.call,)),
        ),
    )


def parallel_calls(draw: Draw) -> Conversation:
    """One request that needs the same tool twice, or two tools."""
    if draw.chance(0.7):
        first = weather_offer(draw)
        key = next(iter(first.call.arguments))
        cities = [first.call.arguments[key], *(draw.city() for _ in range(draw.frame((1, 1, 2))))]
        request = phrase(
            draw,
            ("What's the weather in {t}?", "weather in {t}", "Compare the weather in {t}.", "How warm is it in {t}?"),
            t=", ".join(cities[:-1]) + " and " + cities[-1],
        )
        other = {name: value for name, value in first.call.arguments.items() if name != key}
        other = {name: first.tool.parameters["properties"][name]["enum"][0] for name in other}
        calls = tuple(Call(name=first.tool.name, arguments={key: city, **other}) for city in cities)
        tools = _offered(draw, (first,), 2)
    else:
        one, two = _generic_offer(draw), weather_offer(draw)
        if one.tool.name == two.tool.name:
            return parallel_calls(draw)
        if draw.chance(0.5):
            one, two = two, one
        request = one.request.rstrip(".!? ") + draw.frame((", and ", " and then ", ". Also: ")) + two.request
        calls, tools = (one.call, two.call), _offered(draw, (one, two), 1)
    return Conversation(
        skill="tools.parallel",
        system=plain_system(draw),
        tools=tools,
        turns=(Turn(role="user", content=request), Turn(role="assistant", reasoning=plan(calls), calls=calls)),
    )


def _weather_result(draw: Draw, city: str) -> tuple[str, str]:
    """What a weather tool returns, and the sentence made of it."""
    degrees, condition = draw.between(-20, 42), draw.frame(_CONDITIONS) if draw.chance(0.85) else draw.made_up()
    shape = draw.frame(("json", "json", "json", "json", "temperature", "condition", "text", "text"))
    temperature_key = draw.frame(("temperature_c", "temperature_c", "temperature", "temp_c", "temp", "degrees"))
    condition_key = draw.frame(("condition", "condition", "conditions", "sky", "weather", "description"))
    match shape:
        case "json":
            pairs = [(temperature_key, degrees), (condition_key, condition)]
            if draw.chance(0.35):
                pairs.reverse()
            if draw.chance(0.2):
                pairs.insert(0, (draw.frame(("city", "location")), city))
            text = json.dumps(dict(pairs), ensure_ascii=False, separators=None if draw.chance(0.75) else (",", ":"))
            return text, f"In {city} it is {condition} at {degrees} °C."
        case "temperature":
            return json.dumps({temperature_key: degrees}), f"In {city} it is {degrees} °C."
        case "condition":
            return json.dumps({condition_key: condition}), f"In {city} it is {condition}."
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
            return text, f"The weather in {city}: {text}."


def _result(draw: Draw, one: Offer) -> tuple[str, str]:
    """What a tool returns, and the answer made of it."""
    kind = draw.random.random()
    if kind < 0.06:
        return draw.frame(("{}", "[]", "null", "")), "The tool returned no data."
    if kind < 0.13:
        message = draw.words(2, 4)
        return json.dumps({"error": message}), f"The tool reported an error: {message}."
    if "temperature_c" in one.result_keys:
        return _weather_result(draw, str(one.call.arguments[next(iter(one.call.arguments))]))
    if kind < 0.3:
        text = draw.words(1, 4) if draw.chance(0.6) else str(draw.number(0, 99999))
        return text, f"The result is: {text}."
    keys = list(one.result_keys) if draw.chance(0.6) else draw.keys(draw.between(1, 3))
    values: dict[str, Any] = {}
    for key in keys:
        values[key] = draw.frame((draw.number(0, 9999), draw.code(), draw.word(), draw.city(), draw.made_up()))
    return json.dumps(values, ensure_ascii=False), "The result is: " + ", ".join(
        f"{key} {_said(value)}" for key, value in values.items()
    ) + "."


def round_trip(draw: Draw) -> Conversation:
    """Request, call, result, answer."""
    one = weather_offer(draw) if draw.chance(0.45) else offer(draw)
    text, answer = _result(draw, one)
    turns = [
        Turn(role="user", content=one.request),
        Turn(role="assistant", reasoning=plan((one.call,)), calls=(one.call,)),
        Turn(role="tool", content=text),
        Turn(role="assistant", content=answer, reasoning="The result is here. I answer with it."),
    ]
    if draw.chance(0.12):
        turns += _small_talk_turns(draw, ("thanks", "praise", "goodbye"))
    elif draw.chance(0.12):
        two = _known_offer(draw, tasks()[0]) if "temperature_c" not in one.result_keys else None
        if two is None:
            key = next(iter(one.call.arguments))
            city = draw.city()
            call = Call(name=one.tool.name, arguments={**one.call.arguments, key: city})
            request = phrase(draw, ("And in {c}?", "What about {c}?", "and {c}?", "Now {c}."), c=city)
            turns += [
                Turn(role="user", content=request),
                Turn(role="assistant", reasoning=plan((call,)), calls=(call,)),
            ]
    return Conversation(
        skill="tools.result", system=plain_system(draw), tools=_offered(draw, (one,), 1), turns=tuple(turns)
    )


def parallel_round_trip(draw: Draw) -> Conversation:
    """Two calls, two results, one answer."""
    one = weather_offer(draw)
    key = next(iter(one.call.arguments))
    cities = [one.call.arguments[key], draw.city()]
    calls = tuple(Call(name=one.tool.name, arguments={**one.call.arguments, key: city}) for city in cities)
    results = [_weather_result(draw, city) for city in cities]
    request = phrase(
        draw,
        ("What's the weather in {a} and {b}?", "weather in {a} and {b}", "Compare {a} and {b} weather."),
        a=cities[0],
        b=cities[1],
    )
    return Conversation(
        skill="tools.parallel_result",
        system=plain_system(draw),
        tools=(one.tool,),
        turns=(
            Turn(role="user", content=request),
            Turn(role="assistant", reasoning=plan(calls), calls=calls),
            *(Turn(role="tool", content=text) for text, _ in results),
            Turn(
                role="assistant",
                content=" ".join(answer for _, answer in results),
                reasoning="The results are here. I answer with them.",
            ),
        ),
    )


def _small_talk_turns(draw: Draw, names: Sequence[str]) -> list[Turn]:
    intent = draw.frame([intent for intent in dialogue().intents if intent.name in names])
    return [
        Turn(role="user", content=phrase(draw, intent.frames)),
        Turn(role="assistant", content=intent.answer, reasoning=intent.thought),
    ]


def no_call(draw: Draw) -> Conversation:
    """Tools are offered, but the request needs none of them, or another one."""
    offers = [offer(draw) for _ in range(draw.between(1, 2))]
    tools = tuple({one.tool.name: one.tool for one in offers}.values())
    kind = draw.frame(("talk", "topic", "unfit", "unfit"))
    if kind == "talk":
        turns = _small_talk_turns(draw, [intent.name for intent in dialogue().intents])
    elif kind == "topic":
        topic = draw.frame(topics())
        turns = [
            Turn(
                role="user",
                content=phrase(
                    draw,
                    ("Explain {t} in one sentence.", "{t} in one sentence", "What is {t}? One sentence."),
                    t=topic.names[0],
                ),
            ),
            Turn(
                role="assistant", content=topic.sentences[0], reasoning=f"Topic: {topic.names[0]}. Form: one sentence."
            ),
        ]
    else:
        wanted = offer(draw)
        if wanted.kind in {*(one.kind for one in offers), "search", "calculate"} or wanted.tool.name in {
            tool.name for tool in tools
        }:
            return no_call(draw)
        turns = [
            Turn(role="user", content=wanted.request),
            Turn(
                role="assistant",
                content="None of the offered tools fits this request.",
                reasoning="No offered tool fits.",
            ),
        ]
    return Conversation(skill=f"tools.none_{kind}", system=plain_system(draw), tools=tools, turns=tuple(turns))

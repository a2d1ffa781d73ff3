"""Calling offered tools: the right one, with values copied exactly; and turning what they return into an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from training.conversations import Call, Conversation, Tool, Turn
from training.phrasing import phrase
from training.skills.dialogue import INTENTS
from training.skills.topics import TOPICS
from training.values import FIELDS, NOUNS, VERBS, Draw


class Slot(msgspec.Struct, frozen=True):
    """One parameter of a known kind of task: its possible keys, and where its value comes from.

    Frames refer to a slot by the first of its keys.
    """

    keys: tuple[str, ...]
    kind: str
    descriptions: tuple[str, ...] = ()


class Task(msgspec.Struct, frozen=True):
    """Something people ask for in their own words, and what tools for it are called."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    slots: tuple[Slot, ...]
    frames: tuple[str, ...]
    result_keys: tuple[str, ...] = ()


WEATHER = Task(
    ("get_weather", "get_weather", "get_weather", "weather", "get_current_weather", "fetch_weather", "weather_lookup", "getWeather", "current_weather"),
    ("Get the current temperature for a city.", "Get the weather.", "weather", "Current weather for a place.", "Get weather of a location.",
     "Get the current weather in a given city", "Look up the weather.", "Returns the weather"),
    (Slot(("location", "city", "location", "city", "place", "town", "city_name"), "city",
          ("City name", "The city", "The city to look up", "Name of the city", "The city and state", "Where")),),
    ("What's the weather in {location}?", "What is the weather in {location}?", "weather in {location}", "How is the weather in {location}?",
     "How warm is it in {location}?", "Is it raining in {location}?", "Do I need an umbrella in {location}?", "Tell me the weather for {location}.",
     "weather in {location} as json?", "What's the weather like in {location} today?", "{location} weather", "What is the temperature in {location}?",
     "How cold is it in {location} right now?", "Get the weather in {location}.", "Check the weather in {location} please.", "How's the weather in {location}"),
    ("temperature_c", "condition"),
)

TASKS = (
    Task(("send_email", "send_mail", "email", "sendEmail"), ("Send an email.", "Send a mail to someone."),
         (Slot(("to", "recipient", "name"), "name", ("Who gets it",)), Slot(("subject", "title", "topic"), "title", ("Subject line",))),
         ("Send an email to {to} about {subject}.", "Email {to} about {subject}", "Write a mail to {to} with the subject {subject}."), ("status", "id")),
    Task(("get_time", "current_time", "time_in_city", "get_local_time"), ("Get the local time of a city.", "Current time"),
         (Slot(("city", "location", "place", "timezone_city"), "city", ("City name",)),),
         ("What time is it in {city}?", "Time in {city}?", "Tell me the local time in {city}.", "How late is it in {city}?"), ("time",)),
    Task(("search", "web_search", "search_web", "find_pages", "lookup"), ("Search the web.", "Find pages.", "Full text search"),
         (Slot(("query", "q", "text", "term"), "title", ("What to search for", "Search text")),),
         ("Search for {query}.", "Look up {query}", "Search the web for {query}", "Find pages about {query}.", "google {query}"), ("hits", "top")),
    Task(("create_ticket", "open_ticket", "new_issue", "create_issue"), ("Create a ticket.", "Open an issue in the tracker."),
         (Slot(("title", "summary", "subject"), "title", ("Short title",)), Slot(("priority", "level", "severity"), "priority", ("How urgent",))),
         ("Open a ticket \"{title}\" with {priority} priority.", "Create a {priority} priority ticket: {title}",
          "New issue {title}, priority {priority}."), ("id", "status")),
    Task(("book_table", "reserve_table", "restaurant_booking"), ("Reserve a table.", "Book a table in a restaurant."),
         (Slot(("people", "guests", "party_size"), "small", ("Number of people",)), Slot(("city", "location", "place"), "city", ("Where",))),
         ("Book a table for {people} in {city}.", "Reserve a table in {city} for {people} people.", "table for {people}, {city}"), ("id", "time")),
    Task(("play_song", "play_music", "play"), ("Play a song.", "Start music."),
         (Slot(("title", "song", "track"), "title", ("Song title",)),),
         ("Play {title}.", "Play the song {title}", "I want to hear {title}.", "Put on {title}"), ("status", "length")),
    Task(("set_timer", "start_timer", "timer"), ("Set a timer.", "Start a countdown."),
         (Slot(("minutes", "duration_minutes", "length"), "small", ("Minutes",)),),
         ("Set a timer for {minutes} minutes.", "Start a {minutes} minute timer", "timer {minutes} minutes", "Wake me in {minutes} minutes."), ("id", "status")),
    Task(("add_event", "create_event", "schedule_meeting", "calendar_add"), ("Add an event to the calendar.", "Schedule a meeting."),
         (Slot(("title", "name", "subject"), "title", ("Title",)), Slot(("day", "weekday", "when"), "day", ("Day of the week",))),
         ("Add {title} to my calendar on {day}.", "Schedule {title} for {day}", "Put \"{title}\" on {day}."), ("id", "status")),
    Task(("convert_currency", "exchange", "currency_convert"), ("Convert money.", "Convert an amount between currencies."),
         (Slot(("amount", "value"), "number", ("How much",)), Slot(("from", "source", "from_currency"), "currency", ("Currency code",)),
          Slot(("to", "target", "to_currency"), "currency", ("Currency code",))),
         ("Convert {amount} {from} to {to}.", "How much is {amount} {from} in {to}?", "{amount} {from} in {to}"), ("result", "rate")),
    Task(("calculate", "calculator", "evaluate", "math"), ("Evaluate an expression.", "Calculator"),
         (Slot(("expression", "formula", "input"), "expression", ("What to compute",)),),
         ("What is {expression}?", "Calculate {expression}", "compute {expression}", "{expression} = ?"), ("result",)),
    Task(("read_file", "open_file", "get_file"), ("Read a file.", "Get the content of a file."),
         (Slot(("path", "file", "filename"), "file", ("Path of the file",)),),
         ("Read {path}.", "Open the file {path}", "Show me {path}", "What is in {path}?"), ("lines", "size")),
    Task(("delete_file", "remove_file"), ("Delete a file.", "Remove a file."),
         (Slot(("path", "file", "filename"), "file", ("Path of the file",)),),
         ("Delete {path}.", "Remove the file {path}", "delete file {path} please"), ("status",)),
    Task(("translate", "translate_text"), ("Translate a text.", "Translate to another language."),
         (Slot(("text", "input", "phrase"), "title", ("The text",)), Slot(("language", "to", "target"), "language", ("Language",))),
         ("Translate \"{text}\" to {language}.", "How do you say {text} in {language}?", "{text} in {language}"), ("translation",)),
    Task(("get_user", "find_user", "lookup_user", "find_customer"), ("Find a user.", "Look up a person."),
         (Slot(("name", "user", "username"), "name", ("Name",)),),
         ("Find the user {name}.", "Who is {name}?", "Look up {name}", "Show the profile of {name}"), ("id", "city")),
    Task(("get_order", "order_status", "track_order", "track_parcel"), ("Get the status of an order.", "Track a parcel."),
         (Slot(("order_id", "id", "number"), "code", ("Order number",)),),
         ("Where is order {order_id}?", "Track {order_id}", "status of order {order_id}", "What about my order {order_id}?"), ("status", "days")),
    Task(("find_route", "get_directions", "route", "plan_trip"), ("Find a route.", "Directions between two places."),
         (Slot(("from", "origin", "start"), "city", ("Start",)), Slot(("to", "destination", "end"), "city", ("End",))),
         ("How do I get from {from} to {to}?", "Route from {from} to {to}", "Directions from {from} to {to} please."), ("km", "minutes")),
    Task(("book_flight", "search_flights", "find_flights"), ("Find flights.", "Book a flight."),
         (Slot(("origin", "from"), "city", ("From where",)), Slot(("destination", "to"), "city", ("To where",)), Slot(("day", "date"), "day", ("When",))),
         ("Book a flight from {origin} to {destination} on {day}.", "Flights from {origin} to {destination} on {day}",
          "I want to fly from {origin} to {destination} {day}."), ("flight", "price")),
    Task(("set_light", "switch_light", "light"), ("Switch a light.", "Control the lights."),
         (Slot(("room", "place", "name"), "room", ("Which room",)), Slot(("state", "mode", "value"), "switch", ("on or off",))),
         ("Turn {state} the light in the {room}.", "Switch the {room} light {state}", "{room} light {state}"), ("status",)),
    Task(("set_temperature", "thermostat", "set_heating"), ("Set the heating.", "Set the temperature of a room."),
         (Slot(("room", "zone"), "room", ("Room",)), Slot(("degrees", "temperature", "value"), "small", ("Degrees",))),
         ("Set the {room} to {degrees} degrees.", "Heat the {room} to {degrees}", "{degrees} degrees in the {room} please"), ("status",)),
    Task(("create_user", "add_user", "new_account"), ("Create a user.", "Add an account."),
         (Slot(("name", "username", "user"), "name", ("Name",)), Slot(("age", "years"), "small", ("Age",))),
         ("Create a user {name}, age {age}.", "Add {name} who is {age} years old", "New account for {name} ({age})."), ("id",)),
    Task(("get_stock_price", "stock_price", "quote"), ("Get a share price.", "Stock quote"),
         (Slot(("symbol", "ticker"), "symbol", ("Ticker",)),),
         ("What is the price of {symbol}?", "Price of {symbol} stock", "How is {symbol} doing?", "quote {symbol}"), ("price", "change")),
    Task(("add_item", "add_to_list", "shopping_list_add"), ("Add something to the shopping list.", "Add an item."),
         (Slot(("item", "name", "product"), "noun", ("What",)), Slot(("quantity", "count", "amount"), "small", ("How many",))),
         ("Add {quantity} {item} to the list.", "Put {quantity} {item} on my list", "I need {quantity} {item}."), ("status",)),
    Task(("remember", "save_note", "add_note", "store_note"), ("Save a note.", "Remember something."),
         (Slot(("text", "note", "content"), "title", ("The note",)),),
         ("Note: {text}", "Save the note {text}.", "Remember {text}", "Make a note: {text}"), ("id",)),
    Task(("get_capital", "country_info", "lookup_country"), ("Facts about a country.", "Find the capital of a country."),
         (Slot(("country", "name"), "word_cap", ("Country",)),),
         ("What is the capital of {country}?", "Tell me about {country}.", "capital of {country}"), ("capital",)),
)

_ENUMS: Mapping[str, tuple[str, ...]] = {
    "priority": ("low", "medium", "high", "urgent"), "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "language": ("French", "German", "Spanish", "Italian", "Chinese", "Japanese", "English"),
    "currency": ("EUR", "USD", "JPY", "GBP", "CHF", "CNY", "SEK"), "room": ("kitchen", "bedroom", "office", "bathroom", "hall", "garage"),
    "switch": ("on", "off"),
}
_CONDITIONS = ("cloudy", "sunny", "rainy", "clear", "windy", "foggy", "snowy", "stormy", "overcast", "light rain", "partly cloudy", "hot", "cold")


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
    subject: str


def weather_offer(draw: Draw, *, city: str | None = None) -> Offer:
    """A weather tool, with a unit or without."""
    return _known_offer(draw, WEATHER, fixed={"location": city} if city is not None else {})


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
    if task is WEATHER and draw.chance(0.55):
        units = draw.frame((("c", "f"), ("c", "f"), ("celsius", "fahrenheit"), ("C", "F"), ("metric", "imperial")))
        key = draw.frame(("unit", "unit", "units", "scale"))
        properties[key] = {"type": "string", "enum": list(units)}
        arguments[key] = units[0]
        if draw.chance(0.25):
            second = draw.chance(0.6)
            request = request.rstrip("?. ") + draw.frame((" in {u}?", ", in {u}", " ({u})")).format(u=("Celsius", "Fahrenheit")[second])
            arguments[key] = units[second]
        if draw.chance(0.5):
            required.append(key)
    if draw.chance(0.12):
        properties[draw.value(FIELDS) + "_note"] = {"type": "string"}
    tool = Tool(
        name=draw.frame(task.names),
        description=draw.frame(task.descriptions) if draw.chance(0.92) else "",
        parameters=_parameters(draw, properties, required),
    )
    return Offer(tool=tool, request=request, call=Call(name=tool.name, arguments=arguments), result_keys=task.result_keys,
                 subject=str(next(iter(arguments.values()))))


def _generic_name(draw: Draw, verb: str, noun: str) -> str:
    return draw.frame(("{v}_{n}", "{v}_{n}", "{v}_{n}", "{n}_{v}", "{v}-{n}", "{v}{N}", "{v}_the_{n}")).format(v=verb, n=noun, N=noun.capitalize())


def _generic_offer(draw: Draw) -> Offer:
    """A tool that nobody has seen before: name, keys and values are all drawn, and the request names the keys."""
    verb, noun = draw.value(VERBS), draw.noun()
    name = _generic_name(draw, verb, noun) if draw.chance(0.85) else draw.made_up()
    keys = draw.sample(FIELDS, draw.frame((0, 1, 1, 1, 2, 2, 2, 3)))
    properties: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    parts = []
    for key in keys:
        kind = draw.frame(("title", "noun", "number", "small", "city", "name", "code", "bool", "enum"))
        if kind == "bool":
            value: Any = draw.chance(0.5)
            properties[key], said = {"type": "boolean"}, "true" if value else "false"
        elif kind == "enum":
            options = draw.sample(NOUNS, draw.between(2, 4))
            value = said = draw.frame(options)
            properties[key] = {"type": "string", "enum": options}
        else:
            value = _draw_value(draw, kind)
            said = str(value)
            properties[key] = _schema(draw, kind, ())
        arguments[key] = value
        parts.append(draw.frame(("{k} {v}", "{k} {v}", "{k} = {v}", "{k}: {v}", "{k} is {v}", "{k} \"{v}\"", "the {k} {v}")).format(
            k=key.replace("_", " ") if draw.chance(0.5) else key, v=said))
    draw.random.shuffle(parts)
    listed = draw.frame((", ", " and ")).join(parts)
    ask = phrase(draw, ("{v} the {n}", "{v} a {n}", "Please {v} the {n}", "{v} {n}", "I want to {v} a {n}", "Use {t}"), v=verb, n=noun, t=name)
    if name not in ask and not name.startswith(verb) and noun not in name:
        ask = phrase(draw, ("Use {t}", "Call {t}", "call the tool {t}", "Run {t}", "{t}"), t=name)
    request = ask + (draw.frame((" with {p}", ", {p}", ": {p}", " for {p}")).format(p=listed) if parts else "") + draw.frame((".", "", "!"))
    tool = Tool(
        name=name,
        description=draw.frame((f"{verb.capitalize()} a {noun}.", f"{verb} {noun}", f"Can {verb} the {noun}.", "", f"Tool to {verb} any {noun}.")),
        parameters=_parameters(draw, properties, list(properties)),
    )
    return Offer(tool=tool, request=request, call=Call(name=name, arguments=arguments),
                 result_keys=tuple(draw.sample(FIELDS, draw.between(1, 2))), subject=noun)


def offer(draw: Draw) -> Offer:
    """Any tool: the weather, a known kind of task, or an unheard-of one."""
    kind = draw.random.random()
    if kind < 0.3:
        return weather_offer(draw)
    if kind < 0.62:
        return _known_offer(draw, draw.frame(TASKS))
    return _generic_offer(draw)


def _said(value: Any) -> str:
    """A value as the answer spells it (any JSON value, hence Any)."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def plan(calls: Sequence[Call]) -> str:
    """The thought before calls: each tool with its arguments, one line each."""
    return "\n".join(
        f"{call.name}: " + (", ".join(f"{key} = {_said(value)}" for key, value in call.arguments.items()) or "no arguments") + "."
        for call in calls
    )


def _offered(draw: Draw, offers: Sequence[Offer], most: int) -> tuple[Tool, ...]:
    """The tools of the offers, among others, in any order."""
    tools = {one.tool.name: one.tool for one in offers}
    for _ in range(draw.frame((0, 0, 0, 1, 1, 2, 3)[: most + 3])):
        other = offer(draw).tool
        tools.setdefault(other.name, other)
    found = list(tools.values())
    draw.random.shuffle(found)
    return tuple(found)


_SYSTEMS = (
    "You are a helpful assistant.", "You are a helpful assistant", "You can call tools.", "Use the tools when they help.", "Be helpful.",
    "You are an assistant with tools.", "You are a concise assistant.", "Answer briefly.", "You help with everyday tasks.",
)


def plain_system(draw: Draw) -> str | None:
    """No system prompt, or one that changes nothing."""
    if draw.chance(0.6):
        return None
    return draw.frame(_SYSTEMS) if draw.chance(0.7) else f"You are {draw.name()}'s assistant for {draw.noun()} questions."


def single_call(draw: Draw) -> Conversation:
    """One request, one call."""
    one = offer(draw)
    return Conversation(
        skill="tools.weather" if "temperature_c" in one.result_keys else "tools.call",
        system=plain_system(draw), tools=_offered(draw, (one,), 4),
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
        request = phrase(draw, ("What's the weather in {t}?", "weather in {t}", "Compare the weather in {t}.", "How warm is it in {t}?"),
                         t=", ".join(cities[:-1]) + " and " + cities[-1])
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
        skill="tools.parallel", system=plain_system(draw), tools=tools,
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
            text = draw.frame((f"{degrees}C", f"{degrees} °C", f"{condition}", f"{condition}, {degrees}C", f"{degrees} degrees and {condition}"))
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
    keys = list(one.result_keys) if draw.chance(0.6) else draw.sample(FIELDS, draw.between(1, 3))
    values: dict[str, Any] = {}
    for key in keys:
        values[key] = draw.frame((draw.number(0, 9999), draw.code(), draw.word(), draw.city(), draw.made_up()))
    return json.dumps(values, ensure_ascii=False), "The result is: " + ", ".join(f"{key} {_said(value)}" for key, value in values.items()) + "."


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
        two = _known_offer(draw, WEATHER) if "temperature_c" not in one.result_keys else None
        if two is None:
            key = next(iter(one.call.arguments))
            city = draw.city()
            call = Call(name=one.tool.name, arguments={**one.call.arguments, key: city})
            request = phrase(draw, ("And in {c}?", "What about {c}?", "and {c}?", "Now {c}."), c=city)
            turns += [Turn(role="user", content=request), Turn(role="assistant", reasoning=plan((call,)), calls=(call,))]
    return Conversation(skill="tools.result", system=plain_system(draw), tools=_offered(draw, (one,), 1), turns=tuple(turns))


def parallel_round_trip(draw: Draw) -> Conversation:
    """Two calls, two results, one answer."""
    one = weather_offer(draw)
    key = next(iter(one.call.arguments))
    cities = [one.call.arguments[key], draw.city()]
    calls = tuple(Call(name=one.tool.name, arguments={**one.call.arguments, key: city}) for city in cities)
    results = [_weather_result(draw, city) for city in cities]
    request = phrase(draw, ("What's the weather in {a} and {b}?", "weather in {a} and {b}", "Compare {a} and {b} weather."), a=cities[0], b=cities[1])
    return Conversation(
        skill="tools.parallel_result", system=plain_system(draw), tools=(one.tool,),
        turns=(
            Turn(role="user", content=request),
            Turn(role="assistant", reasoning=plan(calls), calls=calls),
            *(Turn(role="tool", content=text) for text, _ in results),
            Turn(role="assistant", content=" ".join(answer for _, answer in results), reasoning="The results are here. I answer with them."),
        ),
    )


def _small_talk_turns(draw: Draw, names: Sequence[str]) -> list[Turn]:
    intent = draw.frame([intent for intent in INTENTS if intent.name in names])
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
        turns = _small_talk_turns(draw, ("greeting", "abilities", "identity", "thanks", "how_are_you", "goodbye", "greeting_sentence"))
    elif kind == "topic":
        topic = draw.frame(TOPICS)
        turns = [
            Turn(role="user", content=phrase(draw, ("Explain {t} in one sentence.", "{t} in one sentence", "What is {t}? One sentence."), t=topic.names[0])),
            Turn(role="assistant", content=topic.sentences[0], reasoning=f"Topic: {topic.names[0]}. Form: one sentence."),
        ]
    else:
        wanted = offer(draw)
        task_names = {name for task in (*TASKS, WEATHER) if wanted.tool.name in task.names for name in task.names}
        if any(tool.name == wanted.tool.name or tool.name in task_names or tool.description == wanted.tool.description for tool in tools):
            return no_call(draw)
        if wanted.tool.name in ("search", "web_search", "calculate", "lookup"):
            return no_call(draw)
        turns = [
            Turn(role="user", content=wanted.request),
            Turn(role="assistant", content="None of the offered tools fits this request.", reasoning="No offered tool fits."),
        ]
    return Conversation(skill=f"tools.none_{kind}", system=plain_system(draw), tools=tools, turns=tuple(turns))

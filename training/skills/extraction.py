"""JSON answers: facts about countries in the shape the prompt shows, and fields picked out of a sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from training.conversations import Conversation, Turn
from training.phrases import countries
from training.phrasing import phrase
from training.values import Draw

_COUNTRY_KEYS: Mapping[str, tuple[str, str]] = {
    "capital": ("capital", "string"),
    "capital_city": ("capital", "string"),
    "population_millions": ("capital_millions", "number"),
    "capital_population_millions": ("capital_millions", "number"),
    "country_population_millions": ("country_millions", "number"),
    "continent": ("continent", "string"),
    "currency": ("currency", "string"),
    "country": ("name", "string"),
    "country_name": ("name", "string"),
}


def _dumps(value: Any) -> str:
    """JSON in the one spelling the model uses (any JSON value, hence Any)."""
    return json.dumps(value, ensure_ascii=False)


def country_json(draw: Draw) -> Conversation:
    """Facts about a country, with the keys that the prompt asks for."""
    country, other = draw.frame(countries()), draw.frame(countries())
    if draw.chance(0.35):
        keys = ["capital", "population_millions"]
    else:
        keys = draw.random.sample(sorted(_COUNTRY_KEYS), draw.between(1, 4))
        if len({_COUNTRY_KEYS[key][0] for key in keys}) < len(keys):
            keys = keys[:1]
    shown = {key: getattr(other, _COUNTRY_KEYS[key][0]) for key in keys}
    answer = {key: getattr(country, _COUNTRY_KEYS[key][0]) for key in keys}
    quote = draw.frame(("'", '"', "`", ""))
    named = " and ".join(
        quote + key + quote + (f" ({_COUNTRY_KEYS[key][1]})" if draw.chance(0.7) else "") for key in keys
    )
    rule = draw.frame(
        (
            "You output a JSON object with keys {k}.",
            "Answer with a JSON object with the keys {k}.",
            "Return json with {k}.",
            "Reply in JSON with keys {k}.",
            "You return only JSON: {k}.",
            "Output JSON with {k} for the given country.",
        )
    ).format(k=named)
    if draw.chance(0.65):
        rule += draw.frame((" Example: ", " For example: ", " e.g. ", "\nExample:\n")) + _dumps(shown)
    ask = phrase(
        draw,
        ("Country: {c}", "{c}", "Country: {c}.", "country {c}", "Now {c}.", "The country is {c}.", "What about {c}?"),
        c=country.name,
    )
    in_system = draw.chance(0.7)
    return Conversation(
        skill="json.country",
        system=rule if in_system else None,
        json_object=draw.chance(0.6),
        turns=(
            Turn(role="user", content=ask if in_system else f"{rule} {ask}"),
            Turn(role="assistant", content=_dumps(answer), reasoning=f"JSON for {country.name}: {', '.join(keys)}."),
        ),
    )


def country_fact(draw: Draw) -> Conversation:
    """The same facts in words."""
    country = draw.frame(countries())
    kind = draw.frame(("capital", "capital", "capital", "continent", "currency", "reverse", "json"))
    frames: tuple[str, ...]
    match kind:
        case "capital":
            frames = (
                "What is the capital of {c}?",
                "capital of {c}",
                "What's the capital of {c}?",
                "Name the capital of {c}.",
                "Which city is the capital of {c}?",
                "{c} capital?",
            )
            answer = f"The capital of {country.name} is {country.capital}."
        case "continent":
            frames = ("On which continent is {c}?", "Which continent is {c} on?", "Where is {c}?")
            answer = f"{country.name} is in {country.continent}."
        case "currency":
            frames = ("What is the currency of {c}?", "currency of {c}", "How do people pay in {c}?")
            answer = f"The currency of {country.name} is the {country.currency}."
        case "reverse":
            frames = ("Which country has the capital {x}?", "{x} is the capital of which country?")
            answer = f"{country.capital} is the capital of {country.name}."
        case _:
            frames = (
                "What is the capital of {c}? Answer in json.",
                "capital of {c} as json",
                "Give me the capital of {c} as JSON.",
            )
            answer = _dumps({"capital": country.capital})
    return Conversation(
        skill="facts.country",
        json_object=kind == "json" and draw.chance(0.5),
        turns=(
            Turn(role="user", content=phrase(draw, frames, c=country.name, x=country.capital)),
            Turn(
                role="assistant",
                content=answer,
                reasoning=f"{country.name}: {country.capital if kind in ('capital', 'reverse', 'json') else kind}.",
            ),
        ),
    )


_NAME_KEYS = ("name", "author", "owner", "user", "person", "customer")
_PLACE_KEYS = ("city", "place", "location", "destination", "address", "channel")
_NUMBER_KEYS = (
    "age",
    "amount",
    "count",
    "quantity",
    "price",
    "hour",
    "seat",
    "floor",
    "minutes",
    "population",
    "size",
    "year",
    "number",
    "page",
    "height",
    "width",
    "weight",
    "speed",
    "score",
    "rank",
    "level",
)
_CODE_KEYS = ("id", "code", "version", "key")
_USUAL_KEYS = (*_NAME_KEYS, *_PLACE_KEYS, *_NUMBER_KEYS, *_CODE_KEYS)


def _field(draw: Draw, key: str) -> Any:
    """A value that suits the key (any JSON value, hence Any)."""
    last = key.rsplit("_", 1)[-1]
    if last in _NAME_KEYS:
        return draw.name()
    if last in _PLACE_KEYS:
        return draw.city()
    if last in _NUMBER_KEYS:
        return draw.number(1, 9999 if draw.chance(0.3) else 99)
    if last in _CODE_KEYS:
        return draw.code()
    return draw.number(1, 9999) if draw.chance(0.15) else draw.word()


def _keys(draw: Draw, count: int) -> list[str]:
    """Some usual keys, some odd ones."""
    usual = [key for key in _USUAL_KEYS if draw.owns(key)]
    num_usual = min(len(usual), sum(draw.chance(0.5) for _ in range(count)))
    keys = [*draw.random.sample(usual, num_usual), *draw.keys(count - num_usual)]
    draw.random.shuffle(keys)
    return keys if len(set(keys)) == count else _keys(draw, count)


def extract(draw: Draw) -> Conversation:
    """Named fields out of a short text, as JSON with exactly the keys that the prompt lists."""
    count, num_extra = draw.between(1, 5), draw.between(0, 2)
    drawn = _keys(draw, count + num_extra)
    keys = drawn[:count]
    values: dict[str, Any] = {key: _field(draw, key) for key in keys}
    pairs = [(key, values.get(key, _field(draw, key))) for key in drawn]
    draw.random.shuffle(pairs)
    if set(keys) <= {"name", "city", "age"} and draw.chance(0.8):
        facts = dict(pairs)
        text = (
            f"{facts.get('name', draw.name())}"
            + (f", {facts['age']} years old," if "age" in facts else "")
            + f" lives in {facts.get('city', draw.city())}."
        )
    else:
        style = draw.between(0, 3)
        spoken = [(key.replace("_", " "), value) for key, value in pairs]
        text = {
            0: ", ".join(f"{key} {value}" for key, value in spoken) + ".",
            1: " ".join(f"The {key} is {value}." for key, value in spoken),
            2: "\n".join(f"{key}: {value}" for key, value in spoken),
            3: "; ".join(f"{key} = {value}" for key, value in spoken),
        }[style]
    quote = draw.frame(("", "'", '"', ""))
    named = ", ".join(f"{quote}{key}{quote}" for key in keys)
    rule = draw.frame(
        (
            "Extract {k} as json.",
            "Return JSON with the keys {k}.",
            "JSON with {k}:",
            "Give me json with {k} from this text.",
            "Fill a JSON object with keys {k}.",
            "Answer in JSON with {k}.",
        )
    ).format(k=named)
    answer = Turn(role="assistant", content=_dumps(values), reasoning=f"JSON with {', '.join(keys)}.")
    json_object = draw.chance(0.5)
    if draw.chance(0.5):
        return Conversation(
            skill="json.extract", system=rule, json_object=json_object, turns=(Turn(role="user", content=text), answer)
        )
    text = f"{rule} {text}" if draw.chance(0.7) else f"{text}\n{rule}"
    return Conversation(skill="json.extract", json_object=json_object, turns=(Turn(role="user", content=text), answer))


def schema_json(draw: Draw) -> Conversation:
    """Fields out of a short text, with the keys that a schema lists; the text itself may name them or not."""
    made = extract(draw)
    answer = made.turns[-1]
    values: dict[str, Any] = json.loads(answer.content)
    properties = {
        key: {"type": "string" if isinstance(value, str) else draw.frame(("integer", "number"))}
        for key, value in values.items()
    }
    if draw.chance(0.4):
        properties = {key: {"title": key.replace("_", " ").title(), **schema} for key, schema in properties.items()}
    schema: dict[str, Any] = {"properties": properties, "required": list(properties), "type": "object"}
    if draw.chance(0.5):
        schema = {"type": "object", "properties": properties, "required": list(properties)}
    if draw.chance(0.4):
        schema["additionalProperties"] = False
    return msgspec.structs.replace(
        made,
        skill="json.schema",
        json_object=False,
        json_schema=schema,
        system=None if made.system is None or draw.chance(0.7) else "You are a helpful assistant.",
    )

"""Facts about countries, in the JSON shape that the prompt shows and in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

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
    """Facts about a country as JSON, with the keys that the prompt asks for."""
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
        skill="extraction.country",
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

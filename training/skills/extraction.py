"""JSON answers with the facts of a text, in the shape that a schema, an example or a list of keys asks for."""

from __future__ import annotations

import json
from typing import Any

from training.conversations import Conversation, Turn
from training.phrasing import phrase
from training.skills.fields import Field, absent, described, free_field, free_fields, object_schema, record_fields
from training.skills.keys import free_keys
from training.skills.kinds import noted
from training.skills.source_texts import sentences, source_text
from training.skills.system_prompts import plain_system
from training.skills.thoughts import thought
from training.values import Draw


def _with_more(draw: Draw, text: str, fields: list[Field]) -> tuple[str, list[Field]]:
    """The text and one or two sentences of something else, which may be asked for, too."""
    more = [field for field in free_fields(draw, draw.between(1, 2)) if all(field.key != other.key for other in fields)]
    text = f"{text}{'' if text[-1:] in '.!?' else '.'} {sentences(draw, more)}"
    return text, [*fields, *more][:6] if draw.chance(0.5) else fields


def _source(draw: Draw) -> tuple[str, list[Field]]:
    """A text and up to six fields of it; the text may say more than the fields, and rarely one of them is missing."""
    count = draw.frame((1, 2, 2, 3, 3, 4, 4, 5, 6))
    if draw.chance(0.4):
        text, fields = record_fields(draw, count)
        if draw.chance(0.3):
            text, fields = _with_more(draw, text, fields)
    else:
        drawn = free_fields(draw, count + draw.frame((0, 0, 1, 2)))
        text, fields = source_text(draw, drawn), drawn[:count]
    if len(fields) < 6 and draw.chance(0.15):
        key = free_keys(draw, 1)[0]
        if all(key != field.key for field in fields) and key.lower() not in text.lower():
            fields.insert(draw.between(0, len(fields)), absent(draw, key))
    return text, fields


def _values(fields: list[Field]) -> dict[str, Any]:
    """The answer (any JSON values, hence Any)."""
    return {field.key: field.value for field in fields}


def _answer(draw: Draw, fields: list[Field]) -> Turn:
    pairs = [f"{field.key} = {noted(field.value)}" for field in fields]
    longest = [
        f"{field.key} ({field.kind}) = {noted(field.value)}"
        if field.value is not None
        else f"{field.key}: not in the text, null"
        for field in fields
    ]
    return Turn(
        role="assistant",
        content=json.dumps(_values(fields), ensure_ascii=False),
        reasoning=thought(
            draw,
            low=f"JSON: {', '.join(field.key for field in fields)}.",
            high="\n".join(pairs),
            longest="\n".join(longest),
        ),
    )


_TASKS = (
    "Extract the data.",
    "Extract the information from this text.",
    "Fill the schema from this text:",
    "What does this say?",
    "Read this and fill in the fields.",
    "Parse this.",
    "Turn this into JSON.",
    "Get the fields out of this:",
)


def _asked(draw: Draw, rule: str, text: str) -> tuple[str | None, str]:
    """The rule in the system prompt and the text in the message, or both in the message in either order."""
    kind = draw.random.random()
    if kind < 0.45:
        return rule, text if draw.chance(0.7) else f"{draw.frame(('Text:', 'Input:', 'Here:', 'Text'))} {text}"
    if kind < 0.8:
        return None, f"{rule}{draw.frame((' ', chr(10), chr(10) * 2))}{text}"
    return None, f"{text}{draw.frame((' ', chr(10), chr(10) * 2))}{rule}"


def schema_json(draw: Draw) -> Conversation:
    """The request carries a schema; the message may say what to do with the text, or be the text alone."""
    text, fields = _source(draw)
    system, content = plain_system(draw), text
    if draw.chance(0.55):
        rule, content = _asked(draw, phrase(draw, _TASKS), text)
        system = rule if rule is not None else system
    return Conversation(
        skill="extraction.schema",
        system=system,
        json_schema=object_schema(draw, fields),
        turns=(Turn(role="user", content=content), _answer(draw, fields)),
    )


_RULES = (
    "Extract {k} as json.",
    "Return JSON with the keys {k}.",
    "JSON with {k}:",
    "Give me json with {k} from this text.",
    "Fill a JSON object with keys {k}.",
    "Answer in JSON with {k}.",
    "You extract data. Reply with a JSON object that has {k}.",
    "Output only JSON. Fields: {k}",
    "Make a JSON object from the text. Keys: {k}",
    "Find {k} in the text and answer as JSON.",
    "Convert to JSON with these fields: {k}",
    "Respond with JSON: {k}",
)


def listed_json(draw: Draw) -> Conversation:
    """The prompt lists the keys, with their types or without."""
    text, fields = _source(draw)
    system, content = _asked(draw, phrase(draw, _RULES, k=described(draw, fields)), text)
    json_object = draw.chance(0.65)
    return Conversation(
        skill="extraction.json_mode" if json_object else "extraction.described",
        system=system,
        json_object=json_object,
        turns=(Turn(role="user", content=content), _answer(draw, fields)),
    )


_EXAMPLE_RULES = (
    "Answer in JSON like this: {e}",
    "Extract the data as JSON. Example: {e}",
    "Use this JSON format: {e}",
    "Reply in JSON.\n\nEXAMPLE JSON OUTPUT:\n{e}",
    "You turn text into JSON. For example: {e}",
    "Output a JSON object such as {e}.",
    "Return JSON of the same form as {e}",
    "Format: {e}",
)


def example_json(draw: Draw) -> Conversation:
    """The prompt shows an example with other values; keys and types are to be seen in it."""
    text, fields = _source(draw)
    fields = [field for field in fields if field.value is not None]
    shown = {field.key: _other(draw, field) for field in fields}
    example = json.dumps(shown, ensure_ascii=False, indent=draw.frame((None, None, None, 2)))
    system, content = _asked(draw, phrase(draw, _EXAMPLE_RULES, e=example), text)
    return Conversation(
        skill="extraction.example",
        system=system,
        json_object=draw.chance(0.7),
        turns=(Turn(role="user", content=content), _answer(draw, fields)),
    )


def _other(draw: Draw, field: Field) -> Any:
    """A value of the same type for an example (any JSON value, hence Any)."""
    match field.value:
        case bool():
            return draw.chance(0.5)
        case int():
            return draw.between(1, 99)
        case float():
            return draw.between(10, 999) / 10
        case list():
            return [draw.noun() for _ in range(draw.between(1, 2))]
        case _:
            return draw.frame((draw.noun(), "...", draw.made_up().capitalize()))


def schema_in_prompt(draw: Draw) -> Conversation:
    """The prompt quotes a schema as text, in JSON mode."""
    text, fields = _source(draw)
    schema = json.dumps(object_schema(draw, fields), ensure_ascii=False)
    rules = (
        "Answer with JSON that fits this schema: {s}",
        "Schema: {s}\nReply with JSON only.",
        "Extract data as JSON. JSON schema:\n{s}",
        "Use this schema for your JSON answer: {s}",
    )
    system, content = _asked(draw, phrase(draw, rules, s=schema), text)
    return Conversation(
        skill="extraction.quoted_schema",
        system=system,
        json_object=True,
        turns=(Turn(role="user", content=content), _answer(draw, fields)),
    )


def one_field(draw: Draw) -> Conversation:
    """One field of a text as JSON, asked for in a question."""
    fields = [free_field(draw, key) for key in free_keys(draw, draw.between(2, 4))]
    plain = [field for field in fields if field.kind not in ("array", "boolean") and not field.text.isdigit()]
    if not plain:
        return one_field(draw)
    field = draw.frame(plain)
    frames = (
        "What is the {k}? Answer as json.",
        "{k} as json",
        "Give me the {k} as JSON.",
        "Only the {k}, in JSON please",
        "json with the {k}",
    )
    text, ask = source_text(draw, fields), phrase(draw, frames, k=field.key)
    return Conversation(
        skill="extraction.one_field",
        json_object=draw.chance(0.5),
        turns=(
            Turn(role="user", content=f"{text}\n{ask}" if draw.chance(0.6) else f"{ask}\n{text}"),
            _answer(draw, [field]),
        ),
    )

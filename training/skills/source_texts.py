"""Texts that name their facts: sentences, lists of keys and values, tables, log lines, short mails."""

from __future__ import annotations

from collections.abc import Sequence

from training.skills.fields import Field
from training.skills.kinds import draw_value
from training.values import Draw

_SENTENCES = (
    "The {k} is {v}.",
    "Its {k} is {v}.",
    "The {k} was {v}.",
    "We have {v} as the {k}.",
    "As {k} we noted {v}.",
    "{v} is the {k}.",
    "The {k} turned out to be {v}.",
    "They told us the {k}: {v}.",
    "For the {k} take {v}.",
)
_OPENINGS = ("It is about {n}.", "{p} called today.", "Here is what I know.", "Notes from {p}:", "About the {n}:")


def sentences(draw: Draw, fields: Sequence[Field]) -> str:
    """One sentence for each fact."""
    told = " ".join(draw.wording(_SENTENCES).format(k=field.spoken, v=field.text) for field in fields)
    if draw.chance(0.2):
        return draw.wording(_OPENINGS).format(n=draw.noun(), p=draw.name()) + " " + told
    return told


def _mail(draw: Draw, fields: Sequence[Field]) -> str:
    greeting = draw.frame(("Hi {},", "Dear {},", "Hello {},", "{},")).format(draw.name())
    body = sentences(draw, fields) if draw.chance(0.6) else _lines(draw, fields)
    return f"{greeting}\n\n{body}\n\n{draw.frame(('Best,', 'Thanks,', 'Regards', 'Bye,'))}\n{draw.name()}"


def _lines(draw: Draw, fields: Sequence[Field]) -> str:
    form = draw.frame(("{k}: {v}", "{k}: {v}", "- {k}: {v}", "{k} = {v}", "* {k} {v}", "{k}\t{v}", "{k}={v}"))
    return "\n".join(form.format(k=field.spoken, v=field.text) for field in fields)


def _row(draw: Draw, fields: Sequence[Field]) -> str:
    has_list = any(field.kind == "array" for field in fields)
    form = draw.frame(("{k} {v}", "{k}: {v}", "{k} = {v}", "{k} {v}"))
    parts = [form.format(k=field.spoken, v=field.text) for field in fields]
    return draw.frame(("; ", " | ") if has_list else (", ", ", ", "; ", " | ")).join(parts) + draw.frame((".", ""))


def _table(draw: Draw, fields: Sequence[Field]) -> str:
    keys, values = [field.spoken for field in fields], [field.text for field in fields]
    match draw.between(0, 2):
        case 0:
            return "| " + " | ".join(keys) + " |\n| " + " | ".join(values) + " |"
        case 1:
            return ";".join(keys) + "\n" + ";".join(values)
        case _:
            return "\n".join(f"| {key} | {value} |" for key, value in zip(keys, values, strict=True))


def _log_line(draw: Draw, fields: Sequence[Field]) -> str:
    head = draw.frame(("{d} {t} INFO {n}", "[{t}] {n}", "{d}T{t} WARN {n}", "{n}")).format(
        d=draw_value(draw, "date"), t=draw_value(draw, "time"), n=draw.noun()
    )
    has_blank = draw.chance(0.5)
    parts = [
        f'{field.key}="{field.text}"' if has_blank or " " in field.text else f"{field.key}={field.text}"
        for field in fields
    ]
    return f"{head}: {' '.join(parts)}"


def source_text(draw: Draw, fields: Sequence[Field]) -> str:
    """A text that says all of these fields, in any order."""
    told = list(fields)
    draw.random.shuffle(told)
    kind = draw.random.random()
    if kind < 0.34:
        return sentences(draw, told)
    if kind < 0.54:
        return _lines(draw, told)
    if kind < 0.7:
        return _row(draw, told)
    if kind < 0.8:
        return _table(draw, told)
    return _log_line(draw, told) if kind < 0.88 else _mail(draw, told)

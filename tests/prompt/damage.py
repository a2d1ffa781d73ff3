"""Answers with damaged tool markup, made from whole ones by rules; each says what must be read from it, or nothing."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from deepserve.core.messages import Json
from deepserve.core.request import Tool
from deepserve.prompt.segments import Stage
from deepserve.prompt.special_tokens import DSML

WEATHER = Tool(
    name="weather",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "array"}, "metric": {"type": "boolean"}},
    },
)
SHELL = Tool(
    name="run-shell",
    parameters={
        "type": "object",
        "properties": {"command": {"type": "string"}, "limit": {"$ref": "#/$defs/limit"}},
        "$defs": {"limit": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
    },
)
EDIT = Tool(
    name="edit",
    parameters={
        "type": "object",
        "properties": {"path": {"type": "string"}, "text": {"type": "string"}, "options": {"type": "object"}},
    },
)
TOOLS = (WEATHER, SHELL, EDIT)

_STRINGS = ("Köln", "ls 2>&1", "a\nb\n", "<b>x</b>", 'say "x"', "1 < 2 && 3 > 2", "</p>", "", "| a | b |", "{}", "é\\n")
_VALUES: dict[str, tuple[Json, ...]] = {
    "days": ([], [1, 2], ["a", {"b": None}]),
    "metric": (True, False),
    "limit": (5, None),
    "options": ({}, {"deep": {"list": [1, "x"]}}),
}


class Call(msgspec.Struct):
    name: str
    arguments: dict[str, Json]


class Tag(msgspec.Struct):
    """One tag of the markup, in parts that rules can spoil. value: the text behind an opening parameter."""

    name: str
    is_closing: bool = False
    attributes: str = ""
    value: str | None = None
    json_value: Json = None
    opening: str = "<"
    mark: str = DSML
    ending: str = ">"
    behind: str = "\n"

    @property
    def text(self) -> str:
        slash = "/" if self.is_closing else ""
        behind = self.behind if self.value is None else self.value
        return f"{self.opening}{slash}{self.mark}{self.name}{self.attributes}{self.ending}{behind}"


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """calls: what must be read; None: the answer must end in the typed error."""

    rule: str
    text: str
    stage: Stage
    content: str
    calls: list[Call] | None


class Draft(msgspec.Struct):
    """An answer while rules work on it."""

    rng: random.Random
    calls: list[Call]
    tags: list[Tag]
    before: str = ""
    behind: str = ""
    in_thinking: bool = False
    is_lost: bool = False

    def find(self, name: str, *, closing: bool = False) -> list[Tag]:
        return [tag for tag in self.tags if tag.name == name and tag.is_closing is closing]

    def pick(self, name: str, *, closing: bool = False) -> Tag | None:
        found = self.find(name, closing=closing)
        return self.rng.choice(found) if found else None

    def drop(self, *tags: Tag) -> None:
        self.tags = [tag for tag in self.tags if not any(tag is dropped for dropped in tags)]

    def parameters_of(self, tag: Tag) -> list[Tag]:
        """The opening parameters of an opening invoke."""
        at = next(index for index, other in enumerate(self.tags) if other is tag)
        inside: list[Tag] = []
        for other in self.tags[at + 1 :]:
            if other.name == "invoke":
                break
            if other.name == "parameter" and not other.is_closing:
                inside.append(other)
        return inside


Rule = Callable[[Draft], bool]
"""Spoils a draft; False when there is nothing to spoil."""


def _whole(rng: random.Random) -> Draft:
    calls: list[Call] = []
    for _ in range(rng.choice((1, 1, 2))):
        tool = rng.choice(TOOLS)
        assert tool.parameters is not None
        names = list(tool.parameters["properties"])
        arguments: dict[str, Json] = {}
        for name in rng.sample(names, rng.randint(1, len(names))):
            arguments[name] = rng.choice(_VALUES.get(name, _STRINGS))
        calls.append(Call(tool.name, arguments))
    return Draft(rng=rng, calls=calls, tags=_tags(calls), before=rng.choice(("", "", "Let me see.")))


def _tags(calls: list[Call]) -> list[Tag]:
    tags = [Tag("tool_calls")]
    for call in calls:
        tags.append(Tag("invoke", attributes=f' name="{call.name}"'))
        for name, value in call.arguments.items():
            is_string = isinstance(value, str)
            attributes = f' name="{name}" string="{str(is_string).lower()}"'
            text = value if isinstance(value, str) else json.dumps(value)
            tags.append(Tag("parameter", attributes=attributes, value=text, json_value=value))
            tags.append(Tag("parameter", is_closing=True))
        tags.append(Tag("invoke", is_closing=True))
    tags.append(Tag("tool_calls", is_closing=True, behind=""))
    return tags


# Rules that spoil every tag


def _all_marks(mark: str) -> Rule:
    def spoil(draft: Draft) -> bool:
        for tag in draft.tags:
            tag.mark = mark
        return True

    return spoil


def _block_name(name: str) -> Rule:
    def spoil(draft: Draft) -> bool:
        for tag in draft.tags:
            if tag.name == "tool_calls":
                tag.name = name
        return True

    return spoil


def _lines(behind: str) -> Rule:
    def spoil(draft: Draft) -> bool:
        for tag in draft.tags[:-1]:
            tag.behind = behind
        return True

    return spoil


def _single_quotes(draft: Draft) -> bool:
    for tag in draft.tags:
        tag.attributes = tag.attributes.replace('"', "'")
    return True


def _swapped_attributes(draft: Draft) -> bool:
    for tag in draft.find("parameter"):
        tag.attributes = re.sub(r"( name=\S+)( string=\S+)", r"\2\1", tag.attributes)
    return True


def _untyped(draft: Draft) -> bool:
    for tag in draft.find("parameter"):
        tag.attributes = re.sub(r" string=\S+", "", tag.attributes)
    return True


def _in_thinking(draft: Draft) -> bool:
    draft.in_thinking = True
    return True


GLOBAL: dict[str, Rule] = {
    "nothing": lambda draft: True,
    "toolcalls": _block_name("toolcalls"),
    "function_calls": _block_name("function_calls"),
    "an unknown wrapper": _block_name("tools_to_use"),
    "doubled bars": _all_marks("｜｜DSML｜｜"),
    "half-width bars": _all_marks("|DSML|"),
    "doubled half-width bars": _all_marks("||DSML||"),
    "mixed bars": _all_marks("｜DSML|"),
    "a blank behind the mark": _all_marks(f"{DSML} "),
    "a blank before the mark": _all_marks(f" {DSML}"),
    "no second bar": _all_marks("｜DSML "),
    "no newlines": _lines(""),
    "many newlines": _lines("\n\n  "),
    "junk between tags": _lines("\nnow: "),
    "single quotes": _single_quotes,
    "swapped attributes": _swapped_attributes,
    "no string attribute": _untyped,
    "inside the thinking": _in_thinking,
}
"""What the other rules are combined with."""


# Rules that spoil one place, and leave one reading


def _no_block_start(draft: Draft) -> bool:
    draft.drop(draft.tags[0])
    return True


def _no_block_end(draft: Draft) -> bool:
    draft.drop(draft.tags[-1])
    return True


def _no_block(draft: Draft) -> bool:
    draft.drop(draft.tags[0], draft.tags[-1])
    return True


def _no_call_end(draft: Draft) -> bool:
    tag = draft.pick("invoke", closing=True)
    assert tag is not None
    draft.drop(tag)
    return True


def _no_end_at_all(draft: Draft) -> bool:
    draft.drop(*[tag for tag in draft.tags[-2:] if tag.is_closing and tag.name != "parameter"])
    return True


def _no_parameter_end(draft: Draft) -> bool:
    """The newline that follows the tag stays, as models leave it."""
    at = [index for index, tag in enumerate(draft.tags) if tag.name == "parameter" and tag.is_closing]
    index = draft.rng.choice(at)
    opening = draft.tags[index - 1]
    assert opening.value is not None
    if draft.tags[index].behind != "\n" and (opening.value.endswith("\n") or draft.tags[index].behind):
        return False
    opening.value += draft.tags[index].behind
    draft.drop(draft.tags[index])
    return True


def _unmarked_ends(draft: Draft) -> bool:
    if draft.tags[0].name == "tools_to_use":
        return False
    for tag in draft.tags:
        if tag.is_closing:
            tag.mark = ""
    return all(tag.behind.isspace() or not tag.behind for tag in draft.tags if tag.is_closing)


def _unmarked_parameter_end(draft: Draft) -> bool:
    tag = draft.pick("parameter", closing=True)
    assert tag is not None
    tag.mark = ""
    return not tag.behind.strip()


def _unmarked(draft: Draft) -> bool:
    """Nothing shows the mark; only in an answer's text, for thinking may be about anything."""
    if draft.in_thinking or draft.tags[0].name == "tools_to_use" or any(tag.behind.strip() for tag in draft.tags):
        return False
    return _all_marks("")(draft)


def _bars_alone(draft: Draft) -> bool:
    return draft.tags[0].name != "tools_to_use" and _all_marks("｜")(draft)


def _no_slash(draft: Draft) -> bool:
    tag = draft.pick("parameter", closing=True)
    assert tag is not None
    tag.is_closing = False
    return not tag.behind.strip()


def _no_left_angle(name: str) -> Rule:
    def spoil(draft: Draft) -> bool:
        tag = draft.pick(name)
        if tag is None or tag.mark.startswith(" "):
            return False
        tag.opening = ""
        return True

    return spoil


def _no_right_angle(name: str, *, closing: bool = False) -> Rule:
    def spoil(draft: Draft) -> bool:
        tag = draft.pick(name, closing=closing)
        if tag is None or tag.behind.strip():
            return False
        if tag.value is not None and (tag.value[:1] in ("", "/", ">", "\n", " ") or "string=" not in tag.attributes):
            return False
        if "'" in tag.attributes or tag.attributes.lstrip().startswith("string="):
            return False
        tag.ending = ""
        return True

    return spoil


def _doubled_end(draft: Draft) -> bool:
    tag = draft.pick("parameter", closing=True)
    assert tag is not None
    at = next(index for index, other in enumerate(draft.tags) if other is tag)
    draft.tags.insert(at, msgspec.structs.replace(tag, behind=""))
    return True


def _as_strings(draft: Draft) -> bool:
    """Arrays and numbers as strings: the schema tells them apart."""
    found = [tag for tag in draft.find("parameter") if 'string="false"' in tag.attributes]
    for tag in found:
        tag.attributes = tag.attributes.replace('string="false"', 'string="true"')
    return bool(found)


def _quoted_twice(draft: Draft) -> bool:
    """A JSON string that holds the array."""
    found = [tag for tag in draft.find("parameter") if 'string="false"' in tag.attributes]
    for tag in found:
        tag.value = json.dumps(tag.value)
    return bool(found)


def _as_json(draft: Draft) -> bool:
    """Strings that say they are JSON."""
    found = [tag for tag in draft.find("parameter") if 'string="true"' in tag.attributes]
    for tag in found:
        tag.attributes = tag.attributes.replace('string="true"', 'string="false"')
    return bool(found)


def _python_words(draft: Draft) -> bool:
    found = [tag for tag in draft.find("parameter") if tag.value in ("true", "false", "null")]
    for tag in found:
        tag.value = {"true": "True", "false": "False", "null": "None"}[tag.value or ""]
    return bool(found)


def _trailing_comma(draft: Draft) -> bool:
    found = [tag for tag in draft.find("parameter") if isinstance(tag.json_value, list) and tag.json_value]
    for tag in found:
        tag.value = (tag.value or "").removesuffix("]") + ",]"
    return bool(found)


def _json_body(wrapped: bool) -> Rule:
    """One JSON object in place of the parameters."""

    def spoil(draft: Draft) -> bool:
        for tag, call in zip(draft.find("invoke"), draft.calls, strict=True):
            inside = draft.parameters_of(tag)
            ends = [draft.tags[index + 1] for index, other in enumerate(draft.tags) if any(other is i for i in inside)]
            draft.drop(*inside, *ends)
            tag.behind += json.dumps({"arguments": call.arguments} if wrapped else call.arguments) + "\n"
        return all("{" not in tag.behind or tag.name == "invoke" for tag in draft.tags)

    return spoil


def _json_calls(is_list: bool) -> Rule:
    """`{"name": …, "arguments": …}` in the block."""

    def spoil(draft: Draft) -> bool:
        objects = [{"name": call.name, "arguments": call.arguments} for call in draft.calls]
        first, last = draft.tags[0], draft.tags[-1]
        first.behind += json.dumps(objects) if is_list else "\n".join(json.dumps(one) for one in objects)
        draft.tags = [first, last]
        return True

    return spoil


def _tools_as_tags(draft: Draft) -> bool:
    for tag, call in zip(draft.find("invoke"), draft.calls, strict=True):
        tag.name, tag.attributes = call.name, ""
    for tag, call in zip(draft.find("invoke", closing=True), draft.calls, strict=True):
        tag.name = call.name
    return True


def _parameters_as_tags(draft: Draft) -> bool:
    """`<｜DSML｜city string="true">…</｜DSML｜city>`."""
    if draft.tags[0].mark == "｜DSML ":
        return False
    names = [name for call in draft.calls for name in call.arguments]
    for opening, closing, name in zip(
        draft.find("parameter"), draft.find("parameter", closing=True), names, strict=True
    ):
        opening.name = closing.name = name
        opening.attributes = re.sub(r""" name=(?:"[^"]*"|'[^']*')""", "", opening.attributes)
    return True


def _called_by_value(draft: Draft) -> bool:
    """`<｜DSML｜invoke="weather">`."""
    for tag in draft.find("invoke"):
        tag.attributes = tag.attributes.replace(" name=", "=")
    return True


def _text_behind(draft: Draft) -> bool:
    draft.behind = f"\n\nDone. <{DSML}tool_calls>"
    return True


RECOVERABLE: dict[str, Rule] = {
    "nothing else": lambda draft: True,
    "no start of the block": _no_block_start,
    "no end of the block": _no_block_end,
    "no block": _no_block,
    "no end of a call": _no_call_end,
    "no end at all": _no_end_at_all,
    "no end of a parameter": _no_parameter_end,
    "closing tags without the mark": _unmarked_ends,
    "a parameter's end without the mark": _unmarked_parameter_end,
    "no mark anywhere": _unmarked,
    "bars without the mark": _bars_alone,
    "a closing tag without its slash": _no_slash,
    "a parameter without <": _no_left_angle("parameter"),
    "a call without <": _no_left_angle("invoke"),
    "a block without >": _no_right_angle("tool_calls"),
    "a call without >": _no_right_angle("invoke"),
    "a parameter without >": _no_right_angle("parameter"),
    "a closing tag without >": _no_right_angle("parameter", closing=True),
    "a doubled end": _doubled_end,
    "arrays as strings": _as_strings,
    "JSON inside a JSON string": _quoted_twice,
    "strings that say they are JSON": _as_json,
    "Python words": _python_words,
    "trailing commas": _trailing_comma,
    "JSON in place of parameters": _json_body(wrapped=False),
    "wrapped JSON in place of parameters": _json_body(wrapped=True),
    "JSON in place of calls": _json_calls(is_list=False),
    "a JSON list in place of calls": _json_calls(is_list=True),
    "tools as tags": _tools_as_tags,
    "parameters as tags": _parameters_as_tags,
    "a call by value": _called_by_value,
    "text behind": _text_behind,
}


# Rules that leave no reading


def _nameless_call(draft: Draft) -> bool:
    tag = draft.pick("invoke")
    assert tag is not None
    tag.attributes = ""
    return True


def _nameless_parameter(draft: Draft) -> bool:
    tag = draft.pick("parameter")
    assert tag is not None
    tag.attributes = re.sub(r""" name=(?:"[^"]*"|'[^']*')""", "", tag.attributes)
    return True


def _no_call_start(draft: Draft) -> bool:
    draft.drop(draft.find("invoke")[0])
    return True


def _empty(draft: Draft) -> bool:
    draft.tags = [draft.tags[0], draft.tags[-1]]
    return True


def _start_alone(draft: Draft) -> bool:
    draft.tags = [draft.tags[0]]
    return True


def _ends_in_value(draft: Draft) -> bool:
    tag = draft.pick("parameter")
    assert tag is not None
    if tag.value == "" or tag.value is None:
        return False
    at = next(index for index, other in enumerate(draft.tags) if other is tag)
    draft.tags = draft.tags[: at + 1]
    tag.value = tag.value[: draft.rng.randint(1, len(tag.value))]
    return True


def _ends_in_tag(draft: Draft) -> bool:
    tag = draft.pick(draft.rng.choice(("parameter", "invoke")))
    assert tag is not None
    at = next(index for index, other in enumerate(draft.tags) if other is tag)
    draft.tags = draft.tags[: at + 1]
    tag.ending, tag.value, tag.behind = "", None, ""
    tag.attributes = tag.attributes[: draft.rng.randint(0, len(tag.attributes) - 3)]
    return True


def _no_json(draft: Draft) -> bool:
    found = [
        tag for tag in draft.find("parameter") if tag.json_value is not None and 'string="false"' in tag.attributes
    ]
    for tag in found:
        tag.value = draft.rng.choice(("[1, 2", "{'a': 1}", "about five", "nan"))
    return bool(found)


def _no_json_object(draft: Draft) -> bool:
    _json_body(wrapped=False)(draft)
    tag = draft.find("invoke")[0]
    tag.behind = tag.behind.rstrip().removesuffix("}") + " and 3 more}\n"
    return True


def _no_start_at_all(draft: Draft) -> bool:
    if draft.in_thinking:
        return False
    at = next(index for index, tag in enumerate(draft.tags) if tag.name == "parameter" and tag.is_closing)
    draft.tags = draft.tags[at:]
    return True


UNRECOVERABLE: dict[str, Rule] = {
    "a call without a name": _nameless_call,
    "a parameter without a name": _nameless_parameter,
    "a parameter outside a call": _no_call_start,
    "a block without calls": _empty,
    "the start of a block alone": _start_alone,
    "an end inside a value": _ends_in_value,
    "an end inside a tag": _ends_in_tag,
    "a value that is no JSON": _no_json,
    "a body that is no JSON": _no_json_object,
    "closing tags alone": _no_start_at_all,
}


def damaged_answers(num_rounds: int) -> Iterator[Case]:
    """Every rule with `num_rounds` of the rules that spoil every tag, on answers of their own; the same every time."""
    for is_lost, rules in ((False, RECOVERABLE), (True, UNRECOVERABLE)):
        for name, rule in rules.items():
            for number, (global_name, global_rule) in enumerate(GLOBAL.items()):
                for round_ in range(num_rounds):
                    case = _case(f"{name} / {number} / {round_}", global_rule, rule, is_lost=is_lost)
                    if case is not None:
                        label = f"{name}, {global_name}, {round_}"
                        yield msgspec.structs.replace(case, rule=label)


def _case(seed: str, global_rule: Rule, rule: Rule, *, is_lost: bool) -> Case | None:
    draft = _whole(random.Random(seed))
    if not global_rule(draft) or not rule(draft):
        return None
    markup = "".join(tag.text for tag in draft.tags)
    gap = "\n\n" if draft.before else ""
    return Case(
        rule="",
        text=f"{draft.before}{gap}{markup}{draft.behind}",
        stage="reasoning" if draft.in_thinking else "text",
        content="" if draft.in_thinking else draft.before,
        calls=None if is_lost else draft.calls,
    )


def arguments_of(text: str) -> Any:
    """A call's arguments, decoded; any JSON, hence Any."""
    return json.loads(text)

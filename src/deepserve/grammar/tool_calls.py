"""The model's format for tool calls, as a grammar: what may stand between the marks of a block of calls.

    block     := opening call ("\\n" call)* "\\n" closing
    call      := '<|invoke name="NAME">\\n' (parameter "\\n")* '</|invoke>'
    parameter := '<|parameter name="KEY" string="true">' text '</|parameter>'
               | '<|parameter name="KEY" string="false">' JSON '</|parameter>'

with `|` for the special token that marks tool markup. Because text never contains that token, a raw string may hold
anything, even what looks like a closing tag.

Parameters stand in the order of the schema's properties, the required ones always, the others at most once. A value
whose schema admits strings and others may be either; the attribute says which. Parameters that the schema does not
name may be written where it says so (`additionalProperties`) or names none at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from deepserve.core.errors import InvalidField, UnsupportedFeature
from deepserve.core.messages import Json
from deepserve.grammar.answer_form import CallableTool
from deepserve.grammar.json_schema import JsonGrammar, json_grammar
from deepserve.grammar.raw_text import UNKNOWN_HERE, literal, other_values, text_terminal


class CallMarkup(msgspec.Struct, frozen=True, kw_only=True):
    """How the format spells its tags. In the spellings, `mark` stands for the special token `mark_id`.

    block_open begins with the blank lines before a block.
    """

    mark: str
    mark_id: int
    block_open: str
    block_close: str
    call_open: str
    call_close: str
    parameter_open: str
    parameter_close: str


class CallGrammar(msgspec.Struct, frozen=True, kw_only=True):
    """rules: the grammar's lines; `start` is the rule of the whole block. relaxed: what the schemas say in vain."""

    start: str
    rules: tuple[str, ...]
    relaxed: tuple[str, ...]


MAX_VARIANTS: Final = 32
_EXTRA_NAME: Final = "/[A-Za-z_][A-Za-z0-9_-]{0,63}/"


def call_grammar(tools: Sequence[CallableTool], markup: CallMarkup, *, is_parallel: bool) -> CallGrammar:
    """The grammar of a block of calls.

    Raises InvalidField for parameters that are no object, UnsupportedFeature for what a strict tool's schema says and
    the grammar cannot.
    """
    writer = _Writer(markup)
    calls = " | ".join(writer.tool(index, tool) for index, tool in enumerate(tools))
    more = ' ("\\n" calls_one)*' if is_parallel else ""
    block = f'{writer.symbols(markup.block_open)} calls_one{more} "\\n" {writer.symbols(markup.block_close)}'
    return CallGrammar(
        start="calls",
        rules=(f"calls: {block}", f"calls_one: {calls}", *writer.rules),
        relaxed=tuple(dict.fromkeys(writer.relaxed)),
    )


class _Shape(msgspec.Struct, frozen=True):
    """One way in which an object may look. extra: what other members must satisfy; None: there are none."""

    properties: Mapping[str, Json]
    required: frozenset[str]
    extra: Json | None
    is_closed: bool


class _Writer:
    def __init__(self, markup: CallMarkup) -> None:
        self._markup = markup
        self.rules: list[str] = []
        self.relaxed: list[str] = []

    def symbols(self, spelling: str) -> str:
        """A spelling in which the mark is the special token."""
        token = f" <[{self._markup.mark_id}]> "
        return token.join(literal(piece) if piece else "" for piece in spelling.split(self._markup.mark)).strip()

    def tool(self, index: int, tool: CallableTool) -> str:
        """Write a tool's rules; returns the name of the first."""
        name = f"tool{index}"
        root = dict(tool.parameters) if tool.parameters is not None else {"type": "object", "properties": {}}
        schema = _Schema(root, tool)
        bodies = []
        for number, shape in enumerate(_shapes(schema, root)):
            bodies.append(self._parameters(f"{name}_{number}", shape, schema))
        self.relaxed += schema.relaxed
        body = " | ".join(f"({body})" if body else "()" for body in dict.fromkeys(bodies))
        if body == "()":
            body = ""
        opening = self.symbols(self._markup.call_open + f' name="{tool.name}">\n')
        body = f"( {body} )" if body else ""
        self.rules.append(f"{name}: {opening} {body} {self.symbols(self._markup.call_close)}")
        return name

    def _parameters(self, name: str, shape: _Shape, schema: _Schema) -> str:
        items = []
        for number, (key, value) in enumerate(shape.properties.items()):
            rule = self._parameter(f"{name}_{number}", key, value, schema)
            if rule is not None:
                items.append(rule if key in shape.required else f"{rule}?")
            elif key in shape.required:
                raise InvalidField(f"No value fits the required parameter {key!r}.", field=schema.tool.field)
        if shape.extra is not None:
            extra = self._parameter(f"{name}_x", None, shape.extra, schema, others=tuple(shape.properties))
            if extra is not None:
                items.append(f"{extra}*")
        return " ".join(items)

    def _parameter(
        self, name: str, key: str | None, value: Json, schema: _Schema, *, others: Sequence[str] = ()
    ) -> str | None:
        """The rule for one parameter and the line end behind it; None when it can have no value."""
        pointer = f"/properties/{key}" if key is not None else "/additionalProperties"

        def note(at: str, keyword: str) -> None:
            schema.cannot(pointer + at, keyword)

        text = text_terminal(value, schema.resolve, note)
        if text is not None and " & " in text and not _is_possible(schema, value):
            text = None
        other = other_values(value, schema.resolve)
        opening, closing = self._markup.parameter_open, self.symbols(self._markup.parameter_close + "\n")
        if key is None:
            listed = " | ".join(map(literal, others))
            names = f"{_EXTRA_NAME} & ~({listed})" if listed else _EXTRA_NAME
            terminal = f"{name}_KEY".upper()
            self.rules.append(f"{terminal}: {names}")
            head = f"{self.symbols(opening + ' name=' + chr(34))} {terminal} "
            attribute = '" string="'
        else:
            head, attribute = "", f'{opening} name="{key}" string="'
        ways = []
        if text is not None:
            before_mark, after_mark = self._markup.parameter_close.split(self._markup.mark, 1)
            terminal = f"{name}_TEXT".upper()
            self.rules.append(f"{terminal}: {text} {literal(before_mark)}")
            end = f"<[{self._markup.mark_id}]> {literal(after_mark + chr(10))}"
            ways.append(f"{head}{self.symbols(attribute + 'true' + chr(34) + '>')} {terminal} {end}")
        if other is not None:
            grammar = self._json(other, schema, pointer)
            if grammar is not None:
                self.rules.append(f"{name}_json: {grammar.rule}")
                ways.append(f"{head}{self.symbols(attribute + 'false' + chr(34) + '>')} {name}_json {closing}")
        if not ways:
            return None
        self.rules.append(f"{name}: {' | '.join(ways)}")
        return name

    def _json(self, value: Json, schema: _Schema, pointer: str) -> JsonGrammar | None:
        """The grammar of a value that is no string; None when there is no such value."""
        field = schema.tool.field + pointer
        try:
            grammar = json_grammar(schema.alone(value), strict=schema.tool.is_strict, field=field)
        except UnsupportedFeature:
            raise
        except InvalidField:
            return None
        schema.relaxed += [f"{field}{_within(found)}" for found in grammar.relaxed]
        return grammar


class _Schema:
    """A tool's schema: what its references mean, and what of it could not be enforced."""

    def __init__(self, root: Mapping[str, Json], tool: CallableTool) -> None:
        self._root = root
        self.tool = tool
        self.relaxed: list[str] = []

    def cannot(self, pointer: str, keyword: str) -> None:
        if self.tool.is_strict:
            raise UnsupportedFeature(
                f"`{keyword}` cannot be enforced here: leave it out, or the tool's `strict`.",
                field=f"{self.tool.field}{pointer}",
            )
        self.relaxed.append(f"{self.tool.field}{pointer}: {keyword}")

    def resolve(self, reference: str) -> Json:
        target: Json = self._root
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise InvalidField(f"`$ref` leads out of the schema: {reference!r}.", field=self.tool.field)
        for step in reference[1:].split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, Mapping) and name in target:
                target = target[name]
            elif isinstance(target, list) and name.isdigit() and int(name) < len(target):
                target = target[int(name)]
            else:
                raise InvalidField(f"`$ref` leads nowhere: {reference!r}.", field=self.tool.field)
        return target

    def alone(self, part: Json) -> Json:
        """A part of the schema as a schema of its own, with the definitions it refers to."""
        names: dict[str, str] = {}
        pending: list[str] = []

        def moved(value: Json) -> Json:
            if isinstance(value, list):
                return [moved(item) for item in value]
            if not isinstance(value, Mapping):
                return value
            copy: dict[str, Json] = {}
            for key, item in value.items():
                if key == "$ref" and isinstance(item, str) and item.startswith("#"):
                    if item not in names:
                        names[item] = f"d{len(names)}"
                        pending.append(item)
                    copy[key] = f"#/$defs/{names[item]}"
                elif key in ("enum", "const", "default", "examples"):
                    copy[key] = item
                elif key not in ("$defs", "definitions", "$def", "$id", "$schema"):
                    copy[key] = moved(item)
            return copy

        schema = moved(part)
        definitions: dict[str, Json] = {}
        while pending:
            reference = pending.pop()
            definitions[names[reference]] = moved(self.resolve(reference))
        if definitions and isinstance(schema, dict):
            schema["$defs"] = definitions
        return schema


def _is_possible(schema: _Schema, value: Json) -> bool:
    """Whether any string satisfies all that is demanded of it."""
    try:
        json_grammar(schema.alone({"allOf": [value, {"type": "string"}]}), strict=False, field=schema.tool.field)
    except InvalidField:
        return False
    return True


def _within(relaxed: str) -> str:
    """What the grammar of a part says of itself, to stand behind that part's own pointer."""
    return relaxed.removeprefix("/") if relaxed.startswith("/: ") else relaxed


_ANY_OBJECT: Final = _Shape({}, frozenset(), True, False)


def _shapes(schema: _Schema, root: Json) -> list[_Shape]:
    """The ways in which the parameters may look."""
    shapes = []
    for shape in _combine(schema, root, "", 0):
        properties = dict(shape.properties)
        for key in sorted(shape.required - properties.keys()):
            properties[key] = shape.extra if shape.is_closed and shape.extra is not None else True
        # Left open, a schema that names parameters means those; one that names none leaves the names to the model.
        is_open = shape.extra is not None and (shape.is_closed or not shape.properties)
        shapes.append(_Shape(properties, shape.required, shape.extra if is_open else None, shape.is_closed))
    if not shapes:
        raise InvalidField("No parameters satisfy the tool's schema.", field=schema.tool.field)
    return shapes


def _combine(schema: _Schema, part: Json, at: str, depth: int) -> list[_Shape]:
    if part is True:
        return [_ANY_OBJECT]
    if part is False:
        return []
    if not isinstance(part, Mapping) or depth > 16:
        raise InvalidField(f"The tool's parameters at {at or '/'} are no schema of an object.", field=schema.tool.field)
    kind = part.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        if depth == 0:
            raise InvalidField("A tool's parameters are an object: `type` must say so.", field=schema.tool.field)
        return []
    for keyword in part:
        if keyword in UNKNOWN_HERE:
            schema.cannot(at, keyword)
    properties = part.get("properties")
    extra = part.get("additionalProperties", part.get("unevaluatedProperties"))
    own = _Shape(
        dict(properties) if isinstance(properties, Mapping) else {},
        frozenset(part.get("required", ())),
        # `properties: {}` names parameters as well: none.
        None if extra is False or (extra is None and properties is not None) else (True if extra is None else extra),
        extra is not None,
    )
    shapes = [own]
    if "$ref" in part:
        shapes = _cross(shapes, _combine(schema, schema.resolve(part["$ref"]), f"{at}/$ref", depth + 1), schema)
    for index, inner in enumerate(part.get("allOf", ())):
        shapes = _cross(shapes, _combine(schema, inner, f"{at}/allOf/{index}", depth + 1), schema)
    for keyword in ("anyOf", "oneOf"):
        if keyword in part:
            found = [
                shape
                for index, inner in enumerate(part[keyword])
                for shape in _combine(schema, inner, f"{at}/{keyword}/{index}", depth + 1)
            ]
            if keyword == "oneOf" and len(found) > 1:
                schema.cannot(at, keyword)
            shapes = _cross(shapes, found, schema)
    return shapes


def _cross(some: list[_Shape], others: list[_Shape], schema: _Schema) -> list[_Shape]:
    if len(some) * len(others) > MAX_VARIANTS:
        raise UnsupportedFeature(
            f"The tool's parameters have more than {MAX_VARIANTS} alternatives.", field=schema.tool.field
        )
    return [_both(one, other) for one in some for other in others]


def _both(one: _Shape, other: _Shape) -> _Shape:
    """The members that satisfy both."""
    properties = dict(one.properties)
    for key, value in other.properties.items():
        properties[key] = {"allOf": [properties[key], value]} if key in properties else value
    # A part that closes its own object closes it for the members of its neighbours too.
    if one.is_closed:
        properties = {key: value for key, value in properties.items() if key in one.properties or one.extra is not None}
    if other.is_closed:
        properties = {
            key: value for key, value in properties.items() if key in other.properties or other.extra is not None
        }
    if one.extra is None or other.extra is None:
        # Nobody closed it: the names of both are known.
        extra = None
    else:
        extra = (
            one.extra
            if other.extra is True
            else other.extra
            if one.extra is True
            else {"allOf": [one.extra, other.extra]}
        )
    return _Shape(properties, one.required | other.required, extra, one.is_closed or other.is_closed)

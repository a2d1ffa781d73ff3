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

from collections.abc import Sequence
from typing import Final

import msgspec

from deepserve.core.errors import InvalidField, UnsupportedFeature
from deepserve.core.messages import Json
from deepserve.core.schema_tree import step
from deepserve.grammar.answer_form import CallableTool
from deepserve.grammar.json_schema import JsonGrammar, json_grammar
from deepserve.grammar.parameter_shapes import ParameterSchema, Shape
from deepserve.grammar.parameter_values import ParameterValues
from deepserve.grammar.raw_text import literal


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
    """What blocks of calls look like.

    rules    the grammar's lines; `start` is the rule of the whole block, `block` what it says behind the opening
    tools    with schemas that can be read
    relaxed  what the schemas say in vain
    """

    start: str
    block: str
    rules: tuple[str, ...]
    tools: tuple[CallableTool, ...]
    relaxed: tuple[str, ...]


_EXTRA_NAME: Final = "/[A-Za-z_][A-Za-z0-9_-]{0,63}/"


def call_grammar(tools: Sequence[CallableTool], markup: CallMarkup, *, is_parallel: bool) -> CallGrammar:
    """The grammar of a block of calls.

    Raises InvalidField for parameters that are no object, UnsupportedFeature for what a strict tool's schema says and
    the grammar cannot.
    """
    writer = _Writer(markup)
    calls = " | ".join(writer.tool(index, tool) for index, tool in enumerate(tools))
    more = ' ("\\n" calls_one)*' if is_parallel else ""
    block = f'calls_one{more} "\\n" {writer.symbols(markup.block_close)}'
    return CallGrammar(
        start="calls",
        block=block,
        rules=(f"calls: {writer.symbols(markup.block_open)} {block}", f"calls_one: {calls}", *writer.rules),
        tools=tuple(writer.tools),
        relaxed=tuple(dict.fromkeys(writer.relaxed)),
    )


class _Writer:
    def __init__(self, markup: CallMarkup) -> None:
        self._markup = markup
        self.rules: list[str] = []
        self.tools: list[CallableTool] = []
        self.relaxed: list[str] = []

    def symbols(self, spelling: str) -> str:
        """A spelling in which the mark is the special token."""
        token = f" <[{self._markup.mark_id}]> "
        return token.join(literal(piece) if piece else "" for piece in spelling.split(self._markup.mark)).strip()

    def tool(self, index: int, tool: CallableTool) -> str:
        """Write a tool's rules; returns the name of the first."""
        name = f"tool{index}"
        schema = ParameterSchema(tool)
        values = ParameterValues(schema.resolve, schema.cannot)
        found = [
            self._parameters(f"{name}_{number}", shape, schema, values) for number, shape in enumerate(schema.shapes())
        ]
        self.tools.append(msgspec.structs.replace(tool, parameters=schema.readable))
        self.relaxed += schema.relaxed
        bodies = dict.fromkeys(body for body in found if body is not None)
        if not bodies:
            raise InvalidField("No parameters satisfy the tool's schema.", field=tool.field)
        body = " | ".join(f"({body})" if body else "()" for body in bodies)
        if body == "()":
            body = ""
        opening = self.symbols(self._markup.call_open + f' name="{tool.name}">\n')
        body = f"( {body} )" if body else ""
        self.rules.append(f"{name}: {opening} {body} {self.symbols(self._markup.call_close)}")
        return name

    def _parameters(self, name: str, shape: Shape, schema: ParameterSchema, values: ParameterValues) -> str | None:
        """The parameters of one shape; None when one that must be there can have no value."""
        items = []
        for number, (key, value) in enumerate(shape.properties.items()):
            rule = self._parameter(f"{name}_{number}", key, value, schema, values)
            if rule is not None:
                items.append(rule if key in shape.required else f"{rule}?")
            elif key in shape.required:
                return None
        if shape.extra is not None:
            extra = self._parameter(f"{name}_x", None, shape.extra, schema, values, others=tuple(shape.properties))
            if extra is not None:
                items.append(f"{extra}*")
        return " ".join(items)

    def _parameter(
        self,
        name: str,
        key: str | None,
        value: Json,
        schema: ParameterSchema,
        values: ParameterValues,
        *,
        others: Sequence[str] = (),
    ) -> str | None:
        """The rule for one parameter and the line end behind it; None when it can have no value."""
        pointer = f"/properties{step(key)}" if key is not None else "/additionalProperties"
        text, other = values.strings(value, pointer), values.others(value, pointer)
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

    def _json(self, value: Json, schema: ParameterSchema, pointer: str) -> JsonGrammar | None:
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


def _within(relaxed: str) -> str:
    """What the grammar of a part says of itself, to stand behind that part's own pointer."""
    return relaxed.removeprefix("/") if relaxed.startswith("/: ") else relaxed

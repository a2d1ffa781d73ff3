"""The tool calls of one answer as they are read: blocks that open and close, with arguments that stream as they come.

Knows neither tags nor where in the answer it is: the decoder finds those, and says what was opened, written and closed.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Mapping

from deepserve.core.events import ToolCallBlock
from deepserve.core.tool import Tool
from deepserve.prompt.arguments import Arguments
from deepserve.prompt.block_writer import BlockWriter
from deepserve.prompt.json_calls import read_call
from deepserve.prompt.json_repair import repair_json


def mint_call_id(index: int) -> str:
    """An id for the index-th call of an answer, as the vendor spells them; 24 random letters and digits."""
    alphabet = string.ascii_letters + string.digits
    return f"call_{index:02d}_{''.join(secrets.choice(alphabet) for _ in range(24))}"


class CallWriter:
    """tools: by the names that the model writes.

    num_calls  opened so far
    damage     what was not as it should be, the first thing; None: nothing
    Methods that can find a call unreadable return why.
    """

    def __init__(self, blocks: BlockWriter, tools: Mapping[str, Tool], call_id: Callable[[int], str]) -> None:
        self._blocks = blocks
        self._tools = tools
        self._call_id = call_id
        self._arguments: Arguments | None = None
        self._has_newline = False  # a value's last newline, which belongs to the markup if the closing tag is missing
        self.num_calls = 0
        self.damage: str | None = None

    @property
    def is_open(self) -> bool:
        """A call was begun and not closed."""
        return self._arguments is not None

    @property
    def arguments(self) -> Arguments:
        """Of the open call."""
        assert self._arguments is not None
        return self._arguments

    def note(self, damage: str | None) -> None:
        if self.damage is None:
            self.damage = damage

    # Calls

    def open(self, name: str) -> None:
        self._blocks.open(ToolCallBlock(id=self._call_id(self.num_calls), name=name))
        self.num_calls += 1
        self._arguments = Arguments(self._tools.get(name))

    def close(self) -> None:
        if self._arguments is not None:
            self._blocks.write_arguments(self._arguments.finish())
            self.give_up()

    def give_up(self) -> None:
        """End the call with its arguments as they are."""
        self._arguments = None
        self._blocks.close()

    # Parameters

    def open_parameter(self, name: str, *, is_string: bool | None) -> None:
        self._blocks.write_arguments(self.arguments.open(name, is_string=is_string))
        self.note(self.arguments.damage)
        self._has_newline = False

    def write(self, text: str) -> None:
        """More of the open parameter's value; a last newline waits for what follows."""
        assert self._arguments is not None
        if self._has_newline:
            self.write_newline()
        self._has_newline = text.endswith("\n")
        self._blocks.write_arguments(self._arguments.write(text[:-1] if self._has_newline else text))

    def write_newline(self) -> None:
        if self._has_newline:
            self._blocks.write_arguments(self.arguments.write("\n"))
            self._has_newline = False

    def close_parameter(self) -> str | None:
        self._blocks.write_arguments(self.arguments.close())
        self.note(self.arguments.damage)
        return self.arguments.problem

    def cut_parameter(self) -> None:
        """The answer ends inside the value."""
        self.write_newline()
        self._blocks.write_arguments(self.arguments.cut())

    # JSON in place of markup

    def write_body(self, text: str) -> str | None:
        """All arguments of the open call at once."""
        self._blocks.write_arguments(self.arguments.body(text))
        self.note(self.arguments.damage)
        return self.arguments.problem

    def cut_body(self, text: str) -> None:
        """The answer ends inside of them."""
        if self._arguments is not None:
            self._blocks.write_arguments(text)

    def write_calls(self, text: str) -> None:
        """Whole calls, one or a list, up to the first that is none."""
        found = repair_json(text)
        value = found.value if found is not None else None
        for call in value if isinstance(value, list) else [value]:
            arguments = read_call(call)
            if arguments is None:
                return
            name, body = arguments
            self.open(name)
            self._blocks.write_arguments(body)
            self.give_up()

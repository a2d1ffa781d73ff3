"""One cell after another in one namespace, as a notebook does it."""

from __future__ import annotations

import ast
import linecache
import sys
import traceback
import types
from typing import Any

_MOST_TRACEBACK_FRAMES = 30


class Cells:
    """The variables that live from cell to cell, in a module called `__main__`, where pickle and others look."""

    def __init__(self) -> None:
        self._module = types.ModuleType("__main__")
        sys.modules["__main__"] = self._module
        self._number = 0

    def run(self, code: str) -> tuple[str | None, int]:
        """Returns the last expression's repr, unless that is None, and an exit code. What is raised goes to stderr."""
        self._number += 1
        name = f"<cell {self._number}>"
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        try:
            return self._evaluate(code, name), 0
        except SystemExit as end:
            if end.code is None or isinstance(end.code, int):
                return None, (end.code or 0) & 0xFF
            _say(str(end.code))
            return None, 1
        except BaseException as error:  # noqa: BLE001  # whatever a stranger's code raises is his to see
            _show(error, name)
            return None, 1

    def _evaluate(self, code: str, name: str) -> str | None:
        tree = ast.parse(code, name)
        namespace: dict[str, Any] = self._module.__dict__
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr):
            tree.body.pop()
        exec(compile(tree, name, "exec"), namespace)  # noqa: S102  # what all these walls are for
        if not isinstance(last, ast.Expr):
            return None
        value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)  # noqa: S307
        return None if value is None else repr(value)


def _show(error: BaseException, name: str) -> None:
    """Its traceback, from the cell's own code on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != name:
        trace = trace.tb_next
    if trace is None and not isinstance(error, SyntaxError):
        trace = error.__traceback__
    try:
        _say("".join(traceback.format_exception(type(error), error, trace, limit=-_MOST_TRACEBACK_FRAMES)))
    except BaseException:  # noqa: BLE001  # its own __str__ can do anything
        _say(f"{type(error).__name__}, which cannot be shown")


def _say(text: str) -> None:
    print(text, end="" if text.endswith("\n") else "\n", file=sys.__stderr__, flush=True)

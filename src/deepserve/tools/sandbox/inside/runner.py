"""The process that runs cells: it walls itself in, says that it is ready, and then answers one cell after another.

Cells arrive on the first standard input, answers leave on a descriptor of their own; what the code prints has the
usual two. A frame is four bytes of length and that much JSON; in answers the contents of files follow. Each frame that
arrives carries a random tag, which the answer repeats: an answer to something else is seen to be one.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import shutil
import struct
import sys
import warnings
from typing import Any, BinaryIO

from .cells import Cells
from .products import changed_files, folder_state, take_figures
from .walls import WallError, die_with_parent, drop_privileges, forbid_calls, limit_resources, restrict_paths

_MOST_VALUE_CHARACTERS = 32 * 1024


def main() -> None:
    answers = int(sys.argv[1])
    cells = os.dup(0)
    _close_others({0, 1, 2, cells, answers})
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    source = os.fdopen(cells, "rb")
    setup = _read(source)
    try:
        _wall_in(setup)
    except (WallError, OSError) as error:
        _answer(answers, setup["tag"], {"fault": str(error)})
        return
    sys.argv = [""]
    _prepare(setup)
    _answer(answers, setup["tag"], {"fault": None})
    _serve(source, answers, setup)


def _close_others(kept: set[int]) -> None:
    """Whatever the launcher forgot: neither /proc nor /dev/fd is here to list them."""
    first = 0
    for descriptor in sorted(kept):
        if first < descriptor:
            # An empty range from 0 on would be taken for all of them.
            os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, 1 << 20)


def _wall_in(setup: dict[str, Any]) -> None:
    if setup["parent"] is not None:
        die_with_parent(setup["parent"])
    if setup["paths"] is not None:
        drop_privileges(setup["machine"])
        restrict_paths(**setup["paths"])
    limit_resources(setup["limits"])
    forbid_calls(bytes.fromhex(setup["filter"]))


def _prepare(setup: dict[str, Any]) -> None:
    """What a first cell would otherwise wait for."""
    # Showing is what a figure does anyway: it comes back when the cell ends.
    warnings.filterwarnings("ignore", message="FigureCanvas.* is non-interactive")
    for path in setup["font_lists"]:
        with contextlib.suppress(OSError):
            os.makedirs(os.environ["MPLCONFIGDIR"], exist_ok=True)
            shutil.copyfile(path, os.path.join(os.environ["MPLCONFIGDIR"], os.path.basename(path)))


def _serve(source: BinaryIO, answers: int, setup: dict[str, Any]) -> None:
    cells = Cells()
    folder = os.getcwd()
    gc.freeze()
    while True:
        cell = _read(source)
        before = folder_state(folder)
        value, exit_code = cells.run(cell["code"])
        figures: list[bytes] = []
        try:
            figures = take_figures()
        except Exception as error:  # noqa: BLE001  # matplotlib runs what the code gave it
            _complain(f"A figure could not be drawn: {error}")
        most, most_bytes = setup["most_files"], setup["most_file_bytes"]
        files, num_left_out = changed_files(folder, before, most=most, most_bytes=most_bytes)
        for number, figure in enumerate(figures, start=1):
            if len(files) < most and len(figure) <= most_bytes:
                files.append((f"figure-{number}.svg", figure))
            else:
                num_left_out += 1
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            with contextlib.suppress(Exception):
                assert isinstance(stream, io.TextIOBase)
                stream.flush()
        reply: dict[str, Any] = {"exit_code": exit_code, "left_out": num_left_out}
        if value is not None:
            reply["value"] = value[:_MOST_VALUE_CHARACTERS]
            reply["is_value_cut"] = len(value) > _MOST_VALUE_CHARACTERS
        _answer(answers, cell["tag"], reply, files)


def _complain(text: str) -> None:
    print(text, file=sys.__stderr__, flush=True)


def _read(source: BinaryIO) -> dict[str, Any]:
    head = source.read(4)
    if len(head) < 4:
        os._exit(0)
    message: dict[str, Any] = json.loads(source.read(struct.unpack(">I", head)[0]))
    return message


def _answer(answers: int, tag: str, message: dict[str, Any], files: list[tuple[str, bytes]] | None = None) -> None:
    files = files or []
    listed = [[os.fsencode(name).hex(), len(content)] for name, content in files]
    head = json.dumps({"tag": tag, "files": listed, **message}).encode()
    rest = b"".join([struct.pack(">I", len(head)), head, *(content for _, content in files)])
    while rest:
        rest = rest[os.write(answers, rest) :]

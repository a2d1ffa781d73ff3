"""What programs can do: they are ordinary Python, as in a notebook."""

from __future__ import annotations

import platform

import pytest

from deepserve.tools.sandbox.ladder import Sandbox
from deepserve.tools.sandbox.process import CellResult, Process


def run(process: Process, code: str) -> CellResult:
    return process.run(code, timeout_s=30.0)


def test_variables_files_and_imports_stay_from_cell_to_cell(process: Process) -> None:
    run(process, "import math\nfirst = math.sqrt(16)\nopen('kept', 'w').write('here')")
    assert run(process, "first + len(open('kept').read())") == CellResult(stdout="", stderr="", value="8.0")


def test_prints_complaints_and_the_last_value_are_told_apart(process: Process) -> None:
    result = run(process, "import sys\nprint('out')\nprint('err', file=sys.stderr)\n'value'")
    assert (result.stdout, result.stderr, result.value, result.exit_code) == ("out\n", "err\n", "'value'", 0)


@pytest.mark.parametrize("code", ["None", "x = 1", "# nothing", "for x in []: x", "x = 1;"])
def test_without_a_last_value_there_is_none(code: str, process: Process) -> None:
    assert run(process, code) == CellResult(stdout="", stderr="")


def test_what_was_printed_by_other_means_is_there_too(process: Process) -> None:
    result = run(process, "import os\nos.write(1, b'raw\\n')\nos.write(2, b'\\xff\\n')")
    assert (result.stdout, result.stderr) == ("raw\n", "\ufffd\n")


def test_an_exception_shows_the_programs_own_lines_only(process: Process) -> None:
    run(process, "def half(n):\n    return n / 0")
    result = run(process, "x = 1\nhalf(x)")
    # Python's versions underline differently.
    assert [line for line in result.stderr.splitlines() if not set(line) <= set(" ~^")] == [
        "Traceback (most recent call last):",
        '  File "<cell 2>", line 2, in <module>',
        "    half(x)",
        '  File "<cell 1>", line 2, in half',
        "    return n / 0",
        "ZeroDivisionError: division by zero",
    ]
    assert result.exit_code == 1


def test_a_syntax_error_shows_where(process: Process) -> None:
    assert run(process, "1 +").stderr.startswith('  File "<cell 1>", line 1\n    1 +')


@pytest.mark.parametrize(
    ("code", "exit_code", "complaint"),
    [("exit()", 0, ""), ("import sys; sys.exit(3)", 3, ""), ("raise SystemExit('enough')", 1, "enough\n")],
)
def test_exit_ends_the_cell_and_not_the_session(code: str, exit_code: int, complaint: str, process: Process) -> None:
    result = run(process, f"kept = 1\n{code}\nkept = 2")
    assert (result.exit_code, result.stderr, result.stopped_by) == (exit_code, complaint, None)
    assert run(process, "kept").value == "1"


def test_an_exception_that_cannot_be_shown_is_named(process: Process) -> None:
    code = "class Odd(Exception):\n    def __str__(self): raise KeyboardInterrupt\nraise Odd"
    assert "Odd" in run(process, code).stderr
    assert run(process, "1").value == "1"


def test_classes_can_be_pickled_as_in_a_script(process: Process) -> None:
    code = "import pickle\nclass Point: pass\ntype(pickle.loads(pickle.dumps(Point()))).__module__, __name__"
    assert run(process, code).value == "('__main__', '__main__')"


def test_there_is_no_input(process: Process) -> None:
    assert "EOFError" in run(process, "input()").stderr


def test_new_and_changed_files_come_back_once(process: Process) -> None:
    assert run(process, "open('a.csv', 'w').write('1,2')").files == (("a.csv", b"1,2"),)
    assert run(process, "open('a.csv').read()").files == ()
    assert run(process, "open('a.csv', 'a').write('\\n')").files == (("a.csv", b"1,2\n"),)


def test_threads_work(process: Process) -> None:
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(4) as pool: squares = list(pool.map(lambda n: n * n, range(5)))\nsquares"
    )
    assert run(process, code).value == "[0, 1, 4, 9, 16]"


def test_the_standard_library_is_all_there(process: Process) -> None:
    names = (
        "array asyncio base64 bisect bz2 calendar collections copy csv ctypes dataclasses datetime decimal difflib "
        "enum fractions functools gzip hashlib heapq html itertools json logging lzma math operator pathlib random re "
        "sqlite3 statistics string struct tempfile textwrap threading time typing unicodedata unittest uuid xml.etree "
        "zipfile zlib zoneinfo"
    )
    assert run(process, f"import {', '.join(names.split())}").stderr == ""
    code = "import sqlite3, tempfile\nopen(tempfile.mkstemp()[0]).close()\nsqlite3.connect('a.db').execute('select 2')"
    assert run(process, f"{code}.fetchone()").value == "(2,)"


def test_it_is_the_version_of_the_server(process: Process) -> None:
    assert run(process, "import platform; platform.python_version()").value == repr(platform.python_version())


def test_numpy_computes(sandbox: Sandbox, process: Process) -> None:
    _needs(sandbox, "numpy")
    code = "import numpy as np\nfloat(np.linalg.det(np.array([[2.0, 0.0], [0.0, 3.0]])))"
    value = run(process, code).value
    assert value is not None
    assert float(value) == pytest.approx(6.0)


def test_open_figures_come_back_as_svg_and_are_closed(sandbox: Sandbox, process: Process) -> None:
    _needs(sandbox, "matplotlib")
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.figure()\nplt.plot([2, 1])\nplt.show()"
    result = run(process, code)
    assert [name for name, _ in result.files] == ["figure-1.svg", "figure-2.svg"]
    assert all(b"<svg" in content for _, content in result.files)
    assert result.stderr == ""
    assert run(process, "plt.get_fignums()") == CellResult(stdout="", stderr="", value="[]")


def test_fonts_are_searched_for_once_and_not_in_every_session(sandbox: Sandbox) -> None:
    _needs(sandbox, "matplotlib")
    (name,) = sandbox.runtime.font_lists()
    assert name.startswith("fontlist-")


def test_a_figure_can_be_saved_as_a_picture(sandbox: Sandbox, process: Process) -> None:
    _needs(sandbox, "matplotlib")
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.savefig('plot.png')\nplt.close()"
    ((name, content),) = run(process, code).files
    assert name == "plot.png"
    assert content.startswith(b"\x89PNG")


def test_a_figure_that_cannot_be_drawn_is_a_complaint(sandbox: Sandbox, process: Process) -> None:
    _needs(sandbox, "matplotlib")
    result = run(process, "import matplotlib.pyplot as plt\nplt.title('$\\\\nonsense$')\n1")
    assert "A figure could not be drawn" in result.stderr
    assert result.value == "1"
    assert run(process, "plt.get_fignums()").value == "[]"


def _needs(sandbox: Sandbox, package: str) -> None:
    if not any(offered.name == package for offered in sandbox.runtime.offered):
        pytest.skip(f"{package} is not installed")

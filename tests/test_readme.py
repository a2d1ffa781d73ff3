"""Every example of the README runs as printed, against a server with the shipped model."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def examples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_curl_example_prints_an_answer(mini_server: str) -> None:
    (command,) = [block for block in examples("sh") if block.startswith("curl")]
    command = command.replace("http://127.0.0.1:8000", mini_server)
    result = subprocess.run(["bash", "-c", f"{command.strip()} --silent --fail"], capture_output=True, check=True)
    message = json.loads(result.stdout)["choices"][0]["message"]
    assert "small offline model" in message["content"]
    assert message["reasoning_content"]


def test_the_python_example_prints_thinking_and_answer(mini_server: str) -> None:
    (program,) = examples("python")
    printed = io.StringIO()
    names: dict[str, Any] = {}  # Any: whatever the program calls so
    with contextlib.redirect_stdout(printed):
        exec(program.replace("http://127.0.0.1:8000", mini_server), names)
    # Else the garbage collector finds client and socket in a circle, and warns when it takes the socket first.
    names["client"].close()
    assert all(str(number) in printed.getvalue() for number in range(1, 6))


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"make (\w+)", README))
    assert {"serve", "test", "check", "bench"} <= targets
    assert all(f"\n{target}:" in makefile for target in targets)


def test_every_link_of_the_documentation_leads_somewhere() -> None:
    for page in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("training/**/*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_page_is_reached_from_the_readme() -> None:
    index = README.partition("## All pages")[2]
    for page in ROOT.glob("docs/*.md"):
        assert f"(docs/{page.name})" in index, page.name

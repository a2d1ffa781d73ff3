"""A tour of `deepserve chat`, recorded as it really ran: a dozen turns that a new user might try, good and bad.

    python -m training.tour

Runs the command itself in a terminal of its own, once for each shipped model, and writes docs/tour.md. Nothing is
chosen or mended afterwards; figures of speed are those of the machine it ran on.
"""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from training.eval.formats import models_folder

TOUR = Path(__file__).parent.parent / "docs" / "tour.md"

TURNS = (
    "Hello, what can you do?",
    "My name is Tamsin and I live in Odense.",
    "What is prefix caching?",
    "Explain it in three bullets.",
    "What is 17 + 25?",
    "Which is larger: 93 or 39?",
    "Count from 3 to 9.",
    'Return JSON with the keys "city" and "people": The town of Linz has 210000 people.',
    "Is this review positive or negative? The soup was cold and the waiter rude.",
    "Who won the football game last night?",
    "Write a sonnet about the harbour of Split.",
    "What is my name?",
    "你好！",
)

_MODELS = {"mini-flash": "deepseek-v4-flash", "mini-pro": "deepseek-v4-pro"}
_PROMPT = "\r\n> "
_STYLE = re.compile(r"\x1b\[(\d*)m")
_ANY_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
_PATIENCE_S = 120.0

_INTRODUCTION = """# A tour of `deepserve chat`

<!-- Written by `python -m training.tour`. -->

{count} turns of one conversation, as a new user might try them, recorded as they really ran: nothing is chosen or
mended. Lines that begin with `·` are what the model thinks, which the terminal shows dimmed; the line in brackets is
what each answer took, on a machine that had other work, too. [What the models can and cannot do](models.md).
"""


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """One turn as the terminal showed it. shown: pieces of text, each with whether it was dim."""

    asked: str
    shown: tuple[tuple[bool, str], ...]

    @property
    def text(self) -> str:
        """Lines of a thought begin with a dot; the summary, which is dim as well, does not."""
        lines = []
        for is_dim, piece in self.shown:
            for line in piece.strip("\n").split("\n"):
                is_thought = is_dim and not re.fullmatch(r"\[\d+ prompt .*\]", line)
                lines.append(f"· {line}" if is_thought else line)
        return "\n".join(lines)


def pieces(output: str) -> tuple[tuple[bool, str], ...]:
    """What a terminal was sent, as runs of dim and of plain text; other escapes are left out."""
    found: list[tuple[bool, str]] = []
    is_dim = False
    for number, part in enumerate(_STYLE.split(output.replace("\r\n", "\n"))):
        if number % 2:
            is_dim = part == "2"
            continue
        text = _ANY_ESCAPE.sub("", part)
        if found and found[-1][0] == is_dim:
            found[-1] = (is_dim, found[-1][1] + text)
        elif text.strip("\n"):
            found.append((is_dim, text))
        elif found and text:
            found[-1] = (found[-1][0], found[-1][1] + text)
    return tuple((is_dim, text) for is_dim, text in found if text.strip())


def converse(arguments: Sequence[str], turns: Sequence[str]) -> tuple[str, list[Answered]]:
    """Type each turn when the command asks for it. Returns its greeting and what it answered."""
    ours, theirs = pty.openpty()
    # Without line editing, and in the colours that a terminal gets; nobody's own settings.
    environment = {**os.environ, "TERM": "dumb", "DEEPSERVE_CONFIG": os.devnull}
    command = [sys.executable, "-m", "deepserve", "chat", *arguments]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL, env=environment) as process:
        os.close(theirs)
        try:
            greeting = _read_to_prompt(ours)
            answered = []
            for turn in turns:
                os.write(ours, turn.encode() + b"\n")
                output = _read_to_prompt(ours)
                answered.append(Answered(asked=turn, shown=pieces(output.partition("\r\n")[2])))
            os.write(ours, b"\x04")
        finally:
            process.terminate()
            os.close(ours)
    return "".join(text for _, text in pieces(greeting)).strip(), answered


def _read_to_prompt(terminal: int) -> str:
    """What was shown until the next question is asked."""
    found = b""
    while not found.endswith(_PROMPT.encode()):
        ready, _, _ = select.select([terminal], [], [], _PATIENCE_S)
        if not ready:
            raise TimeoutError(f"deepserve chat said nothing for {_PATIENCE_S:.0f} s after {found[-200:]!r}.")
        found += os.read(terminal, 65_536)
    return found.decode().removesuffix(_PROMPT)


def page(sessions: Sequence[tuple[str, str, Sequence[Answered]]]) -> str:
    """The document: the command, its greeting and its turns, for each session."""
    parts = [_INTRODUCTION.format(count=len(TURNS))]
    for command, greeting, answered in sessions:
        shown = "\n\n".join(f"> {one.asked}\n{one.text}" for one in answered)
        parts.append(f"## {command}\n\n````text\n{greeting}\n\n{shown}\n````\n")
    return "\n".join(parts)


def main() -> None:
    """Record every shipped model."""
    sessions = []
    for name, model_id in _MODELS.items():
        if (models_folder() / name / "model.safetensors").exists():
            greeting, answered = converse(["--id", model_id], TURNS)
            sessions.append((f"`deepserve chat --id {model_id}`", greeting, answered))
            print(f"{model_id}: {len(answered)} turns")
    TOUR.write_text(page(sessions), encoding="utf-8")
    print(TOUR)


if __name__ == "__main__":
    main()

"""Learning curves: what a run's log says, as a small SVG picture.

    python -m training.curves --run mini-flash --out curves.svg

Drawn by hand: two lines on two scales need no plotting library, and the file is text that a reviewer can read.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import msgspec

from training.train import RUNS, LogLine

LOG_FILE = "log.jsonl"
CURVES_FILE = "curves.svg"

_MOST_LINES = 200
"""Of a log that ships; a picture shows no more."""

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 40, 44
_COLOURS = ("#1f6fb2", "#c4562a", "#3a8a4d", "#7a4fa3")
_LOSS_MARKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def read_log(path: Path) -> list[LogLine]:
    """A run's log, as `training.train` writes it; a line that was cut off by a crash is left out."""
    found = []
    for line in path.read_bytes().splitlines():
        try:
            found.append(msgspec.json.decode(line, type=LogLine))
        except msgspec.DecodeError:
            continue
    return found


def thinned(log: Sequence[LogLine], most: int = _MOST_LINES) -> list[LogLine]:
    """Evenly chosen lines, the first and the last among them."""
    if len(log) <= most:
        return list(log)
    return [log[round(place * (len(log) - 1) / (most - 1))] for place in range(most)]


def write_log(log: Sequence[LogLine], path: Path) -> None:
    """The same format."""
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in log))


def draw_curves(logs: Mapping[str, Sequence[LogLine]]) -> str:
    """The loss of each run over the tokens it was trained on, logarithmic from top to bottom."""
    points = {name: [(line.num_tokens, line.loss) for line in log if line.loss > 0] for name, log in logs.items()}
    points = {name: found for name, found in points.items() if found}
    if not points:
        raise ValueError("A curve takes at least one line of a log.")
    most_tokens = max(tokens for found in points.values() for tokens, _ in found)
    losses = [loss for found in points.values() for _, loss in found]
    low = max((mark for mark in _LOSS_MARKS if mark <= min(losses)), default=_LOSS_MARKS[0])
    high = min((mark for mark in _LOSS_MARKS if mark >= max(losses)), default=_LOSS_MARKS[-1])
    high = high if high > low else low * 2

    def x(tokens: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * tokens / most_tokens

    def y(loss: float) -> float:
        share = (math.log(min(max(loss, low), high)) - math.log(low)) / (math.log(high) - math.log(low))
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12" role="img" aria-label="Training loss over tokens">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
    ]
    for mark in _LOSS_MARKS:
        if low <= mark <= high:
            parts.append(_line(_LEFT, y(mark), _WIDTH - _RIGHT, y(mark), "#dddddd"))
            parts.append(_text(_LEFT - 8, y(mark) + 4, f"{mark:g}", anchor="end"))
    step = _nice_step(most_tokens)
    for number in range(int(most_tokens / step) + 1):
        at = x(number * step)
        parts.append(_line(at, _HEIGHT - _BOTTOM, at, _HEIGHT - _BOTTOM + 5, "#555555"))
        parts.append(_text(at, _HEIGHT - _BOTTOM + 20, f"{number * step / 1e6:g}", anchor="middle"))
    parts.append(_text(_WIDTH / 2, _HEIGHT - 8, "million tokens", anchor="middle"))
    parts.append(_text(_LEFT - 40, _TOP - 20, "loss"))
    for number, (name, found) in enumerate(points.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{x(tokens):.1f},{y(loss):.1f}" for tokens, loss in found)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(_text(_WIDTH - _RIGHT, _TOP - 20 + 16 * number, name, anchor="end", colour=colour))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _nice_step(most: float) -> float:
    """A round distance that gives four to ten marks."""
    step = float(10 ** math.floor(math.log10(most)))
    for factor in (0.1, 0.2, 0.5, 1.0):
        if most / (step * factor) <= 10:
            return step * factor
    return step


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, words: str, *, anchor: str = "start", colour: str = "#222222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'


def main() -> None:
    """Draw one run, or several in one picture."""
    parser = argparse.ArgumentParser(prog="python -m training.curves", description="Draw the learning curves of runs.")
    parser.add_argument("--run", action="append", required=True, help="a run; may be repeated")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    runs: list[str] = arguments.run
    missing = [name for name in runs if not (RUNS / name / LOG_FILE).exists()]
    if missing:
        parser.error(f"no log of {', '.join(missing)} in {RUNS}")
    arguments.out.write_text(draw_curves({name: read_log(RUNS / name / LOG_FILE) for name in runs}), encoding="utf-8")
    print(arguments.out)


if __name__ == "__main__":
    main()

"""Points in a plane, as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """mark: one character. x: positive, for its axis is logarithmic."""

    mark: str
    x: float
    y: float


def format_scatter(points: Sequence[Point], *, width: int = 60, height: int = 12) -> str:
    """A frame that the points just fill; the ends of both axes say where they are. Points that meet share a place."""
    assert points
    lefts, rights = [math.log(point.x) for point in points], [point.y for point in points]
    grid = [[" "] * width for _ in range(height)]
    for point in points:
        column = _place(math.log(point.x), lefts, width)
        row = height - 1 - _place(point.y, rights, height)
        while grid[row][column] != " ":
            column = (column + 1) % width
        grid[row][column] = point.mark
    top, bottom = f"{max(rights):g}", f"{min(rights):g}"
    margin = max(len(top), len(bottom))
    labels = [top, *[""] * (height - 2), bottom]
    least, most = (f"${edge:g}" for edge in (min(point.x for point in points), max(point.x for point in points)))
    return "\n".join(
        [
            *(f"{label:>{margin}} ┤{''.join(cells)}".rstrip() for label, cells in zip(labels, grid, strict=True)),
            " " * margin + " └" + "─" * width,
            " " * (margin + 2) + least + most.rjust(width - len(least)),
        ]
    )


def _place(value: float, values: Sequence[float], size: int) -> int:
    """From 0 at the least value to the last place at the greatest; in the middle where all are the same."""
    span = max(values) - min(values)
    return size // 2 if span == 0 else round((value - min(values)) / span * (size - 1))

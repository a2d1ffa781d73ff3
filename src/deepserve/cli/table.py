"""Plain text tables."""

from __future__ import annotations

from collections.abc import Sequence


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their content; numbers to the right, the rest to the left. `–` stands for a missing number."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    is_number = [
        bool(rows)
        and all(
            row[column] == "–" or row[column].strip("%").replace(",", "").replace(".", "").isdigit() for row in rows
        )
        for column in range(len(header))
    ]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_number, strict=True)
        )
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), "  ".join("─" * width for width in widths), *(line(row) for row in rows)])

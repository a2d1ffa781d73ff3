"""What the doctor finds: a line for each thing, at once, and whether the server could start."""

from __future__ import annotations

from typing import Final, Literal

import click

Mark = Literal["ok", "--", "warn", "fail"]
"""--: missing, and not needed."""

_COLOURS: Final = {"ok": "green", "--": "blue", "warn": "yellow", "fail": "red"}


class Findings:
    """Printed as they are found. counts: how many of each mark."""

    def __init__(self) -> None:
        self.counts: dict[Mark, int] = {"ok": 0, "--": 0, "warn": 0, "fail": 0}

    def say(self, mark: Mark, what: str, detail: str) -> None:
        """detail: what was found; where that is not good, what to do about it, too."""
        self.counts[mark] += 1
        first, *others = detail.splitlines() or [""]
        click.echo(f"{click.style(f'{mark:<4}', fg=_COLOURS[mark])}  {what:<18} {first}")
        for line in others:
            click.echo(f"{'':<24} {line}")

    @property
    def is_healthy(self) -> bool:
        return not self.counts["fail"]

    def conclude(self) -> None:
        """A last line that sums them up."""
        counts = self.counts
        words = [f"{counts['warn']} to look at"] if counts["warn"] else []
        words += [f"{counts['fail']} that must be put right"] if counts["fail"] else []
        click.echo(f"\n{counts['ok']} fine{''.join(f', {word}' for word in words)}.")

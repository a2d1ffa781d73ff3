"""What a measurement found, and whether it meets its goal: one line each, one table at the end, JSON if wanted.

A shared machine can be slower for a while, and then no figure means anything. So the memory bandwidth is probed beside
every measurement, and a line whose probes fell more than a fifth below the best of the run is not judged.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

LEAST_BANDWIDTH_RATIO = 0.8

Verdict = Literal["pass", "FAIL", "not judged", ""]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One figure. What is only told, not judged, has no goal."""

    what: str
    value: float
    unit: str
    details: str = ""
    goal: float | None = None
    is_ceiling: bool = False
    """The goal is the most allowed, not the least."""
    probes_gb_s: list[float] = []
    """Read bandwidth of one thread while it was measured."""

    @property
    def meets_goal(self) -> bool:
        return self.goal is None or (self.value <= self.goal if self.is_ceiling else self.value >= self.goal)


class Section(msgspec.Struct, kw_only=True):
    """What one module measured."""

    title: str
    notes: list[str] = []
    """Anything to know about the figures; also why something was skipped."""
    lines: list[Line] = []
    probes_gb_s: list[float] = []


class Recorder:
    """Collects a module's lines and says them as they come; `finish` prints the table and gives the exit code."""

    def __init__(self, title: str, *, probe: Callable[[], float] | None = None) -> None:
        self.section = Section(title=title)
        self._probe = probe
        self._since: list[float] = []
        print(f"{title}", file=sys.stderr, flush=True)

    def probe(self) -> None:
        """Measure the bandwidth now, if that can be done; it counts for the lines added next."""
        if self._probe is not None:
            value = self._probe()
            self._since.append(value)
            self.section.probes_gb_s.append(value)

    @property
    def latest_bandwidth(self) -> float:
        """GB/s, of the last probe."""
        return self.section.probes_gb_s[-1]

    def note(self, text: str) -> None:
        self.section.notes.append(text)
        print(f"  {text}", file=sys.stderr, flush=True)

    def add(
        self,
        what: str,
        value: float,
        unit: str,
        *,
        details: str = "",
        at_least: float | None = None,
        at_most: float | None = None,
        keep_probes: bool = False,
    ) -> None:
        """keep_probes: the next line comes from the same measurement."""
        goal = at_least if at_most is None else at_most
        line = Line(
            what=what,
            value=value,
            unit=unit,
            details=details,
            goal=goal,
            is_ceiling=at_most is not None,
            probes_gb_s=self._since,
        )
        self.section.lines.append(line)
        if not keep_probes:
            self._since = []
        print(f"  {what}: {number(value)} {unit}  {details}", file=sys.stderr, flush=True)

    def finish(self) -> int:
        """Print the table, write the JSON that --json asked for, and return the exit code."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--json", type=Path)
        asked, _ = parser.parse_known_args()
        if asked.json is not None:
            asked.json.write_bytes(msgspec.json.format(msgspec.json.encode([self.section]), indent=2) + b"\n")
        else:
            print(table([self.section]))
        return exit_code([self.section])


def judge(line: Line, best_gb_s: float) -> Verdict:
    if line.goal is None:
        return ""
    if line.probes_gb_s and statistics.median(line.probes_gb_s) < LEAST_BANDWIDTH_RATIO * best_gb_s:
        return "not judged"
    return "pass" if line.meets_goal else "FAIL"


def best_bandwidth(sections: Sequence[Section]) -> float:
    return max((probe for section in sections for probe in section.probes_gb_s), default=0.0)


def exit_code(sections: Sequence[Section]) -> int:
    best = best_bandwidth(sections)
    return int(any(judge(line, best) == "FAIL" for section in sections for line in section.lines))


def table(sections: Sequence[Section]) -> str:
    best = best_bandwidth(sections)
    rows: list[str] = []
    for section in sections:
        rows += ["", section.title]
        for line in section.lines:
            goal = "" if line.goal is None else f"{'<=' if line.is_ceiling else '>='} {number(line.goal)}"
            verdict = str(judge(line, best))
            if verdict == "not judged":
                probed = statistics.median(line.probes_gb_s)
                verdict = f"not judged: bandwidth {probed:.1f} of {best:.1f} GB/s"
            value = f"{number(line.value)} {line.unit}"
            rows.append(f"  {line.what:<46} {value:>16}  {goal:<10} {verdict:<10} {line.details}".rstrip())
        rows += [f"  ({note})" for note in section.notes]
    if best:
        rows += ["", f"Read bandwidth of one thread: at best {best:.1f} GB/s."]
    verdicts = [judge(line, best) for section in sections for line in section.lines]
    counts = {verdict: verdicts.count(verdict) for verdict in ("pass", "FAIL", "not judged")}
    rows.append(", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count))
    return "\n".join(rows).strip("\n")


def number(value: float) -> str:
    """Three digits or the whole number."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def load_sections(path: Path) -> list[Section]:
    return msgspec.json.decode(path.read_bytes(), type=list[Section])


def save_sections(path: Path, sections: Sequence[Section]) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(sections), indent=2) + b"\n")

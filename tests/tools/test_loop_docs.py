"""What the page says of rounds and their limits is what the code does."""

from __future__ import annotations

from pathlib import Path

from deepserve.config import ToolLimits

_PAGE = (Path(__file__).parents[2] / "docs" / "server-tools.md").read_text()


def test_the_limits_are_those_of_the_code() -> None:
    limits = ToolLimits()
    for row in (
        f"| rounds of calls | {limits.rounds} |",
        f"| calls | {limits.calls}, of which {limits.parallel_calls} at once |",
        f"| one call | {limits.call_s:g} s |",
        f"| time until the last round | {limits.total_s:g} s |",
        f"| tokens of all rounds | {limits.total_tokens:,} |",
        f"| what the model reads of a result | {limits.result_characters:,} characters |",
        f"kept in memory, {limits.kept_bytes // 1024**2} MiB for a tenant",
    ):
        assert row in _PAGE

"""The page about clusters says what the code does."""

from __future__ import annotations

from pathlib import Path

from deepserve.backends.cluster.course import MAX_CORRECTIONS, Totals
from deepserve.backends.cluster.replica import _MOST_MISSES
from deepserve.backends.cluster.replicas import HEALTH_S, LOAD_FACTOR, SPARE, Replicas
from deepserve.backends.cluster.wires import WIRES

PAGE = (Path(__file__).parents[3] / "docs" / "clusters.md").read_text(encoding="utf-8")


def test_numbers_are_those_of_the_code() -> None:
    assert f"more than {MAX_CORRECTIONS} times" in PAGE
    assert f"more than {LOAD_FACTOR} times\nthe average load is passed over, from {SPARE} answers on" in PAGE
    assert f"Every {HEALTH_S:.0f} seconds" in PAGE
    assert _MOST_MISSES == 3
    assert "three\ntimes in a row" in PAGE


def test_every_kind_has_its_route() -> None:
    for kind, wire in WIRES.items():
        assert f"| `{kind}` | `{wire().ask_path}` with" in PAGE


def test_what_to_watch_is_measured() -> None:
    assert {"corrections", "losses"} <= set(Totals.__struct_fields__)
    told = Replicas([]).gauges()
    for name in ("spills",):
        assert name in told
        assert f"`…_{name}`" in PAGE

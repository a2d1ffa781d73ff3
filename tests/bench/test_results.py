"""When a measurement counts, and what the table says about it."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.results import Line, Recorder, Section, best_bandwidth, exit_code, judge, load_sections, number, table


def line(
    value: float = 2.0, *, goal: float | None = 1.0, is_ceiling: bool = False, probes: tuple[float, ...] = ()
) -> Line:
    return Line(what="decode", value=value, unit="x", goal=goal, is_ceiling=is_ceiling, probes_gb_s=list(probes))


def section(*lines: Line) -> Section:
    probes = [probe for one in lines for probe in one.probes_gb_s]
    return Section(title="a part", lines=list(lines), probes_gb_s=probes)


def test_a_goal_is_the_least_allowed_or_the_most() -> None:
    assert judge(line(1.0, goal=1.0), 0) == "pass"
    assert judge(line(0.9, goal=1.0), 0) == "FAIL"
    assert judge(line(0.9, goal=1.0, is_ceiling=True), 0) == "pass"
    assert judge(line(1.1, goal=1.0, is_ceiling=True), 0) == "FAIL"
    assert judge(line(goal=None), 0) == ""


def test_a_line_is_not_judged_when_the_machine_was_slow_while_it_was_measured() -> None:
    slow = line(0.5, probes=(30.0, 20.0, 20.0))
    assert judge(slow, best_gb_s=30.0) == "not judged"
    assert judge(slow, best_gb_s=24.0) == "FAIL"
    quick = section(line(probes=(30.0,)))
    assert exit_code([section(slow), quick]) == 0
    assert exit_code([section(slow)]) == 0, "30 was seen, so 20 is slow"
    assert exit_code([section(line(0.5, probes=(30.0,))), quick]) == 1


def test_the_best_bandwidth_is_that_of_the_whole_run() -> None:
    assert best_bandwidth([section(line(probes=(10.0,))), section(line(probes=(20.0, 15.0)))]) == 20.0
    assert best_bandwidth([]) == 0.0


def test_probes_count_for_the_line_after_them(capsys: pytest.CaptureFixture[str]) -> None:
    answers = iter([30.0, 31.0, 20.0])
    recorder = Recorder("a part", probe=lambda: next(answers))
    recorder.probe()
    recorder.probe()
    recorder.add("first", 1.0, "x")
    recorder.probe()
    recorder.add("second", 1.0, "x", keep_probes=True)
    recorder.add("third", 1.0, "x")
    assert [one.probes_gb_s for one in recorder.section.lines] == [[30.0, 31.0], [20.0], [20.0]]
    assert capsys.readouterr().out == "", "progress goes to the error stream, the table alone to the output"


def test_the_table_shows_value_goal_and_verdict() -> None:
    printed = table([section(line(4.5, goal=4.0, probes=(30.0,)), line(0.5, probes=(20.0,)))])
    assert "4.5 x  >= 4       pass" in printed
    assert "not judged: bandwidth 20.0 of 30.0 GB/s" in printed
    assert printed.endswith("1 pass, 1 not judged")


def test_json_holds_what_the_table_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    monkeypatch.setattr("sys.argv", ["bench", "--json", str(path)])
    recorder = Recorder("a part", probe=lambda: 30.0)
    recorder.probe()
    recorder.add("decode", 0.5, "x", at_least=1.0)
    assert recorder.finish() == 1
    assert load_sections(path) == [recorder.section]


def test_numbers_have_three_digits_or_are_whole() -> None:
    assert [number(value) for value in (0.1234, 4.5678, 99.96, 12345.6)] == ["0.123", "4.57", "100", "12,346"]

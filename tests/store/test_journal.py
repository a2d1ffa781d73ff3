"""Rows of the ledger that are in files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest

from deepserve.store.journal import Batch, Journal, Unwritten
from tests.store.ledger_rows import row


def batch(*names: str) -> Batch:
    return Batch([row(name) for name in names], "".join(names), Mock(), 0.0)


def rows(*batches: Batch) -> list[Unwritten]:
    return [one for each in batches for one in each.unwritten()]


def only_file(folder: Path) -> Path:
    [path] = folder.glob("ledger-*.journal")
    return path


def test_a_file_is_as_long_as_what_the_database_does_not_have(tmp_path: Path) -> None:
    journal, first, second = Journal(tmp_path), batch("a"), batch("b", "c")
    journal.append([first])
    journal.append([second])
    path = only_file(tmp_path)
    assert path.read_bytes().count(b"\n") == 3
    journal.forget([first])
    assert path.stat().st_size == journal.size_bytes > 0
    journal.forget([second])
    assert path.stat().st_size == journal.size_bytes == 0
    journal.close()
    assert not list(tmp_path.iterdir())


def test_what_is_kept_or_recorded_is_not_written_again(tmp_path: Path) -> None:
    journal, kept, recorded = Journal(tmp_path), batch("a"), batch("b")
    journal.append([kept])
    journal.forget([recorded])
    journal.append([kept, recorded])
    assert only_file(tmp_path).read_bytes().count(b"\n") == 1


def test_what_a_process_leaves_the_next_one_takes_once(tmp_path: Path) -> None:
    journal, found = Journal(tmp_path), list[Unwritten]()
    journal.append([batch("a"), batch("b", "c")])
    journal.close()
    assert Journal(tmp_path).load_left_behind(found.extend) == 3
    assert Journal(tmp_path).load_left_behind(found.extend) == 0
    assert found == rows(batch("a"), batch("b", "c"))
    assert not list(tmp_path.iterdir())


def test_what_could_not_be_written_stays(tmp_path: Path) -> None:
    def fail(_: Sequence[Unwritten]) -> None:
        raise OSError("no")

    journal, found = Journal(tmp_path), list[Unwritten]()
    journal.append([batch("a")])
    journal.close()
    with pytest.raises(OSError, match="no"):
        Journal(tmp_path).load_left_behind(fail)
    assert Journal(tmp_path).load_left_behind(found.extend) == 1
    assert found == rows(batch("a"))


def test_a_file_of_a_living_process_is_left_to_it(tmp_path: Path) -> None:
    living, other, found = Journal(tmp_path), Journal(tmp_path), list[Unwritten]()
    living.append([batch("a")])
    assert other.load_left_behind(found.extend) == 0
    living.close()
    assert other.load_left_behind(found.extend) == 1


def test_a_row_that_comes_after_the_end_has_a_file_of_its_own(tmp_path: Path) -> None:
    """The first file may be another process's by then."""
    journal, early, late = Journal(tmp_path), batch("early"), batch("late")
    journal.append([early])
    journal.close()
    journal.append([late])
    journal.forget([early])
    journal.close()
    found = list[Unwritten]()
    assert Journal(tmp_path).load_left_behind(found.extend) == 2


def test_a_torn_last_line_is_of_an_answer_that_had_not_ended(tmp_path: Path) -> None:
    journal, found = Journal(tmp_path), list[Unwritten]()
    journal.append([batch("a"), batch("b")])
    journal.close()
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    assert Journal(tmp_path).load_left_behind(found.extend) == 1
    assert found == rows(batch("a"))
    assert not list(tmp_path.iterdir())


def test_a_line_that_nobody_writes_is_kept_for_a_person_and_keeps_no_other(tmp_path: Path) -> None:
    journal, found = Journal(tmp_path), list[Unwritten]()
    journal.append([batch("a"), batch("b")])
    journal.close()
    path = only_file(tmp_path)
    path.write_bytes(b"{}\n" + path.read_bytes())
    assert Journal(tmp_path).load_left_behind(found.extend) == 2
    assert found == rows(batch("a"), batch("b"))
    assert [one.name for one in tmp_path.iterdir()] == [path.with_suffix(".damaged").name]


def test_half_a_write_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, first, second = Journal(tmp_path, is_power_safe=False), batch("a"), batch("b")
    journal.append([first])
    path, write = only_file(tmp_path), os.write

    def fill_up(descriptor: int, data: bytes) -> int:
        write(descriptor, data[:100])
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.write", fill_up)
        with pytest.raises(OSError, match="No space"):
            journal.append([second])
    assert second.kept_in is None
    assert path.read_bytes().count(b"\n") == 1
    assert path.read_bytes().endswith(b"\n")
    journal.append([second])
    assert path.read_bytes().count(b"\n") == 2


def test_a_row_that_cannot_be_spelled_is_an_error_and_no_half_line(tmp_path: Path) -> None:
    journal, bad = Journal(tmp_path), Batch([row("a", model="\ud800")], None, Mock(), 0.0)
    with pytest.raises(OSError, match="cannot be spelled"):
        journal.append([batch("good"), bad])
    assert bad.kept_in is None
    assert not list(tmp_path.iterdir())


def test_a_link_is_not_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "elsewhere").write_text("{}\n")
    (tmp_path / "ledger-link.journal").symlink_to(tmp_path / "elsewhere")
    assert Journal(tmp_path).load_left_behind(lambda _: None) == 0
    assert "cannot be read" in caplog.text
    assert (tmp_path / "elsewhere").read_text() == "{}\n"

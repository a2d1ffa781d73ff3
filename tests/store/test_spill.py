"""Rows of the ledger that wait in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from deepserve.store.spill import SpillFile, Unwritten
from tests.store.ledger_rows import row


def waiting(*names: str) -> list[Unwritten]:
    return [Unwritten(row(name), release=f"r{name}") for name in names]


def test_what_is_appended_is_loaded_once(tmp_path: Path) -> None:
    spill, found = SpillFile(tmp_path), list[Unwritten]()
    spill.append(waiting("a"))
    spill.append(waiting("b", "c"))
    assert len(spill) == 3
    assert spill.load(found.extend) == 3
    assert spill.load(found.extend) == 0
    assert found == waiting("a", "b", "c")
    spill.append(waiting("d"))
    assert spill.load(found.extend) == 1
    spill.close()
    assert not list(tmp_path.iterdir())


def test_what_could_not_be_written_stays(tmp_path: Path) -> None:
    def fail(_: Sequence[Unwritten]) -> None:
        raise OSError("no")

    spill, found = SpillFile(tmp_path), list[Unwritten]()
    spill.append(waiting("a"))
    with pytest.raises(OSError, match="no"):
        spill.load(fail)
    assert spill.load(found.extend) == 1
    assert found == waiting("a")


def test_a_file_of_a_living_process_is_left_to_it(tmp_path: Path) -> None:
    living, other, found = SpillFile(tmp_path), SpillFile(tmp_path), list[Unwritten]()
    living.append(waiting("a"))
    assert other.load_left_behind(found.extend) == 0
    living.close()
    assert other.load_left_behind(found.extend) == 1
    assert found == waiting("a")
    assert not list(tmp_path.iterdir())


def test_a_torn_line_is_kept_for_a_person_and_keeps_no_other(tmp_path: Path) -> None:
    spill, found = SpillFile(tmp_path, name="torn"), list[Unwritten]()
    spill.append(waiting("a", "b"))
    spill.close()
    path = tmp_path / "ledger-torn.spill"
    path.write_bytes(path.read_bytes()[:-40])
    assert SpillFile(tmp_path).load_left_behind(found.extend) == 1
    assert found == waiting("a")
    assert [one.name for one in tmp_path.iterdir()] == ["ledger-torn.damaged"]


def test_a_link_is_not_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "elsewhere").write_text("{}\n")
    (tmp_path / "ledger-link.spill").symlink_to(tmp_path / "elsewhere")
    assert SpillFile(tmp_path).load_left_behind(lambda _: None) == 0
    assert "cannot be read" in caplog.text
    assert (tmp_path / "elsewhere").read_text() == "{}\n"

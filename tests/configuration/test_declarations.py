"""Every setting is declared well enough to be read, shown and explained."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from deepserve.config import LIVE, TABLES, Limits, Settings, UpstreamSettings, default_state_dir
from deepserve.configuration.configuration import load_configuration
from deepserve.configuration.declarations import Group, Setting, by_name, descriptions, root, settings_of
from deepserve.configuration.example import example
from deepserve.configuration.places import Place, Places
from deepserve.configuration.quantities import read_seconds, read_size, show_seconds, show_size
from deepserve.configuration.reading import read_configuration
from deepserve.configuration.shown import show_differences, show_settings


def test_every_setting_says_what_it_means() -> None:
    assert [setting.name for setting in settings_of() if not setting.text] == []


def test_every_setting_has_a_place_and_a_variable_of_its_own() -> None:
    for taken in (Counter(setting.place for setting in settings_of()), Counter(one.variable for one in settings_of())):
        assert [name for name, count in taken.items() if count > 1] == []
    assert {name.partition(".")[0] for name in by_name()} == set(Settings.__struct_fields__)


def test_every_table_begins_with_a_setting_that_exists() -> None:
    fields = list(Settings.__struct_fields__)
    starts = [fields.index(table.first) for table in TABLES]
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert {table.name for table in TABLES} <= set(root().members)
    assert {table.name for table in TABLES}.isdisjoint(
        name for name, node in root().members.items() if not isinstance(node, Group)
    )


def test_settings_that_can_change_at_once_exist() -> None:
    tables = {name.partition(".")[0] for name in by_name() if "." in name}
    assert set(by_name()) | tables >= LIVE


def test_defaults_lie_within_their_own_ranges() -> None:
    for setting in settings_of():
        if setting.default not in (None, msgspec.NODEFAULT) and not setting.name.startswith(("upstreams", "search_f")):
            read = msgspec.convert(setting.default, setting.annotation, dec_hook=lambda _kind, value: value)
            assert read == setting.default, setting.name


def test_descriptions_are_read_from_docstrings_with_their_continuations() -> None:
    class Made(msgspec.Struct):
        """First line.

        one    begins here
               and goes on here
        two, three  stand together

        nothing of this, for `four` is not at the beginning
        """

        one: int = 0
        two: int = 0
        three: int = 0
        four: int = 0

    assert descriptions(Made) == {
        "one": "begins here and goes on here",
        "two": "stand together",
        "three": "stand together",
    }
    assert descriptions(Limits)["tools"] == "that a client may offer in one request"


def test_the_example_names_every_setting_and_reads_back_as_the_defaults(tmp_path: Path) -> None:
    text = example()
    for setting in settings_of():
        assert f"{setting.key}" in text, setting.name
    lines = [line.removeprefix("# ").replace("...  # must be given", '"deepseek"') for line in text.splitlines()]
    given = "\n".join(line for line in lines if is_toml(line) and "NAME" not in line)
    read = dict(read_configuration(given, tmp_path / "deepserve.toml").values)
    assert read.pop("upstreams") == (UpstreamSettings(id="deepseek", kind="deepseek"),)
    assert len(read) > 80
    for name, value in read.items():
        assert value == by_name()[name].default, name


def is_toml(line: str) -> bool:
    try:
        return bool(tomllib.loads(line))
    except tomllib.TOMLDecodeError:
        return False


def test_the_example_itself_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "deepserve.toml"
    file.write_text(example())
    assert load_configuration(file=file, environment={}).settings == Settings(state_dir=default_state_dir())


def test_what_is_shown_reads_back_as_the_same_settings(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    file = tmp_path / "deepserve.toml"
    file.write_text(
        f"""
        [server]
        port = 9
        shutdown_grace_s = 0.5
        [storage]
        state_dir = "{tmp_path}/state"
        [upstream]
        upstream = "vllm=http://10.0.0.7/v1"
        [[upstreams]]
        id = "a\\"b\\u007f"
        kind = "deepseek"
        idle_s = 7
        [chains]
        deepseek-v4-pro = ["a\\"b\\u007f"]
        [search_folders]
        "my-notes" = "notes"
        [limits]
        body_bytes = 1000
        """
    )
    first = load_configuration(file=file, environment={"DEEPSERVE_API_KEYS": "sk-secret"})
    for show in (show_settings, show_differences):
        shown = show(first)
        assert "sk-secret" not in shown
        assert "# api_keys: 1  # DEEPSERVE_API_KEYS" in shown
        file.write_text(shown)
        again = load_configuration(file=file, environment={})
        assert again.settings == msgspec.structs.replace(first.settings, api_keys=())
    assert "[server]\nport = 9  # file, line 3\n" in show_differences(first)


def test_passwords_in_addresses_are_not_shown(tmp_path: Path) -> None:
    found = load_configuration(environment={"DEEPSERVE_DATABASE": "postgresql://me:secret@h/db"}, directory=tmp_path)
    assert 'database = "postgresql://me:…@h/db"  # DEEPSERVE_DATABASE' in show_differences(found)


def test_nothing_is_shown_as_different_when_nothing_is(tmp_path: Path) -> None:
    assert show_differences(load_configuration(environment={}, directory=tmp_path)) == ""


@pytest.mark.parametrize("size", [0, 1, 1000, 1024, 1536, 1 << 20, 5 << 30, (1 << 40) + 1])
def test_sizes_read_back(size: int) -> None:
    assert read_size(show_size(size)) == size


@pytest.mark.parametrize("seconds", [0.0, 0.25, 1.0, 59.0, 60.0, 90.0, 3600.0, 86_400.0, 1e6 + 0.5])
def test_times_read_back(seconds: float) -> None:
    assert read_seconds(show_seconds(seconds)) == seconds


def test_what_is_no_size_and_no_time_is_none() -> None:
    assert [read_size(text) for text in ("", "g", "-1", "1e3", "1 2", "5x", "5ms")] == [None] * 7
    assert [read_seconds(text) for text in ("", "d", "-1s", "nan", "inf", "5x", "5mb")] == [None] * 7
    assert (read_size("1.5k"), read_size("8 GiB"), read_seconds("250ms"), read_seconds("1.5 h")) == (
        1536,
        8 << 30,
        0.25,
        5400.0,
    )


def test_keys_are_found_wherever_toml_lets_them_stand() -> None:
    places = Places(
        "\n".join(
            [
                "a = 1 # [not.a.table]",
                'b.c = """',
                'd = 2"""',
                "  [x.'y.z']  # c",
                "k = [ 1, # one",
                ' { in = "}" , more = [[2]] } ]',
                "[[list]]",
                "v = '''",
                "[no]'''",
                "[[list]]",
                "v = 1979-05-27T07:32:00Z",
                "[list.under]",
                '"quoted" = "\\"#"',
            ]
        )
    )
    assert places.of[("a",)] == Place(1, 1)
    assert places.of[("b", "c")] == Place(2, 1)
    assert ("d",) not in places.of
    assert places.of[("x", "y.z")] == Place(4, 3)
    assert places.of[("x", "y.z", "k")] == Place(5, 1)
    assert places.of[("x", "y.z", "k", 0)] == Place(5, 7)
    assert places.of[("x", "y.z", "k", 1, "more", 0, 0)] == Place(6, 24)
    assert places.of[("list", 0, "v")] == Place(8, 1)
    assert places.of[("list", 1, "v")] == Place(11, 1)
    assert places.of[("list", 1, "under", "quoted")] == Place(13, 1)
    assert ("no",) not in places.of
    assert places.nearest(("a", "nothing", "here")) == Place(1, 1)
    assert places.repeated == []


def test_a_new_setting_needs_no_second_place() -> None:
    """Whatever kind it is, the tree finds it: plain ones in their neighbours' table, others under their own name."""
    assert by_name()["runs_code"].place == ("tools", "runs_code")
    assert by_name()["limits.tools"].place == ("limits", "tools")
    assert by_name()["chains"].place == ("chains",)
    assert isinstance(root().members["fleet"], Group)
    assert isinstance(by_name()["database_limits.wait_s"], Setting)

"""The command line: what it prints and how it fails."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from deepserve.cli import _COMMANDS, main
from deepserve.cli.settings import parse_size, parse_weights, settings_from, storage_options
from deepserve.cli.table import format_table
from deepserve.config import Settings, WeightFormats
from deepserve.engine.native.shared_library import find_library


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_help_names_every_command_and_the_first_minute() -> None:
    code, output = run("--help")
    assert code == 0
    assert all(name in output for name in _COMMANDS)
    assert "http://127.0.0.1:8000" in output


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_has_help_without_any_set_up(name: str) -> None:
    code, output = run(name, "--help")
    assert code == 0
    assert "Usage:" in output


def test_keys_are_created_listed_and_revoked(tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path))
    _, output = run("keys", "create", "alice", *state)
    key = output.split()[0]
    _, listed = run("keys", "list", *state)
    assert key not in listed
    assert key[:12] in listed
    assert run("keys", "revoke", key[:12], *state)[0] == 0
    assert "revoked" in run("keys", "list", "--all", *state)[1]


def test_revoking_an_unknown_key_says_where_to_look(tmp_path: Path) -> None:
    code, output = run("keys", "revoke", "sk-ds-nothing", "--state-dir", str(tmp_path))
    assert code == 1
    assert "deepserve keys list" in output


def test_usage_of_a_fresh_state_directory_says_so(tmp_path: Path) -> None:
    assert run("usage", "--state-dir", str(tmp_path)) == (0, "Nothing has been answered yet.\n")


def test_models_tells_what_the_scripted_backend_is() -> None:
    code, output = run("models", "--backend", "scripted")
    assert code == 0
    assert "deepseek-v4-flash" in output
    assert "scripted" in output


def test_doctor_is_content_with_the_scripted_backend(tmp_path: Path) -> None:
    code, output = run("doctor", "--backend", "scripted", "--state-dir", str(tmp_path / "new"))
    assert code == 0, output
    assert "will be created" in output


def test_doctor_says_which_tools_models_could_use_and_why_not_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    code, output = run("doctor", "--backend", "scripted", "--state-dir", str(tmp_path / "new"))
    assert code == 0, output
    for kind in ("web_search", "web_fetch", "code_interpreter"):
        assert f"--    {kind:<18} not offered: " in output
    code, output = run(
        "doctor", "--backend", "scripted", "--state-dir", str(tmp_path / "new"), "--search-folder", str(folder)
    )
    assert code == 0, output
    assert "ok    web_search         asks folders" in output
    assert "ok    web_fetch          reads documents" in output
    code, output = run("doctor", "--backend", "scripted", "--search", "searxng", "--state-dir", str(tmp_path / "new"))
    assert code == 1, output
    assert "--search-url" in output


def test_doctor_fails_when_the_state_directory_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "deepserve.db"
    path.mkdir()
    code, output = run("doctor", "--backend", "scripted", "--state-dir", str(tmp_path))
    assert code == 1, output


def test_doctor_without_the_native_core_says_what_that_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepserve.cli.machine_checks.find_library", lambda: None)
    code, output = run("doctor", "--backend", "scripted", "--state-dir", str(tmp_path / "new"))
    assert code == 0, output
    assert "reference engine only. Install a C++17 compiler" in output


def test_serve_says_so_when_it_has_only_the_reference_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("deepserve.cli.serve.find_library", lambda: None)
    monkeypatch.setattr("deepserve.cli.serve.select_backend", lambda settings, progress, **options: None)
    monkeypatch.setattr("deepserve.cli.serve.run_server", lambda *arguments, **options: None)

    def said(*arguments: str) -> str:
        return run("serve", "--state-dir", str(tmp_path), *arguments)[1]

    assert "Reference engine only" in said()
    assert "Reference engine only" not in said("--engine", "reference")
    assert "Reference engine only" not in said("--backend", "scripted")


@pytest.mark.skipif(find_library() is None, reason="this installation has no native core")
def test_doctor_says_how_fast_the_native_engine_is_here(tmp_path: Path) -> None:
    code, output = run("doctor", "--engine", "native", "--isa", "generic", "--state-dir", str(tmp_path / "new"))
    assert code == 0, output
    said = {line[6:24].strip(): line[25:] for line in output.splitlines()}
    assert "generic" in said["native core"]
    assert "GB/s with 1 thread" in said["reading memory"]
    assert said["engine"].startswith("native on cpu (generic)")
    assert re.fullmatch(r"at most [\d,]+ tokens/s with 1 thread, .*", said["to expect"])
    assert re.fullmatch(r"[\d,.]+ tokens/s, .*", said["measured"])


def test_doctor_fails_when_the_native_core_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "_core.so").write_bytes(b"not a library")
    monkeypatch.setenv("DEEPSERVE_CORE", str(tmp_path / "_core.so"))
    code, output = run("doctor", "--state-dir", str(tmp_path / "new"))
    assert code == 1, output
    assert "cannot be loaded" in output


def test_an_unknown_command_is_refused() -> None:
    assert run("sreve")[0] == 2


@pytest.mark.parametrize(("text", "size"), [("512m", 512 << 20), ("1g", 1 << 30), ("8 GiB", 8 << 30), ("100", 100)])
def test_sizes_are_read_in_the_usual_spellings(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "g", "-1g", "many", "0"])
def test_what_is_not_a_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match="512m"):
        parse_size(text)


def test_the_disk_cache_can_be_bounded_or_switched_off() -> None:
    @click.command()
    @storage_options
    def command(disk_cache_bytes: int | None, **_: object) -> None:
        click.echo(repr(disk_cache_bytes))

    def value(*arguments: str) -> str:
        return CliRunner().invoke(command, arguments).output.strip()

    assert [value(), value("--disk-cache", "0"), value("--disk-cache", "2g")] == ["None", "0", str(2 << 30)]
    assert "[default: 4g]" in CliRunner().invoke(command, ["--help"]).output
    assert Settings().disk_cache_bytes == 4 << 30


@pytest.mark.parametrize(
    ("text", "formats"),
    [
        ("auto", WeightFormats()),
        ("int8", WeightFormats(dense="int8", experts="int8", head="int8")),
        ("dense=int8, experts=fp4-exact", WeightFormats(dense="int8", experts="fp4-exact")),
    ],
)
def test_weight_formats_are_given_for_all_or_by_part(text: str, formats: WeightFormats) -> None:
    assert parse_weights(text) == formats


@pytest.mark.parametrize(
    "text", ["", "int4", "tail=int8", "=int8", "dense=", "dense=int8,dense=bf16", "int8,head=bf16"]
)
def test_weight_formats_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_weights(text)


def test_tables_align_words_left_and_numbers_right() -> None:
    table = format_table(("name", "tokens"), [("a", "1,000"), ("long name", "7")])
    assert table.splitlines() == ["name       tokens", "─────────  ──────", "a           1,000", "long name       7"]


def test_days_of_keeping_responses_become_seconds() -> None:
    def keep(*arguments: str) -> Settings:
        command = click.command()(storage_options(lambda **options: settings_from(**options)))
        settings = command.main(list(arguments), standalone_mode=False)
        assert isinstance(settings, Settings)
        return settings

    assert keep().kept_responses_s == 30 * 86_400
    assert keep("--keep-responses", "0.5").kept_responses_s == 43_200
    assert keep("--keep-responses", "0").kept_responses_s == 0
    assert keep("--keep-responses", "12h").kept_responses_s == 43_200
    with pytest.raises(click.BadParameter, match="for example 7 or"):
        keep("--keep-responses", "-1")

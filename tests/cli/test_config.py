"""`deepserve config`, and how the other commands read the same file."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from deepserve.backends.backend import Backend
from deepserve.cli import main
from deepserve.cli import serve as serve_module
from deepserve.config import Settings
from deepserve.configuration.declarations import by_name
from deepserve.configuration.example import example
from deepserve.core.errors import ConfigurationError


def run(*arguments: str, **environment: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments, env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def file_with(folder: Path, text: str) -> str:
    file = folder / "deepserve.toml"
    file.write_text(text)
    return str(file)


def test_check_prints_what_differs_from_the_defaults(tmp_path: Path) -> None:
    file = file_with(tmp_path, "[server]\nport = 9000\nhost = '127.0.0.1'\n")
    code, output = run("config", "check", file)
    assert code == 0
    assert f"Read {file}: nothing is wrong with it." in output
    assert "[server]\nport = 9000  # file, line 2\n" in output
    assert "host" not in output
    assert "Every setting has its default." in run("config", "check", file_with(tmp_path, ""))[1]


def test_check_fails_with_file_line_column_and_the_nearest_name(tmp_path: Path) -> None:
    file = file_with(tmp_path, "[limits]\n\n  conections = 5\n")
    for arguments in (("check", file), ("check", "--config", file), ("show", "--config", file)):
        code, output = run("config", *arguments)
        assert code == 1
        assert f"Error: {file}, line 3, column 3: `conections` is not known in [limits]; did you mean `con" in output


def test_check_reads_the_file_that_serve_would_read(tmp_path: Path) -> None:
    file = file_with(tmp_path, "[server]\nport = 9000\n")
    assert "port = 9000" in run("config", "check", DEEPSERVE_CONFIG=file)[1]
    code, output = run("config", "check", DEEPSERVE_CONFIG=str(tmp_path / "missing"))
    assert (code, "There is no configuration file" in output) == (1, True)


def test_check_reads_the_files_that_the_file_names(tmp_path: Path) -> None:
    (tmp_path / "mcp.toml").write_text("[servers.a]\ncommnad = ['x']\n")
    code, output = run("config", "check", file_with(tmp_path, "[tools]\nmcp_config = 'mcp.toml'\n"))
    assert (code, str(tmp_path / "mcp.toml") in output) == (1, True)


def test_commands_that_answer_here_leave_the_files_of_a_server_alone(tmp_path: Path) -> None:
    file = file_with(tmp_path, f"[model]\nbackend = 'scripted'\n[storage]\nstate_dir = '{tmp_path / 'kept'}'\n")
    for arguments in (("chat", "hello"), ("models",)):
        code, output = run(*arguments, "--config", file)
        assert code == 0, output
    assert not (tmp_path / "kept").exists()


def test_show_says_where_each_setting_comes_from(tmp_path: Path) -> None:
    file = file_with(tmp_path, "[server]\nport = 9000\n[limits]\ntools = 3\n")
    arguments = ("config", "show", "--config", file, "--host", "127.0.0.9")
    code, output = run(*arguments, DEEPSERVE_LIMITS_MESSAGES="4")
    assert code == 0
    for line in (
        'host = "127.0.0.9"  # flag',
        "port = 9000  # file, line 2",
        "tools = 3  # file, line 4",
        "messages = 4  # DEEPSERVE_LIMITS_MESSAGES",
        'keep_alive_s = "10s"  # default',
    ):
        assert f"\n{line}\n" in output
    toml = output.partition("\n")[2]
    assert tomllib.loads(toml)["limits"]["tools"] == 3


def test_the_example_is_printed_as_it_is() -> None:
    assert run("config", "example") == (0, example())


def test_a_key_in_a_variable_is_counted_and_not_shown(tmp_path: Path) -> None:
    code, output = run("config", "show", "--config", file_with(tmp_path, ""), DEEPSERVE_API_KEYS="sk-secret")
    assert code == 0
    assert "sk-secret" not in output
    assert "# api_keys: 1  # DEEPSERVE_API_KEYS" in output


def settings_of(monkeypatch: pytest.MonkeyPatch, *arguments: str, **environment: str) -> tuple[Settings | None, str]:
    """What `serve` makes of its options before it starts anything."""
    seen: list[Settings] = []

    def select(settings: Settings, *_: object, **__: object) -> Backend:
        seen.append(settings)
        raise ConfigurationError("far enough")

    monkeypatch.setattr(serve_module, "select_backend", select)
    output = run("serve", *arguments, **environment)[1]
    return (seen[0] if seen else None), output


def test_serve_takes_flags_before_variables_before_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = f"[server]\nport = 1\nkeep_alive_s = 1\n[storage]\nstate_dir = '{tmp_path}'\n[tools]\nfetch_pages = true\n"
    arguments = ("--config", file_with(tmp_path, text), "--port", "3", "--no-fetch")
    settings, output = settings_of(monkeypatch, *arguments, DEEPSERVE_PORT="2", DEEPSERVE_KEEP_ALIVE_S="2")
    assert settings is not None, output
    assert (settings.port, settings.keep_alive_s, settings.state_dir) == (3, 2.0, tmp_path)
    assert settings.fetch_pages is False


def test_serve_does_not_start_with_a_faulty_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings, output = settings_of(monkeypatch, "--config", file_with(tmp_path, "[server]\nport = 'x'\n"))
    assert settings is None
    assert 'line 2, column 1: `port` is "x"; it must be a whole number from 0 to 65535.' in output


def test_a_wrong_flag_is_refused_in_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, output = settings_of(monkeypatch, "--port", "70000")
    assert settings is None
    assert "'--port': it is 70000; it must be a whole number from 0 to 65535." in output


def test_other_commands_look_where_the_same_file_says(tmp_path: Path) -> None:
    file = file_with(tmp_path, f"[storage]\nstate_dir = '{tmp_path / 'kept'}'\n")
    assert run("keys", "create", "alice", "--config", file)[0] == 0
    assert (tmp_path / "kept" / "deepserve.db").exists()
    assert "alice" in run("keys", "list", DEEPSERVE_CONFIG=file)[1]
    assert "alice" in run("keys", "list", DEEPSERVE_STATE_DIR=str(tmp_path / "kept"))[1]


def test_every_option_of_serve_is_a_setting_and_its_default_is_the_declared_one() -> None:
    names = {parameter.name for parameter in serve_module.serve.params} - {"config", "help"}
    assert names <= {name.partition(".")[0] for name in by_name()}
    assert "# flag" not in run("config", "show", DEEPSERVE_CONFIG="")[1]
    output = " ".join(run("serve", "--help")[1].split())
    for said in ("[default: 8000]", "[default: 127.0.0.1]", "[default: 1g]", "[default: 30d]", "[default: signs]"):
        assert said in output


def test_help_shows_options_in_groups() -> None:
    lines = run("serve", "--help")[1].splitlines()
    headings = [line for line in lines if line and not line.startswith((" ", "Usage"))]
    assert headings[0] == "Where it listens, and for whom:"
    assert headings[-1] == "Other options:"
    assert len(headings) >= 8

"""The file that names MCP servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepserve.core.errors import ConfigurationError
from deepserve.tools.mcp.mcp_config import McpServerConfig, read_mcp_config


def test_servers_are_programs_or_addresses(tmp_path: Path) -> None:
    (tmp_path / "mcp.toml").write_text(
        '[servers.a]\ncommand = ["prog", "x"]\nenvironment = ["T"]\nalways = true\n'
        '[servers.b]\nurl = "https://b.example/mcp"\ntoken_variable = "B"\ntools = ["one"]\ncall_s = 5\n'
    )
    assert read_mcp_config(tmp_path / "mcp.toml") == {
        "a": McpServerConfig(command=("prog", "x"), environment=("T",), always=True),
        "b": McpServerConfig(url="https://b.example/mcp", token_variable="B", tools=("one",), call_s=5.0),
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[servers.a]\n", "either a command or a url"),
        ('[servers.a]\ncommand = ["x"]\nurl = "https://x"\n', "either a command or a url"),
        ('[servers.a]\nurl = "https://x"\nenvironment = ["X"]\n', "environment"),
        ('[servers.a]\ncommand = ["x"]\ntoken_variable = "X"\n', "token_variable"),
        ('[servers."a b"]\ncommand = ["x"]\n', "name"),
        ('[servers."a__b"]\ncommand = ["x"]\n', "name"),
        ('[servers.a]\ncommand = "x"\n', "array"),
        ('[servers.a]\ncommand = ["x"]\nsecret = "x"\n', "secret"),
        ('[servers.a]\ncommand = ["x"]\nstart_s = 0\n', "start_s"),
        ('[servers.a]\ncommand = ["x"]\ncall_s = inf\n', "call_s"),
        ('[servers.a]\ncommand = ["x"]\ncall_s = nan\n', "call_s"),
        ("other = 1\n", "other"),
        ("", "servers"),
        ("[[[", "mcp.toml"),
        ("".join(f'[servers.s{number}]\ncommand = ["x"]\n' for number in range(33)), "more than 32"),
    ],
)
def test_what_is_wrong_in_it_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mcp.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        read_mcp_config(tmp_path / "mcp.toml")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nothing"):
        read_mcp_config(tmp_path / "nothing.toml")
    (tmp_path / "mcp.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"mcp\.toml"):
        read_mcp_config(tmp_path / "mcp.toml")

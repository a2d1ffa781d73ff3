"""A configuration file: what is taken from it, and what is refused, with the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepserve.config import Settings, UpstreamSettings
from deepserve.configuration.configuration import Configuration, load_configuration
from deepserve.core.errors import ConfigurationError


def load(folder: Path, text: str, **environment: str) -> Configuration:
    file = folder / "deepserve.toml"
    file.write_text(text, encoding="utf-8")
    return load_configuration(file=file, environment=environment, directory=folder / "nowhere")


def settings(folder: Path, text: str) -> Settings:
    return load(folder, text).settings


def refused(folder: Path, text: str) -> str:
    """What is said about it, without the path."""
    with pytest.raises(ConfigurationError) as caught:
        load(folder, text)
    return caught.value.message.replace(str(folder / "deepserve.toml"), "FILE")


def test_settings_stand_in_tables_under_their_own_names(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        """
        [server]
        port = 9000
        [model]
        backend = "scripted"
        [limits]
        connections = 5
        [weights]
        experts = "fp4"
        """,
    )
    assert (found.port, found.backend, found.limits.connections) == (9000, "scripted", 5)
    assert found.weights.experts == "fp4"
    assert found.limits.messages == Settings().limits.messages


def test_upstreams_and_chains_are_tables_of_the_operators_names(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-something")
    found = settings(
        tmp_path,
        """
        [[upstreams]]
        id = "first"
        kind = "deepseek"
        key_file = "key"

        [[upstreams]]
        id = "own"
        kind = "vllm"
        address = "http://10.0.0.7:8000/v1"
        idle_s = "2m"
        is_self_hosted = true
        models = { deepseek-v4-flash = "my-flash" }

        [chains]
        deepseek-v4-flash = ["own", "first"]
        """,
    )
    assert found.upstreams == (
        UpstreamSettings(id="first", kind="deepseek", key_file=tmp_path / "key"),
        UpstreamSettings(
            id="own",
            kind="vllm",
            address="http://10.0.0.7:8000/v1",
            idle_s=120.0,
            is_self_hosted=True,
            models={"deepseek-v4-flash": "my-flash"},
        ),
    )
    assert found.chains == {"deepseek-v4-flash": ("own", "first")}
    assert found.backend == "upstream"


def test_sizes_and_times_may_have_units(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        '[model]\ncache_bytes = "8g"\n[storage]\nkept_turns_s = "2d"\nreplay_s = 30\n'
        '[tasks]\nmax_bytes_per_tenant = "1m"',
    )
    assert (found.cache_bytes, found.kept_turns_s, found.replay_s) == (8 << 30, 172_800.0, 30.0)
    assert found.tasks.max_bytes_per_tenant == 1 << 20


def test_paths_begin_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text("")
    found = settings(tmp_path, '[answers]\nprices_file = "prices.toml"\n[model]\npacked_dir = "/somewhere"\n')
    assert found.prices_file == tmp_path / "prices.toml"
    assert found.packed_dir == Path("/somewhere")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nprot = 1", "FILE, line 2, column 1: `prot` is not known in [server]; did you mean `port`?"),
        ("port = 1", "FILE, line 1, column 1: `port` is not known here; it belongs into [server]."),
        ("[limits]\nport = 1", "FILE, line 2, column 1: `port` is not known in [limits]; it belongs into [server]."),
        ("[limmits]\nmessages = 1", "FILE, line 1, column 1: `limmits` is not known here; did you mean `limits`?"),
        ("[server]\nlimits.tools = 1", "FILE, line 2, column 1: `limits` is not known in [server]"),
        ("[server]\n\n  port = 70000", "line 3, column 3: `port` is 70000; it must be a whole number from 0 to 65535."),
        ("[server]\nport = 1.5", "`port` is 1.5; it must be a whole number from 0 to 65535."),
        ("[server]\nport = true", "`port` is true; it must be a whole number"),
        ('[server]\nport = "80"', '`port` is "80"; it must be a whole number'),
        ("[server]\nhost = 1", "`host` is 1; it must be a text in quotes."),
        ("[server]\nkeep_alive_s = nan", "`keep_alive_s` is nan; it must be a time"),
        ("[server]\nkeep_alive_s = inf", "`keep_alive_s` is inf; it must be a time"),
        ('[server]\nkeep_alive_s = "soon"', '`keep_alive_s` is "soon"; it must be a time such as 30, "10m" or "7d"'),
        ("[server]\nkeep_alive_s = 0", "`keep_alive_s` is 0; it must be a time such as 30, "),
        ('[model]\ncache_bytes = "lots"', '`cache_bytes` is "lots"; it must be a size such as 1048576 or "64m"'),
        ('[model]\nengine = "fast"', 'it must be one of "auto", "native", "reference".'),
        ("[answers]\nis_strict = 1", "`is_strict` is 1; it must be true or false."),
        ('[answers]\nprices_file = "none.toml"', "which is not there."),
        ('[tools]\nfetch_sites = ["a.example",\n 5]', "FILE, line 3, column 2: `fetch_sites` is"),
        ("server = 5", "FILE, line 1, column 1: `server` is a single value; it must be a table: [server]."),
        ("[[limits]]\ntools = 1", "`limits` is a list of tables; it must be a table: [limits]."),
        ("[upstreams]\nid = 1", "`upstreams` must be written as tables, each with the head [[upstreams]]."),
        ('[[upstreams]]\nid = "a"', "FILE, line 1, column 1: `kind` is missing in this [[upstreams]]"),
        (
            '[[upstreams]]\nid = "a"\nkind = "deepseek"\n[[upstreams]]\nkidn = "x"',
            "line 5, column 1: `kidn` is not known",
        ),
        ("[server]\nport = 1\nport = 2", "FILE, line 3, column 1: `server.port` is given twice."),
        ("[server]\nport = 1\n[server]\nhost = 'a'", "FILE, line 3, column 1: `server` is given twice."),
        ("[server]\nhost = localhost", "line 2, column 8: This is not TOML: invalid value. Texts stand in quotes."),
        ("[server\nport = 1", "line 1, column 8: This is not TOML"),
        ("[server]\nport = [1,", "This is not TOML"),
        (
            '[[upstreams]]\nid = "a"\nkind = "deepsek"',
            "line 3, column 1: 'deepsek' is no kind of upstream; did you mean",
        ),
        ('[[upstreams]]\nid = "a"\nkind = "vllm"', "line 1, column 1: 'a' needs an `address`"),
        ('[[upstreams]]\nid = "embedded"\nkind = "deepseek"', "line 2, column 1: Our own engine has the id and the"),
        (
            '[[upstreams]]\nid = "a"\nkind = "deepseek"\n[[upstreams]]\nid = "a"\nkind = "oxen"',
            "line 5, column 1: Two upstreams have the id 'a'.",
        ),
        (
            '[[upstreams]]\nid = "first"\nkind = "deepseek"\n[chains]\ndeepseek-v4-pro = ["embedded",\n  "frist"]',
            "FILE, line 6, column 3: 'frist' is no upstream; did you mean 'first'?",
        ),
        ('[chains]\ndeepseek-v4-por = ["embedded"]', "line 2, column 1: 'deepseek-v4-por' is no model of this server"),
        ('[upstream]\nupstream = "depseek"', "line 2, column 1: 'depseek' is no upstream that is known: deepseek, "),
        ("[chains]\ndeepseek-v4-pro = []", "line 2, column 1: The chain of deepseek-v4-pro is empty"),
        ('[chains]\ndeepseek-v4-pro = ["embedded", "embedded"]', "names 'embedded' twice"),
        ("[server]\nport = 8080\nrunware_port = 8080", "line 3, column 1: `runware_port` is 8080, as `port` is"),
        (
            '[model]\nbackend = "scripted"\n[upstream]\nupstream = "deepseek"',
            "line 2, column 1: `upstream` and `backend`",
        ),
        ('[model]\nbackend = "upstream"', "line 2, column 1: `backend` is upstream, but none is named"),
        ('[upstream_models]\ndeepseek-v4-pro = "x"', "line 1, column 1: `upstream_models` says something about"),
        (
            '[outgoing]\noutgoing_allowed = ["10.1.0.0/16",\n "x"]',
            "line 3, column 2: 'x' is neither a host with a port",
        ),
        ('[tools]\nfetch_allowed = ["x"]', "line 2, column 18: 'x' is neither a host with a port"),
        ('[tools]\nfetch_sites = ["a b"]', "line 2, column 1: "),
        ('[search_folders]\n"My Notes" = "."', "line 2, column 1: 'My Notes' is not a name for a folder"),
        ('[storage]\ndatabase = "mysql://h/db"', "line 2, column 1: `database` is the address of a PostgreSQL server"),
        ('[answers]\nprices_file = "deepserve.toml"', "line 2, column 1: "),
        (
            '[[upstreams]]\nid = "a"\nkind = "vllm"\naddress = "10.0.0.7"',
            "line 4, column 1: `address` is not one that can be called",
        ),
        ('[tools]\nsearch_service = "searxng"', "line 2, column 1: SearXNG has no address of its own"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path, text)


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    lines = refused(tmp_path, "[limits]\ntools = -1\n[server]\nprot = 1\nport = 'x'").splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "FILE, line 2, column 1",
        "FILE, line 4, column 1",
        "FILE, line 5, column 1",
    ]
    many = "[server]\n" + "\n".join(f"x{number} = 1" for number in range(30))
    assert refused(tmp_path, many).splitlines()[-1] == "And 10 more."


@pytest.mark.parametrize(
    "text",
    [
        '[server]\napi_keys = ["sk-very-secret"]',
        '[upstream]\nupstream_key = "sk-very-secret"',
        '[[upstreams]]\nid = "a"\nkind = "deepseek"\nkey = "sk-very-secret"',
        '[storage]\ndatabase = "postgresql://me:very-secret@host/db"',
        '[tools]\nfetch_sites = ["https://me:very-secret@host/"]',
    ],
)
def test_secrets_are_refused_with_the_reason_and_not_repeated(tmp_path: Path, text: str) -> None:
    said = refused(tmp_path, text)
    assert "secrets are never written into this file" in said
    assert "very-secret" not in said


def test_a_key_in_place_of_the_name_of_a_variable_is_not_repeated(tmp_path: Path) -> None:
    said = refused(tmp_path, '[[upstreams]]\nid = "a"\nkind = "deepseek"\nkey_variable = "sk-very-secret"')
    assert "line 4, column 1: `key_variable` is something else; it must be a name of letters, digits and _." in said
    assert "very-secret" not in said


def test_a_database_without_a_password_may_stand_in_the_file(tmp_path: Path) -> None:
    assert settings(tmp_path, '[storage]\ndatabase = "postgresql://me@host/db"').database == "postgresql://me@host/db"


def test_keys_come_from_a_file_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# ours\nsk-one  # Alice\n\nsk-two\nsk-one\n")
    assert settings(tmp_path, '[server]\napi_keys_file = "keys"').api_keys == ("sk-one", "sk-two")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("# nothing\n", "holds none, so everybody could come in"),
        ("sk-one\nsk two\n", "line 2, column 1: This is no key"),
    ],
)
def test_a_file_of_keys_without_a_key_lets_nobody_in_by_accident(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "keys").write_text(content)
    assert said in refused(tmp_path, '[server]\napi_keys_file = "keys"')


def test_files_that_cannot_be_read_are_said_in_words(tmp_path: Path) -> None:
    file = tmp_path / "deepserve.toml"
    cases: list[tuple[bytes, str]] = [
        (b"[server]\n\nhost = '\xff'", "line 3, column 1: This is not UTF-8."),
        (b"#" * (1024 * 1024 + 1), "has more than 1,048,576 bytes"),
        (b"a = " + b"[" * 20_000, "nested too deeply"),
    ]
    for content, said in cases:
        file.write_bytes(content)
        with pytest.raises(ConfigurationError, match=said):
            load_configuration(file=file, environment={})
    with pytest.raises(ConfigurationError, match="There is no configuration file"):
        load_configuration(file=tmp_path / "missing.toml", environment={})
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_configuration(file=tmp_path, environment={})


def test_windows_line_ends_and_byte_order_marks_change_nothing(tmp_path: Path) -> None:
    file = tmp_path / "deepserve.toml"
    file.write_bytes("\ufeff[server]\r\nport = 9\r\nprot = 1\r\n".encode())
    with pytest.raises(ConfigurationError, match="line 3, column 1: `prot`"):
        load_configuration(file=file, environment={})

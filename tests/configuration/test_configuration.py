"""Flags before the environment, before the file, before defaults; and which file."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepserve.config import Settings, UpstreamSettings, WeightFormats, default_state_dir
from deepserve.configuration.configuration import find_file, load_configuration
from deepserve.core.errors import ConfigurationError


def file_with(folder: Path, text: str) -> Path:
    file = folder / "deepserve.toml"
    file.write_text(text)
    return file


def test_flags_go_before_variables_before_the_file_before_defaults(tmp_path: Path) -> None:
    file = file_with(tmp_path, "[server]\nport = 1\nkeep_alive_s = 1\nhost = '127.0.0.9'\n")
    found = load_configuration(
        {"port": 3, "isa": None}, file=file, environment={"DEEPSERVE_PORT": "2", "DEEPSERVE_KEEP_ALIVE_S": "2s"}
    )
    settings = found.settings
    assert (settings.port, settings.keep_alive_s, settings.host, settings.isa) == (3, 2.0, "127.0.0.9", None)
    origins = [str(found.origin(name)) for name in ("port", "keep_alive_s", "host", "isa")]
    assert origins == ["flag", "DEEPSERVE_KEEP_ALIVE_S", "file, line 4", "default"]


def test_one_setting_of_a_table_leaves_the_others(tmp_path: Path) -> None:
    file = file_with(tmp_path, "[limits]\ntools = 7\nmessages = 8\n")
    limits = load_configuration(file=file, environment={"DEEPSERVE_LIMITS_MESSAGES": "9"}).settings.limits
    assert (limits.tools, limits.messages, limits.connections) == (7, 9, Settings().limits.connections)


def test_a_flag_for_a_whole_table_replaces_it(tmp_path: Path) -> None:
    file = file_with(tmp_path, "[weights]\ndense = 'bf16'\n")
    found = load_configuration({"weights": WeightFormats(head="int8")}, file=file, environment={})
    assert found.settings.weights == WeightFormats(head="int8")
    assert str(found.origin("weights.dense")) == "flag"


def test_variables_are_read_in_the_spellings_of_shells(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    settings = load_configuration(
        environment={
            "DEEPSERVE_API_KEYS": "sk-one, sk-two sk-three",
            "DEEPSERVE_CACHE_BYTES": "2g",
            "DEEPSERVE_DISK_CACHE_BYTES": "0",
            "DEEPSERVE_FETCH_PAGES": "yes",
            "DEEPSERVE_IS_STRICT": "0",
            "DEEPSERVE_SEARCH_FOLDERS": f"notes={tmp_path / 'notes'}",
            "DEEPSERVE_UPSTREAM": "deepseek",
            "DEEPSERVE_DATABASE": "postgresql://me:secret@host/db",
            "DEEPSERVE_LOG_LEVEL": "info",
            "DEEPSERVE_HOST": "  ",
        },
        directory=tmp_path,
    ).settings
    assert settings.api_keys == ("sk-one", "sk-two", "sk-three")
    assert (settings.cache_bytes, settings.disk_cache_bytes) == (2 << 30, 0)
    assert (settings.fetch_pages, settings.is_strict, settings.log_level) == (True, False, "info")
    assert settings.search_folders == {"notes": tmp_path / "notes"}
    assert (settings.backend, settings.host) == ("upstream", "127.0.0.1")
    assert settings.database == "postgresql://me:secret@host/db"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DEEPSERVE_PORT", "eighty", 'DEEPSERVE_PORT is "eighty"; it must be a whole number from 0 to 65535.'),
        ("DEEPSERVE_FETCH_PAGES", "maybe", 'DEEPSERVE_FETCH_PAGES is "maybe"; it must be 1 or 0, true or false.'),
        ("DEEPSERVE_CHAINS", "a=b", "has too much structure for a variable"),
        ("DEEPSERVE_UPSTREAMS", "a", "has too much structure for a variable"),
        ("DEEPSERVE_UPSTREAM_MODELS", "a", "name=value pairs"),
        ("DEEPSERVE_API_KEYS_FILE", "/no/such", "which is not there"),
    ],
)
def test_a_variable_that_cannot_be_read_is_named(tmp_path: Path, name: str, value: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_configuration(environment={name: value}, directory=tmp_path)
    assert said in caught.value.message


def test_misspelt_variables_are_noted_and_those_of_others_are_not(tmp_path: Path) -> None:
    environment = {
        "DEEPSERVE_PROT": "1",
        "DEEPSERVE_UPSTREAM_KEY": "sk-x",
        "DEEPSERVE_CORE": "/x",
        "DEEPSERVE_SOMETHING_ELSE_ALTOGETHER": "1",
        "OTHER_PORT": "1",
    }
    notes = load_configuration(environment=environment, directory=tmp_path).notes
    assert notes == ("DEEPSERVE_PROT is no setting; did you mean DEEPSERVE_PORT?",)


def test_what_kubernetes_sets_for_a_service_of_our_name_is_no_setting(tmp_path: Path) -> None:
    """A service called deepserve gives every container DEEPSERVE_PORT=tcp://…, which is an address and not ours."""
    environment = {"DEEPSERVE_PORT": "tcp://10.0.0.1:8000", "DEEPSERVE_SERVICE_HOST": "10.0.0.1"}
    assert load_configuration(environment=environment, directory=tmp_path).settings.port == 8000


def test_an_upstream_that_is_named_answers_unless_something_stronger_says_otherwise(tmp_path: Path) -> None:
    file = file_with(tmp_path, "[upstream]\nupstream = 'deepseek'\n")
    found = load_configuration(file=file, environment={})
    assert (found.settings.backend, str(found.origin("backend"))) == ("upstream", "file, line 2")
    assert load_configuration({"backend": "scripted"}, file=file, environment={}).settings.backend == "scripted"
    file = file_with(tmp_path, "[model]\nbackend = 'scripted'\n")
    assert load_configuration({"upstream": "deepseek"}, file=file, environment={}).settings.backend == "upstream"
    file = file_with(tmp_path, "[upstream]\nupstream = 'deepseek'\n")
    several = (UpstreamSettings(id="oxen", kind="oxen"),)
    settings = load_configuration({"upstreams": several}, file=file, environment={}).settings
    assert (settings.upstream, settings.upstreams) == (None, several)
    with pytest.raises(ConfigurationError, match="leave one out"):
        load_configuration({"upstream": "deepseek", "backend": "scripted"}, environment={}, directory=tmp_path)


def test_records_are_kept_where_this_platform_keeps_them_unless_somebody_says_where(tmp_path: Path) -> None:
    assert load_configuration(environment={}, directory=tmp_path).settings.state_dir == default_state_dir()


def test_the_file_is_the_named_one_else_the_variables_else_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_file(Path("named"), {"DEEPSERVE_CONFIG": "other"}) == Path("named")
    assert find_file(None, {"DEEPSERVE_CONFIG": "other"}) == Path("other")
    assert find_file(None, {}, tmp_path) is None
    own = file_with(tmp_path, "")
    assert find_file(None, {}, tmp_path) == own
    monkeypatch.setattr("sys.platform", "linux")
    (tmp_path / "deepserve").mkdir()
    (tmp_path / "deepserve" / "deepserve.toml").write_text("")
    assert find_file(None, {"XDG_CONFIG_HOME": str(tmp_path)}) == tmp_path / "deepserve" / "deepserve.toml"


def test_a_file_in_the_current_folder_is_not_read_but_pointed_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever unpacks somebody's folder and starts a server there has not agreed to the programs its file names."""
    monkeypatch.chdir(tmp_path)
    file_with(tmp_path, "[server]\nport = 1\n")
    found = load_configuration(environment={}, directory=tmp_path / "none")
    assert (found.file, found.settings.port) == (None, 8000)
    assert found.notes == ("deepserve.toml in this folder is not read unless it is named: --config deepserve.toml",)


def test_files_whose_change_means_other_settings_are_watched(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("sk-one")
    (tmp_path / "key").write_text("sk-two")
    file = file_with(
        tmp_path,
        "[server]\napi_keys_file = 'keys'\n[[upstreams]]\nid = 'a'\nkind = 'deepseek'\nkey_file = 'key'\n",
    )
    assert load_configuration(file=file, environment={}).watched == (file, tmp_path / "keys", tmp_path / "key")

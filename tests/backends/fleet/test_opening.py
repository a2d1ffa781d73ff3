"""The fleet that the settings name, and what a change of them does to it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from deepserve.backends.fleet.fleet import FleetBackend
from deepserve.backends.fleet.opening import (
    AMONG_OTHERS_S,
    named_upstreams,
    needs_engine,
    open_fleet,
    refit_fleet,
)
from deepserve.backends.upstream.limits import UpstreamLimits
from deepserve.catalog.providers import read_upstream
from deepserve.config import EMBEDDED, FleetSettings, Settings, UpstreamSettings
from deepserve.core.errors import ConfigurationError
from tests.backends.fleet.setup import FLASH, PRO, Fake

KEYS = {"DEEPSEEK_API_KEY": "sk-1", "OTHER_KEY": "sk-2"}
DEEPSEEK = UpstreamSettings(id="deepseek", kind="deepseek")
LOCAL = UpstreamSettings(
    # Of a kind that is not asked for its models at start.
    id="rack",
    kind="deepseek",
    address="http://10.0.0.7:8000/v1",
    models={FLASH: "flash"},
    is_self_hosted=True,
    region="EU",
)


def _settings(*upstreams: UpstreamSettings, **fields: Any) -> Settings:  # Any: fields of Settings
    return Settings(backend="upstream", upstreams=upstreams, **fields)


def _open(settings: Settings, engine: Fake | None = None) -> FleetBackend:
    return open_fleet(settings, guard=lambda backend: backend, engine=lambda: engine or Fake(), environment=KEYS)


def test_members_are_in_the_operators_order_with_what_is_said_of_them() -> None:
    backend = _open(_settings(LOCAL, DEEPSEEK))
    ends = {model.id: model.endpoints for model in backend.models()}
    assert [one.provider for one in ends[FLASH]] == ["rack", "deepseek"]
    assert [one.provider for one in ends[PRO]] == ["deepseek"]
    rack, deepseek = ends[FLASH]
    assert (rack.is_own, rack.region, rack.collects_data) == (True, "eu", False)
    assert (deepseek.is_own, deepseek.region, deepseek.collects_data) == (False, None, True)


def test_our_own_engine_is_a_member_where_a_chain_or_an_upstream_names_it() -> None:
    own = UpstreamSettings(id=EMBEDDED, kind=EMBEDDED)
    for settings in (
        _settings(DEEPSEEK, chains={FLASH: ("deepseek", EMBEDDED)}),
        _settings(DEEPSEEK, own),
        _settings(DEEPSEEK, upstream=EMBEDDED),
    ):
        assert needs_engine(settings)
        ids = [member.id for member in _open(settings).members]
        assert sorted(ids) == ["deepseek", EMBEDDED]
    assert not needs_engine(_settings(DEEPSEEK))
    assert needs_engine(Settings())
    assert not needs_engine(Settings(backend="scripted"))


def test_the_upstream_of_the_command_line_stands_before_those_of_the_file() -> None:
    settings = _settings(DEEPSEEK, upstream="deepseek", upstream_key_file=Path("/k"))
    assert [(one.id, one.key_file) for one in named_upstreams(settings)] == [
        ("deepseek-2", Path("/k")),
        ("deepseek", None),
    ]


def test_an_operators_words_go_before_those_of_the_row() -> None:
    upstream = UpstreamSettings(
        id="mine", kind="deepseek", key_variable="OTHER_KEY", max_concurrent=7, num_retries=0, idle_s=3.0
    )
    (member,) = _open(_settings(upstream)).members
    assert (member.limits.num_retries, member.limits.idle_s, member.limits.connect_s) == (0, 3.0, 10.0)
    assert {lane.max_concurrent for lane in member.lanes.values()} == {7}
    assert {lane.served.served_by.provider for lane in member.lanes.values()} == {"mine"}


def test_who_is_not_alone_is_not_waited_for_as_long() -> None:
    def patience(*upstreams: UpstreamSettings) -> list[float]:
        return [member.limits.first_event_s for member in _open(_settings(*upstreams)).members]

    slow = UpstreamSettings(id="slow", kind="deepseek", first_event_s=300.0)
    assert patience(DEEPSEEK) == [UpstreamLimits().first_event_s]
    assert patience(DEEPSEEK, slow) == [AMONG_OTHERS_S, 300.0]
    assert Settings().request_timeout_s > AMONG_OTHERS_S


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(backend="upstream"), "No upstream is named"),
        (_settings(UpstreamSettings(id="x", kind="y")), "not known"),
        (_settings(UpstreamSettings(id="x", kind="vllm")), "give it an address"),
        (_settings(DEEPSEEK, DEEPSEEK), "same id"),
        (_settings(DEEPSEEK, chains={FLASH: ("nobody",)}), "nobody"),
    ],
)
def test_what_cannot_be_is_refused_at_start(settings: Settings, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        _open(settings)


def test_one_word_of_the_command_line_is_a_whole_upstream() -> None:
    assert read_upstream("deepseek") == DEEPSEEK
    assert read_upstream("deepseek", taken=("deepseek", "deepseek-2")).id == "deepseek-3"
    assert read_upstream("vllm=http://h/v1") == UpstreamSettings(id="vllm", kind="vllm", address="http://h/v1")
    assert read_upstream(EMBEDDED) == UpstreamSettings(id=EMBEDDED, kind=EMBEDDED)


def _refitted(before: Settings, after: Settings) -> tuple[FleetBackend, dict[str, object]]:
    async def refit() -> tuple[FleetBackend, dict[str, object]]:
        backend = _open(before)
        old: dict[str, object] = {member.id: member for member in backend.members}
        try:
            await refit_fleet(backend, before, after, guard=lambda one: one, environment=KEYS)
        finally:
            await backend.close()
        return backend, old

    return asyncio.run(refit())


def test_a_change_keeps_members_of_whom_nothing_new_is_said() -> None:
    other = UpstreamSettings(id="other", kind="deepseek", address="http://10.0.0.9:8000/v1")
    moved = UpstreamSettings(id="rack", kind="deepseek", address="http://10.0.0.8:8000/v1", models={FLASH: "flash"})
    after = _settings(other, DEEPSEEK, moved, chains={FLASH: ("rack",)}, fleet=FleetSettings(max_waiting=1))
    backend, old = _refitted(_settings(LOCAL, DEEPSEEK), after)
    now = {member.id: member for member in backend.members}
    assert list(now) == ["other", "deepseek", "rack"]
    assert now["deepseek"] is old["deepseek"]
    assert now["rack"] is not old["rack"]
    assert [one.provider for model in backend.models() if model.id == FLASH for one in model.endpoints] == ["rack"]


def test_other_checks_of_answers_are_put_in_front_of_all_upstreams() -> None:
    backend, old = _refitted(_settings(DEEPSEEK), _settings(DEEPSEEK, answer_checks="off"))
    assert backend.members[0] is not old["deepseek"]


def test_our_own_engine_stays_through_a_change_but_does_not_come_or_go() -> None:
    own = UpstreamSettings(id=EMBEDDED, kind=EMBEDDED)
    backend, old = _refitted(_settings(DEEPSEEK, own), _settings(own))
    assert backend.members == (old[EMBEDDED],)
    for before, after in ((_settings(DEEPSEEK), _settings(own)), (_settings(own), _settings(DEEPSEEK))):
        with pytest.raises(ConfigurationError, match="started again"):
            _refitted(before, after)

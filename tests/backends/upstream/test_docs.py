"""The page about upstreams says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deepserve.backends.fleet.canary_question import CANARY_TENANT
from deepserve.backends.fleet.lane import DEGRADED, FAILING, MAX_CONCURRENT
from deepserve.backends.fleet.opening import AMONG_OTHERS_S, open_fleet
from deepserve.backends.upstream.backend import UNPUBLISHED_TOKENS
from deepserve.backends.upstream.limits import UpstreamLimits
from deepserve.backends.upstream.retries import REPEATABLE_STATUSES
from deepserve.catalog.providers import Provider, load_providers
from deepserve.config import FleetSettings
from deepserve.configuration.configuration import load_configuration
from deepserve.outgoing.watched_socket import EVERY_S, IDLE_S, MOST
from tests.backends.fleet.setup import Fake

_PAGE = (Path(__file__).parents[3] / "docs" / "upstreams.md").read_text()
_ROWS = [line for line in _PAGE.splitlines() if line.startswith("| `")]
_MODELS = {"deepseek-v4-pro": "Pro", "deepseek-v4-flash": "Flash"}


@pytest.mark.parametrize("provider", load_providers().values(), ids=list(load_providers()))
def test_every_provider_is_on_the_page_with_its_models_and_key(provider: Provider) -> None:
    wanted = f"| `{provider.id}=" if provider.base_url is None else f"| `{provider.id}` "
    wanted = "| `https://" if provider.id == "openai" else wanted
    (row,) = [line for line in _ROWS if line.startswith(wanted)]
    assert f"`{provider.key_variable}`" in row
    assert ("if it wants one" in row) is not provider.needs_key
    assert f"| {', '.join(_MODELS[model] for model in provider.models)} |" in row


def test_the_page_says_who_continues_texts_and_who_fills_holes() -> None:
    section = _PAGE.partition("## Plain completions\n")[2].partition("\n## ")[0]
    holes, _, texts = section.partition("Without:")
    named = {id_: id_ in re.findall(r"`([a-z-]+)`", texts) for id_ in load_providers()}
    for provider in load_providers().values():
        found = provider.completions
        assert named[provider.id] is (found is not None and not found.has_suffix), provider.id
        assert (f"`{provider.id}`" in holes) is (found is not None and found.has_suffix), provider.id


def test_the_limits_are_those_of_the_code() -> None:
    limits = UpstreamLimits()
    for text in (
        f"| no connection | {limits.connect_s:g} s |",
        f"| an answer that does not begin; keep-alives do not count | {limits.first_event_s:g} s |",
        f"| an answer that was asked for whole | {limits.first_event_s + limits.idle_s:g} s |",
        f"at most {limits.whole_tokens:,} tokens, is asked for whole",
        f"| an answer that stops in the middle | {limits.idle_s:g} s |",
        f"| an answer that never ends | {limits.total_s:,.0f} s, or {limits.answer_bytes // 1024**2} MiB |",
        f"a context of {UNPUBLISHED_TOKENS:,} tokens, and asked again every {limits.learn_again_s:g} s",
        f"up to {limits.num_retries} times",
        f"kept to up to {limits.max_wait_s:g} s",
    ):
        assert text in _PAGE
    settings = FleetSettings()
    for text in (
        f"the first word within {AMONG_OTHERS_S:g} s",
        f"for {settings.max_repeated_characters:,} characters is ended,",
        f"noticed after\n{IDLE_S + EVERY_S * MOST:g} s",
        f"{MAX_CONCURRENT['deepseek-v4-pro']} answers of Pro and {MAX_CONCURRENT['deepseek-v4-flash']:,} of Flash",
        f"up to {settings.max_waiting:,} requests wait up to {settings.wait_s:g} s",
        f"failed {FAILING.consecutive} times in a row or half of its last {FAILING.window} times",
        f"left alone for {FAILING.open_s:g} s",
        f"twice as long after each that fails, up to {FAILING.max_open_s:g} s",
        f"Half of {DEGRADED.window} answers bad",
        f"last for {DEGRADED.open_s:g} s, and for up to {DEGRADED.max_open_s:g} s",
        f"under the tenant `{CANARY_TENANT.id}`",
    ):
        assert text in _PAGE, text
    assert (FAILING.ratio, DEGRADED.ratio, FAILING.growth, DEGRADED.growth) == (0.5, 0.5, 2, 2)
    *first, last = sorted(REPEATABLE_STATUSES)
    assert f"{', '.join(map(str, first))} or {last}" in _PAGE


def test_the_example_of_a_configuration_is_one(tmp_path: Path) -> None:
    file = tmp_path / "deepserve.toml"
    file.write_text(_PAGE.partition("```toml\n")[2].partition("```")[0])
    settings = load_configuration({}, file=file, environment={}, directory=tmp_path).settings
    assert [one.id for one in settings.upstreams] == ["deepseek", "rack"]
    assert settings.chains == {"deepseek-v4-flash": ("rack", "deepseek", "embedded")}
    assert (settings.fleet.hedge_s, settings.fleet.canary_s) == (8, 300)
    fleet = open_fleet(
        settings, guard=lambda one: one, engine=Fake, environment={"DEEPSEEK_API_KEY": "sk-from-the-environment"}
    )
    assert [member.id for member in fleet.members] == ["deepseek", "rack", "embedded"]

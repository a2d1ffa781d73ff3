"""The page about upstreams says what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepserve.backends.upstream.backend import UNPUBLISHED_TOKENS
from deepserve.backends.upstream.limits import UpstreamLimits
from deepserve.backends.upstream.retries import REPEATABLE_STATUSES
from deepserve.catalog.providers import Provider, load_providers

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


def test_the_limits_are_those_of_the_code() -> None:
    limits = UpstreamLimits()
    for text in (
        f"| no connection | {limits.connect_s:g} s |",
        f"| an answer that does not begin; keep-alives do not count | {limits.first_event_s:g} s |",
        f"| an answer that was asked for whole | {limits.first_event_s + limits.idle_s:g} s |",
        f"at most {limits.whole_tokens:,} tokens, is asked for whole",
        f"| an answer that stops in the middle | {limits.idle_s:g} s |",
        f"| an answer that never ends | {limits.total_s:,.0f} s, or {limits.answer_bytes // 1024**2} MiB |",
        f"a context of {UNPUBLISHED_TOKENS:,} tokens",
        f"up to {limits.num_retries} times",
        f"kept to up to {limits.max_wait_s:g} s",
    ):
        assert text in _PAGE
    *first, last = sorted(REPEATABLE_STATUSES)
    assert f"{', '.join(map(str, first))} or {last}" in _PAGE

"""Services that can answer in our place."""

from __future__ import annotations

import pytest
from yarl import URL

from deepserve.catalog.models import load_models
from deepserve.catalog.providers import Provider, find_provider, load_providers
from deepserve.core.errors import ConfigurationError
from deepserve.dialects.chat.upstream_flavour import UPSTREAM_FLAVOURS
from deepserve.dialects.messages.upstream_flavour import MESSAGES_FLAVOURS
from deepserve.dialects.responses.upstream_flavour import RESPONSES_FLAVOURS
from deepserve.dialects.runware.upstream_flavour import RUNWARE_FLAVOURS

_PROVIDERS = load_providers()
_FLAVOURS = {
    "chat": UPSTREAM_FLAVOURS,
    "messages": MESSAGES_FLAVOURS,
    "responses": RESPONSES_FLAVOURS,
    "runware": RUNWARE_FLAVOURS,
}
"""Of protocols whose services differ."""
_KNOWN = {model.id for model in load_models().models}


@pytest.mark.parametrize("provider", _PROVIDERS.values(), ids=list(_PROVIDERS))
def test_every_row_can_be_spoken_to_and_says_where_it_is_from(provider: Provider) -> None:
    assert provider.flavour in _FLAVOURS.get(provider.protocol, {"": None})
    assert provider.models
    assert set(provider.models) <= _KNOWN
    assert provider.source
    if provider.base_url is not None:
        assert URL(provider.base_url).scheme == "https"
        assert not provider.base_url.endswith("/")


def test_every_flavour_is_some_rows() -> None:
    for protocol, flavours in _FLAVOURS.items():
        spoken = {provider.flavour for provider in _PROVIDERS.values() if provider.protocol == protocol}
        assert spoken == set(flavours)


@pytest.mark.parametrize(
    ("wanted", "kind", "address"),
    [
        ("deepseek", "deepseek", "https://api.deepseek.com"),
        ("DeepSeek", "deepseek", "https://api.deepseek.com"),
        ("http://10.0.0.7:8000/v1", "openai", "http://10.0.0.7:8000/v1"),
        ("https://host/v1?a=b", "openai", "https://host/v1?a=b"),
        ("anthropic=http://10.0.0.7:8000", "anthropic", "http://10.0.0.7:8000"),
        ("vllm=http://10.0.0.7:8000/v1", "vllm", "http://10.0.0.7:8000/v1"),
        ("openrouter=https://eu.openrouter.ai/api/v1", "openrouter", "https://eu.openrouter.ai/api/v1"),
    ],
)
def test_an_upstream_is_a_name_an_address_or_both(wanted: str, kind: str, address: str) -> None:
    found = find_provider(wanted, _PROVIDERS)
    assert (found.id, found.base_url) == (kind, address)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [("deepsek", "deepseek-anthropic, openrouter"), ("vllm", "add its address"), ("", "no upstream")],
)
def test_an_upstream_that_is_not_known_is_refused_with_what_is(wanted: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        find_provider(wanted, _PROVIDERS)

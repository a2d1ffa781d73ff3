"""Which sites a client lets a search show."""

from __future__ import annotations

import pytest

from deepserve.core.domains import DomainRules, read_domains
from deepserve.core.errors import InvalidField


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("example.com", "https://example.com/"),
        ("example.com", "http://docs.EXAMPLE.com.:8080/a?b#c"),
        ("*.example.com", "https://a.b.example.com"),
        ("docs.example.com", "https://docs.example.com/x"),
        ("example.com/blog", "https://example.com/blog"),
        ("example.com/blog", "https://example.com/blog/post-1"),
        ("example.com/*/articles", "https://example.com/en/articles/7"),
        ("bücher.example", "https://xn--bcher-kva.example/"),
        ("handbook", "doc://handbook/guide.md#limits"),
    ],
)
def test_an_entry_covers_its_site_and_subdomains_and_paths_below(entry: str, url: str) -> None:
    assert DomainRules(allowed=(entry,)).allows(url)
    assert not DomainRules(blocked=(entry,)).allows(url)


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("example.com", "https://notexample.com/"),
        ("example.com", "https://example.com.evil.example/"),
        ("example.com", "https://evil.example/?u=example.com"),
        ("example.com", "https://example.com@evil.example/"),
        ("docs.example.com", "https://example.com/"),
        ("example.com/blog", "https://example.com/blogger"),
        ("example.com/*/articles", "https://example.com/articles"),
        ("amazon.example", "https://аmazon.example/"),
        ("example.com", "https:///path"),
        ("example.com", "https://[broken"),
        ("example.com", ""),
    ],
)
def test_an_entry_covers_nothing_that_only_looks_like_its_site(entry: str, url: str) -> None:
    assert not DomainRules(allowed=(entry,)).allows(url)


def test_what_cannot_be_read_as_an_address_never_passes() -> None:
    assert not DomainRules().allows("https://[broken")
    assert DomainRules().allows("https://anything.example/")


def test_a_blocked_part_of_an_allowed_site_stays_blocked() -> None:
    rules = DomainRules(allowed=("example.com",), blocked=("example.com/ads",))
    assert rules.allows("https://example.com/text")
    assert not rules.allows("https://example.com/ads/1")


@pytest.mark.parametrize(
    "entry", ["https://example.com", "", "a b", "exa mple.com", "-x.com", "a..b", "x.com/*/*", "x" * 600]
)
def test_an_entry_that_is_no_domain_is_refused_with_its_place(entry: str) -> None:
    with pytest.raises(InvalidField) as refused:
        read_domains(["example.com", entry], field="tools[0].allowed_domains")
    assert refused.value.field == "tools[0].allowed_domains[1]"


def test_a_list_of_domains_is_bounded() -> None:
    assert read_domains([" example.com "], field="x") == ("example.com",)
    with pytest.raises(InvalidField, match="At most 100"):
        read_domains(["example.com"] * 101, field="x")

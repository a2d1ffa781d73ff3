"""Searching and fetching as the settings want them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from deepserve import __version__
from deepserve.config import Settings
from deepserve.core.domains import DomainRules, read_domains
from deepserve.core.errors import ConfigurationError, InvalidField
from deepserve.outgoing.addresses import AddressPolicy, parse_allowances
from deepserve.outgoing.client import OutgoingClient
from deepserve.outgoing.keys import read_key
from deepserve.store.search_index import SearchIndex
from deepserve.tools.fetch.page_fetcher import FetchLimits, PageFetcher
from deepserve.tools.fetch.web_fetch import MAX_URL_CHARACTERS, WebFetch
from deepserve.tools.search.brave import ADDRESS as BRAVE_ADDRESS
from deepserve.tools.search.brave import Brave
from deepserve.tools.search.combined import CombinedSearch
from deepserve.tools.search.folders.folder_search import FolderSearch
from deepserve.tools.search.provider import SearchProvider
from deepserve.tools.search.searxng import SearXng
from deepserve.tools.search.tavily import ADDRESS as TAVILY_ADDRESS
from deepserve.tools.search.tavily import Tavily
from deepserve.tools.search.web_search import WebSearch

INDEX_FILE = "search.db"


class WebTools:
    """search: None where nothing can be searched. fetch: None where nothing can be read.

    Made by `open_web_tools`; started and closed with the server.
    """

    def __init__(self, search: WebSearch | None, fetch: WebFetch | None) -> None:
        self.search = search
        self.fetch = fetch

    async def start(self) -> None:
        if self.search is not None:
            await self.search.provider.start()

    async def close(self) -> None:
        async with AsyncExitStack() as closing:
            for tool in (self.search, self.fetch):
                if tool is not None:
                    closing.push_async_callback(tool.close)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def open_web_tools(
    settings: Settings,
    *,
    environment: Mapping[str, str],
    own_addresses: frozenset[tuple[str, int]] = frozenset(),
    on_progress: Callable[[str], None] | None = None,
) -> WebTools:
    """own_addresses: where this server listens, which no page may lead to.

    on_progress: hears of long indexing, in words.

    Raises ConfigurationError for what cannot be used as it is set.
    """
    folders = _open_folders(settings, on_progress)
    service = _open_service(settings, environment)
    providers: list[SearchProvider] = [each for each in (folders, service) if each is not None]
    search = None
    if providers:
        search = WebSearch(providers[0] if len(providers) == 1 else CombinedSearch(providers))
    pages = _open_fetcher(settings, own_addresses) if settings.fetch_pages else None
    limits = FetchLimits()
    fetch = None
    if pages is not None or folders is not None:
        fetch = WebFetch(pages, folders, is_open=settings.fetch_any_address, max_characters=limits.max_characters)
    return WebTools(search, fetch)


def _open_folders(settings: Settings, on_progress: Callable[[str], None] | None) -> FolderSearch | None:
    if not settings.search_folders:
        return None
    for name, folder in settings.search_folders.items():
        if not folder.is_dir():
            raise ConfigurationError(f"The folder {folder}, to be searched as {name}, is not there or is no folder.")
    index = SearchIndex(None if settings.state_dir is None else settings.state_dir / INDEX_FILE)
    if on_progress is None:
        return FolderSearch(settings.search_folders, index)
    return FolderSearch(settings.search_folders, index, on_progress=on_progress)


def _open_service(settings: Settings, environment: Mapping[str, str]) -> SearchProvider | None:
    file, url = settings.search_key_file, settings.search_url
    match settings.search_service:
        case None:
            return None
        case "searxng":
            if url is None:
                raise ConfigurationError("SearXNG has no address of its own: name your instance with --search-url.")
            return SearXng(url, today=lambda: datetime.now(UTC).date())
        case "brave":
            key = _key("Brave Search", "BRAVE_SEARCH_API_KEY", file, environment)
            return Brave(key, address=url or BRAVE_ADDRESS)
        case "tavily":
            key = _key("Tavily", "TAVILY_API_KEY", file, environment)
            return Tavily(key, address=url or TAVILY_ADDRESS)


def _key(service: str, variable: str, file: Path | None, environment: Mapping[str, str]) -> str:
    return read_key(service, variable, file=file, environment=environment, option="--search-key-file")


def _open_fetcher(settings: Settings, own_addresses: frozenset[tuple[str, int]]) -> PageFetcher:
    hosts, networks = parse_allowances(settings.fetch_allowed)
    policy = AddressPolicy(
        allowed_hosts=hosts,
        allowed_networks=networks,
        allows_http=settings.fetch_http,
        own_addresses=own_addresses,
        max_characters=MAX_URL_CHARACTERS,
    )
    try:
        rules = DomainRules(
            allowed=read_domains(settings.fetch_sites, field="--fetch-site"),
            blocked=read_domains(settings.fetch_blocked_sites, field="--fetch-never"),
        )
    except InvalidField as error:
        raise ConfigurationError(f"{error.field}: {error.message}") from error
    client = OutgoingClient(policy, user_agent=f"deepserve/{__version__}")
    return PageFetcher(client, rules=rules, limits=FetchLimits())

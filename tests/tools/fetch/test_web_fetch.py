"""The tool that reads pages, as a model calls it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from typing_extensions import override

from deepserve.core.domains import DomainRules
from deepserve.core.messages import Json
from deepserve.core.request import ServerTool
from deepserve.core.server_tool import FetchedPage, ToolFault, ToolOutput
from deepserve.core.tenant import TenantId
from deepserve.core.web_tools import FetchOptions, encode
from deepserve.outgoing.addresses import AddressPolicy, parse_allowances
from deepserve.outgoing.client import OutgoingClient
from deepserve.tools.fetch.mentions import Mentions
from deepserve.tools.fetch.page_fetcher import FetchLimits, PageFetcher
from deepserve.tools.fetch.web_fetch import WebFetch
from deepserve.tools.runner import CallContext
from tests.outgoing.receiver import Receiver, answer

PAGE = answer(200, "Content-Type: text/plain", body=b"words " * 100)


class Documents:
    scheme = "doc"

    async def page(self, url: str, *, max_characters: int) -> FetchedPage | ToolFault:
        return FetchedPage(url=url, title="", text="from a folder"[:max_characters], media_type="text/plain")


def call(
    arguments: Callable[[str], dict[str, Json]],
    options: FetchOptions | None = None,
    *,
    said: str | None = None,
    is_open: bool = False,
) -> ToolOutput:
    async def run() -> ToolOutput:
        _, networks = parse_allowances(["127.0.0.0/8"])
        client = OutgoingClient(AddressPolicy(allowed_networks=networks, allows_http=True), user_agent="test")
        pages = PageFetcher(client, rules=DomainRules(), limits=FetchLimits(total_s=2.0))
        tool = WebFetch(pages, Documents(), is_open=is_open, max_characters=1000)
        async with Receiver(PAGE) as receiver:
            mentions = None if said is None else Mentions([said.replace("URL", receiver.url)])
            context = CallContext(
                tenant=TenantId("t"),
                session="s",
                timeout_s=5.0,
                was_mentioned=None if mentions is None else mentions.__contains__,
            )
            wanted = ServerTool(tool="web_fetch", name="web_fetch", options=encode(options or FetchOptions()))
            try:
                return await tool.run(arguments(receiver.url), wanted, context)
            finally:
                await tool.close()

    return asyncio.run(run())


def test_a_page_that_the_conversation_mentions_is_read() -> None:
    got = call(lambda url: {"url": f" {url} "}, said="Please read URL.")
    assert isinstance(got, FetchedPage)


def test_an_address_that_the_model_made_up_is_not_called() -> None:
    """A page that talks the model into telling secrets to an address finds that address closed."""
    got = call(lambda url: {"url": f"{url}?secret=1"}, said="Please read URL.")
    assert isinstance(got, ToolFault)
    assert got.code == "not_allowed"
    assert isinstance(call(lambda url: {"url": f"{url}?q=1"}, said="Please read URL.", is_open=True), FetchedPage)
    assert isinstance(call(lambda url: {"url": url}), FetchedPage), "a client that asks in person"


def test_the_request_may_narrow_sites_and_length() -> None:
    rules = DomainRules(blocked=("127.0.0.1",))
    assert isinstance(call(lambda url: {"url": url}, FetchOptions(domains=rules)), ToolFault)
    got = call(lambda url: {"url": url}, FetchOptions(max_characters=10))
    assert isinstance(got, FetchedPage)
    assert (got.text, got.is_cut) == ("words word", True)
    long = call(lambda url: {"url": url}, FetchOptions(max_characters=10**9))
    assert isinstance(long, FetchedPage)


def test_documents_of_folders_are_pages_too() -> None:
    got = call(lambda _: {"url": "doc://handbook/a.md"}, said="doc://handbook/a.md")
    assert isinstance(got, FetchedPage)
    assert got.text == "from a folder"
    blocked = FetchOptions(domains=DomainRules(blocked=("handbook",)))
    assert isinstance(call(lambda _: {"url": "doc://handbook/a.md"}, blocked), ToolFault)


@pytest.mark.parametrize("arguments", [{}, {"url": None}, {"url": 7}, {"url": ""}, {"url": []}, {"uri": "x"}])
def test_arguments_that_name_no_address_are_a_fault(arguments: dict[str, Json]) -> None:
    got = call(lambda _: arguments)
    assert isinstance(got, ToolFault)
    assert got.code == "invalid_input"


def test_endless_addresses_are_a_fault() -> None:
    got = call(lambda url: {"url": url + "x" * 9000})
    assert isinstance(got, ToolFault)
    assert got.code == "input_too_long"


def test_without_the_web_only_documents_are_read() -> None:
    async def run() -> None:
        tool = WebFetch(None, Documents(), max_characters=4)
        wanted = ServerTool(tool="web_fetch", name="fetch")
        assert tool.offer(wanted).name == "fetch"
        context = CallContext(tenant=TenantId("t"), session="s", timeout_s=1.0)
        assert isinstance(await tool.run({"url": "https://example.com"}, wanted, context), ToolFault)
        assert isinstance(await tool.run({"url": "doc://a/b"}, wanted, context), FetchedPage)
        await tool.close()

    asyncio.run(run())


def test_one_tenants_pages_do_not_take_all_the_room() -> None:
    running: list[str] = []
    most: dict[str, int] = {}

    class Slow(Documents):
        @override
        async def page(self, url: str, *, max_characters: int) -> FetchedPage | ToolFault:
            tenant = url.split("/")[2]
            running.append(tenant)
            most[tenant] = max(most.get(tenant, 0), running.count(tenant))
            await asyncio.sleep(0)
            running.remove(tenant)
            return await super().page(url, max_characters=max_characters)

    async def run() -> None:
        tool = WebFetch(None, Slow(), max_characters=10)
        wanted = ServerTool(tool="web_fetch", name="fetch")

        def fetch(tenant: str) -> asyncio.Task[ToolOutput]:
            context = CallContext(tenant=TenantId(tenant), session="s", timeout_s=1.0)
            return asyncio.create_task(tool.run({"url": f"doc://{tenant}/x"}, wanted, context))

        await asyncio.gather(*(fetch("many") for _ in range(20)), fetch("one"))
        await tool.close()

    asyncio.run(run())
    assert most == {"many": 4, "one": 1}

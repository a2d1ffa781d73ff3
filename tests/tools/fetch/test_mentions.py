"""Which addresses a conversation has mentioned before the model did."""

from __future__ import annotations

import pytest

from deepserve.core.messages import Message, ServerToolResult, Text, ToolCall, ToolResult
from deepserve.core.server_tool import CodeOutput, FetchedPage, SearchHit, SearchResults, ToolFault
from deepserve.tools.fetch.mentions import Mentions, mentions_of


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("See https://example.com/a?b=1#c.", "https://example.com/a?b=1"),
        ("(https://example.com/a_(b))", "https://example.com/a_(b)"),
        ("[link](https://example.com/x)", "https://example.com/x"),
        ("<https://example.com/x>, and more", "https://example.com/x/"),
        ("http://example.com/x", "https://example.com/x"),
        ("read example.com please", "https://example.com/"),
        ("read docs.example.co.uk/guide!", "https://docs.example.co.uk/guide"),
        ("看https://example.com/中文。", "https://example.com/中文"),
        ("doc://handbook/a%20b.md#top", "doc://handbook/a%20b.md"),
        ("HTTPS://EXAMPLE.COM/X", "https://example.com/X"),
        ("https://example.com:443/", "https://example.com"),
        ("https://example.com/x/?q=1", "https://example.com/x/?q=1"),
        ("https://example.com:8443/x", "https://example.com:8443/x#y"),
    ],
)
def test_what_people_write_counts_as_an_address(text: str, url: str) -> None:
    assert url in Mentions([text])


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/x?secret=1",
        "https://example.com/x/y",
        "https://evil.example/https://example.com/x",
        "https://example.com:8443/x",
        "https://example.com.evil.example/x",
        "https://sub.example.com/x",
        "https://user@example.com.evil.example/x",
        "https://[broken",
        "",
    ],
)
def test_addresses_made_up_from_mentioned_ones_do_not_count(url: str) -> None:
    assert url not in Mentions(["Look at https://example.com/x today"])


def test_only_what_others_wrote_counts() -> None:
    messages = [
        Message(role="system", parts=(Text("https://system.example"),)),
        Message(role="user", parts=(Text("https://user.example"),)),
        Message(
            role="assistant",
            parts=(
                Text("https://model.example/?secret=1"),
                ToolCall(id="1", name="f", arguments='{"url": "https://call.example"}'),
                ServerToolResult(
                    call_id="2",
                    tool="web_search",
                    output=SearchResults(
                        query="q", hits=(SearchHit(url="https://hit.example/", title="", snippet=""),)
                    ),
                ),
                ServerToolResult(
                    call_id="4",
                    tool="code_interpreter",
                    output=CodeOutput(code="", stdout="https://printed.example/?secret=1"),
                ),
                ServerToolResult(
                    call_id="5",
                    tool="web_fetch",
                    output=ToolFault(code="not_allowed", message="https://fault.example/?secret=1"),
                ),
                ServerToolResult(
                    call_id="3",
                    tool="web_fetch",
                    output=FetchedPage(
                        url="https://page.example/",
                        title="",
                        text="[n](https://next.example/2)",
                        media_type="text/html",
                    ),
                ),
            ),
        ),
        Message(role="tool", parts=(ToolResult(call_id="1", content=(Text("at https://result.example"),)),)),
    ]
    mentions = mentions_of(messages)
    for known in ("system", "user", "hit", "page", "result"):
        assert f"https://{known}.example/" in mentions
    assert "https://next.example/2" in mentions
    for made_up in (
        "https://printed.example/?secret=1",
        "https://fault.example/?secret=1",
        "https://model.example/?secret=1",
        "https://model.example/",
        "https://call.example",
    ):
        assert made_up not in mentions


@pytest.mark.parametrize(
    "text",
    [
        "a." * 100_000,
        "https://" * 50_000,
        "-" * 300_000,
        "https://x" + "." * 300_000,
        "a/" * 100_000,
        "x " * 100_000,
        "example.com" * 20_000,
    ],
)
def test_long_strange_texts_are_read_in_one_pass(text: str) -> None:
    assert "https://example.com" not in Mentions([text])
    assert "https://x/a.a" not in Mentions([text])
    assert "https://example.com/b" in Mentions([f"{text} https://example.com/b {text}"])

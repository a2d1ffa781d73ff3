"""Documents that would hold up or bring down whoever reads them."""

from __future__ import annotations

import asyncio
import io

import pytest
from pypdf import PdfWriter

from deepserve.tools.reading.process import ReaderProcess
from deepserve.tools.reading.reading import Reading, Unreadable
from deepserve.tools.reading.worker import Order


def order(content: bytes, media_type: str = "text/html") -> Order:
    return Order(content=content, media_type=media_type, max_characters=1000)


def read(*orders: Order, timeout_s: float = 10.0) -> list[Reading | Unreadable]:
    async def run() -> list[Reading | Unreadable]:
        async with ReaderProcess(timeout_s=timeout_s) as reader:
            return [await reader.read(each) for each in orders]

    return asyncio.run(run())


def test_one_process_reads_one_document_after_the_other() -> None:
    got = read(order(b"<title>t</title><p>one"), order(b"\xff\xfet\0w\0o\0"))
    assert got == [Reading(title="t", text="one"), Reading(text="two")]


def test_a_page_made_to_keep_its_parser_busy_only_costs_the_limit() -> None:
    """Work that grows with the square of the nesting: over a minute for this page."""
    nested = order(b"<div>" * 200_000 + b"</p>" * 200_000)
    slow, next_one = read(nested, order(b"<p>fine"), timeout_s=0.5)
    assert isinstance(slow, Unreadable)
    assert "took longer" in slow.reason
    assert next_one == Reading(text="fine")


def test_a_cancelled_reading_leaves_no_answer_for_the_next() -> None:
    async def run() -> Reading | Unreadable:
        async with ReaderProcess() as reader:
            await reader.read(order(b"<p>first"))
            waiting = asyncio.create_task(reader.read(order(b"<div>" * 200_000 + b"</p>" * 200_000)))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            return await reader.read(order(b"<p>mine"))

    assert asyncio.run(run()) == Reading(text="mine")


@pytest.mark.parametrize(
    "content", [b"", b"%PDF-1.7", b"%PDF-1.7\nxref\n0 99999999\ntrailer<</Root 1 0 R>>", b"\0" * 1000]
)
def test_damaged_pdf_files_are_said_to_be_so(content: bytes) -> None:
    [got] = read(order(content, "application/pdf"))
    assert isinstance(got, Unreadable)


def test_a_pdf_without_text_says_so() -> None:
    writer = PdfWriter()
    writer.add_blank_page(72, 72)
    file = io.BytesIO()
    writer.write(file)
    [got] = read(order(file.getvalue(), "application/pdf"))
    assert isinstance(got, Unreadable)
    assert "no text" in got.reason


def test_what_is_not_read_is_named() -> None:
    [got] = read(order(b"", "image/png"))
    assert got == Unreadable(reason="image/png is not read by this server.", is_kind=True)

"""Bytes whose encoding is declared, wrongly declared or not declared at all."""

from __future__ import annotations

import codecs

import pytest

from deepserve.tools.reading.charset import decode_text


@pytest.mark.parametrize(
    ("label", "encoding"),
    [
        ("utf-8", "utf-8"),
        ('"UTF8"', "utf-8"),
        ("ISO-8859-1", "cp1252"),
        ("gb2312", "gbk"),
        ("Shift_JIS", "shift_jis"),
        ("EUC-KR", "euc_kr"),
        ("Big5", "big5"),
        ("koi8-r", "koi8-r"),
        ("windows-1251", "cp1251"),
    ],
)
def test_declared_encodings_are_honoured(label: str, encoding: str) -> None:
    text = {"gbk": "中文", "shift_jis": "日本", "euc_kr": "한국", "big5": "中文", "koi8-r": "да", "cp1251": "да"}.get(
        encoding, "é"
    )
    assert decode_text(text.encode(encoding), label) == text


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_a_byte_order_mark_is_believed_first(mark: bytes) -> None:
    name = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}[mark]
    assert decode_text(mark + "né".encode(name), "koi8-r") == "né"


def test_a_page_may_declare_its_own_encoding() -> None:
    assert "да" in decode_text('<meta charset="windows-1251">да'.encode("cp1251"), has_markup=True)
    assert "да" in decode_text('<?xml version="1.0" encoding="koi8-r"?>да'.encode("koi8-r"), has_markup=True)


@pytest.mark.parametrize(
    "label",
    [
        "utf-7",
        "base64",
        "zlib",
        "rot13",
        "unicode_escape",
        "idna",
        "punycode",
        "undefined",
        "no-such",
        "",
        "x\0y",
        "a" * 999,
    ],
)
def test_strange_encodings_are_not_followed(label: str) -> None:
    assert decode_text("née".encode(), label) == "née"


def test_without_a_declaration_text_is_read_as_utf8_or_as_windows_wrote_it() -> None:
    assert decode_text("née".encode()) == "née"
    assert decode_text("née ".encode("cp1252")) == "née "
    assert decode_text("née".encode()[:2], is_cut=True) == "n"
    assert decode_text(bytes(range(256))).startswith("\0")

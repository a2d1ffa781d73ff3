"""Bytes of a document as text, whatever they say of themselves."""

from __future__ import annotations

import codecs
import re

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))

_STAND_INS = {"ascii": "cp1252", "iso8859-1": "cp1252", "gb2312": "gb18030", "gbk": "gb18030", "iso8859-9": "cp1254"}
"""What is meant where these are written; https://encoding.spec.whatwg.org/#names-and-labels."""

_KNOWN = frozenset(
    (
        *("utf-8", "utf-16", "utf-16-le", "utf-16-be", "gb18030", "big5", "big5hkscs", "euc_jp", "shift_jis", "cp932"),
        *(
            "iso2022_jp",
            "euc_kr",
            "cp949",
            "koi8-r",
            "koi8-u",
            "mac-roman",
            "mac-cyrillic",
            "cp866",
            "cp874",
            "tis-620",
        ),
        *(f"cp{number}" for number in range(1250, 1259)),
        *(f"iso8859-{number}" for number in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)),
    )
)
"""Python also calls compression and escapes encodings; those are not for strangers to choose."""

_META = re.compile(rb"<meta[^>]{1,300}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
_XML = re.compile(rb"""^<\?xml[^>]{1,200}?encoding\s*=\s*["']([\w.:-]{1,40})""")
_LOOK_BYTES = 4096


def decode_text(content: bytes, declared: str | None = None, *, has_markup: bool = False, is_cut: bool = False) -> str:
    """declared: by whoever sent it. has_markup: the beginning may say it. is_cut: the last character may be in parts.

    What cannot be read becomes U+FFFD.
    """
    for mark, name in _MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(name, "replace")
    named = [declared] if declared else []
    if has_markup:
        said = _META.search(content[:_LOOK_BYTES]) or _XML.search(content[:_LOOK_BYTES])
        named += [said[1].decode("ascii", "replace")] if said else []
    for each in named:
        known = _codec_name(each)
        if known is not None:
            return content.decode(known, "replace")
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(content, final=not is_cut)
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _codec_name(label: str) -> str | None:
    try:
        name = codecs.lookup(label.strip().strip("\"'")).name
    except (LookupError, ValueError, UnicodeError):
        return None
    name = _STAND_INS.get(name, name)
    return name if name in _KNOWN else None

"""The tags of the tool markup, as the format spells them and as models that miss it do.

    < / ｜DSML｜ name attributes >

Seen from real models: `toolcalls` and `function_calls`, doubled and half-width bars, blanks around the mark, marks
without their bars or bars without `DSML`, tags without the mark, without `<` or without `>`.

Sources: https://github.com/vllm-project/vllm/pull/54686, https://github.com/vllm-project/vllm/issues/40801,
https://github.com/vllm-project/vllm/pull/45877, https://github.com/cline/cline/issues/11339.
"""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import Final, Literal

import msgspec

from deepserve.prompt.pieces import DSML_SYMBOL, Marks

TagKind = Literal["block", "invoke", "parameter", "other"]

BLOCK_NAMES: Final = frozenset(
    (
        *("tool_calls", "toolcalls", "tool_call", "toolcall", "calls"),
        *("function_calls", "functioncalls", "function_call", "functioncall"),
    )
)
"""How the block of calls is spelled, by the format and by models that miss it."""

_KINDS: Final[dict[str, TagKind]] = {
    **dict.fromkeys(BLOCK_NAMES, "block"),
    "invoke": "invoke",
    "parameter": "parameter",
    "param": "parameter",
    "argument": "parameter",
}

MAX_TAG_CHARACTERS: Final = 4096
"""A tag that has not ended by then has lost its `>`."""
_MAX_UNMARKED_CHARACTERS: Final = 256


class Tag(msgspec.Struct, frozen=True, kw_only=True):
    """One tag.

    name        as it is spelled
    is_certain  bears the mark, so that it cannot be text
    has_angle   begins with `<`, as it should
    is_empty    ends with `/>`
    is_broken   has no `>` of its own
    end         where in the text the tag is over
    """

    name: str
    kind: TagKind
    is_closing: bool
    attributes: str
    is_certain: bool
    has_angle: bool
    is_empty: bool
    is_broken: bool
    end: int

    @property
    def argument_name(self) -> str | None:
        """The value of `name`, or of the nameless attribute that some models write in its place."""
        found = _NAME.search(self.attributes)
        return None if found is None else found["quoted"] or found["single"] or found["bare"] or None

    @property
    def is_string(self) -> bool | None:
        """What the attribute `string` says; None: there is none."""
        found = _STRING.search(self.attributes)
        return None if found is None else found["value"].lower() == "true"


class Unread(Enum):
    """What is no tag yet."""

    PENDING = "more text decides"


def scan_tag(text: str, at: int, *, marks: Marks, names: AbstractSet[str]) -> Tag | Unread | None:
    """Read the tag that begins at `at`; None: none does. The outcome never changes with more text.

    names  further names that a tag without the mark may have: those of the tools
    """
    head = _HEAD.match(text, at)
    assert head is not None, "every part of the pattern is optional"
    has_angle, mark, name = head["angle"] is not None, head["mark"], head["name"] or ""
    has_bars = bool(head["bars"] or head["bars_after"])
    if not has_angle and mark is None and head.end() < len(text):
        return None
    if head.end() == len(text):
        return _unfinished(head, names)
    kind = _KINDS.get(name.lower().replace("-", "_"), "other")
    if kind == "other" and (not has_angle or (mark is None and (name not in names or has_bars))):
        return None
    if mark == "DSML" and kind == "other" and name not in names and not (has_angle and has_bars):
        return None
    is_certain = mark == DSML_SYMBOL or (marks == "spelled" and (mark is not None or has_bars))
    is_closing = bool(head["slash"] or head["slash_after"])
    if not name:
        return _nameless(head, is_closing=is_closing) if is_certain and has_angle else None
    if is_closing or kind == "block":
        rest = _NO_ATTRIBUTES.match(text, head.end())
        if rest is None and _BLANKS.fullmatch(text, head.end()):
            return Unread.PENDING
        if rest is None and not is_certain:
            return None
        ending = _Ending(rest.end() if rest is not None else head.end(), is_broken=rest is None)
    else:
        found = _end_opening(text, at, head.end(), is_certain=is_certain, is_parameter=kind == "parameter")
        if not isinstance(found, _Ending):
            return found
        ending = found
    attributes = text[head.end() : ending.at] if not is_closing and kind != "block" else ""
    attributes = attributes if ending.is_broken else attributes.removesuffix(">")
    return Tag(
        name=name,
        kind=kind,
        is_closing=is_closing,
        attributes=attributes.removesuffix("/"),
        is_certain=is_certain,
        has_angle=has_angle,
        is_empty=attributes.endswith("/"),
        is_broken=ending.is_broken,
        end=ending.at,
    )


def has_mark(fragment: str, marks: Marks) -> bool:
    """Whether an unfinished tag shows enough of the mark to be markup."""
    return DSML_SYMBOL in fragment or (marks == "spelled" and _MARKED.match(fragment) is not None)


def _nameless(head: re.Match[str], *, is_closing: bool) -> Tag:
    """`<｜DSML｜` with nothing that could be a name behind it."""
    return Tag(
        name="",
        kind="other",
        is_closing=is_closing,
        attributes="",
        is_certain=True,
        has_angle=True,
        is_empty=False,
        is_broken=True,
        end=head.end(),
    )


def skip_blanks(text: str, at: int) -> int:
    """The place of the first character from `at` on that is no blank."""
    found = _ANY_BLANKS.match(text, at)
    assert found is not None, "matches the empty text"
    return found.end()


class _Ending(msgspec.Struct, frozen=True):
    at: int
    is_broken: bool


def _unfinished(head: re.Match[str], names: AbstractSet[str]) -> Unread | None:
    """A head that reaches the end of the text: it may become a tag by its mark, or by the beginning of its name."""
    if head.end() - head.start() > MAX_TAG_CHARACTERS:
        return None
    name = (head["name"] or "").lower()
    if head["mark"] is not None:
        return Unread.PENDING
    known = ("dsml", *_KINDS, *(name.lower() for name in names))
    if not head["angle"]:
        known = ("dsml",)
    return Unread.PENDING if any(whole.startswith(name) for whole in known) else None


def _end_opening(text: str, start: int, at: int, *, is_certain: bool, is_parameter: bool) -> _Ending | Unread | None:
    """Where an opening tag whose name ends at `at` is over."""
    if text[at] not in "> \t\r\n/=":
        return _Ending(at, is_broken=True) if is_certain else None
    if is_parameter and is_certain:
        lost = _LOST_ANGLE.match(text, at)
        if lost is not None:
            return _Ending(lost.end("tag"), is_broken=True)
    limit = start + (MAX_TAG_CHARACTERS if is_certain else _MAX_UNMARKED_CHARACTERS)
    num_quotes = 0
    for found in _TAG_ENDS.finditer(text, at, min(limit, len(text))):
        match found.group():
            case '"':
                num_quotes += 1
            case ">":
                # A `>` inside a quoted value does not end the tag, unless a name itself holds a quote.
                if num_quotes % 2 == 0 or text[at : found.start()].rstrip().endswith('"'):
                    return _Ending(found.end(), is_broken=False)
            case _:
                return _Ending(found.start(), is_broken=True) if is_certain else None
    if len(text) < limit:
        return Unread.PENDING
    return _Ending(limit, is_broken=True) if is_certain else None


TAG_START: Final = re.compile(
    rf"< ?(?=/? ?(?:\Z|[｜|{DSML_SYMBOL}A-Za-z_]))"
    rf"|/?(?=[｜|]{{1,4}} ?(?:\Z|D|[｜|]?{DSML_SYMBOL}))[｜|]"
    rf"|/?{DSML_SYMBOL}|/\Z"
)
"""Where a tag may begin. What could begin one with more text behind it counts at the end of the text."""

_HEAD: Final = re.compile(
    r"(?P<angle>< ?)?(?P<slash>/?) ?(?P<bars>[｜|]{0,4}) ?(?P<mark>\udc00|DSML)? ?(?P<bars_after>[｜|]{0,4})"
    r"[ :]?(?P<slash_after>/?)(?P<name>[A-Za-z_][\w.-]*)?"
)
_NO_ATTRIBUTES: Final = re.compile(r"\s{0,8}>")
_BLANKS: Final = re.compile(r"\s{0,8}")
_ANY_BLANKS: Final = re.compile(r"\s*")
_TAG_ENDS: Final = re.compile(r'>|"|<? ?/? ?(?:[｜|]{1,4} ?DSML|DSML[｜|]|[｜|]{0,4}\udc00)')
_LOST_ANGLE: Final = re.compile(
    r'(?P<tag>\s+name="[^"<>]*"\s+string="(?:true|false)")(?!\s*/?(?:>|\Z)|\s+\w+(?:=|\Z))', re.IGNORECASE
)
_NAME: Final = re.compile(
    r"""(?:\A|\b(?:name|tool|function))\s*=\s*(?:"(?P<quoted>.*?)"(?=\s+\w+\s*=|\s*\Z)|'(?P<single>[^']*)'|(?P<bare>[^\s"'<>]+))""",
    re.DOTALL,
)
_STRING: Final = re.compile(r"""\bstring\s*=\s*["']?(?P<value>true|false)\b""", re.IGNORECASE)
_MARKED: Final = re.compile(r"< ?/? ?(?:[｜|]+ ?D|DSML)|/?[｜|]+ ?DSML ?[｜|]+[ :]?/?[A-Za-z]")

"""DeepSeek's raw search and fetch, which no model takes part in: their bodies, both directions.

Shapes: https://api-docs.deepseek.com/guides/search and https://api-docs.deepseek.com/api/search.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from datetime import date
from urllib.parse import urlsplit

import msgspec

from deepserve.config import Limits
from deepserve.core.domains import DomainRules, read_domains
from deepserve.core.errors import InvalidField
from deepserve.core.messages import Json
from deepserve.core.server_tool import FetchedPage, SearchHit
from deepserve.core.web_tools import SearchOptions
from deepserve.dialects.body import JsonBody
from deepserve.dialects.node import Node

MAX_QUERY = 128
MAX_COUNT = 50
MAX_URL = 8192

_SUMMARY_CHARACTERS = 800
_SNIPPET_CHARACTERS = 200
_BEST_SCORE = 3.0
_UNKNOWN_AUTHORITY = -1

_OPERATOR = re.compile(r"(?<!\S)(-site|site|lang|after|before):(\S+)")
_OR_SITE = re.compile(r"(?<!\S)OR\s+(?=-?site:)")


class RawSearch(msgspec.Struct, frozen=True, kw_only=True):
    """ignored: what nothing here can take into account, whatever searches."""

    query: str
    options: SearchOptions
    needs_content: bool = False
    ignored: tuple[str, ...] = ()


def decode_search(raw: bytes, limits: Limits) -> RawSearch:
    """Raises MalformedBody and InvalidField. Unknown members are ignored and named."""
    root = _root(raw, limits)
    query = _text(root.required("query"), MAX_QUERY)
    count = root.optional("count")
    question, place = root.optional("ori_question"), root.optional("localization")
    content = root.optional("need_content")
    ignored = [name for name in root.keys() if name not in _SEARCH_MEMBERS]  # noqa: SIM118 - not a mapping
    if question is not None:
        _text(question, MAX_QUERY)
        ignored.append("ori_question")
    if place is not None and place.string():
        _check_address(place)
        ignored.append("localization")
    words, options = _read_operators(query)
    return RawSearch(
        query=words,
        options=msgspec.structs.replace(
            options,
            max_results=10 if count is None else count.integer("an integer from 1 to 50", low=1, high=MAX_COUNT),
            max_characters=_SUMMARY_CHARACTERS,
        ),
        needs_content=content is not None and content.boolean(),
        ignored=tuple(ignored),
    )


_SEARCH_MEMBERS = frozenset(("query", "count", "ori_question", "localization", "need_content"))


def decode_fetch(raw: bytes, limits: Limits) -> str:
    """The address. Raises MalformedBody and InvalidField."""
    node = _root(raw, limits).required("url")
    url = node.string().strip()
    if len(url) > MAX_URL or "://" not in url:
        raise InvalidField("'url' must be a valid HTTP or HTTPS URL", field="url")
    return url


def encode_search(hits: Sequence[SearchHit], contents: Mapping[str, str]) -> bytes:
    """contents: of pages, by address.

    No search here scores its results on the vendor's scales. So `rerank_score` says no more than the order, falling
    from 3, and `authority` that it is not known.
    """
    results = [
        {
            "rerank_score": round(_BEST_SCORE * (1 - number / len(hits)), 3),
            "title": hit.title,
            "url": hit.url,
            "snippet": _shortened(hit.snippet, _SNIPPET_CHARACTERS),
            "summary": hit.snippet,
            "content": contents.get(hit.url, ""),
            "site_name": urlsplit(hit.url).hostname or "",
            "site_icon": "",
            "date": _date(hit.age),
            "authority": _UNKNOWN_AUTHORITY,
        }
        for number, hit in enumerate(hits)
    ]
    return msgspec.json.encode({"results": results})


def encode_fetch(page: FetchedPage) -> bytes:
    return msgspec.json.encode({"title": page.title, "content": page.shown_text})


def search_schema() -> dict[str, Json]:
    """For the server's OpenAPI document."""
    text = {"type": "string", "minLength": 1, "maxLength": MAX_QUERY}
    return {
        "type": "object",
        "properties": {
            "query": {**text, "description": "With `site:`, `-site:`, `lang:`, `after:` and `before:` if wanted."},
            "count": {"type": "integer", "minimum": 1, "maximum": MAX_COUNT, "default": 10},
            "ori_question": {"type": ["string", "null"], "maxLength": MAX_QUERY},
            "localization": {"type": ["string", "null"], "default": ""},
            "need_content": {"type": ["boolean", "null"], "default": False},
        },
        "required": ["query"],
    }


def fetch_schema() -> dict[str, Json]:
    return {
        "type": "object",
        "properties": {"url": {"type": "string", "maxLength": MAX_URL}},
        "required": ["url"],
    }


def _root(raw: bytes, limits: Limits) -> Node:
    body = JsonBody(raw, limits)
    root = Node(body, body.value)
    root.mapping()
    return root


def _text(node: Node, most: int) -> str:
    text = node.string()
    if not text.strip() or len(text) > most:
        raise InvalidField(f"'{node.field}' must have 1 to {most} characters, and not only blanks", field=node.field)
    return text


def _check_address(node: Node) -> None:
    try:
        ipaddress.ip_address(node.string())
    except ValueError:
        raise InvalidField("'localization' must be an IP address", field="localization") from None


def _read_operators(query: str) -> tuple[str, SearchOptions]:
    """The words, and what the operators between them ask for."""
    sites: dict[str, list[str]] = {"site": [], "-site": []}
    last: dict[str, str] = {}
    query = _OR_SITE.sub("", query)
    for name, value in _OPERATOR.findall(query):
        if name in sites:
            sites[name].append(value)
        else:
            last[name] = value
    words = " ".join(_OPERATOR.sub(" ", query).split())
    if not words:
        raise InvalidField("'query' must contain words besides its operators", field="query")
    return words, SearchOptions(
        domains=DomainRules(
            allowed=read_domains(sites["site"], field="query"), blocked=read_domains(sites["-site"], field="query")
        ),
        language=last.get("lang"),
        after=_day(last.get("after")),
        before=_day(last.get("before")),
    )


def _day(text: str | None) -> date | None:
    """A day, a month (its first day) or a year (likewise)."""
    if text is None:
        return None
    parts = text.split("-")
    try:
        return date.fromisoformat("-".join([*parts, *["01"] * (3 - len(parts))]))
    except ValueError:
        raise InvalidField(
            f"'query': {text[:32]!r} is not a date; write for example 2026-10-17", field="query"
        ) from None


def _date(age: str | None) -> str:
    """A day as the vendor writes times; empty where the source tells it in other words."""
    try:
        return "" if age is None else f"{date.fromisoformat(age[:10]).isoformat()}T00:00:00+00:00"
    except ValueError:
        return ""


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"

"""Whatever stands in a body, it is understood or refused; and what is understood can be rendered."""

import copy
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from deepserve.core.errors import RequestError
from deepserve.prompt.encoder import encode
from deepserve.prompt.profile import load_profile
from tests.dialects.messages.decoding import SEARCH, WEATHER, decode

_BLOCKS: list[dict[str, Any]] = [  # Any: JSON
    {"type": "thinking", "thinking": "t", "signature": "s"},
    {"type": "redacted_thinking", "data": "d"},
    {"type": "text", "text": "x", "citations": None},
    {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "q"}},
    {"type": "web_search_tool_result", "tool_use_id": "s1", "content": [{"type": "web_search_result", "url": "u"}]},
    {"type": "server_tool_use", "id": "f1", "name": "web_fetch", "input": {"url": "u"}},
    {
        "type": "web_fetch_tool_result",
        "tool_use_id": "f1",
        "content": {"type": "web_fetch_result", "url": "u", "content": {"source": {"data": "d"}, "title": "t"}},
    },
    {"type": "server_tool_use", "id": "c1", "name": "code_execution", "input": {"code": "1"}},
    {
        "type": "code_execution_tool_result",
        "tool_use_id": "c1",
        "content": {"stdout": "1", "stderr": "", "return_code": 0, "content": [{"file_id": "f"}]},
    },
    {"type": "mcp_tool_use", "id": "m1", "name": "n", "server_name": "s", "input": {}},
    {"type": "mcp_tool_result", "tool_use_id": "m1", "is_error": False, "content": [{"type": "text", "text": "x"}]},
    {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Rome"}},
]
_VALID: dict[str, Any] = {
    "model": "deepseek-v4-pro",
    "max_tokens": 10,
    "system": [{"type": "text", "text": "x-anthropic-billing-header: a"}, {"type": "text", "text": "b"}],
    "messages": [
        {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "u"}}]},
        {"role": "assistant", "content": _BLOCKS},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "x"}]},
                {"type": "document", "source": {"type": "text", "data": "d"}, "title": "t"},
                {"type": "search_result", "title": "t", "source": "s", "content": [{"type": "text", "text": "x"}]},
            ],
        },
        {"role": "system", "content": "s"},
        {"role": "assistant", "content": "It"},
    ],
    "tools": [WEATHER, SEARCH],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 5, "display": "omitted"},
    "output_config": {"effort": "max"},
    "metadata": {"user_id": '{"session_id": "s"}'},
    "stop_sequences": ["x"],
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 3,
    "stream": True,
}

_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["text", "tool_use", "tool_result", "document", "image", "assistant"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "id", "x"]), inner),
    max_leaves=5,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in [(*path, key), *_places(item, (*path, key))]]


@settings(max_examples=400, deadline=None)
@given(place=st.sampled_from(_places(_VALID)), value=_VALUES, is_removed=st.booleans(), is_strict=st.booleans())
def test_one_odd_value_is_read_or_refused(
    place: tuple[Any, ...], value: Any, is_removed: bool, is_strict: bool
) -> None:
    body = copy.deepcopy(_VALID)
    holder = body
    for step in place[:-1]:
        holder = holder[step]
    if is_removed:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    try:
        decoded = decode(json.dumps(body).encode(), is_strict=is_strict)
        encode(decoded.request, load_profile("mini"))
    except RequestError:
        return  # a fault of the client's, and told as one: see test_errors


def test_the_valid_body_is_valid() -> None:
    decoded = decode(_VALID)
    assert encode(decoded.request, load_profile("mini")).start.stage == "text_continued"

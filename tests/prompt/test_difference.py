"""Where two prompts part: the place, the text, and the usual causes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from deepserve.backends.tokens.model import load_model
from deepserve.catalog.price_table import load_prices
from deepserve.core.messages import Image, Message, Reasoning, Text, ToolCall, ToolResult
from deepserve.core.request import Infill, Request, RequestId, ResponseFormat, Thinking, Tool, ToolChoice
from deepserve.core.usage import Usage
from deepserve.metering.cache_misses import AskedPrompt, CacheExplanation, explain, header_value
from deepserve.prompt.difference import Difference, first_difference
from deepserve.prompt.encoder import encode
from deepserve.prompt.outline import outline

NOW = datetime(2026, 5, 1, tzinfo=UTC)
MODEL = load_model(None)
POINT = load_prices().point_at("deepseek-v4-flash", NOW)


def tool(name: str, description: str = "d", **properties: Mapping[str, Any]) -> Tool:
    return Tool(name=name, description=description, parameters={"type": "object", "properties": properties})


def say(role: Any, *parts: Any) -> Message:
    return Message(role=role, parts=tuple(Text(part) if isinstance(part, str) else part for part in parts))


WEATHER, TIME = tool("weather"), tool("time")
CALL = ToolCall(id="c1", name="weather", arguments='{"place": "Rome"}')
LOOP = (
    say("system", "You are kind. It is Friday, 2026-05-01 10:00:03. Be brief."),
    say("user", "What is it like in Rome?"),
    say("assistant", Reasoning(text="I look."), CALL),
    say("tool", ToolResult(call_id="c1", content=(Text("sunny"),))),
    say("assistant", Reasoning(text="Sunny, so."), "It is sunny."),
    say("user", "And in Paris?"),
)


def ask(*messages: Message, **fields: Any) -> Request:
    given = {"messages": messages or LOOP, "tools": (WEATHER, TIME), "dialect": "chat", **fields}
    return Request(id=RequestId("r"), model="deepseek-v4-flash", arrived_at=NOW, **given)


def changed(messages: Sequence[Message], index: int, *parts: Any) -> Request:
    return ask(*messages[:index], say(messages[index].role, *parts), *messages[index + 1 :])


def asked(request: Request, **fields: Any) -> AskedPrompt:
    given = {"id": "one", "ids": MODEL.tokenizer.encode(encode(request, MODEL.profile)).ids, **fields}
    return AskedPrompt(model=request.model, user_id=request.user_id, arrived_at=NOW, sections=outline(request), **given)


def compare(one: Request, other: Request, **fields: Any) -> CacheExplanation:
    return explain(asked(one), asked(other, **fields), point=POINT)


def part(one: Request, other: Request) -> Difference:
    found = first_difference(outline(one), outline(other))
    assert found is not None
    return found


BASE = ask()

CAUSES: dict[str, tuple[Request, str, str]] = {
    "a timestamp": (
        changed(LOOP, 0, "You are kind. It is Friday, 2026-05-01 10:00:59. Be brief."),
        "messages[0].content@45",
        "a date or a time",
    ),
    "tools in another order": (ask(tools=(TIME, WEATHER)), "tools[0]@10", "in another order"),
    "an added tool": (ask(tools=(WEATHER, TIME, tool("news"))), "tools[2]@0", "added news"),
    "a tool left out": (ask(tools=(WEATHER,)), "tools[1]@0", "left out time"),
    "a changed tool": (ask(tools=(tool("weather", "today"), TIME)), "tools[0]@36", "definition of the tool weather"),
    "no tools at all": (ask(tools=()), "tools[0]@0", "left out weather, time"),
    "dropped reasoning": (changed(LOOP, 2, CALL), "messages[2].reasoning_content@0", "was not sent back"),
    "other reasoning": (
        changed(LOOP, 4, Reasoning(text="Sun."), "It is sunny."),
        "messages[4].reasoning_content@3",
        "trace",
    ),
    "changed effort": (ask(thinking=Thinking(effort="max")), "thinking@0", "from high to max"),
    "thinking off": (ask(thinking=Thinking(enabled=False)), "thinking@0", "from high to off"),
    "an edited message": (changed(LOOP, 1, "What is it like in Ulm?"), "messages[1].content@19", "another text"),
    "an edited result": (
        changed(LOOP, 3, ToolResult(call_id="c1", content=(Text("rain"),))),
        "messages[3].content@0",
        "another text",
    ),
    "another form": (ask(response_format=ResponseFormat(kind="json_object")), "response_format@0", "no counterpart"),
}


@pytest.mark.parametrize("name", CAUSES)
def test_the_usual_causes_are_told_with_their_place(name: str) -> None:
    request, place, cause = CAUSES[name]
    found = part(BASE, request)
    assert found.place == place
    assert cause in found.cause
    explained = compare(BASE, request)
    assert explained.reason == "differs"
    assert explained.common_tokens < explained.prompt_tokens


@pytest.mark.parametrize("name", CAUSES)
def test_tokens_part_where_the_texts_do(name: str) -> None:
    """The outline is made without the encoder, so that it could tell another order than the prompt has."""
    request, _, _ = CAUSES[name]
    explained, found = compare(BASE, request), part(BASE, request)
    prompt = MODEL.tokenizer.decode(asked(request).ids or ())
    shared = MODEL.tokenizer.decode((asked(request).ids or ())[: explained.common_tokens])
    tail = found.before[-8:]
    # A token may hold the last letters before the difference, so a little less may be shared than its text says.
    assert tail[:-4] in shared or not tail
    rest = prompt[len(shared) :]
    if found.path.startswith("tools") and found.offset == 0:
        assert ('"name": "weather"' in shared) == (found.path != "tools[0]")
        assert '"name": "news"' not in shared
    else:
        assert found.other[:4] in rest or found.path in ("thinking", "response_format")


def test_texts_around_the_place_are_shown() -> None:
    found = part(BASE, CAUSES["a timestamp"][0])
    assert found.before.endswith("2026-05-01 10:00:")
    assert found.one.startswith("03. Be brief.")
    assert found.other.startswith("59. Be brief.")


@pytest.mark.parametrize(
    ("one", "other", "cause"),
    [
        ("x-anthropic-billing-header: cc=1; cch=ab;\nYou", "x-anthropic-billing-header: cc=1; cch=xy;\nYou", "machine"),
        ("Session 5f1c2b9e-7c4d-4f0a: hi", "Session 5f1c2b9f-7c4d-4f0a: hi", "an id or a number"),
        ("Today is Friday. Hi", "Today is Monday. Hi", "a date or a time"),
        ("You are kind.", "You are rude.", "another text"),
    ],
)
def test_what_changes_in_a_system_text_is_recognised(one: str, other: str, cause: str) -> None:
    found = part(ask(say("system", one), say("user", "x")), ask(say("system", other), say("user", "x")))
    assert cause in found.cause


def test_a_conversation_that_goes_on_parts_nowhere() -> None:
    more = ask(*LOOP, say("assistant", Reasoning(text="r"), "Cloudy."), say("user", "Thanks"))
    explained = compare(BASE, more)
    assert (explained.reason, explained.difference) == ("continues", None)
    num_before = len(asked(BASE).ids or ())
    assert num_before - 2 <= explained.common_tokens <= num_before


def test_reasoning_that_no_prompt_shows_makes_no_difference() -> None:
    """Without tools the prompt leaves it out, so a client that drops it misses nothing."""
    with_trace = ask(say("user", "a"), say("assistant", Reasoning(text="hm"), "b"), say("user", "c"), tools=())
    without = ask(say("user", "a"), say("assistant", "b"), say("user", "c"), tools=())
    assert compare(with_trace, without).reason == "same"
    hidden = ask(*with_trace.messages, tools=(WEATHER,), tool_choice=ToolChoice(mode="none"))
    assert compare(with_trace, hidden).reason == "same"


def test_another_user_shares_nothing() -> None:
    explained = compare(ask(user_id="ann"), ask(user_id="bob"))
    assert (explained.reason, explained.common_tokens) == ("other_user", 0)


def test_models_share_a_cache_only_where_one_network_answers_both() -> None:
    other = msgspec.structs.replace(BASE, model="deepseek-v4-pro")
    assert compare(BASE, other).reason == "same"
    estimated = explain(asked(BASE, ids=None), asked(other, ids=None), point=POINT)
    assert (estimated.reason, estimated.common_tokens) == ("other_model", 0)


def test_the_same_prompt_that_is_no_longer_kept_is_told() -> None:
    text = "word " * 400
    request = ask(say("user", text))
    kept = compare(request, request, usage=Usage(hit_tokens=len(asked(request).ids or ()) - 2, miss_tokens=2))
    gone = compare(request, request, usage=Usage(hit_tokens=0, miss_tokens=500))
    assert (kept.reason, kept.is_lost) == ("same", False)
    assert (gone.reason, gone.is_lost) == ("same", True)
    assert "no longer kept" in gone.words
    assert gone.missed_tokens == gone.prompt_tokens


def test_what_a_miss_cost_is_exact_at_the_price_in_force() -> None:
    assert POINT is not None
    explained = compare(BASE, CAUSES["a timestamp"][0])
    missed = len(asked(BASE).ids or ()) - explained.common_tokens
    assert explained.missed_tokens == missed
    assert explained.missed_usd == (POINT.price.miss - POINT.price.hit) * missed / 1_000_000
    assert explained.price == POINT.id


def test_without_a_tokenizer_counts_are_called_estimates() -> None:
    one, other = asked(BASE, ids=None), asked(CAUSES["a timestamp"][0], ids=None)
    explained = explain(one, other, point=None)
    assert explained.is_estimated
    assert 0 < explained.common_tokens < explained.prompt_tokens
    assert explained.missed_usd is None
    assert "common=~" in header_value(explained, None)


def test_the_header_tells_the_place_and_no_text() -> None:
    explained = compare(BASE, CAUSES["a timestamp"][0], usage=Usage(hit_tokens=5, miss_tokens=90))
    value = header_value(explained, Usage(hit_tokens=5, miss_tokens=90))
    assert (
        value == f"hit=5 miss=90 compared=one first-difference=messages[0].content@45 common={explained.common_tokens}"
    )


def test_holes_and_pictures_are_pieces_too() -> None:
    one = Request(id=RequestId("r"), model="m", arrived_at=NOW, infill=Infill(prompt="def f(", suffix="return"))
    other = msgspec.structs.replace(one, infill=Infill(prompt="def f(", suffix="pass"))
    assert part(one, other).place == "suffix@0"
    pictured = ask(say("user", "See", Image(url="http://x")))
    assert part(pictured, ask(say("user", "See", "this"))).place == "messages[0].content[1]@0"


def test_in_messages_the_system_text_stands_beside_the_messages() -> None:
    one, other = ask(dialect="messages"), ask(*LOOP[:1], say("user", "Hi"), dialect="messages")
    assert part(one, other).path == "messages[0].content"
    assert part(one, msgspec.structs.replace(CAUSES["a timestamp"][0], dialect="messages")).path == "system"


def test_tools_without_arguments_are_pieces_too() -> None:
    bare = Tool(name="weather", description="d")
    assert part(ask(tools=(bare,)), ask(tools=(Tool(name="weather", description="e"),))).path == "tools[0]"

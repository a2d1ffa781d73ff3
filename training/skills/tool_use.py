"""Calling offered tools: the right one among similar ones, several at once, or none."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import msgspec

from training.conversations import Call, Conversation, Tool, Turn
from training.phrases import dialogue, synonyms, tasks, topics
from training.phrasing import phrase
from training.skills.kinds import draw_value, noted, said
from training.skills.known_offers import known_offer, weather_offer
from training.skills.offers import Offer, action_offer, question_offer
from training.skills.system_prompts import plain_system
from training.skills.thoughts import thought
from training.values import Draw

NO_TOOL = "None of the offered tools fits this request."


def offer(draw: Draw) -> Offer:
    """Any tool: the weather, a known kind of task, an action or a question."""
    kind = draw.random.random()
    if kind < 0.14:
        return weather_offer(draw)
    if kind < 0.34:
        return known_offer(draw, draw.frame(tasks()[1:]))
    return action_offer(draw) if kind < 0.74 else question_offer(draw)


def _similar(draw: Draw, one: Offer) -> Offer:
    """A tool that shares the verb or the thing with this one."""
    if one.noun and draw.chance(0.5):
        return action_offer(draw, noun=one.noun)
    if one.question is not None and one.noun:
        return question_offer(draw, verb=one.verb)
    return action_offer(draw, verb=one.verb if one.verb in synonyms() or one.noun else None)


def offered(draw: Draw, wanted: Sequence[Offer], counts: Sequence[int], *, similar_share: float = 0.6) -> list[Tool]:
    """The tools of the wanted offers among others that nobody could take for them, in any order."""
    tools = {one.tool.name: one.tool for one in wanted}
    taken = {one for offer in wanted for one in offer.actions}
    keys = {key for one in wanted if one.by_keys for key in one.tool.parameters["properties"]}
    texts = " ".join(one.request for one in wanted).lower()
    for _ in range(draw.frame(counts)):
        other = _similar(draw, draw.frame(wanted)) if draw.chance(similar_share) else offer(draw)
        if (
            other.tool.name in tools
            or not taken.isdisjoint(other.actions)
            or not keys.isdisjoint(other.tool.parameters["properties"])
            or (other.question is not None and other.question.field in texts)
        ):
            continue
        tools[other.tool.name] = other.tool
    found = list(tools.values())
    draw.random.shuffle(found)
    return found


def noted_values(call: Call) -> str:
    """The arguments of a call in a thought."""
    return ", ".join(f"{key} = {noted(value)}" for key, value in call.arguments.items()) or "no arguments"


def calls_thought(draw: Draw, wanted: str, calls: Sequence[Call], tools: Sequence[Tool], unsaid: Sequence[str]) -> str:
    """The thought before calls: at low the tools, at high their values, at max all tools and what is unsaid."""
    names = {call.name for call in calls}
    goal = f"Wanted: {wanted}. " if wanted else ""
    plan = "\n".join(f"{call.name}: {noted_values(call)}." for call in calls)
    search = " ".join(f"{tool.name}: {'yes' if tool.name in names else 'no'}." for tool in tools)
    left = f"\nNot said: {', '.join(unsaid)}." if unsaid else ""
    return thought(
        draw,
        low="\n".join(f"{call.name}." for call in calls),
        high=f"{goal}{plan}",
        longest=f"{goal}{search}\n{plan}{left}",
    )


def calling(
    draw: Draw, request: str, wanted: str, calls: Sequence[Call], tools: Sequence[Tool], unsaid: Sequence[str]
) -> tuple[Turn, Turn]:
    """The request and the calls for it."""
    return (
        Turn(role="user", content=request),
        Turn(role="assistant", reasoning=calls_thought(draw, wanted, calls, tools, unsaid), calls=tuple(calls)),
    )


def single_call(draw: Draw) -> Conversation:
    """One request, one call."""
    one = offer(draw)
    tools = offered(draw, (one,), (0, 0, 1, 1, 2, 3, 3))
    return Conversation(
        skill="tool_use.single" if one.noun else "tool_use.known",
        system=plain_system(draw),
        tools=tuple(tools),
        turns=calling(draw, one.request, one.wanted, (one.call,), tools, one.unsaid),
    )


_WEATHER_OF_SEVERAL = (
    "What's the weather in {t}?",
    "weather in {t}",
    "Compare the weather in {t}.",
    "How is the weather in {t}?",
    "What is the weather like in {t}?",
    "Tell me the weather of {t}.",
)


def repeated_call(draw: Draw, count: int) -> tuple[str, Offer, list[Offer]]:
    """A request with several values for the same tool, the tool's offer, and an offer for each value."""
    if draw.chance(0.4):
        one = msgspec.structs.replace(weather_offer(draw), question=None)
        (key, city), *_ = one.call.arguments.items()
        cities = [str(city), *(draw.city() for _ in range(count - 1))]
        request = phrase(draw, _WEATHER_OF_SEVERAL, t=said(cities))
        properties = one.tool.parameters["properties"]
        needed = {name: properties[name]["enum"][0] for name in one.tool.parameters.get("required", ()) if name != key}
        one = msgspec.structs.replace(
            one, unsaid=tuple(name for name in properties if name != key and name not in needed)
        )
        calls = [Call(name=one.tool.name, arguments={key: city, **needed}) for city in cities]
        return request, one, [msgspec.structs.replace(one, call=call) for call in calls]
    one = question_offer(draw)
    assert one.question is not None
    (key, first), *_ = one.call.arguments.items()
    values = [first]
    while len(values) < count:
        value = _like(draw, first)
        if value not in values and str(value) not in str(values):
            values.append(value)
    offers = [
        msgspec.structs.replace(
            one,
            call=Call(name=one.tool.name, arguments={key: value}),
            question=msgspec.structs.replace(
                one.question, subject=one.question.subject.removesuffix(str(first)) + str(value)
            ),
        )
        for value in values
    ]
    return one.template.format(v=said(values)), one, offers


def _like(draw: Draw, value: object) -> object:
    """Another value that looks like this one."""
    if isinstance(value, int):
        return draw_value(draw, "number")
    text = str(value)
    if any(letter.isdigit() for letter in text):
        return draw_value(draw, "code")
    return draw_value(draw, draw.frame(("name", "city", "proper")) if text[:1].isupper() else "noun")


def parallel_calls(draw: Draw) -> Conversation:
    """One request that needs the same tool several times, or several tools."""
    if draw.chance(0.6):
        request, one, offers = repeated_call(draw, draw.frame((2, 2, 3)))
        tools = offered(draw, (one,), (0, 0, 1, 2))
        wanted, unsaid = one.wanted, one.unsaid
    else:
        offers = _different(draw, draw.frame((2, 2, 2, 3)))
        request = offers[0].request
        for other in offers[1:]:
            request = (
                request.rstrip(".!? ")
                + draw.frame((", and ", " and then ", ". Also: ", "\n", ". ", "; "))
                + other.request
            )
        tools = offered(draw, offers, (0, 0, 1))
        wanted = ", ".join(other.wanted for other in offers)
        unsaid = tuple(key for other in offers for key in other.unsaid)
    calls = [other.call for other in offers]
    return Conversation(
        skill="tool_use.parallel",
        system=plain_system(draw),
        tools=tuple(tools),
        turns=calling(draw, request, wanted, calls, tools, unsaid),
    )


def _different(draw: Draw, count: int) -> list[Offer]:
    """Offers of tools that nobody could take for each other."""
    found: list[Offer] = []
    while len(found) < count:
        other = offer(draw)
        if other.by_keys or len(other.request) > 160:
            continue
        if any(other.tool.name == one.tool.name or not other.actions.isdisjoint(one.actions) for one in found):
            continue
        found.append(other)
    return found


def small_talk_turns(draw: Draw, names: Sequence[str]) -> list[Turn]:
    """Something people say, and the answer to it."""
    intent = draw.frame([intent for intent in dialogue().intents if intent.name in names])
    return [
        Turn(role="user", content=phrase(draw, intent.frames)),
        Turn(role="assistant", content=intent.answer, reasoning=intent.thought),
    ]


def unneeded(draw: Draw) -> Conversation:
    """Tools are offered, but the request needs none of them."""
    if draw.chance(0.6):
        turns = small_talk_turns(draw, [intent.name for intent in dialogue().intents])
    else:
        topic = draw.frame(topics())
        frames = ("Explain {t} in one sentence.", "{t} in one sentence", "What is {t}? One sentence.")
        turns = [
            Turn(role="user", content=phrase(draw, frames, t=topic.names[0])),
            Turn(
                role="assistant", content=topic.sentences[0], reasoning=f"Topic: {topic.names[0]}. Form: one sentence."
            ),
        ]
    tools = {one.tool.name: one.tool for one in (offer(draw) for _ in range(draw.frame((1, 1, 2, 3))))}
    return Conversation(
        skill="tool_use.unneeded", system=plain_system(draw), tools=tuple(tools.values()), turns=tuple(turns)
    )


@cache
def _general_tools() -> frozenset[str]:
    """Names of tools that nearly every question fits."""
    return frozenset(name for task in tasks() if task.names[0] in ("search", "calculate") for name in task.names)


def no_tool(draw: Draw) -> Conversation:
    """The request is for a tool that is not among the offered ones, however similar they look."""
    wanted = offer(draw)
    while wanted.by_keys or wanted.wanted == wanted.tool.name or wanted.tool.name in _general_tools():
        wanted = offer(draw)
    tools = [tool for tool in offered(draw, (wanted,), (1, 2, 2, 3, 3)) if tool is not wanted.tool]
    if not tools or any(tool.name in _general_tools() for tool in tools):
        return no_tool(draw)
    goal = f"Wanted: {wanted.wanted}. "
    search = " ".join(f"{tool.name}: no." for tool in tools)
    return Conversation(
        skill="tool_use.none",
        system=plain_system(draw),
        tools=tuple(tools),
        turns=(
            Turn(role="user", content=wanted.request),
            Turn(
                role="assistant",
                content=NO_TOOL,
                reasoning=thought(
                    draw, low="No tool fits.", high=f"{goal}No tool fits.", longest=f"{goal}{search} No tool fits."
                ),
            ),
        ),
    )

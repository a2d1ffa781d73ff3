"""Tools that this service runs: typed tools, plugins and `:online`, and what stops them. Wire to core.

A search by plugin or `:online` is made once, before the answer, on what the user said; a tool is called by the model.

Shapes: openrouter.ai/docs, "Server tools", "Web search"; members as the official Python SDK declares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from deepserve.core.errors import InvalidField, UnsupportedFeature
from deepserve.core.messages import Json
from deepserve.core.request import ServerTool, ToolBudget
from deepserve.core.server_tool import ToolKind
from deepserve.core.web_tools import FetchOptions, SearchOptions, encode
from deepserve.dialects.node import Node
from deepserve.dialects.web_options import (
    CHARACTERS_OF_SIZE,
    CHARACTERS_PER_TOKEN,
    read_context_size,
    read_count,
    read_domain_rules,
    read_location,
)

_SHORT_SEARCHES = ("web_search", "web_search_preview", "web_search_preview_2025_03_11", "web_search_2025_08_26")
"""What OpenAI calls the tool; the service takes it for its own."""

KINDS: Mapping[str, ToolKind] = {
    "openrouter:web_search": "web_search",
    "openrouter:web_fetch": "web_fetch",
    "openrouter:datetime": "datetime",
    **dict.fromkeys(_SHORT_SEARCHES, "web_search"),
}

_DEFAULT_RESULTS = 5
_MAX_RESULTS = 25
_MAX_CHARACTERS = 100_000
_MAX_TOOL_CALLS = 30

_SEARCH_MEMBERS = frozenset(
    ("allowed_domains", "excluded_domains", "max_results", "max_uses", "max_total_results", "max_characters")
) | frozenset(("search_context_size", "user_location"))
_FETCH_MEMBERS = frozenset(("allowed_domains", "blocked_domains", "max_content_tokens", "max_uses"))
_PLUGIN_MEMBERS = frozenset(
    ("id", "enabled", "include_domains", "exclude_domains", "max_results", "user_location", "search_prompt")
)


def is_server_tool(node: Node) -> bool:
    """Whether an entry of `tools` is for the service itself."""
    kind = node.optional("type")
    return kind is not None and kind.value in KINDS


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """ignored: paths of members without effect."""

    tools: tuple[ServerTool, ...] = ()
    ignored: tuple[str, ...] = ()


def read_tools(node: Node | None) -> Wanted:
    """The entries of `tools` that are for the service. Raises InvalidField."""
    if node is None:
        return Wanted()
    wanted: list[ServerTool] = []
    ignored: list[str] = []
    for item in node.items():
        if not is_server_tool(item):
            continue
        kind = KINDS[item.required("type").string()]
        # The short form has the members of `parameters` beside the type.
        parameters = item.optional("parameters") or item
        match kind:
            case "web_search":
                known, tool = _SEARCH_MEMBERS, _search(parameters)
            case "web_fetch":
                known, tool = _FETCH_MEMBERS, _fetch(parameters)
            case _:
                known, tool = frozenset(("timezone",)), _date_time(parameters)
        ignored += _others(parameters, known | {"type", "parameters"}, "tools[].parameters")
        wanted.append(tool)
    names = [tool.name for tool in wanted]
    if len(set(names)) < len(names):
        raise InvalidField("A tool of the service's is declared twice.", field="tools")
    return Wanted(tools=tuple(wanted), ignored=tuple(ignored))


def _search(node: Node) -> ServerTool:
    max_results = read_count(node, "max_results", high=_MAX_RESULTS) or _DEFAULT_RESULTS
    max_uses = read_count(node, "max_uses", high=2**32 - 1)
    most = read_count(node, "max_total_results", high=2**32 - 1)
    if most is not None:
        # So many in all: no more searches than can be full.
        max_results = min(max_results, most)
        max_uses = min(max_uses or most, most // max_results)
    size = read_context_size(node)
    characters = read_count(node, "max_characters", high=_MAX_CHARACTERS) or CHARACTERS_OF_SIZE[size or "medium"]
    options = SearchOptions(
        domains=read_domain_rules(node, allowed="allowed_domains", blocked="excluded_domains"),
        location=read_location(node.optional("user_location")),
        max_results=max_results,
        max_characters=characters,
    )
    return ServerTool(tool="web_search", name="web_search", max_uses=max_uses, options=encode(options))


def _fetch(node: Node) -> ServerTool:
    tokens = read_count(node, "max_content_tokens", high=2**32 - 1)
    options = FetchOptions(
        domains=read_domain_rules(node, allowed="allowed_domains", blocked="blocked_domains", is_either=False),
        max_characters=None if tokens is None else tokens * CHARACTERS_PER_TOKEN,
    )
    max_uses = read_count(node, "max_uses", high=2**32 - 1)
    return ServerTool(tool="web_fetch", name="web_fetch", max_uses=max_uses, options=encode(options))


def _date_time(node: Node) -> ServerTool:
    zone = node.optional("timezone")
    options: dict[str, Json] = {} if zone is None else {"timezone": zone.string()}
    return ServerTool(tool="datetime", name="datetime", options=options)


def search_first(node: Node | None = None) -> Wanted:
    """The plugin `web`, with its members, or `:online`, which has none."""
    options = SearchOptions(max_results=_DEFAULT_RESULTS)
    tool = ServerTool(tool="web_search", name="web_search", is_first=True, options=encode(options))
    if node is None:
        return Wanted(tools=(tool,))
    prompt = node.optional("search_prompt")
    options = msgspec.structs.replace(
        options,
        domains=read_domain_rules(node, allowed="include_domains", blocked="exclude_domains", is_either=False),
        max_results=read_count(node, "max_results", high=_MAX_RESULTS) or _DEFAULT_RESULTS,
        location=read_location(node.optional("user_location")),
    )
    tool = msgspec.structs.replace(
        tool, options=encode(options), preface=None if prompt is None else prompt.string().rstrip() + "\n\n"
    )
    return Wanted(tools=(tool,), ignored=_others(node, _PLUGIN_MEMBERS, "plugins[]"))


def fetch_plugin(node: Node) -> Wanted:
    return Wanted(tools=(_fetch(node),), ignored=_others(node, _FETCH_MEMBERS | {"id", "enabled"}, "plugins[]"))


def read_search_options(node: Node | None) -> Wanted:
    """`web_search_options`, as OpenAI's models with a search of their own take it: the model may search."""
    if node is None:
        return Wanted()
    known = frozenset(("search_context_size", "user_location"))
    place = node.optional("user_location")
    size = read_context_size(node)
    options = SearchOptions(
        # OpenAI puts the place one level deeper.
        location=read_location(None if place is None else place.optional("approximate") or place),
        max_results=_DEFAULT_RESULTS,
        max_characters=CHARACTERS_OF_SIZE[size or "medium"],
    )
    tool = ServerTool(tool="web_search", name="web_search", options=encode(options))
    return Wanted(tools=(tool,), ignored=_others(node, known, "web_search_options"))


def _others(node: Node, known: frozenset[str], path: str) -> tuple[str, ...]:
    return tuple(f"{path}.{name}" for name, value in node.mapping().items() if name not in known and value is not None)


def chosen_function(choice: Json) -> Json:
    """A `tool_choice` with tools of the service's by the names under which the model calls them."""
    if not isinstance(choice, dict):
        return choice
    kind = choice.get("type")
    if isinstance(kind, str) and kind in KINDS:
        return {"type": "function", "function": {"name": KINDS[kind]}}
    return choice


# What stops the rounds.


def read_budget(root: Node) -> ToolBudget:
    """Raises InvalidField, and UnsupportedFeature for a limit on cost, which no round knows of itself."""
    calls, conditions = root.optional("max_tool_calls"), root.optional("stop_server_tools_when")
    max_calls = _MAX_TOOL_CALLS if calls is None else calls.integer("u32", low=0, high=_MAX_TOOL_CALLS)
    if conditions is None:
        return ToolBudget(max_calls=max_calls)
    if not conditions.sequence():
        raise InvalidField("stop_server_tools_when: at least one condition is needed", field="stop_server_tools_when")
    budget = ToolBudget()
    for condition in conditions.items():
        budget = _narrowed(budget, condition)
    return budget


def _narrowed(budget: ToolBudget, node: Node) -> ToolBudget:
    replace = msgspec.structs.replace
    kind = node.required("type").variant(
        ("step_count_is", "has_tool_call", "max_tokens_used", "max_cost", "finish_reason_is")
    )
    match kind:
        case "step_count_is":
            steps = node.required("step_count").integer("u32", low=1)
            return replace(budget, max_rounds=min(steps, budget.max_rounds or steps))
        case "has_tool_call":
            name = node.required("tool_name").string()
            return replace(budget, last_tools=(*budget.last_tools, KINDS.get(name, name)))
        case "max_tokens_used":
            tokens = node.required("max_tokens").integer("u32", low=1)
            return replace(budget, max_tokens=min(tokens, budget.max_tokens or tokens))
        case "finish_reason_is":
            # Every other reason ends the answer anyway.
            return replace(budget, max_rounds=1) if node.required("reason").value == "tool_calls" else budget
        case _:
            raise UnsupportedFeature(
                "stop_server_tools_when: `max_cost` is not supported; `max_tokens_used` limits the same.",
                field=node.field,
            )


def merged(wanted: Sequence[Wanted]) -> Wanted:
    """All together; a search as a tool that is asked for in two ways is one."""
    tools: dict[tuple[str, bool], ServerTool] = {}
    for one in wanted:
        for tool in one.tools:
            tools.setdefault((tool.name, tool.is_first), tool)
    return Wanted(tools=tuple(tools.values()), ignored=tuple(path for one in wanted for path in one.ignored))

"""One question to a model, in one spelling for all dialects."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, NewType

import msgspec

from deepserve.core.messages import Json, Message
from deepserve.core.routing import RoutingWishes
from deepserve.core.sampling import Sampling
from deepserve.core.server_tool import ToolKind
from deepserve.core.tenant import LOCAL_TENANT, Tenant
from deepserve.core.tool import Tool as Tool
from deepserve.core.trace import Trace

RequestId = NewType("RequestId", str)

Effort = Literal["low", "high", "max"]

Dialect = Literal["chat", "messages", "responses", "completions", "openrouter", "oxen", "runware", "tools"]
"""The wire formats, as records and keys name them. `tools`: a tool of the server, asked for by itself."""


class Thinking(msgspec.Struct, frozen=True, kw_only=True):
    """Whether and how hard to think before answering.

    budget_tokens  most tokens the trace may take; None leaves it to max_output_tokens
    exclude        think, but do not send the trace
    """

    enabled: bool = True
    effort: Effort = "high"
    budget_tokens: int | None = None
    exclude: bool = False


class ServerTool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool the server is asked to run itself; options are the dialect's, decoded.

    name        under which the model is to call it; for mcp the name of the operator's server
    functions   of an mcp server: those alone, by the names it gives them; empty: none, even of one that all requests
                get; None: all
    max_uses    more calls are answered by an error
    is_first    it is not the model that calls the tool: it is run once, on what the user said, before the answer
    preface     of such a tool: what the model is told before what was found; None: the server's own words
    if_missing  what a server without it does: refuse the request, leave the tool out, or offer it all the same and
                answer its calls by an error, for clients that count on the tool's form more than on the tool
    """

    tool: ToolKind
    name: str
    functions: tuple[str, ...] | None = None
    max_uses: int | None = None
    options: Mapping[str, Json] = {}
    is_first: bool = False
    preface: str | None = None
    if_missing: Literal["refuse", "skip", "fault"] = "refuse"


class ToolBudget(msgspec.Struct, frozen=True, kw_only=True):
    """What tools of the server may take for one answer, where the client wants less than the server allows.

    max_rounds  how often the model may call tools and go on
    max_calls   calls in all
    max_tokens  prompt and output of all rounds together
    last_tools  after a round that called one of these, by name, no more calls are made
    """

    max_rounds: int | None = None
    max_calls: int | None = None
    max_tokens: int | None = None
    last_tools: tuple[str, ...] = ()


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """none: the model sees no tools; auto; required: at least one call; named: a call of one of `names`."""

    mode: Literal["none", "auto", "required", "named"] = "auto"
    names: tuple[str, ...] = ()
    is_parallel: bool = True


class ResponseFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The form the answer must have; the schema belongs to json_schema, the pattern to regex."""

    kind: Literal["text", "json_object", "json_schema", "regex", "choice"] = "text"
    name: str | None = None
    schema: Mapping[str, Json] | None = None
    strict: bool = False
    pattern: str | None = None
    choices: tuple[str, ...] = ()


class ProviderPreferences(msgspec.Struct, frozen=True, kw_only=True):
    """Wishes about who answers; what cannot be met is refused by name."""

    order: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    allow_fallbacks: bool = True
    require_parameters: bool = False
    sort: str | None = None
    max_price: Mapping[str, str] = {}
    data_collection: Literal["allow", "deny"] = "allow"


class Infill(msgspec.Struct, frozen=True, kw_only=True):
    """Plain completion: what stands before the hole and, if there is one, after it.

    echo: the client wants the prompt repeated before the answer; whoever encodes the answer does that.
    """

    prompt: str
    suffix: str | None = None
    echo: bool = False


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that determines an answer.

    model           canonical id, resolved by the catalog; requested_model is the client's own spelling
    dialect         in which it was asked; empty: the server asks itself
    answer_id       under which the client will know the answer; None: the request's own id
    user_id         the tenant's end user: narrows cache and isolation, never widens
    max_output_tokens  reasoning and answer together, as the client set it: more than the context leaves is refused
    default_output_tokens  the limit where the client set none, cut to what the context leaves; None: the model's own
    stop            strings that end the answer and are not part of it
    num_results     independent answers to the same prompt, one seed each
    fallback_models tried in order when the first cannot answer
    infill          set instead of messages for plain completions
    schema_fields   `response_format` and `tools[NAME]` -> where the client wrote their schemas, for refusals that only
                    compiling them brings
    routing         what the client says about who is to answer, where `model` leaves it open
    is_whole        the client gets the answer when it is complete, so that nobody has to hear of it piece by piece
    is_count        only the number of its prompt tokens is wanted, as exactly as whoever would answer can tell it
    is_strict       reproduce the vendor's refusals instead of serving what can be served
    arrived_at      the instant that decides the price
    trace           what links it to requests of others; None: nothing does
    """

    id: RequestId
    model: str
    arrived_at: datetime
    requested_model: str = ""
    dialect: Dialect | Literal[""] = ""
    messages: tuple[Message, ...] = ()
    infill: Infill | None = None
    tools: tuple[Tool, ...] = ()
    server_tools: tuple[ServerTool, ...] = ()
    tool_budget: ToolBudget = ToolBudget()
    tool_choice: ToolChoice = ToolChoice()
    response_format: ResponseFormat = ResponseFormat()
    thinking: Thinking = Thinking()
    sampling: Sampling = Sampling()
    max_output_tokens: int | None = None
    default_output_tokens: int | None = None
    stop: tuple[str, ...] = ()
    num_results: int = 1
    tenant: Tenant = LOCAL_TENANT
    answer_id: RequestId | None = None
    user_id: str | None = None
    fallback_models: tuple[str, ...] = ()
    provider: ProviderPreferences = ProviderPreferences()
    metadata: Mapping[str, Json] = {}
    schema_fields: Mapping[str, str] = {}
    routing: RoutingWishes = RoutingWishes()
    is_whole: bool = False
    is_count: bool = False
    is_strict: bool = False
    trace: Trace | None = None

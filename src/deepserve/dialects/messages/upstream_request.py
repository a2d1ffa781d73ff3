"""Requests as services that speak Messages want to be asked: `core.Request` to a body, by what their flavour carries.

Nothing is lost in silence. What a service has no field for is asked for in words (the form of the answer, a demanded
call), named (`left_out`: knobs of sampling, a budget for thinking), or refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, assert_never

import msgspec

from deepserve.core.errors import UnsupportedFeature
from deepserve.core.messages import (
    File,
    Image,
    Json,
    Message,
    OtherPart,
    Part,
    Reasoning,
    Refusal,
    ServerToolCall,
    ServerToolResult,
    Text,
    ToolCall,
    ToolResult,
)
from deepserve.core.request import Request, Tool, ToolChoice
from deepserve.core.sampling import KNOBS
from deepserve.dialects.messages.content import INVALID_JSON
from deepserve.dialects.messages.upstream_flavour import MessagesFlavour
from deepserve.dialects.upstream_request import (
    LOST_TRACE,
    ONE_CALL,
    SEVERAL_RESULTS,
    UpstreamRequest,
    demand_in_words,
    form_in_words,
    joined_texts,
    refuse_everywhere_unsayable,
    with_words,
)

_PATH: Final = "/v1/messages"
_COUNT_PATH: Final = "/v1/messages/count_tokens"

_USUAL_OUTPUT_TOKENS: Final = 32_768
"""Where a limit must be named and nobody has one."""

_LEAST_BUDGET_TOKENS: Final = 1024
"""platform.claude.com/docs, "Extended thinking"."""

_UNCOUNTED: Final = frozenset(("max_tokens", "stop_sequences", "stream", "metadata", *KNOBS))
"""What counting takes no field for: platform.claude.com/docs/en/api/messages-count-tokens."""

_NO_ARGUMENTS: Final = {"type": "object", "properties": {}}


def encode_upstream_request(
    request: Request,
    flavour: MessagesFlavour,
    *,
    model: str,
    user: str | None = None,
    is_stream: bool = True,
    most_output_tokens: int | None = None,
) -> UpstreamRequest:
    """model: the service's name for it. user: whose request it is. most_output_tokens: of an answer there.

    Raises UnsupportedFeature, in the words of `core`.

    Not carried, because the dialect has no word for it: provider preferences and fallback models, citations, names of
    speakers, message and trace ids, the detail of images, that a system turn is a reminder, and who may see the trace,
    which always comes. Calls of tools that this server ran itself are written as plain calls before this.
    """
    fields, left_out = _fields(request, flavour, model)
    fields |= {
        "max_tokens": _limit(request, flavour, most_output_tokens),
        "stop_sequences": list(request.stop) or None,
        "stream": is_stream or None,
        "metadata": None if user is None else {"user_id": user},
    }
    return UpstreamRequest(path=_PATH, body=_body(fields), left_out=left_out)


def encode_count_request(
    request: Request, flavour: MessagesFlavour, *, model: str, most_output_tokens: int | None = None
) -> UpstreamRequest:
    """The question how many prompt tokens that is. Raises UnsupportedFeature."""
    fields, _ = _fields(request, flavour, model, most_output_tokens=most_output_tokens)
    return UpstreamRequest(
        path=_COUNT_PATH, body=_body({name: value for name, value in fields.items() if name not in _UNCOUNTED})
    )


def _body(fields: dict[str, Json]) -> bytes:
    return msgspec.json.encode({name: value for name, value in fields.items() if value is not None})


def _fields(
    request: Request, flavour: MessagesFlavour, model: str, *, most_output_tokens: int | None = None
) -> tuple[dict[str, Json], tuple[str, ...]]:
    """What decides the prompt, and how it is drawn from; and the names of what cannot be said."""
    _refuse_unsayable(request, flavour)
    sentences: list[str] = []
    choice = _choice(request, flavour, sentences)
    form = _form(request, flavour, sentences)
    system, turns = _conversation(with_words(request.messages, sentences), request, flavour)
    if not turns:
        raise UnsupportedFeature("The upstream wants something that the user says, too.", field="messages")
    thinking = request.thinking
    sampling, left_out = _sampling(request, flavour)
    if thinking.enabled and thinking.budget_tokens is not None and flavour.budget == "ignored":
        left_out = (*left_out, "thinking.budget_tokens")
    config = {"effort": thinking.effort if thinking.enabled else None, "format": form}
    return {
        "model": model,
        "system": system,
        "messages": turns,
        "thinking": _thinking(request, flavour, _limit(request, flavour, most_output_tokens)),
        "output_config": {name: value for name, value in config.items() if value is not None} or None,
        **sampling,
        **_tools(request, flavour, choice),
    }, left_out


def _refuse_unsayable(request: Request, flavour: MessagesFlavour) -> None:
    refuse_everywhere_unsayable(request)
    if request.num_results > 1:
        raise UnsupportedFeature(SEVERAL_RESULTS, field="n")
    if not request.messages or request.messages[-1].role != "assistant":
        return
    field = f"messages[{len(request.messages) - 1}]"
    if not request.messages[-1].prefix:
        raise UnsupportedFeature(
            "The upstream would continue a last turn of the assistant: let the user say something after it, or begin "
            "the answer with it (`prefix`).",
            field=field,
        )
    if not flavour.continues:
        raise UnsupportedFeature("The upstream cannot continue an answer that was begun for it.", field=field)


# What is asked in words where there is no field


def _form(request: Request, flavour: MessagesFlavour, sentences: list[str]) -> Json:
    form = request.response_format
    if form.kind == "json_schema" and flavour.has_schemas:
        return {"type": "json_schema", "schema": form.schema}
    sentence = form_in_words(form)
    if sentence is not None:
        sentences.append(sentence)
    return None


def _choice(request: Request, flavour: MessagesFlavour, sentences: list[str]) -> ToolChoice:
    """What is left to be asked for by a field."""
    choice = request.tool_choice
    if not request.tools or choice.mode == "none":
        return choice
    if not choice.is_parallel and not flavour.has_parallel_switch:
        sentences.append(ONE_CALL)
        choice = msgspec.structs.replace(choice, is_parallel=True)
    can_force = flavour.forces_while_thinking or not request.thinking.enabled
    if choice.mode in ("required", "named") and not can_force:
        sentences.append(demand_in_words(choice))
        choice = ToolChoice(names=choice.names, is_parallel=choice.is_parallel)
    return choice


# Fields


def _thinking(request: Request, flavour: MessagesFlavour, limit: int | None) -> Json:
    thinking = request.thinking
    if not thinking.enabled:
        return {"type": "disabled"}
    match flavour.budget:
        case "ignored":
            return {"type": "enabled"}
        case "kept":
            given = {} if thinking.budget_tokens is None else {"budget_tokens": thinking.budget_tokens}
            return {"type": "enabled", **given}
        case "needed":
            # Where nobody wants another, all that the answer may take but for its last word.
            all_of_it = max(_LEAST_BUDGET_TOKENS, (limit or _USUAL_OUTPUT_TOKENS) - 1)
            return {"type": "enabled", "budget_tokens": thinking.budget_tokens or all_of_it}
        case _:
            assert_never(flavour.budget)


def _limit(request: Request, flavour: MessagesFlavour, most_output_tokens: int | None) -> int | None:
    """The client's own as it is: that it is too large, the service says. One of ours is cut."""
    if request.max_output_tokens is not None or not flavour.needs_limit:
        return request.max_output_tokens
    usual = request.default_output_tokens or _USUAL_OUTPUT_TOKENS
    return usual if most_output_tokens is None else min(usual, most_output_tokens)


def _sampling(request: Request, flavour: MessagesFlavour) -> tuple[dict[str, Json], tuple[str, ...]]:
    sampling = request.sampling
    carried = flavour.knobs - (flavour.fixed_while_thinking if request.thinking.enabled else frozenset())
    # A neutral value still says that the service's own default is not meant, where it can be said.
    given = {name: value for name in KNOBS if (value := getattr(sampling, name)) is not None}
    left_out = [name for name, value in given.items() if name not in carried and value != KNOBS[name].neutral]
    others = {
        "seed": sampling.seed is not None,
        "logit_bias": bool(sampling.logit_bias),
        "logprobs": sampling.num_top_logprobs is not None,
    }
    left_out += [name for name, is_asked in others.items() if is_asked]
    return {name: value for name, value in given.items() if name in carried}, tuple(left_out)


def _tools(request: Request, flavour: MessagesFlavour, choice: ToolChoice) -> dict[str, Json]:
    tools: Sequence[Tool] = request.tools
    if not tools:
        return {}
    if choice.names and choice.mode != "none":
        # There is no list of allowed tools: the others are not offered.
        tools = [tool for tool in tools if tool.name in choice.names]
    words = {"none": "none", "auto": "auto", "required": "any", "named": "tool"}
    chosen: dict[str, Json] = {"type": words[choice.mode]}
    if choice.mode == "named":
        chosen["name"] = choice.names[0]
    if not choice.is_parallel and choice.mode != "none":
        chosen["disable_parallel_tool_use"] = True
    return {"tools": [_tool(tool, flavour) for tool in tools], "tool_choice": chosen}


def _tool(tool: Tool, flavour: MessagesFlavour) -> Json:
    parameters = tool.parameters
    if parameters is None and not flavour.is_literal:
        parameters = _NO_ARGUMENTS
    fields: dict[str, Json] = {
        "name": tool.name,
        "description": tool.description or None,
        "input_schema": parameters,
        "strict": True if tool.strict and flavour.has_strict_tools else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


# The conversation


def _conversation(
    messages: Sequence[Message], request: Request, flavour: MessagesFlavour
) -> tuple[Json, list[dict[str, Json]]]:
    """`system`, None where there is none, and the turns.

    Results of tools and what the user says right after them are one turn, results first, as the dialect wants them.
    """
    told: list[Text] = []
    turns: list[dict[str, Json]] = []
    after_results: list[Json] = []
    for index, message in enumerate(messages):
        if message.role == "system" and (index == 0 or not flavour.has_system_turns):
            texts = [Text(part.text) for part in message.parts if isinstance(part, Text | Refusal) and part.text]
            told += [Text(f"\n\n{text.text}") if told and number == 0 else text for number, text in enumerate(texts)]
            continue
        blocks = [block for part in _sayable(message, request, flavour) for block in _blocks(part, flavour)]
        if message.role == "tool" and after_results:
            after_results += blocks
        elif message.role == "user" and after_results:
            after_results += blocks
            after_results = []
        else:
            turn = {"role": _role(message, flavour), "content": blocks}
            turns.append(turn)
            after_results = blocks if message.role == "tool" else []
    for turn in turns:
        turn["content"] = _content(turn["content"])
    parts = tuple(told) if flavour.is_literal else joined_texts(told)
    return _content([{"type": "text", "text": part.text} for part in parts]) or None, turns


def _content(blocks: Sequence[Json]) -> Json:
    """A single text is a plain string: every service takes that."""
    if len(blocks) == 1 and blocks[0]["type"] == "text":
        return blocks[0]["text"]
    return blocks or ""


def _role(message: Message, flavour: MessagesFlavour) -> str:
    match message.role:
        case "assistant":
            return "assistant"
        case "system" | "latest_reminder" if flavour.has_system_turns:
            return "system"
        case _:
            return "user"


def _sayable(message: Message, request: Request, flavour: MessagesFlavour) -> Sequence[Part]:
    parts: Sequence[Part] = message.parts if flavour.is_literal else joined_texts(message.parts)
    if message.role != "assistant":
        return parts
    traces = [part for part in parts if isinstance(part, Reasoning) and _is_legible(part, flavour)]
    if (
        flavour.needs_traces
        and request.thinking.enabled
        and not message.prefix
        and not any(trace.text for trace in traces)
        and (message.tool_calls or request.tools)
    ):
        traces = [Reasoning(text=LOST_TRACE)]
    return [*traces, *(part for part in parts if not isinstance(part, Reasoning))]


def _is_legible(trace: Reasoning, flavour: MessagesFlavour) -> bool:
    return bool(trace.text) or flavour.takes_seals or (trace.signature is None and trace.sealed is None)


def _blocks(part: Part, flavour: MessagesFlavour) -> list[Json]:
    match part:
        case Text() | Refusal():
            return [{"type": "text", "text": part.text}] if part.text else []  # an empty one is refused by many
        case Reasoning():
            if part.sealed is not None and not part.text and part.signature is None:
                return [{"type": "redacted_thinking", "data": part.sealed}]
            # Clients and services differ in whether a signature must be there; none objects to an empty one.
            return [{"type": "thinking", "thinking": part.text, "signature": part.signature or ""}]
        case ToolCall():
            return [{"type": "tool_use", "id": part.id, "name": part.name, "input": _input(part.arguments)}]
        case ToolResult():
            return [_result(part, flavour)]
        case Image():
            return [{"type": "image", "source": _source(part.url or "", part.media_type or "image/png")}]
        case File():
            if part.file_id is not None:
                return [{"type": "document", "source": {"type": "file", "file_id": part.file_id}}]
            return [{"type": "document", "source": _source(part.data or "", part.media_type or "application/pdf")}]
        case OtherPart():
            return [part.value]
        case ServerToolCall() | ServerToolResult():
            return []
        case _:
            assert_never(part)


def _source(data: str, media_type: str) -> Json:
    """An address, a data URL, or base64 without one."""
    if data.startswith(("https://", "http://")):
        return {"type": "url", "url": data}
    if data.startswith("data:"):
        head, _, data = data.partition(",")
        media_type = head.removeprefix("data:").partition(";")[0] or media_type
    return {"type": "base64", "media_type": media_type, "data": data}


def _result(result: ToolResult, flavour: MessagesFlavour) -> Json:
    parts: Sequence[Part] = result.content if flavour.is_literal else joined_texts(result.content)
    fields: dict[str, Json] = {
        "type": "tool_result",
        "tool_use_id": result.call_id,
        "content": _content([block for part in parts for block in _blocks(part, flavour)]),
    }
    return {**fields, "is_error": True} if result.is_error else fields


def _input(arguments: str) -> Json:
    """The arguments in the model's own spelling; text that is no object is wrapped, not dropped."""
    try:
        is_object = isinstance(msgspec.json.decode(arguments), dict) if arguments.strip() else False
    except (msgspec.DecodeError, RecursionError):
        is_object = False
    if is_object:
        return msgspec.Raw(arguments.encode())
    return {INVALID_JSON: arguments} if arguments.strip() else {}

"""Requests as services that speak Responses want to be asked: `core.Request` to a body, by what their flavour carries.

Nothing is lost in silence. What a service has no field for is asked for in words (some forms of the answer), named
(`left_out`: knobs of sampling, a budget for thinking), or refused by name. Nothing is kept there: every question tells
the whole conversation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from deepserve.core.request import Request, ResponseFormat, Tool, ToolChoice
from deepserve.core.sampling import KNOBS
from deepserve.dialects.responses.upstream_flavour import UpstreamFlavour
from deepserve.dialects.upstream_request import (
    JSON_ANSWER,
    SEVERAL_RESULTS,
    UpstreamRequest,
    form_in_words,
    inner_parts,
    joined_texts,
    refuse_everywhere_unsayable,
    with_words,
)

_PATH: Final = "/responses"
_COUNT_PATH: Final = "/responses/input_tokens"

_COUNTED: Final = frozenset(("model", "input", "tools", "tool_choice", "parallel_tool_calls", "reasoning", "text"))
"""What counting takes a field for: platform.openai.com/docs/api-reference/responses/input-tokens."""

_SEALED: Final = "reasoning.encrypted_content"
_LOGPROBS: Final = "message.output_text.logprobs"

_NO_ARGUMENTS: Final = {"type": "object", "properties": {}}


def encode_upstream_request(
    request: Request, flavour: UpstreamFlavour, *, model: str, user: str | None = None, is_stream: bool = True
) -> UpstreamRequest:
    """model: the service's name for it. user: whose request it is, in a form the service may know.

    Raises UnsupportedFeature, in the words of `core`.

    Not carried, because the dialect has no word for it: provider preferences and fallback models, citations, names of
    speakers, signatures of traces, whether a tool result is an error, that a system turn is a reminder,
    log-probabilities of traces, and who may see the trace, which always comes. Calls of tools that this server ran
    itself are written as plain calls before this.
    """
    fields, left_out = _fields(request, flavour, model)
    fields |= {
        "max_output_tokens": request.max_output_tokens,
        "stream": is_stream or None,
        "store": False,
        "user": user,
    }
    return UpstreamRequest(path=_PATH, body=_body(fields), left_out=left_out)


def encode_count_request(request: Request, flavour: UpstreamFlavour, *, model: str) -> UpstreamRequest:
    """The question how many prompt tokens that is. Raises UnsupportedFeature."""
    fields, _ = _fields(request, flavour, model)
    return UpstreamRequest(
        path=_COUNT_PATH, body=_body({name: value for name, value in fields.items() if name in _COUNTED})
    )


def _body(fields: dict[str, Json]) -> bytes:
    return msgspec.json.encode({name: value for name, value in fields.items() if value is not None})


def _fields(request: Request, flavour: UpstreamFlavour, model: str) -> tuple[dict[str, Json], tuple[str, ...]]:
    """What decides the answer, and the names of what cannot be said."""
    _refuse_unsayable(request)
    sentences: list[str] = []
    form = _form(request, flavour, sentences)
    sampling, left_out = _sampling(request, flavour)
    thinking = request.thinking
    if thinking.enabled and thinking.budget_tokens is not None:
        left_out = (*left_out, "thinking.budget_tokens")
    included = [_SEALED] if thinking.enabled else []
    if "logprobs" in flavour.knobs and request.sampling.num_top_logprobs is not None:
        included.append(_LOGPROBS)
    return {
        "model": model,
        "input": list(_items(with_words(request.messages, sentences), flavour)),
        "reasoning": {"effort": thinking.effort if thinking.enabled else "none"},
        "text": None if form is None else {"format": form},
        "include": included or None,
        **sampling,
        **_tools(request, flavour),
    }, left_out


def _refuse_unsayable(request: Request) -> None:
    refuse_everywhere_unsayable(request)
    if request.num_results > 1:
        raise UnsupportedFeature(SEVERAL_RESULTS, field="n")
    if request.stop:
        raise UnsupportedFeature("The upstream's dialect knows no stop strings.", field="stop")
    if request.messages and request.messages[-1].role == "assistant":
        raise UnsupportedFeature(
            "The upstream cannot continue an answer that was begun for it: end with what the user says.",
            field=f"messages[{len(request.messages) - 1}]",
        )


# Fields


def _form(request: Request, flavour: UpstreamFlavour, sentences: list[str]) -> Json:
    form = request.response_format
    if form.kind not in ("json_object", "json_schema"):
        sentence = form_in_words(form)
        sentences += [] if sentence is None else [sentence]
        return None
    if flavour.needs_json_word and form.kind == "json_object" and not _says_json(request.messages):
        sentences.append(JSON_ANSWER)
    return {"type": "json_object"} if form.kind == "json_object" else _schema(form)


def _schema(form: ResponseFormat) -> Json:
    return {"type": "json_schema", "name": form.name or "answer", "schema": form.schema, "strict": form.strict}


def _says_json(messages: Sequence[Message]) -> bool:
    texts = [part.text for message in messages for part in inner_parts(message.parts) if isinstance(part, Text)]
    return "json" in "".join(texts).lower()


def _sampling(request: Request, flavour: UpstreamFlavour) -> tuple[dict[str, Json], tuple[str, ...]]:
    sampling = request.sampling
    # A neutral value still says that the service's own default is not meant, where it can be said.
    given: dict[str, Json] = {name: value for name in KNOBS if (value := getattr(sampling, name)) is not None}
    left_out = [name for name, value in given.items() if name not in flavour.knobs and value != KNOBS[name].neutral]
    fields = {name: value for name, value in given.items() if name in flavour.knobs}
    if sampling.seed is not None:
        if "seed" in flavour.knobs:
            fields["seed"] = sampling.seed
        else:
            left_out.append("seed")
    if sampling.logit_bias:
        left_out.append("logit_bias")
    if sampling.num_top_logprobs is not None:
        if "logprobs" in flavour.knobs:
            fields["top_logprobs"] = sampling.num_top_logprobs or None
        else:
            left_out.append("logprobs")
    return fields, tuple(left_out)


def _tools(request: Request, flavour: UpstreamFlavour) -> dict[str, Json]:
    if not request.tools:
        return {}
    fields: dict[str, Json] = {
        "tools": [_tool(tool, flavour) for tool in request.tools],
        "tool_choice": _choice(request.tool_choice),
    }
    if not request.tool_choice.is_parallel:
        fields["parallel_tool_calls"] = False
    return fields


def _tool(tool: Tool, flavour: UpstreamFlavour) -> Json:
    parameters = tool.parameters
    if parameters is None and not flavour.is_literal:
        parameters = _NO_ARGUMENTS
    # Where it is left out, OpenAI's service takes a tool for a strict one.
    fields: dict[str, Json] = {
        "type": "function",
        "name": tool.name,
        "description": tool.description or None,
        "strict": tool.strict,
    }
    return {**{name: value for name, value in fields.items() if value is not None}, "parameters": parameters}


def _choice(choice: ToolChoice) -> Json:
    functions = [{"type": "function", "name": name} for name in choice.names]
    match choice.mode:
        case "none":
            return "none"
        case "named" if len(functions) == 1:
            return functions[0]
        case "named" | "required":
            mode = "required"
        case "auto":
            mode = "auto"
        case _:
            assert_never(choice.mode)
    return {"type": "allowed_tools", "mode": mode, "tools": functions} if functions else mode


# The conversation


def _items(messages: Sequence[Message], flavour: UpstreamFlavour) -> Iterator[Json]:
    for number, message in enumerate(messages):
        parts: Sequence[Part] = message.parts if flavour.is_literal else joined_texts(message.parts)
        match message.role:
            case "assistant":
                yield from _said(parts, number)
            case "user" | "tool":
                results = [part for part in parts if isinstance(part, ToolResult)]
                yield from (_result(result, flavour) for result in results)
                rest = [part for part in parts if not isinstance(part, ToolResult)]
                if rest or not results:
                    yield {"type": "message", "role": "user", "content": _content(rest)}
            case "system" | "latest_reminder":
                yield {"type": "message", "role": "system", "content": _content(parts)}
            case _:
                assert_never(message.role)


def _said(parts: Sequence[Part], number: int) -> Iterator[Json]:
    """A turn of the assistant: its items in its order, texts beside each other in one."""
    written: list[Json] = []
    has_items = False
    for index, part in enumerate((*parts, None)):
        match part:
            case Text() | Refusal():
                if part.text:
                    written.append(_written(part))
                continue
            case OtherPart():
                written.append(part.value)
                continue
            case Image() | File() | ToolResult() | ServerToolCall() | ServerToolResult():
                continue  # no assistant says these; calls of our own tools are plain by now
            case None | Reasoning() | ToolCall():
                pass
            case _:
                assert_never(part)
        is_last = part is None
        if written or (is_last and not has_items):
            yield _spoken(written, f"msg_{number}_{index}")
            has_items, written = True, []
        if isinstance(part, Reasoning) and (part.text or part.sealed is not None):
            yield _trace(part, f"rs_{number}_{index}")
            has_items = True
        elif isinstance(part, ToolCall):
            yield {"type": "function_call", "call_id": part.id, "name": part.name, "arguments": part.arguments}
            has_items = True


def _written(part: Text | Refusal) -> Json:
    if isinstance(part, Refusal):
        return {"type": "refusal", "refusal": part.text}
    return {"type": "output_text", "text": part.text, "annotations": []}


def _spoken(written: Sequence[Json], id_: str) -> Json:
    """A single text is a plain string: every service takes that."""
    if not written:
        return {"type": "message", "role": "assistant", "content": ""}
    if len(written) == 1 and written[0].get("type") == "output_text":
        return {"type": "message", "role": "assistant", "content": written[0]["text"]}
    return {"type": "message", "id": id_, "role": "assistant", "status": "completed", "content": written}


def _trace(part: Reasoning, id_: str) -> Json:
    """id_: where it has none. Sealed forms are those that the service gave: what we sealed ourselves is open by now."""
    item: dict[str, Json] = {"type": "reasoning", "id": part.id or id_, "summary": []}
    if part.text:
        item["content"] = [{"type": "reasoning_text", "text": part.text}]
    if part.sealed is not None:
        item["encrypted_content"] = part.sealed
    return item


def _result(result: ToolResult, flavour: UpstreamFlavour) -> Json:
    parts: Sequence[Part] = result.content if flavour.is_literal else joined_texts(result.content)
    return {"type": "function_call_output", "call_id": result.call_id, "output": _content(parts)}


def _content(parts: Sequence[Part]) -> Json:
    """A single text is a plain string: every service takes that."""
    if not parts:
        return ""
    if len(parts) == 1 and isinstance(parts[0], Text | Refusal):
        return parts[0].text
    return [item for part in parts for item in _given(part)]


def _given(part: Part) -> Iterator[Json]:
    match part:
        case Text() | Refusal():
            yield {"type": "input_text", "text": part.text}
        case Image():
            yield {"type": "input_image", "image_url": part.url, "detail": part.detail or "auto"}
        case File():
            members = {"file_id": part.file_id, "file_data": part.data, "filename": part.filename}
            yield {"type": "input_file", **{name: value for name, value in members.items() if value is not None}}
        case OtherPart():
            yield part.value
        case Reasoning() | ToolCall() | ToolResult() | ServerToolCall() | ServerToolResult():
            pass  # only an assistant's turn has them, and results come first
        case _:
            assert_never(part)

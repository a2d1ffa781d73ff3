"""Requests as Runware wants to be asked: `core.Request` to a `textInference` task.

Nothing is lost in silence. What a task has no member for is asked for in words (some forms of the answer, calls one at
a time), named (`left_out`), or refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, assert_never

import msgspec

from deepserve.core.errors import UnsupportedFeature
from deepserve.core.messages import Json, Message, Part, Reasoning, Refusal, Text, ToolCall, ToolResult
from deepserve.core.request import Request, ToolChoice
from deepserve.core.sampling import KNOBS
from deepserve.dialects.runware import fields
from deepserve.dialects.upstream_request import (
    ONE_CALL,
    SEVERAL_RESULTS,
    UpstreamRequest,
    form_in_words,
    refuse_everywhere_unsayable,
    with_words,
)

_KNOBS: Final = {
    "temperature": "temperature",
    "top_p": "topP",
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
}
_NO_ARGUMENTS: Final = {"type": "object", "properties": {}}


def encode_upstream_request(
    request: Request, *, model: str, task_uuid: str, is_stream: bool = True, has_forms: bool = True
) -> UpstreamRequest:
    """model: the service's name for it. task_uuid: no other task's. has_forms: the model takes `jsonSchema` there.

    Raises UnsupportedFeature, in the words of `core`.

    Not carried, because the dialect has no word for it: users, names of speakers, message and trace ids, citations,
    whether a tool result is an error, that a system turn is a reminder, strict tools, provider preferences and fallback
    models, and who may see the trace, which always comes.
    """
    _refuse_unsayable(request)
    sentences: list[str] = []
    form = _form(request, sentences, has_forms=has_forms)
    if request.tools and not request.tool_choice.is_parallel:
        sentences.append(ONE_CALL)
    settings, left_out = _settings(request)
    task: dict[str, Json] = {
        "taskType": "textInference",
        "taskUUID": task_uuid,
        "model": model,
        "messages": [turn for message in with_words(request.messages, sentences) for turn in _encode_message(message)],
        "settings": settings,
        "seed": request.sampling.seed,
        "deliveryMethod": "stream" if is_stream else "sync",
        "includeUsage": True,
        "includeCost": True,
        **form,
    }
    choice = request.tool_choice
    # There is no list of allowed tools: the others are not offered.
    is_limited = bool(choice.names) and choice.mode != "none"
    tools = [tool for tool in request.tools if not is_limited or tool.name in choice.names]
    if tools:
        task["tools"] = [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "schema": tool.parameters if tool.parameters is not None else _NO_ARGUMENTS,
            }
            for tool in tools
        ]
        task["toolChoice"] = _choice(choice)
    told = {name: value for name, value in task.items() if value is not None}
    return UpstreamRequest(path="", body=msgspec.json.encode([told]), left_out=left_out)


def _refuse_unsayable(request: Request) -> None:
    refuse_everywhere_unsayable(request)
    if request.num_results > 1:
        raise UnsupportedFeature(SEVERAL_RESULTS, field="n")
    if not request.messages or request.messages[-1].role == "assistant":
        raise UnsupportedFeature(
            "The upstream cannot continue an answer that was begun for it: end with what the user says.",
            field=f"messages[{max(0, len(request.messages) - 1)}]",
        )
    if len(request.stop) > fields.MAX_STOPS:
        raise UnsupportedFeature(f"The upstream takes at most {fields.MAX_STOPS} stop strings.", field="stop")
    if request.max_output_tokens is not None and request.max_output_tokens > fields.MAX_OUTPUT_TOKENS:
        raise UnsupportedFeature(
            f"The upstream writes at most {fields.MAX_OUTPUT_TOKENS} tokens.", field="max_output_tokens"
        )


def _settings(request: Request) -> tuple[dict[str, Json], tuple[str, ...]]:
    """And the names of what cannot be said."""
    thinking = request.thinking
    level = "off" if not thinking.enabled else "max" if thinking.effort == "max" else "high"
    left_out = [
        name
        for name, knob in KNOBS.items()
        if name not in _KNOBS and getattr(request.sampling, name) not in (None, knob.neutral)
    ]
    if request.sampling.num_top_logprobs is not None:
        left_out.append("logprobs")
    if request.sampling.logit_bias:
        left_out.append("logit_bias")
    if thinking.enabled and thinking.budget_tokens is not None:
        left_out.append("thinking.budget_tokens")
    if thinking.enabled and thinking.effort == "low":
        left_out.append("thinking.effort low")
    settings: dict[str, Json] = {
        "thinkingLevel": level,
        "maxTokens": request.max_output_tokens,
        "stopSequences": list(request.stop) or None,
        **{member: getattr(request.sampling, name) for name, member in _KNOBS.items()},
    }
    return {name: value for name, value in settings.items() if value is not None}, tuple(left_out)


def _form(request: Request, sentences: list[str], *, has_forms: bool) -> dict[str, Json]:
    form = request.response_format
    if form.kind == "json_object" and has_forms:
        return {"outputFormat": "JSON"}
    if form.kind == "json_schema" and has_forms:
        return {"jsonSchema": {"name": form.name or "answer", "strict": form.strict, "schema": form.schema}}
    words = form_in_words(form)
    if words is not None:
        sentences.append(words)
    return {}


def _choice(choice: ToolChoice) -> Json:
    match choice.mode:
        case "auto" | "none":
            return {"type": choice.mode}
        case "required":
            return {"type": "any"}
        case "named":
            # Of several that are offered alone, any.
            return {"type": "tool", "name": choice.names[0]} if len(choice.names) == 1 else {"type": "any"}
        case _:
            assert_never(choice.mode)


def _encode_message(message: Message) -> Iterator[dict[str, Json]]:
    """One message; of one that holds results of tools, one for each of them first."""
    match message.role:
        case "assistant":
            yield _encode_assistant(message)
            return
        case "user" | "tool":
            for result in message.tool_results:
                yield {
                    "role": "tool",
                    "id": result.call_id,
                    "content": _joined(result.content),
                    **({} if result.name is None else {"name": result.name}),
                }
            rest = [part for part in message.parts if not isinstance(part, ToolResult)]
            if rest or not message.parts:
                yield {"role": "user", "content": _joined(rest)}
        case "system" | "latest_reminder":
            yield {"role": "system", "content": _joined(message.parts)}
        case _:
            assert_never(message.role)


def _encode_assistant(message: Message) -> dict[str, Json]:
    texts = [part for part in message.parts if not isinstance(part, Reasoning | ToolCall)]
    told: dict[str, Json] = {"role": "assistant", "content": _joined(texts)}
    if message.reasoning:
        told["reasoningContent"] = message.reasoning
    if message.tool_calls:
        told["tools"] = [
            {"id": call.id, "type": "function", "name": call.name, "input": _input(call.arguments)}
            for call in message.tool_calls
        ]
    return told


def _input(arguments: str) -> Json:
    """An object, or the text as it is where the model wrote no such."""
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return arguments
    return msgspec.Raw(arguments.encode() or b"{}") if isinstance(value, dict) else arguments


def _joined(parts: Sequence[Part]) -> str:
    texts: list[str] = []
    for part in parts:
        if not isinstance(part, Text | Refusal):
            raise UnsupportedFeature("The upstream reads text only.", field="messages")
        texts.append(part.text)
    return "\n\n".join(texts)

"""One conversation in every dialect: how a client of each would send it, and what it would understand of the answer.

Tests that hold all dialects to the same behaviour go through `SPEAKERS`; a new dialect is one more row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol
from uuid import uuid4

import msgspec
from typing_extensions import override

from deepserve.core.messages import Message, Reasoning, Text, ToolCall
from deepserve.core.request import Effort, ResponseFormat, Tool, ToolChoice

Json = Any
"""Bodies as clients write and read them."""

MODEL = "deepseek-v4-flash"


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked. Texts and calls only, because every dialect can say these; what some cannot is `unsayable`.

    effort  None: without thinking
    seed    draws at a temperature of 1 instead of 0, from here
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = ToolChoice()
    form: ResponseFormat = ResponseFormat()
    effort: Effort | None = "high"
    seed: int | None = None
    max_tokens: int = 64

    @property
    def temperature(self) -> float:
        return 0.0 if self.seed is None else 1.0


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a client understands of an answer.

    seal  the opaque form of the trace, where the dialect has a field for one
    """

    trace: str
    text: str
    calls: tuple[tuple[str, str], ...]
    finish: Literal["stop", "length", "tool_calls"]
    hit_tokens: int
    miss_tokens: int
    output_tokens: int
    call_ids: tuple[str, ...]
    seal: str | None = None

    def message(self, *, keeps: Literal["trace", "seal", "nothing"]) -> Message:
        """The turn as a client sends it back."""
        trace = {
            "trace": (Reasoning(text=self.trace),) if self.trace else (),
            "seal": (Reasoning(signature=self.seal, sealed=self.seal),) if self.seal else (),
            "nothing": (),
        }[keeps]
        text = (Text(self.text),) if self.text else ()
        calls = (
            ToolCall(id=id_, name=name, arguments=arguments)
            for id_, (name, arguments) in zip(self.call_ids, self.calls, strict=True)
        )
        return Message(role="assistant", parts=(*trace, *text, *calls))

    def without_names(self) -> Told:
        """What must be the same in every dialect: all but what is minted for each answer."""
        return msgspec.structs.replace(self, call_ids=(), seal=None)


class Speaker(Protocol):
    """carries_seal: the dialect has a field for opaque forms of a trace.

    unsayable: what the dialect has no word for, in the words of `wishes`
    """

    name: str
    path: str
    carries_seal: bool
    unsayable: frozenset[str]

    def body(self, conversation: Conversation, *, is_stream: bool) -> Json: ...

    def read(self, body: Json) -> Told: ...

    def read_stream(self, events: Sequence[Json]) -> Told: ...


def wishes(conversation: Conversation) -> frozenset[str]:
    """What a conversation asks of the form of its answer, in words of our own."""
    choice, form = conversation.choice, conversation.form
    found: set[str] = {form.kind, choice.mode}
    found -= {"text", "auto"}
    if choice.names and choice.mode != "named":
        found.add("allowed list")
    if not choice.is_parallel:
        found.add("one call at a time")
    if any(tool.strict for tool in conversation.tools):
        found.add("strict tools")
    if conversation.seed is not None:
        found.add("seed")
    return frozenset(found)


def frames(raw: str) -> list[Json]:
    """The JSON of all `data:` lines."""
    lines = (line.removeprefix("data:").strip() for line in raw.splitlines() if line.startswith("data:"))
    return [json.loads(line) for line in lines if line.startswith("{")]


class ChatSpeaker(Speaker):
    carries_seal = False
    unsayable = frozenset()

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path

    @override
    def body(self, conversation: Conversation, *, is_stream: bool) -> Json:
        return {
            "model": MODEL,
            "messages": [_chat_message(message) for message in conversation.messages],
            "tools": [
                {
                    "type": "function",
                    "function": {"name": tool.name, "parameters": tool.parameters, "strict": tool.strict},
                }
                for tool in conversation.tools
            ]
            or None,
            "tool_choice": _chat_choice(conversation.choice),
            "parallel_tool_calls": conversation.choice.is_parallel,
            **_chat_form(conversation.form),
            "thinking": {"type": "disabled" if conversation.effort is None else "enabled"},
            "reasoning_effort": conversation.effort,
            "max_tokens": conversation.max_tokens,
            "temperature": conversation.temperature,
            "seed": conversation.seed,
            "stream": is_stream,
        }

    @override
    def read(self, body: Json) -> Told:
        (choice,) = body["choices"]
        message, usage = choice["message"], body["usage"]
        return self._told(
            message.get("reasoning_content") or "",
            message["content"],
            message.get("tool_calls") or [],
            choice["finish_reason"],
            usage,
        )

    @override
    def read_stream(self, events: Sequence[Json]) -> Told:
        trace = text = ""
        calls: list[Json] = []
        finish, usage = None, None
        for event in events:
            (choice,) = event["choices"]
            delta = choice["delta"]
            trace += delta.get("reasoning_content") or ""
            text += delta.get("content") or ""
            for piece in delta.get("tool_calls") or ():
                if piece["index"] == len(calls):
                    calls.append(piece)
                else:
                    calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
            finish, usage = choice["finish_reason"] or finish, event.get("usage") or usage
        return self._told(trace, text, calls, finish, usage)

    def _told(self, trace: str, text: str, calls: list[Json], finish: Json, usage: Json) -> Told:
        assert usage["prompt_tokens"] == usage["prompt_cache_hit_tokens"] + usage["prompt_cache_miss_tokens"]
        return Told(
            trace=trace,
            text=text,
            calls=tuple((call["function"]["name"], _sorted(call["function"]["arguments"])) for call in calls),
            finish=finish,
            hit_tokens=usage["prompt_cache_hit_tokens"],
            miss_tokens=usage["prompt_cache_miss_tokens"],
            output_tokens=usage["completion_tokens"],
            call_ids=tuple(call["id"] for call in calls),
        )


def _chat_choice(choice: ToolChoice) -> Json:
    functions = [{"type": "function", "function": {"name": name}} for name in choice.names]
    if choice.mode == "named":
        return functions[0]
    if choice.names:
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": functions}}
    return choice.mode


def _chat_form(form: ResponseFormat) -> dict[str, Json]:
    match form.kind:
        case "json_schema":
            named = {"name": "answer", "schema": form.schema, "strict": form.strict}
            return {"response_format": {"type": "json_schema", "json_schema": named}}
        case "regex":
            return {"guided_regex": form.pattern}
        case "choice":
            return {"guided_choice": list(form.choices)}
        case kind:
            return {"response_format": {"type": kind}}


def _chat_message(message: Message) -> Json:
    if message.role == "tool":
        (result,) = message.tool_results
        return {"role": "tool", "tool_call_id": result.call_id, "content": _joined(result.content)}
    wire: dict[str, Json] = {"role": message.role, "content": message.text}
    if message.reasoning is not None:
        wire["reasoning_content"] = message.reasoning
    if message.tool_calls:
        wire["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return wire


class OpenRouterSpeaker(ChatSpeaker):
    """The same dialect, with words of its own for thinking and usage."""

    @override
    def body(self, conversation: Conversation, *, is_stream: bool) -> Json:
        body = super().body(conversation, is_stream=is_stream)
        del body["thinking"], body["reasoning_effort"]
        body["model"] = f"deepseek/{MODEL}"
        # The service knows two efforts of V4; the lower ones mean the first.
        efforts = {"low": "low", "high": "high", "max": "xhigh"}
        effort = conversation.effort
        body["reasoning"] = {"enabled": False} if effort is None else {"effort": efforts[effort]}
        for message in body["messages"]:
            if "reasoning_content" in message:
                message["reasoning"] = message.pop("reasoning_content")
        return body

    @override
    def read(self, body: Json) -> Told:
        (choice,) = body["choices"]
        message = choice["message"]
        details = "".join(detail["text"] for detail in message.get("reasoning_details") or ())
        assert details == (message["reasoning"] or "")
        calls = message.get("tool_calls") or []
        return self._told(details, message["content"] or "", calls, choice["finish_reason"], body["usage"])

    @override
    def read_stream(self, events: Sequence[Json]) -> Told:
        for event in events:
            (choice,) = event["choices"]
            choice["delta"]["reasoning_content"] = choice["delta"].get("reasoning")
        return super().read_stream(events)

    @override
    def _told(self, trace: str, text: str, calls: list[Json], finish: Json, usage: Json) -> Told:
        hit_tokens = usage["prompt_tokens_details"]["cached_tokens"]
        split = {
            "prompt_cache_hit_tokens": hit_tokens,
            "prompt_cache_miss_tokens": usage["prompt_tokens"] - hit_tokens,
        }
        return super()._told(trace, text, calls, finish, usage | split)


class MessagesSpeaker(Speaker):
    carries_seal = True
    unsayable = frozenset(("json_object", "regex", "choice", "allowed list", "seed"))
    _FINISHES: Mapping[str, Literal["stop", "length", "tool_calls"]] = {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "max_tokens": "length",
        "tool_use": "tool_calls",
    }

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path

    @override
    def body(self, conversation: Conversation, *, is_stream: bool) -> Json:
        return {
            "model": MODEL,
            "system": [
                {"type": "text", "text": message.text} for message in conversation.messages if message.role == "system"
            ],
            "messages": [
                {"role": "assistant" if message.role == "assistant" else "user", "content": list(_blocks(message))}
                for message in conversation.messages
                if message.role != "system"
            ],
            "tools": [
                {"name": tool.name, "input_schema": tool.parameters, "strict": tool.strict}
                for tool in conversation.tools
            ],
            "tool_choice": _messages_choice(conversation.choice),
            "thinking": {"type": "disabled" if conversation.effort is None else "enabled"},
            "output_config": {
                "effort": conversation.effort,
                "format": {"type": "json_schema", "schema": conversation.form.schema}
                if conversation.form.kind == "json_schema"
                else None,
            },
            "max_tokens": conversation.max_tokens,
            "temperature": conversation.temperature,
            "stream": is_stream,
        }

    @override
    def read(self, body: Json) -> Told:
        return self._told(body["content"], body["stop_reason"], body["usage"])

    @override
    def read_stream(self, events: Sequence[Json]) -> Told:
        blocks: list[Json] = []
        usage: dict[str, Json] = {}
        finish = None
        for event in events:
            match event["type"]:
                case "message_start":
                    usage |= event["message"]["usage"]
                case "content_block_start":
                    blocks.append(event["content_block"] | {"json": ""})
                case "content_block_delta":
                    delta = event["delta"]
                    name = {"input_json_delta": "json"}.get(delta["type"], delta["type"].removesuffix("_delta"))
                    piece = delta.get(name, delta.get("partial_json"))
                    blocks[event["index"]][name] = blocks[event["index"]].get(name, "") + piece
                case "content_block_stop":
                    block = blocks[event["index"]]
                    if block["type"] == "tool_use":
                        block["input"] = json.loads(block["json"] or "{}")
                case "message_delta":
                    usage |= event["usage"]
                    finish = event["delta"]["stop_reason"]
        assert events[-1] == {"type": "message_stop"}
        return self._told(blocks, finish, usage)

    def _told(self, blocks: list[Json], finish: Json, usage: Json) -> Told:
        calls = [block for block in blocks if block["type"] == "tool_use"]
        seals = [block["signature"] for block in blocks if block["type"] == "thinking"]
        return Told(
            trace="".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
            text="".join(block["text"] for block in blocks if block["type"] == "text"),
            calls=tuple((call["name"], _sorted(json.dumps(call["input"]))) for call in calls),
            finish=self._FINISHES[finish],
            hit_tokens=usage["cache_read_input_tokens"],
            miss_tokens=usage["input_tokens"] + usage["cache_creation_input_tokens"],
            output_tokens=usage["output_tokens"],
            call_ids=tuple(call["id"] for call in calls),
            seal=seals[0] if seals else None,
        )


def _messages_choice(choice: ToolChoice) -> Json:
    kinds = {"none": "none", "auto": "auto", "required": "any", "named": "tool"}
    wire: dict[str, Json] = {"type": kinds[choice.mode], "name": choice.names[0] if choice.mode == "named" else None}
    if choice.mode != "none":
        wire["disable_parallel_tool_use"] = not choice.is_parallel
    return wire


def _blocks(message: Message) -> Iterator[Json]:
    for part in message.parts:
        if isinstance(part, Reasoning):
            yield {"type": "thinking", "thinking": part.text, "signature": part.signature or ""}
    for result in message.tool_results:
        yield {"type": "tool_result", "tool_use_id": result.call_id, "content": _joined(result.content)}
    if message.text:
        yield {"type": "text", "text": message.text}
    for call in message.tool_calls:
        yield {"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(call.arguments)}


class ResponsesSpeaker(Speaker):
    carries_seal = True
    unsayable = frozenset(("regex", "choice"))

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path

    @override
    def body(self, conversation: Conversation, *, is_stream: bool) -> Json:
        return {
            "model": MODEL,
            "input": [item for message in conversation.messages for item in _items(message)],
            "tools": [
                {"type": "function", "name": tool.name, "parameters": tool.parameters, "strict": tool.strict}
                for tool in conversation.tools
            ],
            "tool_choice": _responses_choice(conversation.choice),
            "parallel_tool_calls": conversation.choice.is_parallel,
            "text": {"format": _responses_format(conversation.form)},
            "reasoning": {"effort": conversation.effort or "none"},
            "include": ["reasoning.encrypted_content"],
            "store": False,
            "max_output_tokens": conversation.max_tokens,
            "temperature": conversation.temperature,
            "seed": conversation.seed,
            "stream": is_stream,
        }

    @override
    def read(self, body: Json) -> Told:
        items, usage = body["output"], body["usage"]
        calls = [item for item in items if item["type"] == "function_call"]
        traces = [item for item in items if item["type"] == "reasoning"]
        if body["status"] == "incomplete":
            assert body["incomplete_details"] == {"reason": "max_output_tokens"}
        hit_tokens = usage["input_tokens_details"]["cached_tokens"]
        return Told(
            trace="".join(part["text"] for item in traces for part in item["content"]),
            text="".join(part["text"] for item in items if item["type"] == "message" for part in item["content"]),
            calls=tuple((call["name"], _sorted(call["arguments"])) for call in calls),
            finish="length" if body["status"] == "incomplete" else "tool_calls" if calls else "stop",
            hit_tokens=hit_tokens,
            miss_tokens=usage["input_tokens"] - hit_tokens,
            output_tokens=usage["output_tokens"],
            call_ids=tuple(call["call_id"] for call in calls),
            seal=traces[0]["encrypted_content"] if traces else None,
        )

    @override
    def read_stream(self, events: Sequence[Json]) -> Told:
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        told = self.read(events[-1]["response"])
        deltas = {"response.reasoning_text.delta": told.trace, "response.output_text.delta": told.text}
        for kind, whole in deltas.items():
            assert "".join(event["delta"] for event in events if event["type"] == kind) == whole
        return told


def _responses_choice(choice: ToolChoice) -> Json:
    functions = [{"type": "function", "name": name} for name in choice.names]
    if choice.mode == "named":
        return functions[0]
    return {"type": "allowed_tools", "mode": choice.mode, "tools": functions} if choice.names else choice.mode


def _responses_format(form: ResponseFormat) -> Json:
    if form.kind == "json_schema":
        return {"type": "json_schema", "name": "answer", "schema": form.schema, "strict": form.strict}
    return {"type": form.kind}


def _items(message: Message) -> Iterator[Json]:
    for part in message.parts:
        if isinstance(part, Reasoning):
            content = [{"type": "reasoning_text", "text": part.text}] if part.text else None
            item = {"type": "reasoning", "summary": [], "content": content, "encrypted_content": part.sealed}
            yield {name: value for name, value in item.items() if value is not None}
    for result in message.tool_results:
        yield {"type": "function_call_output", "call_id": result.call_id, "output": _joined(result.content)}
    if message.text:
        yield {"role": message.role, "content": message.text}
    for call in message.tool_calls:
        yield {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}


class RunwareSpeaker(Speaker):
    carries_seal = False
    unsayable = frozenset(("regex", "choice", "strict tools", "allowed list", "one call at a time"))

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path

    @override
    def body(self, conversation: Conversation, *, is_stream: bool) -> Json:
        return [
            {
                "taskType": "textInference",
                "taskUUID": str(uuid4()),
                "model": MODEL,
                "messages": [_runware_message(message) for message in conversation.messages],
                "tools": [
                    {"type": "function", "name": tool.name, "schema": tool.parameters} for tool in conversation.tools
                ]
                or None,
                "toolChoice": _runware_choice(conversation.choice),
                "outputFormat": "TEXT" if conversation.form.kind == "text" else "JSON",
                "jsonSchema": conversation.form.schema,
                "settings": {
                    "thinkingLevel": conversation.effort or "off",
                    "maxTokens": conversation.max_tokens,
                    "temperature": conversation.temperature,
                },
                "seed": conversation.seed,
                "includeUsage": True,
                "deliveryMethod": "stream" if is_stream else "sync",
            }
        ]

    @override
    def read(self, body: Json) -> Told:
        (item,) = body["data"]
        return self._told("".join(item.get("reasoningContent", ())), item["text"], item)

    @override
    def read_stream(self, events: Sequence[Json]) -> Told:
        deltas = [event["delta"] for event in events]
        told = self._told(
            "".join(delta.get("reasoningContent", "") for delta in deltas),
            "".join(delta.get("text", "") for delta in deltas),
            events[-1],
        )
        for index, (_, arguments) in enumerate(told.calls):
            pieces = [piece for delta in deltas for piece in delta.get("toolCalls", ()) if piece["index"] == index]
            assert pieces[0]["id"] == told.call_ids[index]
            assert _sorted("".join(piece.get("inputDelta", "") for piece in pieces)) == arguments
        return told

    def _told(self, trace: str, text: str, end: Json) -> Told:
        calls, usage = end.get("toolCalls", []), end["usage"]
        return Told(
            trace=trace,
            text=text,
            calls=tuple((call["name"], _sorted(json.dumps(call["input"]))) for call in calls),
            finish=end["finishReason"],
            hit_tokens=usage["cachedInputTokens"],
            miss_tokens=usage["promptTokens"] - usage["cachedInputTokens"],
            output_tokens=usage["completionTokens"],
            call_ids=tuple(call["id"] for call in calls),
        )


def _runware_choice(choice: ToolChoice) -> Json:
    kinds = {"none": "none", "auto": "auto", "required": "any", "named": "tool"}
    return {"type": kinds[choice.mode], "name": choice.names[0] if choice.mode == "named" else None}


def _runware_message(message: Message) -> Json:
    if message.role == "tool":
        (result,) = message.tool_results
        return {"role": "tool", "id": result.call_id, "content": _joined(result.content)}
    wire: dict[str, Json] = {"role": message.role, "content": message.text}
    if message.reasoning is not None:
        wire["reasoningContent"] = message.reasoning
    if message.tool_calls:
        wire["tools"] = [
            {"id": call.id, "name": call.name, "input": json.loads(call.arguments)} for call in message.tool_calls
        ]
    return wire


def _joined(parts: Sequence[object]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Text))


def _sorted(arguments: str) -> str:
    """One spelling for equal arguments; what is not JSON stays."""
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except ValueError:
        return arguments


SPEAKERS: tuple[Speaker, ...] = (
    ChatSpeaker("chat", "/chat/completions"),
    MessagesSpeaker("messages", "/anthropic/v1/messages"),
    ResponsesSpeaker("responses", "/v1/responses"),
    OpenRouterSpeaker("openrouter", "/api/v1/chat/completions"),
    RunwareSpeaker("runware", "/v1"),
    ChatSpeaker("oxen", "/api/ai/chat/completions"),
)

ELSEWHERE: tuple[Speaker, ...] = (
    MessagesSpeaker("messages", "/api/v1/messages"),
    ResponsesSpeaker("responses", "/api/v1/responses"),
)
"""The same dialects at addresses of another service."""

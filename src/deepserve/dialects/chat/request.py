"""Chat Completions requests: body to `core.Request` and back.

Tolerant unless asked otherwise: what can be served is served. Strict repeats the refusals of api.deepseek.com, text for
text, so that client authors can test against them. In both, a field is honoured, refused by name, or named to the
client as ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Literal, Protocol

import msgspec

from deepserve.config import Limits
from deepserve.core.errors import DeepserveError, InvalidField, MalformedBody, UnsupportedFeature
from deepserve.core.events import PastReasoning
from deepserve.core.messages import (
    File,
    Image,
    Json,
    Message,
    OtherPart,
    Part,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolResult,
)
from deepserve.core.model import ModelName
from deepserve.core.request import Request, RequestId, ResponseFormat, Thinking, Tool, ToolChoice
from deepserve.core.sampling import KNOBS, Sampling
from deepserve.core.tenant import Tenant
from deepserve.dialects.body import JsonBody
from deepserve.dialects.chat.flavour import Flavour
from deepserve.dialects.chat.reading import Node, not_json
from deepserve.dialects.chat.sequence import check_sequence, check_traces, count_traces
from deepserve.dialects.chat.strict_schema import check_strict_tools
from deepserve.dialects.chat.thinking import decode_thinking, spelling_fields

IGNORED: Mapping[str, str] = {
    "audio": "answers are text",
    "cache_control": "the prefix cache finds shared prefixes by itself",
    "metadata": "answers are not stored",
    "modalities": "answers are text",
    "prediction": "a hint about speed; the answer is the same without it",
    "prompt_cache_key": "the prefix cache finds shared prefixes by itself",
    "prompt_cache_retention": "how long a prefix is kept is the server's setting",
    "safety_identifier": "no moderation takes place; `user_id` separates end users",
    "service_tier": "all requests are served alike",
    "store": "answers are never stored",
    "stream_options.continuous_usage_stats": "usage comes with the last chunk",
    "stream_options.include_obfuscation": "chunks carry no padding",
    "verbosity": "the model knows no such setting; ask for it in the prompt",
}
"""Fields of related services that change nothing here, and why. Each use is named in `x-deepserve-ignored`."""

REFUSED: Mapping[str, str] = {
    "function_call": "use `tool_choice`",
    "functions": "use `tools`",
    "guided_choice": "answers are not constrained by a grammar yet; list the choices in the prompt",
    "guided_grammar": "answers are not constrained by a grammar yet",
    "guided_json": "answers are not constrained by a grammar yet; use `response_format` of type `json_object`",
    "guided_regex": "answers are not constrained by a grammar yet",
    "structured_outputs": "answers are not constrained by a grammar yet; use `response_format` of type `json_object`",
    "web_search_options": "this server has no search; offer a search function in `tools`",
}
"""Fields that promise something this server cannot do, and what to use instead. Strict mode ignores them."""

_DOCUMENTED = frozenset(
    (
        *("model", "messages", "thinking", "reasoning_effort", "max_tokens", "response_format", "stop", "stream"),
        *("stream_options", "temperature", "top_p", "tools", "tool_choice", "logprobs", "top_logprobs", "user_id"),
    )
)
"""What the vendor's service acts on; strict mode ignores everything else, as it does."""

_EXTENSIONS = frozenset(
    (
        *("max_completion_tokens", "n", "seed", "logit_bias", "parallel_tool_calls", "user"),
        *("top_k", "min_p", "top_a", "repetition_penalty", "frequency_penalty", "presence_penalty"),
    )
)
"""What tolerant mode honours beyond that; spellings of thinking come from their own table."""

_ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool", "latest_reminder")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_MESSAGE_KEYS: Mapping[str, frozenset[str]] = {
    "system": frozenset(("role", "content", "name")),
    "latest_reminder": frozenset(("role", "content", "name")),
    "user": frozenset(("role", "content", "name")),
    "tool": frozenset(("role", "content", "name", "tool_call_id")),
    "assistant": frozenset(
        (
            *("role", "content", "name", "prefix", "tool_calls", "refusal"),
            *("reasoning_content", "reasoning", "reasoning_details"),
        )
    ),
}


class Names(Protocol):
    """The model names that exist."""

    def resolve(self, requested: str) -> ModelName: ...

    def unknown(self, requested: str) -> DeepserveError: ...


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded request and what only this dialect needs to answer it.

    ignored         paths of fields that change nothing, in the client's spelling
    past_reasoning  traces that came with the conversation; a back end may restore more
    """

    request: Request
    model: ModelName
    is_stream: bool = False
    include_usage: bool = False
    ignored: tuple[str, ...] = ()
    past_reasoning: PastReasoning = PastReasoning()


def decode_request(
    raw: bytes,
    *,
    flavour: Flavour,
    names: Names,
    limits: Limits,
    request_id: RequestId,
    arrived_at: datetime,
    tenant: Tenant,
    is_strict: bool = False,
    is_beta: bool = False,
) -> ChatRequest:
    """Read a body. Raises RequestError; is_beta: it came to a `/beta` address, where strict tools are checked."""
    try:
        body = JsonBody(raw, limits)
    except MalformedBody as error:
        raise not_json(error) from error
    root = Node(body, body.value)
    return _Decoder(root, flavour, limits, is_strict=is_strict, is_beta=is_beta).decode(
        names, request_id, arrived_at, tenant
    )


class _Decoder:
    """One body being read; collects the names of what is ignored on the way."""

    def __init__(self, root: Node, flavour: Flavour, limits: Limits, *, is_strict: bool, is_beta: bool) -> None:
        self._root = root
        self._flavour = flavour
        self._limits = limits
        self._is_strict = is_strict
        self._is_beta = is_beta
        self._ignored: dict[str, None] = {}

    def decode(self, names: Names, request_id: RequestId, arrived_at: datetime, tenant: Tenant) -> ChatRequest:
        root = self._root
        requested = root.required("model").string()
        messages = self._messages(root.required("messages"))
        self._refuse_unserved()
        model = names.resolve(requested)
        if self._is_strict and model.retired_at is not None and arrived_at >= model.retired_at:
            raise names.unknown(requested)
        resolved = decode_thinking(root, self._flavour, default=model.thinking, is_strict=self._is_strict)
        thinking = resolved.thinking
        for path in resolved.overruled:
            self._ignored[path] = None
        is_stream = self._flag("stream")
        sampling = self._sampling(thinking)
        tools = self._tools()
        tool_choice = self._tool_choice(thinking, tools)
        response_format = self._response_format(messages)
        check_sequence(messages)
        if self._is_strict and thinking.enabled:
            check_traces(messages)
        past_reasoning = count_traces(messages, is_needed=thinking.enabled and bool(tools))
        request = Request(
            id=request_id,
            model=model.id,
            requested_model=requested,
            arrived_at=arrived_at,
            messages=messages,
            tools=tools,
            tool_choice=tool_choice,
            response_format=response_format,
            thinking=thinking,
            sampling=sampling,
            max_output_tokens=self._max_output_tokens(),
            default_output_tokens=self._default_output_tokens(thinking),
            stop=self._stop(),
            num_results=self._num_results(),
            tenant=tenant,
            user_id=self._user_id(),
            is_strict=self._is_strict,
        )
        include_usage = self._include_usage(is_stream=is_stream)
        self._note_unknown()
        return ChatRequest(
            request=request,
            model=model,
            is_stream=is_stream,
            include_usage=include_usage,
            ignored=tuple(self._ignored),
            past_reasoning=past_reasoning,
        )

    # Fields that exist in either mode, and those that only tolerant mode knows.

    def _extension(self, name: str) -> Node | None:
        return None if self._is_strict else self._root.optional(name)

    def _flag(self, name: str) -> bool:
        node = self._root.optional(name)
        return node is not None and node.boolean()

    def _refuse_unserved(self) -> None:
        if self._is_strict:
            return
        for name, instead in REFUSED.items():
            if self._root.optional(name) is not None:
                raise UnsupportedFeature(f"`{name}` is not supported: {instead}.", field=name)

    def _note_unknown(self) -> None:
        spellings = spelling_fields()
        known = _DOCUMENTED if self._is_strict else _DOCUMENTED | _EXTENSIONS | spellings.keys()
        for name in self._root.keys():  # noqa: SIM118 - a Node, not a dict
            node = self._root.optional(name)
            if node is None:
                continue
            if name not in known:
                self._ignored[name] = None
            elif name in spellings and isinstance(node.value, dict):
                unknown = node.value.keys() - spellings[name]
                self._ignored.update({f"{name}.{inner}": None for inner in sorted(unknown)})

    # Messages.

    def _messages(self, node: Node) -> tuple[Message, ...]:
        num_messages = len(node.sequence())
        if num_messages == 0:
            raise InvalidField("Empty input messages", field="messages")
        if num_messages > self._limits.messages:
            raise InvalidField(
                f"Too many messages: {num_messages}, at most {self._limits.messages} are read", field="messages"
            )
        return tuple(self._message(message) for message in node.items())

    def _message(self, node: Node) -> Message:
        role_node = node.required("role")
        if role_node.value == "developer" and not self._is_strict:
            role: Role = "system"
        else:
            role = _ROLES[_ROLES.index(role_node.variant(_ROLES))]
        node = node.labelled()
        for key, value in node.mapping().items():
            if key not in _MESSAGE_KEYS[role] and value not in (None, "", []):
                self._ignored[f"messages[].{key}"] = None
        name = node.optional("name")
        parts: tuple[Part, ...]
        match role:
            case "tool":
                parts = (self._tool_result(node),)
            case "assistant":
                parts = self._assistant_parts(node)
            case _:
                parts = self._content(node.required("content"), takes_parts=role == "user")
        prefix = node.optional("prefix") if role == "assistant" else None
        return Message(
            role=role,
            parts=parts,
            name=None if name is None else name.string(),
            prefix=prefix is not None and prefix.boolean(),
        )

    def _content(self, node: Node, *, takes_parts: bool) -> tuple[Text | Image | File | OtherPart | Refusal, ...]:
        """A string, or a list of parts."""
        if isinstance(node.value, list) and (takes_parts or not self._is_strict):
            return tuple(self._part(part) for part in node.items())
        return (Text(node.string()),)

    def _part(self, node: Node) -> Text | Image | File | OtherPart | Refusal:
        kind_node = node.required("type")
        kind = kind_node.variant(("text",)) if self._is_strict else kind_node.string()
        match kind:
            case "text" | "input_text" | "output_text":
                return Text(node.required("text").string())
            case "refusal":
                return Refusal(node.required("refusal").string())
            case "image_url":
                self._ignored["messages[].content[].image_url"] = None
                image = node.required("image_url")
                if isinstance(image.value, str):
                    return Image(url=image.value)
                detail = image.optional("detail")
                return Image(url=image.required("url").string(), detail=None if detail is None else detail.string())
            case "file":
                self._ignored["messages[].content[].file"] = None
                file = node.optional("file") or node
                strings = {key: inner.string() for key in _FILE_KEYS if (inner := file.optional(key)) is not None}
                return File(
                    file_id=strings.get("file_id"),
                    data=strings.get("file_data"),
                    filename=strings.get("filename"),
                )
            case _:
                self._ignored[f"messages[].content[].{kind}"] = None
                return OtherPart(kind=kind, value=node.value)

    def _tool_result(self, node: Node) -> ToolResult:
        call_id = node.required("tool_call_id").string()
        content = node.required("content") if self._is_strict else node.optional("content")
        name = node.optional("name")
        parts = () if content is None else self._content(content, takes_parts=False)
        return ToolResult(
            call_id=call_id,
            name=None if name is None else name.string(),
            content=tuple(Text(part.text) if isinstance(part, Refusal) else part for part in parts),
        )

    def _assistant_parts(self, node: Node) -> tuple[Part, ...]:
        if self._is_strict:
            node.required("content")
        parts: list[Part] = []
        trace = self._trace(node)
        if trace is not None:
            parts.append(trace)
        content = node.optional("content")
        if content is not None:
            parts.extend(self._assistant_content(content))
        refusal = node.optional("refusal")
        if refusal is not None:
            parts.append(Refusal(refusal.string()))
        calls = node.optional("tool_calls")
        if calls is not None:
            parts.extend(self._call(call) for call in calls.items())
        has_said = any(not isinstance(part, Reasoning) for part in parts)
        if self._is_strict and not has_said:
            raise InvalidField(
                f"Invalid assistant message: content or tool_calls must be set{node.body.position_of(node.path)}",
                field=node.field,
            )
        return tuple(parts)

    def _assistant_content(self, node: Node) -> tuple[Part, ...]:
        if self._is_strict or not isinstance(node.value, list):
            return self._content(node, takes_parts=False)
        parts: list[Part] = []
        for part in node.items():
            if part.required("type").value == "thinking":
                parts.insert(0, Reasoning(text=part.required("thinking").string()))
            else:
                parts.append(self._part(part))
        return tuple(parts)

    def _trace(self, node: Node) -> Reasoning | None:
        """The thinking trace under any of the names that services send and clients return."""
        for key in ("reasoning_content",) if self._is_strict else ("reasoning_content", "reasoning"):
            trace = node.optional(key)
            if trace is not None:
                return Reasoning(text=trace.string())
        details = None if self._is_strict else node.optional("reasoning_details")
        if details is None or not details.sequence():
            return None
        found: dict[str, list[str]] = {"text": [], "summary": [], "signature": [], "data": []}
        for detail in details.items():
            for key, texts in found.items():
                if (text := detail.optional(key)) is not None:
                    texts.append(text.string())
        return Reasoning(
            text="".join(found["text"] or found["summary"]),
            signature=next(iter(found["signature"]), None),
            sealed=next(iter(found["data"]), None),
        )

    def _call(self, node: Node) -> ToolCall:
        kind = node.optional("type")
        if kind is not None and kind.variant(("function",) if self._is_strict else ("function", "custom")) == "custom":
            custom = node.required("custom")
            return ToolCall(
                id=node.required("id").string(),
                name=custom.required("name").string(),
                arguments=custom.required("input").string(),
                kind="custom",
            )
        function = node.required("function")
        arguments = function.required("arguments")
        if isinstance(arguments.value, dict) and not self._is_strict:
            text = msgspec.json.encode(arguments.value).decode()
        else:
            text = arguments.string()
        return ToolCall(id=node.required("id").string(), name=function.required("name").string(), arguments=text)

    # Tools and form.

    def _tools(self) -> tuple[Tool, ...]:
        node = self._root.optional("tools")
        if node is None:
            return ()
        num_tools = len(node.sequence())
        if num_tools == 0 and self._is_strict:
            raise InvalidField("Invalid 'tools': empty array. Expected an array with minimum length 1.", field="tools")
        if num_tools > self._limits.tools:
            raise InvalidField(
                f"Invalid 'tools': array too long. Expected an array with maximum length {self._limits.tools}, "
                f"but got an array with length {num_tools} instead.",
                field="tools",
            )
        tools = tuple(self._tool(tool) for tool in node.items())
        if len({tool.name for tool in tools}) < num_tools:
            raise InvalidField("Tool names must be unique.", field="tools")
        if self._is_strict and self._is_beta:
            check_strict_tools(node, tools)
        return tools

    def _tool(self, node: Node) -> Tool:
        kind = node.required("type")
        if kind.value != "function" and isinstance(kind.value, str) and not self._is_strict:
            raise UnsupportedFeature(
                f"Tools of type `{kind.value[:64]}` are not supported: offer a `function`.", field=kind.field
            )
        kind.variant(("function",))
        function = node.required("function")
        name_node = function.required("name")
        name = name_node.string()
        if not _TOOL_NAME.fullmatch(name):
            raise InvalidField(
                f"Invalid '{name_node.field}': string does not match pattern. "
                "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'.",
                field=name_node.field,
            )
        if len(name) > self._flavour.max_tool_name:
            raise InvalidField(
                f"Invalid '{name_node.field}': string too long. Expected a string with maximum length "
                f"{self._flavour.max_tool_name}, but got a string with length {len(name)} instead.",
                field=name_node.field,
            )
        description, parameters = function.optional("description"), function.optional("parameters")
        strict = function.optional("strict")
        return Tool(
            name=name,
            description="" if description is None else description.string(),
            parameters=None if parameters is None else parameters.mapping(),
            strict=strict is not None and strict.boolean(),
        )

    def _tool_choice(self, thinking: Thinking, tools: tuple[Tool, ...]) -> ToolChoice:
        parallel = self._extension("parallel_tool_calls")
        is_parallel = parallel is None or parallel.boolean()
        node = self._root.optional("tool_choice")
        if node is None:
            return ToolChoice(is_parallel=is_parallel)
        if isinstance(node.value, str):
            mode = node.variant(("none", "auto", "required"))
            if mode != "required":
                return ToolChoice(mode="none" if mode == "none" else "auto", is_parallel=is_parallel)
        else:
            kind = node.required("type")
            if isinstance(kind.value, str) and kind.value != "function" and not self._is_strict:
                raise UnsupportedFeature(
                    f"tool_choice of type `{kind.value[:64]}` is not supported: use `auto` or `none`.", field=kind.field
                )
            kind.variant(("function",))
            name = node.required("function").required("name").string()
            if name not in [tool.name for tool in tools]:
                raise InvalidField(f"tool_choice names `{name[:64]}`, which is not in tools.", field="tool_choice")
        if self._is_strict and thinking.enabled:
            raise InvalidField("Thinking mode does not support this tool_choice", field="tool_choice")
        raise UnsupportedFeature(
            "This tool_choice is not supported: this server does not force a tool call yet. Use `auto`, and ask for "
            "the call in the prompt.",
            field="tool_choice",
        )

    def _response_format(self, messages: tuple[Message, ...]) -> ResponseFormat:
        node = self._root.optional("response_format")
        if node is None:
            return ResponseFormat()
        kind: Literal["text", "json_object", "json_schema"]
        match node.required("type").variant(("text", "json_object", "json_schema")):
            case "text":
                kind = "text"
            case "json_object":
                kind = "json_object"
            case _ if self._is_strict:
                raise InvalidField("This response_format type is unavailable now", field="response_format.type")
            case _:
                raise UnsupportedFeature(
                    "response_format of type `json_schema` is not supported: this server does not enforce a schema "
                    "yet. Use `json_object` and describe the schema in the prompt, or a function with `strict: true`, "
                    "whose arguments are checked.",
                    field="response_format.type",
                )
        if kind == "json_object" and self._is_strict and not any(map(_says_json, messages)):
            raise InvalidField(
                "Prompt must contain the word 'json' in some form to use 'response_format' of type 'json_object'.",
                field="response_format",
            )
        return ResponseFormat(kind=kind)

    # Numbers.

    def _sampling(self, thinking: Thinking) -> Sampling:
        temperature, top_p = self._knob("temperature"), self._knob("top_p")
        if self._is_strict and thinking.enabled:
            # The vendor checks the range, then draws as it likes: api-docs.deepseek.com/guides/thinking_mode.
            for name, value in (("temperature", temperature), ("top_p", top_p)):
                if value is not None:
                    self._ignored[name] = None
            temperature = top_p = None
        top_k = self._extension("top_k")
        if top_k is not None and top_k.value == -1:
            num_top_k: float | None = 0  # how vLLM's clients say "all"
        else:
            num_top_k = self._knob("top_k") if top_k is not None else None
        seed = self._extension("seed")
        return Sampling(
            temperature=temperature,
            top_p=top_p,
            top_k=None if num_top_k is None else int(num_top_k),
            min_p=self._extended_knob("min_p"),
            top_a=self._extended_knob("top_a"),
            repetition_penalty=self._extended_knob("repetition_penalty"),
            frequency_penalty=self._extended_knob("frequency_penalty"),
            presence_penalty=self._extended_knob("presence_penalty"),
            logit_bias=self._logit_bias(),
            seed=None if seed is None else seed.integer("i64", low=-(2**63), high=2**63 - 1),
            num_top_logprobs=self._num_top_logprobs(),
        )

    def _extended_knob(self, name: str) -> float | None:
        return None if self._is_strict else self._knob(name)

    def _knob(self, name: str) -> float | None:
        node = self._root.optional(name)
        if node is None:
            return None
        knob = KNOBS[name]
        value = node.integer("u32") if knob.integer else node.number()
        if not knob.admits(value):
            bounds = f"{'(' if knob.low_open else '['}{knob.low:g}, {knob.high:g}]"
            raise InvalidField(
                f"Invalid {name} value, the valid range of {name} is {_RANGE_TEXTS.get(name, bounds)}", field=name
            )
        return value

    def _logit_bias(self) -> Mapping[int, float]:
        node = self._extension("logit_bias")
        if node is None:
            return {}
        if len(node.mapping()) > self._limits.logit_bias_entries:
            raise InvalidField(
                f"Invalid logit_bias: at most {self._limits.logit_bias_entries} entries are read", field="logit_bias"
            )
        biases: dict[int, float] = {}
        for key in node.keys():  # noqa: SIM118 - a Node, not a dict
            if not (key.isascii() and key.isdigit() and len(key) <= 9):
                raise InvalidField("Invalid logit_bias: keys are token ids", field="logit_bias")
            biases[int(key)] = node.child(key).number()
            if not -100 <= biases[int(key)] <= 100:
                raise InvalidField(
                    "Invalid logit_bias value, the valid range of logit_bias is [-100, 100]", field="logit_bias"
                )
        return biases

    def _num_top_logprobs(self) -> int | None:
        has_logprobs = self._flag("logprobs")
        node = self._root.optional("top_logprobs")
        if node is None:
            return 0 if has_logprobs else None
        num_top = node.integer("u8")
        if not has_logprobs and (num_top > 0 or self._is_strict):
            raise InvalidField(
                "Invalid top_logprobs and logprobs value, logprobs must be set to true if top_logprobs is used.",
                field="top_logprobs",
            )
        if num_top > 20:
            raise InvalidField(
                "Invalid top_logprobs value, the valid range of top_logprobs is [0, 20].", field="top_logprobs"
            )
        return num_top if has_logprobs else None

    def _max_output_tokens(self) -> int | None:
        limits = [self._token_limit("max_tokens", self._root.optional("max_tokens"))]
        limits.append(self._token_limit("max_completion_tokens", self._extension("max_completion_tokens")))
        return min((limit for limit in limits if limit is not None), default=None)

    def _token_limit(self, name: str, node: Node | None) -> int | None:
        if node is None:
            return None
        highest = self._flavour.max_output_tokens
        value = node.integer("u32", low=-(2**63), high=2**63 - 1)
        if not 1 <= value <= highest:
            raise InvalidField(f"Invalid {name} value, the valid range of {name} is [1, {highest}]", field=name)
        return value

    def _default_output_tokens(self, thinking: Thinking) -> int:
        without, with_thinking, at_most = self._flavour.default_output_tokens
        if not thinking.enabled:
            return without
        return at_most if thinking.effort == "max" else with_thinking

    def _num_results(self) -> int:
        node = self._extension("n")
        if node is None:
            return 1
        value = node.integer("u32", low=-(2**63), high=2**63 - 1)
        if not 1 <= value <= self._limits.num_results:
            raise InvalidField(f"Invalid n value, the valid range of n is [1, {self._limits.num_results}]", field="n")
        return value

    # Strings.

    def _stop(self) -> tuple[str, ...]:
        node = self._root.optional("stop")
        if node is None:
            return ()
        stops = (node.string(),) if isinstance(node.value, str) else tuple(item.string() for item in node.items())
        if len(stops) > self._limits.stop_strings:
            raise InvalidField(f"Stop string array too long: {len(stops)}", field="stop")
        if "" in stops:
            raise InvalidField("Invalid stop: an empty string would end every answer at once", field="stop")
        if any(len(stop.encode()) > self._limits.stop_string_bytes for stop in stops):
            raise InvalidField(
                f"Invalid stop: a stop string has at most {self._limits.stop_string_bytes} bytes", field="stop"
            )
        return stops

    def _user_id(self) -> str | None:
        node = self._root.optional("user_id") or self._extension("user")
        if node is None:
            return None
        if len(node.string().encode()) > self._limits.user_id_bytes:
            raise InvalidField(
                f"Invalid {node.field}: at most {self._limits.user_id_bytes} bytes are read", field=node.field
            )
        return node.string()

    def _include_usage(self, *, is_stream: bool) -> bool:
        node = self._root.optional("stream_options")
        if node is None:
            return False
        if not is_stream:
            if self._is_strict:
                raise InvalidField("stream_options should be set along with stream = true", field="stream_options")
            self._ignored["stream_options"] = None
        for key in node.mapping().keys() - {"include_usage"}:
            self._ignored[f"stream_options.{key}"] = None
        include = node.optional("include_usage")
        return include is not None and include.boolean()


_FILE_KEYS = ("file_id", "file_data", "filename")
_RANGE_TEXTS = {"top_p": "(0, 1.0]"}  # the vendor writes this one bound with a decimal


def _says_json(message: Message) -> bool:
    texts = [message.text]
    texts += [part.text for result in message.tool_results for part in result.content if isinstance(part, Text)]
    return "json" in "".join(texts).lower()


def encode_request(
    request: Request,
    *,
    is_stream: bool = False,
    include_usage: bool = False,
    reasoning_field: str = "reasoning_content",
) -> bytes:
    """The body that asks another server of this dialect the same question.

    Not carried, because the dialect has no word for it: infill, server tools, provider preferences, fallback models,
    tool namespaces, citations, message ids and tasks, file names of images, and whether a tool result is an error.
    """
    sampling, thinking = request.sampling, request.thinking
    fields: dict[str, Json] = {
        "model": request.model,
        "messages": [_encode_message(message, reasoning_field) for message in request.messages],
        "thinking": {"type": "enabled" if thinking.enabled else "disabled"},
        "reasoning_effort": thinking.effort if thinking.enabled else None,
        "thinking_budget": thinking.budget_tokens,
        "include_reasoning": False if thinking.exclude else None,
        "max_tokens": request.max_output_tokens,
        "stop": list(request.stop) or None,
        "stream": is_stream or None,
        "stream_options": {"include_usage": True} if is_stream and include_usage else None,
        "n": request.num_results if request.num_results > 1 else None,
        "user_id": request.user_id,
        "logit_bias": {str(token): bias for token, bias in request.sampling.logit_bias.items()} or None,
        "seed": sampling.seed,
        "logprobs": True if sampling.num_top_logprobs is not None else None,
        "top_logprobs": sampling.num_top_logprobs or None,
    }
    fields.update({name: getattr(sampling, name) for name in KNOBS})
    if request.tools:
        fields["tools"] = [_encode_tool(tool) for tool in request.tools]
    choice = request.tool_choice
    if choice.mode == "named":
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.names[0]}}
    elif choice.mode != "auto":
        fields["tool_choice"] = choice.mode
    if not choice.is_parallel:
        fields["parallel_tool_calls"] = False
    form = request.response_format
    if form.kind == "json_schema":
        schema = {"name": form.name, "schema": form.schema, "strict": form.strict}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form.kind != "text":
        fields["response_format"] = {"type": form.kind}
    return msgspec.json.encode({name: value for name, value in fields.items() if value is not None})


def _encode_tool(tool: Tool) -> Json:
    function: dict[str, Json] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _encode_message(message: Message, reasoning_field: str) -> Json:
    fields: dict[str, Json] = {"role": message.role}
    if message.name is not None:
        fields["name"] = message.name
    if message.role == "tool":
        result = message.tool_results[0]
        fields["tool_call_id"] = result.call_id
        fields["content"] = _encode_content(result.content)
        return fields
    spoken = tuple(part for part in message.parts if isinstance(part, Text | Refusal | Image | File | OtherPart))
    fields["content"] = _encode_content(spoken)
    if message.reasoning is not None:
        fields[reasoning_field] = message.reasoning
    if message.prefix:
        fields["prefix"] = True
    if message.tool_calls:
        fields["tool_calls"] = [_encode_call(call) for call in message.tool_calls]
    return fields


def _encode_call(call: ToolCall) -> Json:
    if call.kind == "custom":
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _encode_content(parts: tuple[Text | Refusal | Image | File | OtherPart, ...]) -> Json:
    if not parts:
        return ""
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    return [_encode_part(part) for part in parts]


def _encode_part(part: Text | Refusal | Image | File | OtherPart) -> Json:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Refusal():
            return {"type": "refusal", "refusal": part.text}
        case Image():
            detail = {} if part.detail is None else {"detail": part.detail}
            return {"type": "image_url", "image_url": {"url": part.url or "", **detail}}
        case File():
            named = {"file_id": part.file_id, "file_data": part.data, "filename": part.filename}
            return {"type": "file", "file": {name: value for name, value in named.items() if value is not None}}
        case OtherPart():
            return part.value

"""Requests as other services want to be asked: `core.Request` to a body, by what their flavour carries.

Nothing is lost in silence. What a service has no field for is asked for in words (the form of the answer, a demanded
call), named (`left_out`: knobs of sampling), or refused by name where the answer would be another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, assert_never

import msgspec

from deepserve.core.errors import UnsupportedFeature
from deepserve.core.messages import Image, Json, Message, Part, Reasoning, Refusal, Text, ToolResult
from deepserve.core.request import Request, Tool, ToolChoice
from deepserve.core.sampling import KNOBS, Sampling
from deepserve.dialects.chat.answer_form import encode_answer_form
from deepserve.dialects.chat.messages import encode_message
from deepserve.dialects.chat.tools import encode_tool, encode_tool_choice
from deepserve.dialects.chat.upstream_flavour import UpstreamFlavour

_PATH = "/chat/completions"
_NOTHING_ASKED = Sampling()

LOST_TRACE = "(What was thought here is lost.)"
"""Stands for a trace that is needed and that nobody has: services refuse none, and an empty one too
(github.com/BerriAI/litellm/issues/27439)."""

Spoken = TypeVar("Spoken", bound=Part)


class UpstreamRequest(msgspec.Struct, frozen=True, kw_only=True):
    """path: after the service's base address. left_out: what the client asked for and the service does not know."""

    path: str
    body: bytes
    left_out: tuple[str, ...] = ()


def encode_upstream_request(
    request: Request, flavour: UpstreamFlavour, *, model: str, user: str | None = None, is_stream: bool = True
) -> UpstreamRequest:
    """model: the service's name for it. user: whose request it is, in a form the service may know.

    Raises UnsupportedFeature, in the words of `core`.

    Not carried, because no dialect of Chat has a word for it: provider preferences and fallback models, citations,
    message ids, file names of images, whether a tool result is an error, and who may see the trace, which always comes.
    """
    _refuse_unsayable(request, flavour)
    words = _Words(request, flavour)
    fields: dict[str, Json] = {
        "model": model,
        "messages": [
            _encode_message(message, request, flavour) for message in _with_words(request.messages, words.sentences)
        ],
        **_thinking(request, flavour),
        "max_tokens": request.max_output_tokens,
        "stop": list(request.stop) or None,
        "stream": is_stream or None,
        "stream_options": {"include_usage": True} if is_stream else None,
        "n": request.num_results if request.num_results > 1 else None,
        flavour.user_field: user,
    }
    sampling, left_out = _sampling(request, flavour)
    fields |= sampling
    fields |= _tools(request, flavour, words)
    fields |= words.form_fields
    is_begun = bool(request.messages) and request.messages[-1].prefix
    return UpstreamRequest(
        path=(flavour.prefix_path if is_begun else "") + _PATH,
        body=msgspec.json.encode({name: value for name, value in fields.items() if value is not None}),
        left_out=left_out,
    )


def _refuse_unsayable(request: Request, flavour: UpstreamFlavour) -> None:
    if request.infill is not None:
        raise UnsupportedFeature("Plain completions are not passed on to an upstream: send messages.", field="prompt")
    if request.server_tools:
        tool = request.server_tools[0].tool
        raise UnsupportedFeature(f"The server tool `{tool}` is not supported.", field="tools")
    if request.num_results > 1 and not flavour.has_several_results:
        raise UnsupportedFeature("The upstream gives one result to a request: ask several times.", field="n")
    if request.thinking.budget_tokens is not None and request.thinking.enabled and not flavour.has_budget:
        raise UnsupportedFeature(
            "The upstream takes no budget for thinking: leave it out, or choose an effort.", field="thinking"
        )
    for index, message in enumerate(request.messages):
        if message.prefix and flavour.prefix == "none":
            raise UnsupportedFeature(
                "The upstream cannot continue an answer that was begun for it.", field=f"messages[{index}].prefix"
            )
        if message.task is not None or message.tools:
            raise UnsupportedFeature(
                "Tasks and tools of one turn are not passed on to an upstream.", field=f"messages[{index}]"
            )
        if any(isinstance(part, Image) and part.url is None for part in _inner(message.parts)):
            raise UnsupportedFeature(
                "Images by the id of a file are not passed on to an upstream: send a URL.", field=f"messages[{index}]"
            )


def _inner(parts: Sequence[Part]) -> list[Part]:
    found: list[Part] = list(parts)
    for part in parts:
        if isinstance(part, ToolResult):
            found.extend(part.content)
    return found


# What the service is asked in words


class _Words:
    """The form of the answer and the choice among tools: fields where the flavour has them, else sentences."""

    def __init__(self, request: Request, flavour: UpstreamFlavour) -> None:
        self.sentences: list[str] = []
        self.form_fields: dict[str, Json] = {}
        self._form(request, flavour)
        self.choice = self._choice(request, flavour)

    def _form(self, request: Request, flavour: UpstreamFlavour) -> None:
        form = request.response_format
        if form.kind == "text":
            return
        is_field = form.kind in flavour.forms
        if is_field:
            self.form_fields = encode_answer_form(form)
        elif form.kind == "json_schema" and "json_object" in flavour.forms and _is_object(form.schema):
            self.form_fields = {"response_format": {"type": "json_object"}}
        match form.kind:
            case "json_object":
                if not is_field or (flavour.needs_json_word and not _says_json(request.messages)):
                    self.sentences.append("Answer with one JSON object and nothing else.")
            case "json_schema":
                if not is_field:
                    schema = msgspec.json.encode(form.schema).decode()
                    self.sentences.append(
                        "Answer with JSON and nothing else: no words around it, no code fence. "
                        f"It must be valid by this JSON schema:\n{schema}"
                    )
                elif flavour.needs_json_word and not _says_json(request.messages):
                    self.sentences.append("Answer with JSON.")
            case "regex":
                if not is_field:
                    self.sentences.append(
                        f"Your whole answer must match this regular expression, nothing else:\n{form.pattern}"
                    )
            case "choice":
                if not is_field:
                    choices = "\n".join(f"- {choice}" for choice in form.choices)
                    self.sentences.append(f"Your whole answer must be exactly one of these, nothing else:\n{choices}")
            case _:
                assert_never(form.kind)

    def _choice(self, request: Request, flavour: UpstreamFlavour) -> ToolChoice:
        """What is left to be asked for by a field."""
        choice = request.tool_choice
        if not request.tools or choice.mode == "none":
            return choice
        if not choice.is_parallel and not flavour.has_parallel_switch:
            self.sentences.append("Call at most one function at a time.")
            choice = msgspec.structs.replace(choice, is_parallel=True)
        if choice.mode in ("required", "named"):
            can_force = flavour.forces_while_thinking or not request.thinking.enabled
            if choice.mode not in flavour.tool_choices or not can_force:
                named = f" `{choice.names[0]}`" if choice.mode == "named" else ""
                self.sentences.append(f"Call the function{named} now." if named else "Call at least one function now.")
                choice = ToolChoice(names=choice.names, is_parallel=choice.is_parallel)
        return choice


def _is_object(schema: Json) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "object"


def _says_json(messages: Sequence[Message]) -> bool:
    texts = [part.text for message in messages for part in _inner(message.parts) if isinstance(part, Text)]
    return "json" in "".join(texts).lower()


def _with_words(messages: Sequence[Message], sentences: Sequence[str]) -> Sequence[Message]:
    """At the beginning, where every service takes them and a cached prefix can hold them."""
    if not sentences:
        return messages
    told = "\n\n".join(sentences)
    if messages and messages[0].role == "system":
        first = messages[0]
        said = Text(f"\n\n{told}" if first.text else told)
        return (msgspec.structs.replace(first, parts=(*first.parts, said)), *messages[1:])
    return (Message(role="system", parts=(Text(told),)), *messages)


# Fields


def _encode_message(message: Message, request: Request, flavour: UpstreamFlavour) -> Json:
    if message.role == "latest_reminder" and not flavour.has_reminders:
        message = msgspec.structs.replace(message, role="system")
    if flavour.name == "deepserve":
        return encode_message(message, flavour.trace_field)
    # Services differ in the parts they take; a text alone is taken by all.
    if message.role == "tool":
        result = message.tool_results[0]
        message = msgspec.structs.replace(
            message, parts=(msgspec.structs.replace(result, content=_joined(result.content)),)
        )
    elif len(message.parts) != 1 or not isinstance(message.parts[0], Text):
        message = msgspec.structs.replace(message, parts=_joined(message.parts))
    if (
        flavour.needs_traces
        and request.thinking.enabled
        and message.role == "assistant"
        and not message.prefix
        and not message.reasoning
        and (message.tool_calls or request.tools)
    ):
        said = tuple(part for part in message.parts if not isinstance(part, Reasoning))
        message = msgspec.structs.replace(message, parts=(Reasoning(text=LOST_TRACE), *said))
    fields = encode_message(message, flavour.trace_field)
    if message.prefix and flavour.prefix == "last":
        del fields["prefix"]
    return fields


def _joined(parts: Sequence[Spoken]) -> tuple[Spoken | Text, ...]:
    """Texts beside each other as one, refusals among them."""
    joined: list[Spoken | Text] = []
    for part in parts:
        if isinstance(part, Text | Refusal):
            before = joined[-1] if joined else None
            if isinstance(before, Text):
                joined[-1] = Text(before.text + part.text)
            else:
                joined.append(Text(part.text))
        else:
            joined.append(part)
    return tuple(joined)


def _thinking(request: Request, flavour: UpstreamFlavour) -> dict[str, Json]:
    thinking = request.thinking
    effort = flavour.efforts.get(thinking.effort, thinking.effort)
    match flavour.thinking:
        case "switch":
            return {
                "thinking": {"type": "enabled" if thinking.enabled else "disabled"},
                "reasoning_effort": effort if thinking.enabled else None,
                "thinking_budget": thinking.budget_tokens if thinking.enabled else None,
            }
        case "object":
            return {"reasoning": {"effort": effort} if thinking.enabled else {"enabled": False}}
        case "effort":
            return {"reasoning_effort": effort if thinking.enabled else "none"}
        case "template":
            chosen = {"reasoning_effort": effort} if thinking.enabled else {}
            return {"chat_template_kwargs": {"thinking": thinking.enabled, **chosen}}
        case _:
            assert_never(flavour.thinking)


def _sampling(request: Request, flavour: UpstreamFlavour) -> tuple[dict[str, Json], tuple[str, ...]]:
    """The fields, and the names of what they do not carry."""
    sampling = request.sampling
    if sampling == _NOTHING_ASKED:
        return {}, ()
    wanted: dict[str, Json] = {
        name: value for name in KNOBS if (value := getattr(sampling, name)) not in (None, KNOBS[name].neutral)
    }
    # A neutral value still says that the service's own default is not meant, where it can be said.
    given: dict[str, Json] = {name: value for name in KNOBS if (value := getattr(sampling, name)) is not None}
    carried = flavour.knobs - (flavour.fixed_while_thinking if request.thinking.enabled else frozenset())
    fields = {name: value for name, value in given.items() if name in carried}
    left_out = [name for name in wanted if name not in carried]
    others: dict[str, dict[str, Json]] = {"seed": {}, "logit_bias": {}, "logprobs": {}}
    if sampling.seed is not None:
        others["seed"] = {"seed": sampling.seed}
    if sampling.logit_bias:
        others["logit_bias"] = {"logit_bias": {str(token): bias for token, bias in sampling.logit_bias.items()}}
    if sampling.num_top_logprobs is not None:
        others["logprobs"] = {"logprobs": True, "top_logprobs": sampling.num_top_logprobs or None}
    for name, spelled in others.items():
        if name in carried:
            fields |= spelled
        elif spelled:
            left_out.append(name)
    return fields, tuple(left_out)


def _tools(request: Request, flavour: UpstreamFlavour, words: _Words) -> dict[str, Json]:
    tools: Sequence[Tool] = request.tools
    choice = words.choice
    if not tools:
        return {}
    if choice.names and not flavour.has_tool_lists and choice.mode != "none":
        tools = [tool for tool in tools if tool.name in choice.names]
        if choice.mode != "named":
            choice = msgspec.structs.replace(choice, names=())
    if not flavour.has_strict_tools:
        tools = [msgspec.structs.replace(tool, strict=False) for tool in tools]
    fields: dict[str, Json] = {
        "tools": [encode_tool(tool) for tool in tools],
        "tool_choice": encode_tool_choice(choice),
    }
    if not choice.is_parallel:
        fields["parallel_tool_calls"] = False
    return fields

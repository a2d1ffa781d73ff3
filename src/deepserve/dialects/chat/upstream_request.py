"""Requests as other services want to be asked: `core.Request` to a body, by what their flavour carries.

Nothing is lost in silence. What a service has no field for is asked for in words (the form of the answer, a demanded
call), named (`left_out`: knobs of sampling, a budget for thinking), or refused by name where the answer would be
another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import msgspec

from deepserve.core.errors import UnsupportedFeature
from deepserve.core.messages import Json, Message, Reasoning, Text
from deepserve.core.request import Request, Tool, ToolChoice
from deepserve.core.sampling import KNOBS, Sampling
from deepserve.dialects.chat.answer_form import encode_answer_form
from deepserve.dialects.chat.messages import encode_message
from deepserve.dialects.chat.tools import encode_tool, encode_tool_choice
from deepserve.dialects.chat.upstream_flavour import UpstreamFlavour
from deepserve.dialects.upstream_request import (
    JSON_ANSWER,
    LOST_TRACE,
    ONE_CALL,
    SEVERAL_RESULTS,
    UpstreamRequest,
    demand_in_words,
    form_in_words,
    inner_parts,
    is_object,
    joined_texts,
    refuse_everywhere_unsayable,
    with_words,
)

_PATH = "/chat/completions"
_NOTHING_ASKED = Sampling()


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
            _encode_message(message, request, flavour) for message in with_words(request.messages, words.sentences)
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
    if request.thinking.enabled and request.thinking.budget_tokens is not None and not flavour.has_budget:
        # Anthropic's clients always send one, so that a refusal would keep them out.
        left_out = (*left_out, "thinking.budget_tokens")
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
    refuse_everywhere_unsayable(request)
    if request.num_results > 1 and not flavour.has_several_results:
        raise UnsupportedFeature(SEVERAL_RESULTS, field="n")
    for index, message in enumerate(request.messages):
        if message.prefix and flavour.prefix == "none":
            raise UnsupportedFeature(
                "The upstream cannot continue an answer that was begun for it.", field=f"messages[{index}].prefix"
            )


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
        elif form.kind == "json_schema" and "json_object" in flavour.forms and is_object(form.schema):
            self.form_fields = {"response_format": {"type": "json_object"}}
        needs_word = (
            flavour.needs_json_word and form.kind in ("json_object", "json_schema") and not _says_json(request.messages)
        )
        if not is_field or (needs_word and form.kind == "json_object"):
            self.sentences += [sentence for sentence in (form_in_words(form),) if sentence]
        elif needs_word:
            self.sentences.append(JSON_ANSWER)

    def _choice(self, request: Request, flavour: UpstreamFlavour) -> ToolChoice:
        """What is left to be asked for by a field."""
        choice = request.tool_choice
        if not request.tools or choice.mode == "none":
            return choice
        if not choice.is_parallel and not flavour.has_parallel_switch:
            self.sentences.append(ONE_CALL)
            choice = msgspec.structs.replace(choice, is_parallel=True)
        if choice.mode in ("required", "named"):
            can_force = flavour.forces_while_thinking or not request.thinking.enabled
            if choice.mode not in flavour.tool_choices or not can_force:
                self.sentences.append(demand_in_words(choice))
                choice = ToolChoice(names=choice.names, is_parallel=choice.is_parallel)
        return choice


def _says_json(messages: Sequence[Message]) -> bool:
    texts = [part.text for message in messages for part in inner_parts(message.parts) if isinstance(part, Text)]
    return "json" in "".join(texts).lower()


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
            message, parts=(msgspec.structs.replace(result, content=joined_texts(result.content)),)
        )
    elif len(message.parts) != 1 or not isinstance(message.parts[0], Text):
        message = msgspec.structs.replace(message, parts=joined_texts(message.parts))
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

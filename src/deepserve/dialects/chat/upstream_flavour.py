"""What services that speak Chat Completions take from us: one frozen row each, for the requests that we send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from deepserve.core.request import Effort
from deepserve.core.sampling import KNOBS

FormKind = Literal["json_object", "json_schema", "regex", "choice"]
ChoiceMode = Literal["none", "required", "named"]

_ALL_KNOBS = frozenset(KNOBS)
_OPENAI_KNOBS = frozenset(("temperature", "top_p", "frequency_penalty", "presence_penalty"))
_OPEN_KNOBS = _OPENAI_KNOBS | {"top_k", "min_p", "repetition_penalty"}


class UpstreamFlavour(msgspec.Struct, frozen=True, kw_only=True):
    """One service, or a family of them. What a row does not carry is asked for in words, named as lost, or refused.

    thinking             how "think", and how hard, is spelled
    efforts              our word for an effort -> the service's, where it has another
    trace_field          under which traces of past turns go back
    needs_traces         past turns with calls must have a trace, whatever it says
    knobs                of sampling, by the names of `core.sampling`; besides `seed`, `logit_bias`, `logprobs`
    fixed_while_thinking knobs that do nothing while the model thinks
    forms                of the answer that the service is asked for by a field; the others in words
    needs_json_word      a form in JSON is refused unless the conversation says so
    guides               the fields that ask for a regular expression or a choice are vLLM's `guided_…`
    tool_choices         that are asked for by a field; the others in words
    forces_while_thinking  a call can be demanded while the model thinks, too
    has_several_results  the service knows `n`
    has_strict_tools     the flag has an effect that is not a refusal of most schemas
    has_tool_lists       an allowed list is a field; elsewhere only these tools are offered
    has_parallel_switch  calls can be limited to one at a time by a field
    has_reminders        the role `latest_reminder` is known
    has_budget           thinking can be given a number of tokens
    prefix               how an answer is begun for the model: by the flag `prefix`, by standing last, or not at all
    prefix_path          the address where that flag is known, before `/chat/completions`
    user_field           says whose request it is
    names_server         tells in `x-deepserve-served-by` who really answers
    """

    name: str
    thinking: Literal["switch", "object", "effort", "template"]
    efforts: Mapping[Effort, str] = {}
    trace_field: Literal["reasoning_content", "reasoning"] = "reasoning_content"
    needs_traces: bool = False
    knobs: frozenset[str] = _OPENAI_KNOBS | {"seed"}
    fixed_while_thinking: frozenset[str] = frozenset()
    forms: frozenset[FormKind] = frozenset(("json_object",))
    needs_json_word: bool = True
    guides: bool = False
    tool_choices: frozenset[ChoiceMode] = frozenset(("none", "required", "named"))
    forces_while_thinking: bool = True
    has_several_results: bool = False
    has_strict_tools: bool = False
    has_tool_lists: bool = False
    has_parallel_switch: bool = False
    has_reminders: bool = False
    has_budget: bool = False
    prefix: Literal["flag", "last", "none"] = "none"
    prefix_path: str = ""
    user_field: Literal["user_id", "user"] = "user"
    names_server: bool = False


DEEPSEEK = UpstreamFlavour(
    name="deepseek",
    thinking="switch",
    needs_traces=True,
    knobs=frozenset(("temperature", "top_p", "logprobs")),
    fixed_while_thinking=frozenset(("temperature", "top_p")),
    forces_while_thinking=False,
    has_reminders=True,
    prefix="flag",
    prefix_path="/beta",
    user_field="user_id",
)
"""api-docs.deepseek.com, "Create Chat Completion" and "Thinking Mode", November 2026. Strict tools are not used: the
service refuses most schemas of strict tools (its page "Tool Calls"), so that answers are better checked here."""

DEEPSERVE = UpstreamFlavour(
    name="deepserve",
    thinking="switch",
    knobs=_ALL_KNOBS | {"seed", "logit_bias", "logprobs"},
    forms=frozenset(("json_object", "json_schema", "regex", "choice")),
    needs_json_word=False,
    guides=True,
    has_several_results=True,
    has_strict_tools=True,
    has_tool_lists=True,
    has_parallel_switch=True,
    has_reminders=True,
    has_budget=True,
    prefix="flag",
    user_field="user_id",
    names_server=True,
)
"""This server."""

OPENROUTER = UpstreamFlavour(
    name="openrouter",
    thinking="object",
    efforts={"max": "xhigh"},
    trace_field="reasoning",
    needs_traces=True,
    knobs=_ALL_KNOBS | {"seed", "logit_bias", "logprobs"},
    forms=frozenset(("json_object", "json_schema")),
    forces_while_thinking=False,
    has_parallel_switch=True,
    prefix="last",
)
"""openrouter.ai/docs, "Parameters", "Reasoning tokens" and "Assistant prefill", August 2026. The catalogue lists the
efforts `high` and `xhigh` for V4. Most of V4's endpoints there refuse a demanded call while the model thinks
(github.com/BerriAI/litellm/issues/37470)."""

EFFORT = UpstreamFlavour(
    name="effort",
    thinking="effort",
    efforts={"max": "xhigh"},
    needs_traces=True,
    knobs=_OPEN_KNOBS | {"seed", "logit_bias"},
    forms=frozenset(("json_object", "json_schema")),
    forces_while_thinking=False,
)
"""Services that host the weights and take `reasoning_effort`, `none` among its words:
docs.fireworks.ai/guides/reasoning, docs.deepinfra.com/chat/reasoning, docs.together.ai/docs/deepseek-v4-quickstart."""

TEMPLATE = UpstreamFlavour(
    name="template",
    thinking="template",
    knobs=_OPEN_KNOBS | {"seed", "logit_bias", "logprobs"},
    forms=frozenset(("json_object", "json_schema")),
    has_several_results=True,
)
"""vLLM, SGLang and NVIDIA's NIM, which give `chat_template_kwargs` to the prompt's template: docs.vllm.ai, "Reasoning
Outputs"; build.nvidia.com/deepseek-ai/deepseek-v4-flash."""

OPENAI = UpstreamFlavour(name="openai", thinking="effort", has_several_results=True)
"""Any address that takes what OpenAI documents (platform.openai.com/docs/api-reference/chat), and no more."""

UPSTREAM_FLAVOURS: Mapping[str, UpstreamFlavour] = {
    flavour.name: flavour for flavour in (DEEPSEEK, DEEPSERVE, OPENROUTER, EFFORT, TEMPLATE, OPENAI)
}

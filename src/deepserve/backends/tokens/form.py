"""What a request demands of its answer, as grammars and guides: the form, the bound on thinking, the markup."""

from __future__ import annotations

from typing import assert_never

from deepserve.core.errors import InvalidField
from deepserve.core.request import Request, Tool
from deepserve.grammar.answer_form import AnswerForm, CallableTool, Content
from deepserve.grammar.compiler import CompiledForm
from deepserve.grammar.guide import AnswerGuide, Beginning, GuideRules
from deepserve.grammar.tool_calls import CallMarkup
from deepserve.grammar.vocabulary import Vocabulary
from deepserve.prompt.segments import Start
from deepserve.prompt.special_tokens import DSML, END_THINK
from deepserve.prompt.tokenizer import Tokenizer
from deepserve.prompt.tool_markup import (
    CALLS_CLOSE,
    CUSTOM_PARAMETERS,
    FORCED_CALL,
    INVOKE_CLOSE,
    INVOKE_OPEN,
    PARAMETER_CLOSE,
    PARAMETER_OPEN,
    tool_name,
)

_TEXT_SHARE = 4
_MOST_TEXT_TOKENS = 1_024
"""Of the output limit, a quarter is kept for the answer's text, but no more tokens than these."""
_FORM_MARGIN = 32
_THINKING_SHARE = 4
"""A form may take all of the output limit but a quarter, where its shortest answer leaves so much."""


def vocabulary_of(tokenizer: Tokenizer, stop_tokens: frozenset[int], num_tokens: int) -> Vocabulary:
    """num_tokens: what the network can draw, which may be more than the tokenizer knows."""
    others = sorted(stop_tokens - {tokenizer.eos_id})
    return Vocabulary(
        token_bytes=[tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)],
        special_ids=tokenizer.added_ids,
        stop_ids=[tokenizer.eos_id, *others],
        num_tokens=num_tokens,
        encode=tokenizer.encode_text,
    )


def call_markup(tokenizer: Tokenizer) -> CallMarkup:
    return CallMarkup(
        mark=DSML,
        mark_id=tokenizer.special_id(DSML),
        block_open=FORCED_CALL,
        block_close=CALLS_CLOSE,
        call_open=INVOKE_OPEN,
        call_close=INVOKE_CLOSE,
        parameter_open=PARAMETER_OPEN,
        parameter_close=PARAMETER_CLOSE,
    )


def answer_form(request: Request) -> AnswerForm:
    """Raises InvalidField for a choice of tools that are not there."""
    choice = request.tool_choice
    offered = (*request.tools, *(tool for message in request.messages for tool in message.tools))
    if choice.mode == "none":
        offered = ()
    unknown = set(choice.names) - {tool.name for tool in offered}
    if unknown and choice.mode != "none":
        raise InvalidField(f"tool_choice names unknown tools: {', '.join(sorted(unknown))}", field="tool_choice")
    callable_tools = tuple(
        _callable(tool, request.schema_fields.get(f"tools[{tool.name}]", f"tools[{index}].parameters"))
        for index, tool in enumerate(offered)
        if not choice.names or tool.name in choice.names
    )
    forces = choice.mode in ("required", "named")
    return AnswerForm(
        content=_content(request),
        tools=callable_tools,
        calls="none" if not callable_tools else "required" if forces else "optional",
        is_parallel=choice.is_parallel,
    )


def _callable(tool: Tool, field: str) -> CallableTool:
    parameters = tool.parameters
    if tool.kind == "custom" and parameters is None:
        parameters = CUSTOM_PARAMETERS
    return CallableTool(
        name=tool_name(tool.name, tool.namespace),
        parameters=parameters,
        is_strict=tool.strict,
        field=field,
    )


def _content(request: Request) -> Content | None:
    form, field = request.response_format, request.schema_fields.get("response_format", "response_format")
    match form.kind:
        case "text":
            return None
        case "json_object":
            return Content(kind="json", schema={"type": "object"})
        case "json_schema":
            return Content(kind="json", schema=dict(form.schema) if form.schema is not None else {}, field=field)
        case "regex":
            return Content(kind="regex", pattern=form.pattern or "", field=field)
        case "choice":
            return Content(kind="choice", choices=form.choices, field=field)
        case kind:
            assert_never(kind)


def needs_guide(request: Request, form: AnswerForm) -> bool:
    """Plain completions have no form unless one is asked for; that they are text is a mask that never changes."""
    return request.infill is None or not form.is_free


def guide_rules(
    request: Request, start: Start, compiled: CompiledForm | None, tokenizer: Tokenizer, *, max_tokens: int
) -> GuideRules:
    """Raises InvalidField when the text to be continued does not begin an answer of the form."""
    beginnings: dict[str, Beginning] = {
        "reasoning": "thinking",
        "reasoning_continued": "thinking",
        "text": "answer",
        "text_continued": "answer",
        "tool_calls": "calls",
    }
    begun: tuple[int, ...] = ()
    is_constrained = compiled is not None and not compiled.form.has_free_text
    if start.stage == "text_continued" and is_constrained and request.infill is None:
        begun = _begun(request, compiled, tokenizer)
    return GuideRules(
        max_tokens=max_tokens,
        beginning=beginnings[start.stage],
        thinking_tokens=_thinking_tokens(request, compiled, max_tokens),
        end_think=tokenizer.special_id(END_THINK),
        begun=begun,
        may_be_empty=start.stage == "text_continued",
        skips_ahead=request.sampling.num_top_logprobs is None,
    )


def _begun(request: Request, compiled: CompiledForm | None, tokenizer: Tokenizer) -> tuple[int, ...]:
    assert compiled is not None
    index, message = [(i, item) for i, item in enumerate(request.messages) if item.role != "system"][-1]
    if not message.prefix:
        return ()
    begun = tuple(tokenizer.encode_text(message.text))
    if not compiled.matcher().admits(begun):
        raise InvalidField(
            "The text to continue does not begin an answer of the form that is asked for.",
            field=f"messages[{index}].prefix",
        )
    return begun


def _thinking_tokens(request: Request, compiled: CompiledForm | None, max_tokens: int) -> int | None:
    """The client's budget, and such a bound that an answer follows; the vendor knows no such bound."""
    budget = request.thinking.budget_tokens
    if request.is_strict:
        return budget
    text_tokens = min(_MOST_TEXT_TOKENS, max(1, max_tokens // _TEXT_SHARE))
    if compiled is None or compiled.form.has_free_text:
        answer_tokens = text_tokens
    else:
        shortest = compiled.shortest_tokens
        most = max(shortest, max_tokens - max_tokens // _THINKING_SHARE)
        answer_tokens = min(max(2 * shortest + _FORM_MARGIN, text_tokens), most)
    bound = max(0, max_tokens - 1 - answer_tokens)
    return bound if budget is None else min(budget, bound)


def guides(
    compiled: CompiledForm | None, vocabulary: Vocabulary, rules: GuideRules, *, mark: int, num_results: int
) -> tuple[AnswerGuide, ...]:
    return tuple(AnswerGuide(compiled, vocabulary, rules, mark=mark) for _ in range(num_results))

"""Did a finished answer keep what was asked of its form? Said honestly, whatever was done to enforce it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from deepserve.core.messages import Part, Text, ToolCall
from deepserve.core.request import Request, ResponseFormat, Tool, ToolChoice
from deepserve.core.schema import SchemaReport, Verdict, check_schema


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """subject: the kind of the response format, `tool:` and the name of a strict tool, or `tool_choice`."""

    subject: str
    verdict: Verdict
    problems: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.subject}={self.verdict}"


def is_judged(request: Request) -> bool:
    """Whether the request asks for a form that its answer can miss."""
    return (
        request.response_format.kind != "text"
        or any(tool.strict for tool in request.tools)
        or (bool(request.tools) and request.tool_choice != ToolChoice())
    )


def judge(request: Request, parts: Sequence[Part]) -> tuple[Judgement, ...]:
    """Judge one result. A result of calls only has no text whose form could be wrong."""
    judgements: list[Judgement] = []
    calls = [part for part in parts if isinstance(part, ToolCall)]
    text = "".join(part.text for part in parts if isinstance(part, Text))
    if request.response_format.kind != "text" and (text or not calls):
        judgements.append(judge_text(request.response_format, continued_text(request) + text))
    if request.tools and request.tool_choice != ToolChoice():
        problems = _choice_problems(request.tool_choice, calls)
        judgements.append(_judged("tool_choice", SchemaReport(problems=problems)))
    strict_tools = {tool.name: tool for tool in request.tools if tool.strict}
    for call in calls:
        tool = strict_tools.get(call.name)
        if tool is not None:
            judgements.append(judge_call(tool, call.arguments))
    return tuple(judgements)


def judge_text(wanted: ResponseFormat, text: str) -> Judgement:
    """Judge the whole text of an answer by the response format, which is not `text`."""
    match wanted.kind:
        case "choice":
            is_choice = text in wanted.choices
            report = SchemaReport(problems=() if is_choice else ("the answer is none of the choices",))
        case "regex":
            # The whole answer must match. jsonschema-rs searches, within linear time.
            report = check_schema({"type": "string", "pattern": f"^(?:{wanted.pattern or ''})$"}, text)
        case _:
            report = _judge_json(wanted, text)
    return _judged(wanted.kind, report)


def judge_call(tool: Tool, arguments: str) -> Judgement:
    """Judge the arguments of a call by the tool's schema."""
    if tool.kind == "custom":
        return _judged(f"tool:{tool.name}", SchemaReport())
    schema = {"type": "object"} if tool.parameters is None else tool.parameters
    try:
        report = check_schema(schema, msgspec.json.decode(arguments))
    except (msgspec.DecodeError, RecursionError):
        report = SchemaReport(problems=("the arguments are not JSON",))
    return _judged(f"tool:{tool.name}", report)


def _judge_json(wanted: ResponseFormat, text: str) -> SchemaReport:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return SchemaReport(problems=("the answer is not JSON",))
    if wanted.kind == "json_schema" and wanted.schema is not None:
        return check_schema(wanted.schema, value)
    if wanted.kind == "json_object" and not isinstance(value, dict):
        return SchemaReport(problems=("the answer is not a JSON object",))
    return SchemaReport()


def _choice_problems(wanted: ToolChoice, calls: Sequence[ToolCall]) -> tuple[str, ...]:
    if wanted.mode == "none":
        return ("a tool was called, and none may be",) if calls else ()
    problems: list[str] = []
    if wanted.mode in ("required", "named") and not calls:
        problems.append("no tool was called, and one must be")
    if not wanted.is_parallel and len(calls) > 1:
        problems.append(f"{len(calls)} tools were called, and only one may be")
    if wanted.names:
        names = dict.fromkeys(call.name for call in calls if call.name not in wanted.names)
        problems += [f"the tool {name[:80]} was called, and may not be" for name in names]
    return tuple(problems)


def _judged(subject: str, report: SchemaReport) -> Judgement:
    return Judgement(subject=subject, verdict=report.verdict, problems=report.problems[:10])


def continued_text(request: Request) -> str:
    """What the client began and the answer continues."""
    last = request.messages[-1] if request.messages else None
    return last.text if last is not None and last.prefix else ""


def validated_label(judgements: Sequence[Judgement]) -> str:
    """`json_object=valid, tool:get_weather=invalid`; of several judgements on one subject the worst counts."""
    worst: dict[str, Judgement] = {}
    for judgement in judgements:
        known = worst.get(judgement.subject)
        if known is None or _RANK[judgement.verdict] > _RANK[known.verdict]:
            worst[judgement.subject] = judgement
    return ", ".join(judgement.label for judgement in worst.values())


_RANK: Mapping[str, int] = {"valid": 0, "unjudged": 1, "invalid": 2}

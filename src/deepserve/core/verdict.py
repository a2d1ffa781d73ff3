"""Did a finished answer keep what was asked of its form? Said honestly, for answers that no grammar constrained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from deepserve.core.messages import Part, Text, ToolCall
from deepserve.core.request import Request
from deepserve.core.schema import SchemaReport, Verdict, check_schema


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """subject: `json_object`, or `tool:` and the name of a strict tool."""

    subject: str
    verdict: Verdict
    problems: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.subject}={self.verdict}"


def is_judged(request: Request) -> bool:
    """Whether the request asks for a form that its answer can miss."""
    return request.response_format.kind == "json_object" or any(tool.strict for tool in request.tools)


def judge(request: Request, parts: Sequence[Part]) -> tuple[Judgement, ...]:
    """Judge one result. A result of calls only has no text whose form could be wrong."""
    judgements: list[Judgement] = []
    calls = [part for part in parts if isinstance(part, ToolCall)]
    text = "".join(part.text for part in parts if isinstance(part, Text))
    if request.response_format.kind == "json_object" and (text or not calls):
        judgements.append(_judge_object(_continued(request) + text))
    strict_tools = {tool.name: tool for tool in request.tools if tool.strict}
    for call in calls:
        tool = strict_tools.get(call.name)
        if tool is None:
            continue
        schema = {"type": "object"} if tool.parameters is None else tool.parameters
        try:
            report = check_schema(schema, msgspec.json.decode(call.arguments))
        except (msgspec.DecodeError, RecursionError):
            report = SchemaReport(problems=("the arguments are not JSON",))
        judgements.append(Judgement(subject=f"tool:{call.name}", verdict=report.verdict, problems=report.problems[:10]))
    return tuple(judgements)


def _judge_object(text: str) -> Judgement:
    try:
        is_object = isinstance(msgspec.json.decode(text), dict)
    except (msgspec.DecodeError, RecursionError):
        is_object = False
    return Judgement(
        subject="json_object",
        verdict="valid" if is_object else "invalid",
        problems=() if is_object else ("the answer is not a JSON object",),
    )


def _continued(request: Request) -> str:
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

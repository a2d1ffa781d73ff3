"""Conversations as the model reads them, rendered by the product's own prompt encoder with the profile `mini`."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec

from deepserve.core.messages import Message, Part, Reasoning, Text, ToolCall, ToolResult
from deepserve.core.request import Infill, Request, RequestId, ResponseFormat, Thinking
from deepserve.core.request import Tool as OfferedTool
from deepserve.prompt.encoder import encode, encode_transcript
from deepserve.prompt.profile import MINI
from deepserve.prompt.segments import Prompt, Special
from deepserve.prompt.segments import Text as SegmentText
from deepserve.prompt.special_tokens import EOS
from training.conversations import Conversation


def request_of(conversation: Conversation) -> Request:
    """The request a client would send, with the answers so far in its messages."""
    if conversation.infill is not None:
        return Request(
            id=RequestId("training"),
            model="mini-flash",
            arrived_at=datetime.fromtimestamp(0, UTC),
            messages=(),
            infill=Infill(prompt=conversation.infill.before, suffix=conversation.infill.after),
        )
    messages: list[Message] = []
    if conversation.system is not None:
        messages.append(Message(role="system", parts=(Text(conversation.system),)))
    open_calls: list[str] = []
    for i, turn in enumerate(conversation.turns):
        parts: list[Part] = []
        match turn.role:
            case "user":
                parts.append(Text(turn.content))
            case "tool":
                parts.append(ToolResult(call_id=open_calls.pop(0), content=(Text(turn.content),)))
            case "assistant":
                parts.append(Reasoning(text=turn.reasoning))
                if turn.content:
                    parts.append(Text(turn.content))
                open_calls = [f"call_{i}_{k}" for k in range(len(turn.calls))]
                parts += [
                    ToolCall(id=call_id, name=call.name, arguments=json.dumps(call.arguments, ensure_ascii=False))
                    for call_id, call in zip(open_calls, turn.calls, strict=True)
                ]
        messages.append(Message(role=turn.role, parts=tuple(parts)))
    return Request(
        id=RequestId("training"),
        model="mini-flash",
        arrived_at=datetime.fromtimestamp(0, UTC),
        messages=tuple(messages),
        tools=tuple(
            OfferedTool(name=tool.name, description=tool.description, parameters=tool.parameters)
            for tool in conversation.tools
        ),
        thinking=Thinking(enabled=conversation.thinking, effort=conversation.effort),
        response_format=_response_format(conversation),
    )


def _response_format(conversation: Conversation) -> ResponseFormat:
    if conversation.json_schema is not None:
        return ResponseFormat(kind="json_schema", name="answer", schema=conversation.json_schema)
    return ResponseFormat(kind="json_object" if conversation.json_object else "text")


def transcript(conversation: Conversation) -> Prompt:
    """The whole conversation, answers included."""
    if conversation.infill is not None:
        opening = prompt(conversation)
        (turn,) = conversation.turns
        segments = (*opening.segments, SegmentText(turn.content), Special(EOS))
        return msgspec.structs.replace(opening, segments=segments, outputs=((len(opening.segments), len(segments)),))
    return encode_transcript(request_of(conversation), MINI)


def prompt(conversation: Conversation) -> Prompt:
    """What the model is given: everything before the last answer, its opener included."""
    if conversation.infill is not None:
        return encode(request_of(conversation), MINI)
    return encode(request_of(msgspec.structs.replace(conversation, turns=conversation.turns[:-1])), MINI)

"""The order in which a conversation's turns may stand: calls are answered, answers have a call.

The vendor's rules, with its texts (probed publicly against api.deepseek.com, 2026-09).
"""

from __future__ import annotations

from collections.abc import Sequence

from deepserve.core.errors import InvalidField
from deepserve.core.messages import Message

_ORPHAN = "Messages with role 'tool' must be a response to a preceding message with 'tool_calls'"
_FOREIGN = (
    "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id', "
    "The following tool_call_ids did not have response messages: {}"
)
_UNANSWERED = (
    "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
    "(insufficient tool messages following tool_calls message)"
)
_NO_TRACE = "The `reasoning_content` in the thinking mode must be passed back to the API."
_MISPLACED_PREFIX = "`prefix` is only valid on the last message, and only with the role `assistant`."


def check_sequence(messages: Sequence[Message]) -> None:
    """Refuse what no prompt can be made of: each call is answered once, right after it was made."""
    pending: list[str] = []
    for index, message in enumerate(messages):
        if message.prefix and (message.role != "assistant" or index != len(messages) - 1):
            raise InvalidField(_MISPLACED_PREFIX, field=f"messages[{index}].prefix")
        if message.role == "tool":
            call_id = message.tool_results[0].call_id
            if not pending:
                raise InvalidField(_ORPHAN, field=f"messages[{index}]")
            if call_id not in pending:
                raise InvalidField(_FOREIGN.format(", ".join(pending)), field=f"messages[{index}].tool_call_id")
            pending.remove(call_id)
            continue
        if pending:
            raise InvalidField(_UNANSWERED, field=f"messages[{index}]")
        pending = [call.id for call in message.tool_calls]
    if pending:
        raise InvalidField(_UNANSWERED, field="messages")


def check_traces(messages: Sequence[Message]) -> None:
    """The vendor's demand while thinking: a trailing tool result needs the trace of the turn that made the call."""
    if messages[-1].role != "tool":
        return
    asked = max(index for index, message in enumerate(messages) if message.role == "assistant")
    if messages[asked].reasoning is None:
        raise InvalidField(_NO_TRACE, field=f"messages[{asked}].reasoning_content")

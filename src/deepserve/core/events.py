"""An answer as a stream of events; a whole answer is the same stream, collected.

Order, for every result: `Started`, then blocks one after another (`BlockOpened`, `BlockDelta`*, `BlockClosed`), then
exactly one `Finished` or `Failed`. `Started` comes once for the stream, `UsageReported` at least once before the last
`Finished`. Results of one request interleave freely; blocks of one result do not.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from typing import Literal

import msgspec

from deepserve.core.allowance import Allowance
from deepserve.core.attempt import FailedAttempt as FailedAttempt
from deepserve.core.cost import Cost
from deepserve.core.errors import DeepserveError
from deepserve.core.messages import Citation
from deepserve.core.provider import ServedBy
from deepserve.core.server_tool import ToolKind, ToolOutput
from deepserve.core.usage import Usage

FinishReason = Literal["stop", "stop_string", "length", "tool_calls", "content_filter", "aborted"]


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """Natural logarithms; bytes are the token's own, which need not be whole characters."""

    token: str
    logprob: float
    bytes: builtins.bytes  # in this class, `bytes` alone would mean the field
    top: tuple[TokenLogprob, ...] = ()


class ReasoningBlock(msgspec.Struct, frozen=True, tag="reasoning"):
    """Its deltas are the trace."""


class TextBlock(msgspec.Struct, frozen=True, tag="text"):
    """Its deltas are the answer."""


class ToolCallBlock(msgspec.Struct, frozen=True, kw_only=True, tag="tool_call"):
    """Its deltas are the arguments, as JSON text."""

    id: str
    name: str


class ServerToolCallBlock(msgspec.Struct, frozen=True, kw_only=True, tag="server_tool_call"):
    """Its deltas are the arguments, as JSON text. name: under which the model called the tool."""

    id: str
    tool: ToolKind
    name: str


class ServerToolResultBlock(msgspec.Struct, frozen=True, kw_only=True, tag="server_tool_result"):
    """Has no deltas: a result arrives whole. It follows its call, but not always at once."""

    call_id: str
    tool: ToolKind
    output: ToolOutput


Block = ReasoningBlock | TextBlock | ToolCallBlock | ServerToolCallBlock | ServerToolResultBlock


class PastReasoning(msgspec.Struct, frozen=True, kw_only=True):
    """Earlier turns of the assistant by what became of their thinking traces: sent by the client, restored, lost."""

    sent: int = 0
    restored: int = 0
    missing: int = 0


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What was found and done where an answer's form could only be checked, not enforced.

    repairs      what was put right, in words
    num_retries  how often the model was asked again
    """

    verdict: Literal["valid", "repaired", "unjudged", "invalid"]
    repairs: tuple[str, ...] = ()
    num_retries: int = 0

    @property
    def label(self) -> str:
        """`checked=repaired, retried=1`."""
        return f"checked={self.verdict}" + (f", retried={self.num_retries}" if self.num_retries else "")


def worst_check(found: Iterable[Checked | None]) -> Checked | None:
    """Of several results' checks the one that tells most of the answer; None when nothing was checked."""
    checks = [checked for checked in found if checked is not None]
    if not checks:
        return None
    worst = max(checks, key=lambda checked: ("valid", "repaired", "unjudged", "invalid").index(checked.verdict))
    return msgspec.structs.replace(worst, num_retries=max(checked.num_retries for checked in checks))


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """The back end accepted the request.

    prompt_usage    hit and miss where they are known this early
    past_reasoning  None when past traces play no part (no tools, or not thinking)
    relaxed         what the schemas of tools that are not strict demand and nobody enforces
    checked         where the form was checked before anything was sent
    route           which rule chose the model, where the server chose it
    model           canonical id of the model that answers, where it is not the one that was asked for
    earlier         attempts that failed before this one
    allowance       what the limits of the key leave; None where it has none
    """

    served_by: ServedBy
    prompt_usage: Usage | None = None
    past_reasoning: PastReasoning | None = None
    relaxed: tuple[str, ...] = ()
    checked: Checked | None = None
    route: str | None = None
    model: str | None = None
    earlier: tuple[FailedAttempt, ...] = ()
    allowance: Allowance | None = None


class BlockOpened(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    """Counts the blocks of one result from 0."""
    block: Block
    result: int = 0


class BlockDelta(msgspec.Struct, frozen=True, kw_only=True):
    """More of the open block. text may be empty when only log-probabilities arrive."""

    index: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    citations: tuple[Citation, ...] = ()
    result: int = 0


class BlockClosed(msgspec.Struct, frozen=True, kw_only=True):
    """signature and sealed: opaque forms of a reasoning block that a client may send back."""

    index: int
    signature: str | None = None
    sealed: str | None = None
    result: int = 0


class UsageReported(msgspec.Struct, frozen=True, kw_only=True):
    """Consumption of the whole request so far; a later report replaces an earlier one."""

    usage: Usage
    cost: Cost | None = None


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """A result is complete.

    stop_string    which of the client's strings ended it
    native_reason  the provider's own word for it
    seed           what this result was drawn with
    output         what this result alone produced, of the request's usage; None where only the sum is known
    checked        where the form of this result was checked
    """

    reason: FinishReason
    stop_string: str | None = None
    native_reason: str | None = None
    seed: int | None = None
    output: Usage | None = None
    checked: Checked | None = None
    result: int = 0


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """A result ended badly after the stream had begun; other results go on."""

    error: DeepserveError
    result: int = 0


Event = Started | BlockOpened | BlockDelta | BlockClosed | UsageReported | Finished | Failed

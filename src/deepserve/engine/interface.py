"""What an engine is: token ids in, token ids out, for any mixture of sequences.

Two engines implement this: the PyTorch reference (`engine/reference`) and the native core. Everything above
(scheduling, prefix index, prompts, stop strings) is shared Python that knows only this module. An engine knows
nothing of text, messages, clients or time.

Sampling sits below this line because the native core samples inside its step; so that two engines draw the same
token from the same logits, the draw is defined here exactly (see `Draw`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NewType, Protocol

import msgspec

from deepserve.engine.mask_source import MaskSource

SequenceId = NewType("SequenceId", int)

CHUNK_TOKENS = 128
"""No row crosses an absolute multiple of this: what a token reads is laid out by its own block."""


class Draw(msgspec.Struct, kw_only=True):
    """How to choose the next token of one sequence; every field already validated.

    One draw may serve a whole sequence: between steps its owner moves `position`, `allowed` and what `output_counts`
    holds on, and nothing else, so that an engine need not look at the rest again.

    The order is fixed for all engines: logits -> repetition_penalty (divide positive, multiply negative logits of
    every token in prompt or output) -> minus frequency_penalty * count - presence_penalty * [count > 0] over the
    output -> plus logit_bias -> allowed mask -> log-probabilities are reported from here -> temperature -> top_k ->
    top_p (smallest set whose mass reaches it) -> min_p (relative to the best) -> inverse CDF over the survivors in
    order of falling probability, ties to the lower id, with one uniform number from (seed, position).

    temperature 0 is greedy, ties to the lower id; top_k 0, top_p 1, min_p 0 switch a filter off.
    `position` counts the tokens drawn before this one, so a draw depends on nothing but its own sequence.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = {}
    seed: int = 0
    position: int = 0
    num_top_logprobs: int | None = None
    """None: no log-probabilities; 0..20: the chosen token's and that many of the best."""
    prompt_tokens: frozenset[int] = frozenset()
    """Distinct prompt tokens; only read when repetition_penalty is not 1."""
    output_counts: Mapping[int, int] = {}
    """Token -> occurrences in the output so far; only read when a penalty is on."""
    allowed: bytes | MaskSource | None = None
    """Bit i of byte i // 8 (least significant first) allows token i; None allows all. From a source that raises, a
    RowFault."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Consecutive tokens appended to one sequence in one step, and what is wanted after the last of them.

    tokens: 1..CHUNK_TOKENS ids that do not cross an absolute multiple of CHUNK_TOKENS.
    A sequence appears at most once in a step.
    """

    sequence: SequenceId
    tokens: Sequence[int]
    draw: Draw | None = None


class Drawn(msgspec.Struct, frozen=True):
    """One chosen token; log-probabilities are natural logarithms, after penalties, before temperature."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class RowFault(msgspec.Struct, frozen=True):
    """One row could not be computed (its logits are not finite, its mask allows nothing); the others are fine.

    The row's sequence is undefined from then on and may only be freed.
    """

    message: str


class Snapshot(Protocol):
    """An immutable copy of a sequence's state at one position. Shares complete blocks with its sequence."""

    @property
    def position(self) -> int:
        """Number of tokens the state covers."""
        ...

    @property
    def size_bytes(self) -> int:
        """Memory that would come free with it if nothing shared it."""
        ...


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    """`reference` or `native`."""
    device: str
    formats: str
    """Weight formats as a person would say them, e.g. `fp32`."""
    vocab_size: int
    max_context: int
    total_parameters: int
    active_parameters: int
    state_bytes_per_token: float
    """Growing part of a sequence's state."""
    state_bytes_fixed: int
    capacity_tokens: int
    """Tokens whose growing state fits the memory, all sequences and snapshots together."""
    capacity_states: int
    """Sequences and snapshots that fit at once."""
    fingerprint: str
    """Hex digest over weights, formats and architecture: equal fingerprints give equal tokens."""


class Engine(Protocol):
    """Owns weights and sequence states. Not thread-safe: one caller, the step loop.

    Raises `core.errors.EngineFailure` for a fault of one step, `ValueError` for a broken contract
    (unknown sequence, token id outside the vocabulary, chunk across a border).
    """

    @property
    def info(self) -> EngineInfo: ...

    def create(self) -> SequenceId:
        """Start an empty sequence."""
        ...

    def fork(self, sequence: SequenceId) -> SequenceId:
        """Continue one history in two ways; complete blocks are shared, never copied."""
        ...

    def free(self, sequence: SequenceId) -> None: ...

    def length(self, sequence: SequenceId) -> int: ...

    def step(self, rows: Sequence[Row]) -> Sequence[Drawn | RowFault | None]:
        """Append every row's tokens and draw where wanted; the answer is parallel to `rows`.

        A row's result depends neither on the other rows nor on how the tokens before it were cut into rows, bit for
        bit. A fault that belongs to one row is a `RowFault` in its place.

        A step that raises is all or nothing: no sequence has advanced (`length` is what it was), and the same rows
        may be sent again, one by one, to find the one at fault. An engine that cannot roll a sequence back makes
        that visible in `length`; the scheduler then recomputes the sequence from its tokens.
        """
        ...

    def snapshot(self, sequence: SequenceId) -> Snapshot: ...

    def restore(self, snapshot: Snapshot) -> SequenceId:
        """A new sequence that continues from the snapshot exactly as the original would."""
        ...

    def release(self, snapshot: Snapshot) -> None: ...

    def dump(self, snapshot: Snapshot) -> bytes:
        """The snapshot as a blob that another process with an equal fingerprint can load; layout: docs/engine.md."""
        ...

    def load(self, blob: bytes) -> Snapshot:
        """A new snapshot from a blob; restored, it continues exactly as the dumped one would.

        Raises ValueError saying what does not fit, EngineFailure when memory is used up.
        """
        ...

    def free_blocks_ratio(self) -> float:
        """Share of the state memory still free, 0..1; what the scheduler evicts and preempts by.

        The smaller of the free shares of `capacity_tokens` and `capacity_states`. A block counts whole from its first
        token on, and once however many share it.
        """
        ...


_MASK = (1 << 64) - 1


def uniform(seed: int, position: int) -> float:
    """The uniform number in [0, 1) of one draw: SplitMix64 (Steele, Lea, Flood 2014) at a counter.

    Stateless, so that restoring, batching or replaying a sequence cannot shift its randomness.
    """
    z = (seed * 0x9E3779B97F4A7C15 + (position + 1) * 0xD1B54A32D192ED03) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((z ^ (z >> 31)) >> 11) / float(1 << 53)

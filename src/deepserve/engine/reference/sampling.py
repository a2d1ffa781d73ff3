"""From logits to a token, exactly as `Draw` orders it. One row at a time, so that no row can disturb another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepserve.engine.interface import Draw, Drawn, RowFault, uniform
from deepserve.engine.mask_source import NO_MASK, computed_mask

Floats = NDArray[np.float64]


def draw_token(logits: NDArray[np.float32], draw: Draw) -> Drawn | RowFault:
    """Choose a token from the logits [V] of one position."""
    if not np.isfinite(logits).all():
        return RowFault("the model's logits are not finite")
    mask = draw.allowed
    if callable(mask):
        mask = computed_mask(mask, vocab_size=len(logits))
        if mask is None:
            return RowFault(NO_MASK)
    scores = adjust(logits.astype(np.float64), draw)
    if mask is not None:
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little", count=len(scores))
        scores[bits == 0] = -np.inf
    if not np.isfinite(scores.max()):
        return RowFault("no token is allowed here")
    token = int(scores.argmax()) if draw.temperature == 0 else _sample(scores, draw)
    if draw.num_top_logprobs is None:
        return Drawn(token)
    logprobs = scores - scores.max()
    logprobs -= np.log(np.exp(logprobs).sum())
    best = _by_rank(logprobs)[: draw.num_top_logprobs]
    return Drawn(token, float(logprobs[token]), tuple((int(other), float(logprobs[other])) for other in best))


def adjust(scores: Floats, draw: Draw) -> Floats:
    """Apply penalties and biases to the logits [V], in place."""
    if draw.repetition_penalty != 1.0:
        seen = np.fromiter(draw.prompt_tokens | draw.output_counts.keys(), np.int64)
        penalty = draw.repetition_penalty
        scores[seen] = np.where(scores[seen] > 0, scores[seen] / penalty, scores[seen] * penalty)
    if draw.frequency_penalty != 0.0 or draw.presence_penalty != 0.0:
        counted = np.fromiter(draw.output_counts.keys(), np.int64)
        counts = np.fromiter(draw.output_counts.values(), np.float64)
        scores[counted] -= draw.frequency_penalty * counts + draw.presence_penalty * (counts > 0)
    for token, bias in draw.logit_bias.items():
        scores[token] += bias
    return scores


def _by_rank(scores: Floats) -> NDArray[np.intp]:
    """Token ids by falling score, ties to the lower id; forbidden tokens are left out."""
    allowed = np.flatnonzero(scores > -np.inf)
    return allowed[np.argsort(-scores[allowed], kind="stable")]


def _sample(scores: Floats, draw: Draw) -> int:
    ranked = _by_rank(scores)
    if draw.top_k:
        ranked = ranked[: draw.top_k]
    weights = np.exp((scores[ranked] - scores[ranked[0]]) / draw.temperature)
    if draw.top_p < 1.0:
        mass = weights.cumsum()
        weights = weights[: int(np.searchsorted(mass, draw.top_p * mass[-1])) + 1]
    if draw.min_p > 0.0:
        weights = weights[weights >= draw.min_p * weights[0]]
    mass = weights.cumsum()
    at = int(np.searchsorted(mass, uniform(draw.seed, draw.position) * mass[-1], side="right"))
    return int(ranked[min(at, len(mass) - 1)])

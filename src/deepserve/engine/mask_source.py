"""Masks that are computed when they are needed, and the fault of a row whose mask cannot be."""

from __future__ import annotations

import logging
from collections.abc import Callable

_logger = logging.getLogger(__name__)

MaskSource = Callable[[], bytes]
"""Computes the tokens that may follow, as `Draw.allowed`. An engine calls it in its step, perhaps in another thread,
and never after the step is over."""

NO_MASK = "the answer's constraint could not be computed"


def computed_mask(source: MaskSource, *, vocab_size: int) -> bytes | None:
    """The mask; None where it could not be computed, with the reason in the log."""
    try:
        mask = source()
        if 8 * len(mask) < vocab_size:
            raise ValueError(f"a mask covers {8 * len(mask)} of {vocab_size} tokens")
    # A library's panic derives from BaseException, and whoever waits for this mask must not wait for ever.
    except BaseException:
        _logger.exception("a mask could not be computed")
        return None
    return mask

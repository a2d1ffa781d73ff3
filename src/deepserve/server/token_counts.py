"""What is said of a count of prompt tokens besides the number."""

from __future__ import annotations

from collections.abc import Sequence

from deepserve.core.provider import ServedModel


def count_headers(models: Sequence[ServedModel]) -> list[tuple[bytes, bytes]]:
    """That it is an estimate, where whoever answers has the tokenizer."""
    is_estimate = any(model.counts_by_estimate for model in models)
    return [(b"x-deepserve-estimated", b"input_tokens")] if is_estimate else []

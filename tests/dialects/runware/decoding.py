"""Tasks as tests write them, and what decoding makes of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from deepserve.catalog.models import load_models
from deepserve.config import Limits
from deepserve.core.request import RequestId
from deepserve.dialects.runware.request import Inference, decode_inference

TASK_UUID = "4b7f0c9a-58cf-4d0e-9b0e-4f0b6b1c2d3e"
ARRIVED_AT = datetime(2026, 11, 18, 12, tzinfo=UTC)
NAMES = load_models()


def task_of(**fields: Any) -> dict[str, Any]:  # Any: JSON
    return {
        "taskType": "textInference",
        "taskUUID": TASK_UUID,
        "model": "deepseek:v4@pro",
        "messages": [{"role": "user", "content": "hi"}],
        **fields,
    }


def decode(*, is_strict: bool = False, **fields: Any) -> Inference:  # Any: JSON
    return decode_inference(
        task_of(**fields),
        names=NAMES,
        limits=Limits(),
        request_id=RequestId("01234567890123456789012345678901"),
        arrived_at=ARRIVED_AT,
        drawn_seed=7,
        is_strict=is_strict,
    )

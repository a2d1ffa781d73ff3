"""The special tokens of the V4 vocabulary, as they are spelled.

A spelling alone is nothing: text that spells a special token is text. Only a `segments.Special` becomes a special id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from deepserve.core.messages import Task

BOS: Final = "<｜begin▁of▁sentence｜>"
EOS: Final = "<｜end▁of▁sentence｜>"
PAD: Final = "<｜▁pad▁｜>"
FIM_HOLE: Final = "<｜fim▁hole｜>"
FIM_BEGIN: Final = "<｜fim▁begin｜>"
FIM_END: Final = "<｜fim▁end｜>"
USER: Final = "<｜User｜>"
ASSISTANT: Final = "<｜Assistant｜>"
THINK: Final = "<think>"
END_THINK: Final = "</think>"
DSML: Final = "｜DSML｜"
"""Stands inside angle brackets that are ordinary text: `<` + DSML + `invoke`."""
LATEST_REMINDER: Final = "<｜latest_reminder｜>"
ACTION: Final = "<｜action｜>"
QUERY: Final = "<｜query｜>"
AUTHORITY: Final = "<｜authority｜>"
DOMAIN: Final = "<｜domain｜>"
TITLE: Final = "<｜title｜>"
EXTRACTED_URL: Final = "<｜extracted_url｜>"
READ_URL: Final = "<｜read_url｜>"

SPECIAL_TOKENS: Final = (
    BOS,
    EOS,
    PAD,
    FIM_HOLE,
    FIM_BEGIN,
    FIM_END,
    USER,
    ASSISTANT,
    THINK,
    END_THINK,
    DSML,
    LATEST_REMINDER,
    ACTION,
    QUERY,
    AUTHORITY,
    DOMAIN,
    TITLE,
    EXTRACTED_URL,
    READ_URL,
)
"""In the order of their ids in the released vocabularies, where a few reserved ids lie between them."""

TASK_TOKENS: Final[Mapping[Task, str]] = {
    "action": ACTION,
    "query": QUERY,
    "authority": AUTHORITY,
    "domain": DOMAIN,
    "title": TITLE,
    "read_url": READ_URL,
}

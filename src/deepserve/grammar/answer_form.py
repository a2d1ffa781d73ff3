"""The form an answer must have, as values: what may be written as text, and which tools may be called how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from deepserve.core.messages import Json


class CallableTool(msgspec.Struct, frozen=True, kw_only=True):
    """name: as the model writes it. parameters: None for a tool without any. is_strict: what cannot be enforced is
    refused. field: where the client wrote the schema."""

    name: str
    parameters: Mapping[str, Json] | None
    is_strict: bool = False
    field: str = "tools"


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """The form of an answer's text.

    json    a value that the schema admits
    regex   a text that matches as a whole
    choice  one of the texts
    """

    kind: Literal["json", "regex", "choice"]
    schema: Json = None
    pattern: str = ""
    choices: tuple[str, ...] = ()
    field: str = "response_format"


class AnswerForm(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer may be: calls of tools, or a text; at least one of the two.

    content      None: free text
    tools        those that may be called now
    calls        never, if the model likes, or nothing else
    is_parallel  several calls in one answer; otherwise exactly one
    """

    content: Content | None = None
    tools: tuple[CallableTool, ...] = ()
    calls: Literal["none", "optional", "required"] = "none"
    is_parallel: bool = True

    @property
    def has_free_text(self) -> bool:
        return self.content is None and self.calls != "required"

    @property
    def is_free(self) -> bool:
        """Nothing is to be enforced."""
        return self.has_free_text and self.calls == "none"

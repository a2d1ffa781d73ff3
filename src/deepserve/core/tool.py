"""A function that a client offers to the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function the client offers. parameters is a JSON schema; None: the function takes no arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    strict: bool = False
    namespace: str | None = None
    kind: Literal["function", "custom"] = "function"

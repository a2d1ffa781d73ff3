"""What the scripted back end is to answer: rules as values, or read from a file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

import msgspec

from deepserve.core.errors import ConfigurationError
from deepserve.core.events import FinishReason

Failure = Literal["overloaded", "too_many_requests", "engine_failure", "backend_failure", "invalid_field"]


class ScriptedCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """arguments: the text to send, which need not be JSON."""

    name: str
    arguments: str = "{}"


class When(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a request must be for a rule to apply; an absent condition holds.

    contains   text in the last user message
    last_role  role of the last message
    """

    model: str | None = None
    contains: str | None = None
    last_role: str | None = None
    has_tools: bool | None = None
    is_thinking: bool | None = None
    is_json: bool | None = None


class Reply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to answer.

    piece_characters  split texts and arguments so; None: at words
    hit_tokens        how much of the prompt is reported as restored from the cache
    finish            overrides the reason the reply itself leads to
    failure           fail before anything is sent, or, with fail_after_pieces, once so many have been
    delay_s           wait before each piece
    first_delay_s     wait before the answer begins, as in a queue
    """

    reasoning: str | None = None
    text: str | None = None
    tool_calls: tuple[ScriptedCall, ...] = ()
    piece_characters: int | None = None
    hit_tokens: int = 0
    finish: FinishReason | None = None
    failure: Failure | None = None
    fail_after_pieces: int | None = None
    delay_s: float = 0.0
    first_delay_s: float = 0.0


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reply: Reply
    when: When = When()


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rules, tried in order; what none of them matches gets the built-in reply."""

    rules: tuple[Rule, ...] = ()


def load_script(path: Path) -> Script:
    """Read a script from a `.toml` or JSON file. Raises ConfigurationError that names the file and the fault."""
    try:
        raw = path.read_bytes()
        value = tomllib.loads(raw.decode()) if path.suffix == ".toml" else msgspec.json.decode(raw)
        return msgspec.convert(value, Script)
    except OSError as error:
        raise ConfigurationError(f"The script {path} cannot be read: {error.strerror}.") from error
    except (ValueError, msgspec.MsgspecError) as error:
        raise ConfigurationError(f"The script {path} is not valid: {error}.") from error

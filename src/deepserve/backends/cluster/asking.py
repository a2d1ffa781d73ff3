"""What a token server is asked and what it answers, whatever its protocol: values, and the protocol as an interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeVar

import msgspec

from deepserve.core.errors import BackendFailure
from deepserve.core.messages import Json
from deepserve.engine.interface import Draw, Drawn

FormLevel = Literal["grammar", "plain", "none"]
"""What a server enforces itself: our own grammar, only what has a name in its protocol (JSON by a schema, a regular
expression, a choice), or nothing. What it does not enforce is enforced here, token by token."""


class ServerForm(msgspec.Struct, frozen=True, kw_only=True):
    """The form of what follows, as servers can be told it.

    grammar  in the language of llguidance, which vLLM and SGLang have on board
    kind     the same form in plain words, where it has one: a JSON schema, a pattern, or texts to choose from
    """

    grammar: str
    kind: Literal["json", "regex", "choice"] | None = None
    schema: Json = None
    pattern: str = ""
    choices: tuple[str, ...] = ()


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """Continue these tokens.

    model        the server's name for it
    prompt       every token so far, of the prompt and of the answer
    draw         only its knobs, its seed and its number of log-probabilities are asked for
    stop_tokens  end the continuation, and are its last token
    only         the tokens that may be drawn, for servers that can be told them; empty: all
    salt         prompts share cached prefixes only with those of the same salt
    links        headers by which the server's records can be found from ours
    """

    model: str
    prompt: Sequence[int]
    max_tokens: int
    stop_tokens: frozenset[int]
    draw: Draw
    form: ServerForm | None = None
    level: FormLevel = "grammar"
    only: tuple[int, ...] = ()
    salt: str
    links: Mapping[str, str] = {}


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one event of the server's stream tells.

    end         why the continuation is over
    hit_tokens  of the prompt, where the server says how much it had cached
    """

    drawn: tuple[Drawn, ...] = ()
    end: Literal["stop", "length"] | None = None
    hit_tokens: int | None = None


class ServedName(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the server. context_tokens: None where the server does not say."""

    name: str
    context_tokens: int | None = None


class AnswerReader(Protocol):
    """Reads one continuation's stream, event by event. Raises Refused, and BackendFailure for what it cannot read."""

    def read(self, data: bytes) -> Part | None:
        """One event's data."""
        ...


class _Model(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


def decode_served_names(body: bytes, *, title: str) -> tuple[ServedName, ...]:
    """`/v1/models` as vLLM and SGLang answer it. Raises BackendFailure."""
    try:
        models = msgspec.json.decode(body, type=_Models)
    except msgspec.MsgspecError as error:
        raise BackendFailure(f"{title}'s list of models cannot be read: {error}.") from error
    return tuple(ServedName(name=model.id, context_tokens=model.max_model_len) for model in models.data)


class StreamedError(msgspec.Struct):
    """An error in the place of an event."""

    message: str = ""
    code: int | str | None = None

    def raised(self) -> Refused:
        return Refused(self.code if isinstance(self.code, int) else 500, self.message)


class Event(msgspec.Struct):
    """What the events of every server may be instead of what they are asked for."""

    error: StreamedError | None = None


SomeEvent = TypeVar("SomeEvent", bound=Event)


def decode_event(data: bytes, kind: type[SomeEvent], *, title: str) -> SomeEvent | None:
    """One event's data; None: it only says that the stream is over. Raises Refused, BackendFailure."""
    if data.strip() == b"[DONE]":
        return None
    try:
        event = msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise BackendFailure(f"{title} sent an event that cannot be read: {error}.") from error
    if event.error is not None:
        raise event.error.raised()
    return event


class Wire(Protocol):
    """The protocol of one kind of token server.

    name          for people
    ask_path      where continuations are asked for
    names_models  a server may have several models, and is told which
    levels        what it can be told of forms, the most telling first
    lists_tokens  it can be told which tokens may be drawn, by `only`
    charges_prompts  its penalties count the tokens of prompts, too
    """

    @property
    def name(self) -> str: ...

    @property
    def ask_path(self) -> str: ...

    @property
    def health_path(self) -> str: ...

    @property
    def models_path(self) -> str: ...

    @property
    def names_models(self) -> bool: ...

    @property
    def levels(self) -> tuple[FormLevel, ...]: ...

    @property
    def lists_tokens(self) -> bool: ...

    @property
    def charges_prompts(self) -> bool: ...

    def encode(self, ask: Ask) -> bytes: ...

    def reader(self, ask: Ask) -> AnswerReader: ...

    def decode_models(self, body: bytes) -> tuple[ServedName, ...]:
        """Raises BackendFailure."""
        ...


class Refused(Exception):
    """The server did not take what it was asked. status: of HTTP, or what the server says in its place."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def form_level(ask: Ask) -> FormLevel:
    """How the form is told: `plain` only where it has plain words."""
    if ask.form is None or ask.level == "none":
        return "none"
    return "none" if ask.level == "plain" and ask.form.kind is None else ask.level


def knobs(draw: Draw) -> Mapping[str, float]:
    """What every protocol spells alike. All are always sent: what is left out would be the server's own choice."""
    return {
        "temperature": draw.temperature,
        "top_p": draw.top_p,
        "min_p": draw.min_p,
        "frequency_penalty": draw.frequency_penalty,
        "presence_penalty": draw.presence_penalty,
    }


def best(top: Sequence[tuple[int, float]], num_wanted: int) -> tuple[tuple[int, float], ...]:
    """The likeliest, in order of falling probability, ties to the lower id."""
    return tuple(sorted(top, key=lambda item: (-item[1], item[0]))[:num_wanted])

"""Who really answered."""

from __future__ import annotations

import msgspec


class ServedBy(msgspec.Struct, frozen=True, kw_only=True):
    """The honest origin of an answer, however the requested model was called.

    provider     `deepserve` for the embedded engine, else the upstream's name
    model        what ran, e.g. `mini-flash`
    fingerprint  changes whenever equal requests may get different answers
    """

    provider: str
    model: str
    fingerprint: str

    @property
    def label(self) -> str:
        return f"{self.provider}/{self.model}"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One of several who may answer for a model.

    provider       as in `ServedBy`
    kind           whose prices hold there: an id of the price table, where it has one
    names          under which clients may ask for it, in lower case
    is_own         it runs on the operator's own machines
    region         where it processes prompts; None: nobody has said
    collects_data  it may keep prompts, or train on them
    context_tokens, max_output_tokens  of the model there
    """

    provider: str
    kind: str
    names: tuple[str, ...]
    is_own: bool
    region: str | None
    collects_data: bool
    context_tokens: int
    max_output_tokens: int


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model id clients may ask for, and what stands behind it on this server. Limits in tokens.

    counts_by_estimate  prompt tokens are estimated when they are asked for, because the tokenizer is elsewhere
    endpoints           who may answer, in the order in which they are asked; empty: one back end, as `served_by` says
    """

    id: str
    display_name: str
    served_by: ServedBy
    context_tokens: int
    max_output_tokens: int
    efforts: tuple[str, ...] = ("low", "high", "max")
    default_effort: str = "high"
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities: tuple[str, ...] = ("text",)
    note: str = ""
    counts_by_estimate: bool = False
    endpoints: tuple[Endpoint, ...] = ()

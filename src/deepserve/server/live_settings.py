"""The settings of a running server, which a reload swaps while requests in flight keep theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from deepserve.config import LIVE, Limits, Settings
from deepserve.dialects.exchange import Arrival, Exchange

REFITTED: Final = frozenset(
    (
        *("upstream", "upstream_key_file", "upstream_tokenizer", "upstream_models", "upstreams", "chains", "fleet"),
        *("answer_checks", "check_retries"),
    )
)
"""Settings that several back ends together take, and a single one only when it is opened."""

Made = TypeVar("Made", bound=Exchange)

Prepare = Callable[[Settings], Callable[[], None]]
"""Makes ready for other settings, or raises SetupError; what it returns puts them in force, and cannot fail."""


class Refit(Protocol):
    """What takes time to change, and comes after everybody else has agreed."""

    async def change(self, before: Settings, after: Settings) -> Sequence[str]:
        """What was changed besides the settings. Raises SetupError, and then everything stays as it was."""
        ...


class LiveSettings:
    """current   in force now. Whoever works for a request takes them once, and keeps them to its end
    problem   why what was read last is not in force; None: it is
    waiting   names of settings that were changed and wait for the next start
    """

    def __init__(self, settings: Settings) -> None:
        self.current = settings
        self.problem: str | None = None
        self.waiting: tuple[str, ...] = ()
        self._refit: Refit | None = None
        self._prepares: list[Prepare] = []

    def follow(self, take: Callable[[Settings], None]) -> None:
        """take: hears of every change; it cannot refuse."""
        self._prepares.append(lambda settings: lambda: take(settings))

    def consult(self, prepare: Prepare) -> None:
        """prepare: is asked before every change, and may refuse it."""
        self._prepares.append(prepare)

    def refit_with(self, refit: Refit | None) -> None:
        """There can be one. None: what only it would put in force waits for the next start."""
        assert self._refit is None
        self._refit = refit

    async def change(self, wanted: Settings) -> tuple[str, ...]:
        """Put everything in force that can be; the names of what has changed. What cannot is `waiting` afterwards.

        Raises SetupError, and then everything stays as it was.
        """
        before = self.current
        live = LIVE if self._refit is not None else LIVE - REFITTED
        after = msgspec.structs.replace(before, **{name: getattr(wanted, name) for name in live})
        changed = tuple(differences(before, after))
        commits = [prepare(after) for prepare in self._prepares] if changed else []
        renewed = () if self._refit is None else await self._refit.change(before, after)
        self.current = after
        for commit in commits:
            commit()
        self.waiting = tuple(differences(after, wanted))
        return (*changed, *renewed)


def differences(one: msgspec.Struct, other: msgspec.Struct, prefix: str = "") -> Iterator[str]:
    """Dotted names of the fields that are not the same."""
    for name in one.__struct_fields__:
        left, right = getattr(one, name), getattr(other, name)
        if isinstance(left, msgspec.Struct) and type(left) is type(right):
            yield from differences(left, right, f"{prefix}{name}.")
        elif left != right:
            yield f"{prefix}{name}"


class LimitedDecode(Generic[Made]):
    """A decoder that goes by the limits in force: made anew when they change. make: a decoder within these limits."""

    def __init__(self, live: LiveSettings, make: Callable[[Limits], Callable[[bytes, Arrival], Made]]) -> None:
        self._live = live
        self._make = make
        self._limits = live.current.limits
        self._decode = make(self._limits)

    def __call__(self, raw: bytes, arrival: Arrival) -> Made:
        limits = self._live.current.limits
        if limits is not self._limits:
            self._limits, self._decode = limits, self._make(limits)
        return self._decode(raw, arrival)

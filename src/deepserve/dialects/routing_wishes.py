"""Headers by which a client of any dialect says what matters for the choice of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Final, TypeVar, get_args

from deepserve.core.errors import InvalidField
from deepserve.core.model import ModelName
from deepserve.core.regular_expression import judge_expression, repetitions
from deepserve.core.routing import CheckName, Difficulty, RoutingWishes

Value = TypeVar("Value")

DIFFICULTY: Final = "x-deepserve-difficulty"
KNOWLEDGE: Final = "x-deepserve-knowledge"
MODEL: Final = "x-deepserve-model"
MAX_COST: Final = "x-deepserve-max-cost-usd"
SELF_HOST: Final = "x-deepserve-self-host"
RESIDENCY: Final = "x-deepserve-residency"
ESCALATE: Final = "x-deepserve-escalate"
TEST: Final = "x-deepserve-test"

_MAX_REGIONS = 20
_MAX_TEST_CHARACTERS = 1_000
_MAX_REPETITIONS = 1_000


def read_wishes(
    headers: Mapping[str, str], model: ModelName, *, is_thinking: Callable[[bool], bool] | None
) -> RoutingWishes:
    """Where the client chose the model itself, only where it may run. Raises InvalidField that names the header.

    headers      names in lower case
    is_thinking  whether the request thinks where thinking is on or off by default; None: it never thinks
    """
    if not model.is_automatic:
        if SELF_HOST not in headers and RESIDENCY not in headers:
            return RoutingWishes()
        return RoutingWishes(
            is_self_host_only=_read(headers, SELF_HOST, _flag) or False,
            residency=_read(headers, RESIDENCY, _regions) or (),
        )
    return RoutingWishes(
        difficulty=_read(headers, DIFFICULTY, _difficulty),
        needs_knowledge=_read(headers, KNOWLEDGE, _is_broad) or False,
        model=_read(headers, MODEL, str.lower),
        max_cost_usd=_read(headers, MAX_COST, _dollars),
        is_self_host_only=_read(headers, SELF_HOST, _flag) or False,
        residency=_read(headers, RESIDENCY, _regions) or (),
        checks=_read(headers, ESCALATE, _checks),
        test=_read(headers, TEST, _expression),
        # What the default cannot change, the request has said itself.
        has_thinking=is_thinking is not None and is_thinking(True) == is_thinking(False),
    )


def _read(headers: Mapping[str, str], name: str, convert: Callable[[str], Value]) -> Value | None:
    text = headers.get(name)
    if text is None:
        return None
    try:
        return convert(text.strip())
    except ValueError as error:
        raise InvalidField(f"The header {name} {error}", field=name) from error


def _difficulty(text: str) -> Difficulty:
    match text.lower():
        case "easy" | "normal" | "hard" as difficulty:
            return difficulty
        case _:
            raise ValueError(f"is one of {', '.join(get_args(Difficulty))}.")


def _is_broad(text: str) -> bool:
    if text.lower() not in ("broad", "normal"):
        raise ValueError("is broad or normal.")
    return text.lower() == "broad"


def _flag(text: str) -> bool:
    if text.lower() not in ("1", "true", "0", "false"):
        raise ValueError("is 1 or 0.")
    return text.lower() in ("1", "true")


def _dollars(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount <= 0 or len(text) > 32:
        raise ValueError("is an amount of US dollars above 0, such as 0.05.")
    return amount


def _regions(text: str) -> tuple[str, ...]:
    regions = tuple(region for part in text.split(",") if (region := part.strip().lower()))
    if not regions or len(regions) > _MAX_REGIONS:
        raise ValueError(f"names 1 to {_MAX_REGIONS} regions, with commas between them.")
    return regions


def _checks(text: str) -> tuple[CheckName, ...]:
    names = [part.strip() for part in text.lower().split(",")]
    if names == ["never"]:
        return ()
    known: dict[str, CheckName] = {name: name for name in get_args(CheckName)}
    if not set(names) <= set(known):
        raise ValueError(f"is never, or some of {', '.join(known)}, with commas between them.")
    return tuple(known[name] for name in dict.fromkeys(names))


def _expression(text: str) -> str:
    if not text or len(text) > _MAX_TEST_CHARACTERS or max(repetitions(text)) > _MAX_REPETITIONS:
        raise ValueError(
            f"is a regular expression of 1 to {_MAX_TEST_CHARACTERS} characters and at most "
            f"{_MAX_REPETITIONS} repetitions."
        )
    if judge_expression(text) != "linear":
        raise ValueError("is no regular expression that can be matched in linear time.")
    return text

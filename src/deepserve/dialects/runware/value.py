"""A value of a task, read with refusals that name the parameter by its path: `settings.topP`, `tools.0.name`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from deepserve.core.messages import Json
from deepserve.dialects.runware.errors import TaskRefused


class Value:
    __slots__ = ("_noun", "path", "value")

    def __init__(self, value: Json, path: str = "", noun: str = "") -> None:
        self.value = value
        self.path = path
        self._noun = noun

    @property
    def noun(self) -> str:
        """What the codes of refusals call it, `Messages` in `invalidMessages`; by default the last key."""
        key = self.path.rpartition(".")[2]
        return self._noun or key[:1].upper() + key[1:]

    def optional(self, key: str, noun: str = "") -> Value | None:
        """The member of an object; null is as good as absent."""
        found = self.mapping().get(key)
        return None if found is None else Value(found, self._below(key), noun)

    def required(self, key: str, noun: str = "") -> Value:
        found = self.optional(key, noun)
        if found is None:
            absent = Value(None, self._below(key), noun)
            raise TaskRefused(f"missing{absent.noun}", f"`{absent.path}` is required.", parameter=absent.path)
        return found

    def items(self) -> Iterator[Value]:
        for index, item in enumerate(self.sequence()):
            yield Value(item, self._below(str(index)), self.noun)

    def string(self, *, low: int = 0, high: int | None = None) -> str:
        """Bounds count characters."""
        if not isinstance(self.value, str):
            raise self.refuse("must be a string")
        if len(self.value) < low or (high is not None and len(self.value) > high):
            raise self.refuse(f"must have from {low} to {high} characters" if high else "must not be empty")
        return self.value

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.refuse("must be true or false")
        return self.value

    def integer(self, low: int, high: int) -> int:
        if isinstance(self.value, bool) or not isinstance(self.value, int) or not low <= self.value <= high:
            raise self.refuse(f"must be an integer from {low} to {high}")
        return self.value

    def number(self, low: float, high: float) -> float:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float) or not low <= self.value <= high:
            raise self.refuse(f"must be a number from {low:g} to {high:g}")
        return float(self.value)

    def sequence(self) -> Sequence[Json]:
        if not isinstance(self.value, list):
            raise self.refuse("must be an array")
        return self.value

    def mapping(self) -> Mapping[str, Json]:
        if not isinstance(self.value, dict):
            raise self.refuse("must be an object")
        return self.value

    def choice(self, known: Collection[str]) -> str:
        if not isinstance(self.value, str) or self.value not in known:
            raise self.refuse(f"must be one of {', '.join(known)}")
        return self.value

    def check_keys(self, known: Collection[str]) -> None:
        """Refuse members that nobody would act on."""
        for key, value in self.mapping().items():
            if key not in known and value is not None:
                raise self.unsupported(key, "it is no parameter of this task")

    def unsupported(self, key: str, why: str) -> TaskRefused:
        path = self._below(key[:100])
        return TaskRefused("unsupportedParameter", f"`{path}` is not supported: {why}.", parameter=path)

    def refuse(self, what: str) -> TaskRefused:
        return TaskRefused(f"invalid{self.noun}", f"`{self.path}` {what}.", parameter=self.path)

    def _below(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

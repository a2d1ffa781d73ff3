"""Settings in the environment: `DEEPSERVE_PORT`, `DEEPSERVE_LIMITS_CONNECTIONS`. An empty variable is none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from deepserve.configuration.declarations import PREFIX, settings_of
from deepserve.configuration.problems import Problem, nearest, refusal
from deepserve.configuration.values import WrongValue, read_text

FILE_VARIABLE: Final = PREFIX + "CONFIG"
"""Names the configuration file."""

_OTHERS: Final = frozenset(PREFIX + name for name in ("CONFIG", "CORE", "REQUIRE_CORE", "UPSTREAM_KEY"))
"""Variables of ours that are no settings."""

_ORCHESTRATED: Final = "tcp://"
"""How Kubernetes begins the variables that it sets for every service, such as one that is called deepserve:
https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables."""


class EnvironmentValues(msgspec.Struct, frozen=True, kw_only=True):
    """values: by name of the setting. strange: variables that look like settings and are none."""

    values: Mapping[str, Any]
    strange: tuple[str, ...]


def read_environment(environment: Mapping[str, str]) -> EnvironmentValues:
    """Raises ConfigurationError, with every problem in it. Relative paths begin where the program was started."""
    values: dict[str, Any] = {}  # Any: values of settings
    problems: list[Problem] = []
    known: set[str] = set()
    for setting in settings_of():
        known.add(setting.variable)
        text = environment.get(setting.variable, "").strip()
        if not text or text.startswith(_ORCHESTRATED):
            continue
        try:
            values[setting.name] = read_text(text, setting.annotation, key=setting.key, base=Path.cwd())
        except WrongValue as wrong:
            problems.append(Problem(f"{setting.variable} {wrong}."))
    if problems:
        raise refusal(None, problems)
    return EnvironmentValues(values=values, strange=_strange(environment, known))


def _strange(environment: Mapping[str, str], known: set[str]) -> tuple[str, ...]:
    found = []
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known | _OTHERS:
            # Anybody may have variables of such names: only what is hardly anything else is worth a word.
            near = nearest(name, known, likeness=0.9)
            if near is not None:
                found.append(f"{name} is no setting; did you mean {near}?")
    return tuple(found)

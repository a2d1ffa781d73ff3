"""How much of a form a cluster can be told: learned from what it refuses."""

from __future__ import annotations

import logging

from deepserve.backends.cluster.asking import Ask, FormLevel, form_level

_log = logging.getLogger(__name__)


class FormLevels:
    """levels: what its protocol can tell, the most telling first.

    takes_bias  `logit_bias` may say what the output has cost its tokens; vLLM refuses it while it drafts ahead, and
                llama.cpp counts those tokens itself

    A level that is refused before it was ever taken is given up for good: the server has no such grammars. One that
    was taken before is left out for the one form that was refused.
    """

    def __init__(self, levels: tuple[FormLevel, ...], *, name: str, takes_bias: bool = True) -> None:
        self._levels = levels
        self._name = name
        self._taken: set[FormLevel] = set()
        self.current: FormLevel = levels[0]
        self.takes_bias = takes_bias

    def note_taken(self, ask: Ask) -> None:
        self._taken.add(form_level(ask))

    def note_refused(self, ask: Ask) -> FormLevel:
        """The level at which the same form is asked for next."""
        lower = self._levels[self._levels.index(ask.level) + 1]
        if ask.level == self.current and ask.level not in self._taken and form_level(ask) == ask.level:
            _log.warning("%s takes no forms of the kind %s; they are enforced here alone", self._name, ask.level)
            self.current = lower
        return lower

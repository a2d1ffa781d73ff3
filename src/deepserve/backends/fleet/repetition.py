"""Notices text that says the same thing for ever."""

from __future__ import annotations

_WINDOW_CHARACTERS = 4_096
"""Of the end of the text, which are compared with themselves."""

_MAX_PERIOD = 1_024
"""Longer texts that come again and again are not noticed; what is known of loops of models is far shorter."""


class Repetition:
    """Counts how many characters the text has gone on repeating one piece of at most 1,024, exactly.

    Cheap: nothing is looked at but every 4,096th character.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._num_new = 0
        self.num_characters = 0

    def hear(self, text: str) -> bool:
        """Whether there is something new to be known about `num_characters`."""
        self._pieces.append(text)
        self._num_new += len(text)
        if self._num_new < _WINDOW_CHARACTERS:
            return False
        tail = "".join(self._pieces)
        num_new, self._num_new = self._num_new, 0
        # What came since the last look, and of what was there before as much as the longest period.
        compared = tail[-(num_new + _MAX_PERIOD) :]
        self._pieces = [tail[-_MAX_PERIOD:]]
        self.num_characters = self.num_characters + num_new if _has_period(compared) else 0
        return True


def _has_period(text: str) -> bool:
    """Whether it is one piece of at most _MAX_PERIOD characters, again and again."""
    # As long as the longest piece: where it stands next before its end, it is one piece or a few further left.
    needle = text[-_MAX_PERIOD:]
    at = text.rfind(needle, -2 * _MAX_PERIOD, -1)
    if at < 0:
        return False
    period = len(text) - len(needle) - at
    return text[period:] == text[:-period]

"""Texts that were tokenised lately: the long ones of a conversation come again with every turn.

Apart for each owner, like cached prefixes: how fast a text is tokenised must not tell one who else has sent it.
"""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections import OrderedDict
from collections.abc import Hashable, Sequence

from deepserve.prompt.tokenizer import Tokenizer

_WORTH_CHARACTERS = 2_000
"""Shorter texts are tokenised faster than they are looked up and kept."""
_ENTRY_BYTES = 300

_Key = tuple[Hashable, bytes]


class KnownTexts:
    """A tokenizer that remembers, least recently used goes first. Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer, *, max_bytes: int = 32 << 20) -> None:
        self._tokenizer = tokenizer
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._known: OrderedDict[_Key, array[int]] = OrderedDict()
        self.size_bytes = 0

    def ids(self, owner: Hashable, text: str) -> Sequence[int]:
        """Token ids of plain text, as `Tokenizer.encode_text` gives them."""
        if len(text) < _WORTH_CHARACTERS:
            return self._tokenizer.encode_text(text)
        key = owner, hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
                return found
        ids = array("I", self._tokenizer.encode_text(text))
        size_bytes = _size_of(ids)
        if size_bytes <= self._max_bytes:
            with self._lock:
                if key not in self._known:
                    self._known[key] = ids
                    self.size_bytes += size_bytes
                while self.size_bytes > self._max_bytes:
                    _, dropped = self._known.popitem(last=False)
                    self.size_bytes -= _size_of(dropped)
        return ids


def _size_of(ids: array[int]) -> int:
    return _ENTRY_BYTES + len(ids) * ids.itemsize

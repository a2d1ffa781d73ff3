"""Text to token ids and back, with special tokens kept apart from text.

Wraps a byte-level BPE `tokenizer.json`. The special and other added tokens are taken out of it before it sees any
text, so no text whatsoever encodes to one of them; their ids come from `Special` segments alone.
"""

from __future__ import annotations

import codecs
import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import fastokens
import msgspec

from deepserve.core.errors import CheckpointError, RequestError, UnsupportedFeature
from deepserve.core.events import TokenLogprob
from deepserve.prompt.decoder import Piece
from deepserve.prompt.segments import Prompt, Segment, Special, Text, Tokens
from deepserve.prompt.special_tokens import (
    ASSISTANT,
    BOS,
    DSML,
    END_THINK,
    EOS,
    LATEST_REMINDER,
    SPECIAL_TOKENS,
    THINK,
    USER,
)

NEEDED_TOKENS: Final = (BOS, EOS, USER, ASSISTANT, THINK, END_THINK, DSML, LATEST_REMINDER)
"""Without these no conversation can be written; a prompt that needs another one the file lacks is refused."""

MAX_FILE_BYTES: Final = 64 * 2**20

_STACK_BYTES: Final = 8 * 2**20
"""For the words of a text, in each thread: of address space, for most of it is never touched."""

_LARGE_STACK_BYTES: Final = 2**30
"""For a text with a word of more than some hundred thousand characters, and only while that is cut."""


class Encoded(msgspec.Struct, frozen=True):
    """A prompt as token ids. boundaries: numbers of tokens before each `<｜Assistant｜>`, rising."""

    ids: list[int]
    boundaries: tuple[int, ...]


class Tokenizer:
    """Immutable after construction; safe to share between threads.

    Raises CheckpointError for a file that is no byte-level BPE tokenizer with the V4 special tokens.
    """

    def __init__(self, source: str) -> None:
        """source: the text of a `tokenizer.json`."""
        try:
            # Any: a foreign file; each part is looked at where it is used.
            content: dict[str, Any] = json.loads(source)
            added = {str(token["content"]): int(token["id"]) for token in content["added_tokens"]}
            vocabulary: dict[str, int] = content["model"]["vocab"]
            if content["model"]["type"] != "BPE" or content["decoder"]["type"] != "ByteLevel":
                raise CheckpointError("the tokenizer is not a byte-level BPE; V4 checkpoints have no other kind")
            content["added_tokens"] = []
            content["model"]["vocab"] = _text_vocabulary(vocabulary, added)
            content["post_processor"] = content["truncation"] = content["padding"] = None
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"this is not a tokenizer.json: {error}") from error
        try:
            self._content = json.dumps(content)
            self._bpe = _open(self._content, _STACK_BYTES)
        except ValueError as error:
            raise CheckpointError(f"the tokenizer cannot be built: {error}") from error

        missing = [token for token in NEEDED_TOKENS if token not in added]
        if missing:
            raise CheckpointError(f"the tokenizer lacks the special tokens {', '.join(missing)}")
        self.special_ids: Mapping[str, int] = {token: added[token] for token in SPECIAL_TOKENS if token in added}
        """Ids of the V4 special tokens the file has."""
        self.added_ids = frozenset(added.values())
        """Ids of all tokens that no text encodes to, reserved ones included."""
        self.eos_id = added[EOS]
        self.vocab_size = max(*added.values(), *vocabulary.values()) + 1
        self._specials = {id_: token for token, id_ in self.special_ids.items()}
        self._bytes = _token_bytes(vocabulary, added, self.vocab_size)

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise CheckpointError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB")
            source = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"cannot read the tokenizer {path}: {error}") from error
        try:
            return cls(source)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def encode(
        self, prompt: Prompt | Sequence[Segment], *, text_ids: Callable[[str], Sequence[int]] | None = None
    ) -> Encoded:
        """Token ids of a prompt, and the places where a cached prefix is worth keeping.

        text_ids: `encode_text`, or something that remembers what it gave.
        """
        text_ids = text_ids or self.encode_text
        ids: list[int] = []
        boundaries: list[int] = []
        for segment in prompt.segments if isinstance(prompt, Prompt) else prompt:
            match segment:
                case Special(token):
                    if token == ASSISTANT:
                        boundaries.append(len(ids))
                    ids.append(self.special_id(token))
                case Text(text):
                    ids += text_ids(text)
                case Tokens(known):
                    ids += known
        return Encoded(ids, tuple(boundaries))

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text; lone surrogates, which no byte sequence stands for, become question marks.

        Raises RequestError for a word of many millions of characters.
        """
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode("utf-8")
        # Other threads run meanwhile.
        with contextlib.suppress(ValueError):
            return _ids(self._bpe, text)
        try:
            return _ids(_open(self._content, _LARGE_STACK_BYTES), text)
        except ValueError as error:
            raise RequestError("A word of this text is too long to be cut into tokens.") from error

    def special_id(self, token: str) -> int:
        """The id of a special token; raises UnsupportedFeature when this vocabulary has none."""
        found = self.special_ids.get(token)
        if found is None:
            raise UnsupportedFeature(f"the model's vocabulary has no token {token}")
        return found

    def special_token(self, token_id: int) -> str | None:
        """The V4 special token of that id, None for any other token."""
        return self._specials.get(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for, a special token's spelling included; raises IndexError below 0.

        They need not be whole characters. Ids that the vocabulary leaves out have none, nor have those behind its end:
        a network's vocabulary is often rounded up, and may draw one of them.
        """
        if token_id < 0:
            raise IndexError(token_id)
        return self._bytes[token_id] if token_id < self.vocab_size else b""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of whole token sequences, special tokens spelled; broken characters become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def logprob(self, token_id: int, logprob: float, top: Sequence[tuple[int, float]] = ()) -> TokenLogprob:
        """A drawn token with its log-probability as clients see it."""
        own = self.token_bytes(token_id)
        return TokenLogprob(
            token=own.decode("utf-8", "replace"),
            logprob=logprob,
            bytes=own,
            top=tuple(self.logprob(other, value) for other, value in top),
        )


class Detokenizer:
    """One answer's tokens to pieces of text, as they come.

    A character whose bytes are spread over several tokens comes out with the last of them; until then a piece with
    empty text carries the token's log-probability.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int, logprob: TokenLogprob | None = None) -> list[Piece]:
        """The pieces that one more token makes certain."""
        logprobs = (logprob,) if logprob is not None else ()
        special = self._tokenizer.special_token(token_id)
        if special is None:
            text = self._utf8.decode(self._tokenizer.token_bytes(token_id))
            return [Piece(text, logprobs=logprobs, num_tokens=1)]
        return [*self.finish(), Piece(special, is_special=True, logprobs=logprobs, num_tokens=1)]

    def finish(self) -> list[Piece]:
        """What is left of a broken character, as U+FFFD."""
        rest = self._utf8.decode(b"", final=True)
        return [Piece(rest)] if rest else []


def _open(content: str, stack_bytes: int) -> fastokens.Tokenizer:
    """Raises ValueError."""
    return fastokens.Tokenizer.from_json_str(content, pcre2_max_jit_stack_size=stack_bytes)


def _ids(bpe: fastokens.Tokenizer, text: str) -> list[int]:
    """Raises ValueError where a word needs more of a stack than there is."""
    ids: list[int] = bpe.encode(text).ids
    return ids


def _text_vocabulary(vocabulary: Mapping[str, int], added: Mapping[str, int]) -> dict[str, int]:
    """The entries that text can become. The library wants one for every id up to the last of them: the others are given
    names that no text has, for they begin with a letter that is not of the byte-level alphabet."""
    kept = {token: id_ for token, id_ in vocabulary.items() if token not in added}
    missing = set(range(max(kept.values(), default=-1) + 1)).difference(kept.values())
    return kept | {f"\uffff{id_}": id_ for id_ in missing}


def _token_bytes(vocabulary: dict[str, int], added: dict[str, int], size: int) -> list[bytes]:
    """The bytes of every id, by the byte-level alphabet of GPT-2 in which the file spells its tokens."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}
    found = [b""] * size
    for token, id_ in vocabulary.items():
        if token not in added:
            try:
                found[id_] = bytes(letters[letter] for letter in token)
            except KeyError as error:
                raise CheckpointError(f"the tokenizer's entry {token!r} is not byte-level") from error
    for token, id_ in added.items():
        found[id_] = token.encode()
    return found

"""Which tokens a mask allows: bit i of byte i // 8, least significant first; None allows all."""

from __future__ import annotations


def allows(mask: bytes | None, token: int) -> bool:
    return mask is None or (token < 8 * len(mask) and bool(mask[token >> 3] >> (token & 7) & 1))


def only_token(mask: bytes | None) -> int | None:
    """The one token that is allowed, if it is one."""
    if mask is None:
        return None
    bits = int.from_bytes(mask, "little")
    return bits.bit_length() - 1 if bits and not bits & (bits - 1) else None


def few_tokens(mask: bytes, *, most: int) -> list[int]:
    """The tokens that are allowed, if they are not more than `most`; else none."""
    bits = int.from_bytes(mask, "little")
    if bits.bit_count() > most:
        return []
    found = []
    while bits:
        lowest = bits & -bits
        found.append(lowest.bit_length() - 1)
        bits ^= lowest
    return found

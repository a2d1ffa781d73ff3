"""The row of this service among Chat's flavours, and its fields. Facts only."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from deepserve.dialects.chat.fields import IGNORED as CHAT_IGNORED
from deepserve.dialects.chat.flavour import DEEPSEEK

IGNORED: Mapping[str, str] = {
    **CHAT_IGNORED,
    "target_namespace": "a key pays for itself; there are no organisations",
    "x-deepserve-strict": "strict mode repeats the refusals of the vendor's own API, not of this one",
}
"""What changes nothing here, and why. Each use is named in `x-deepserve-ignored`."""

OXEN = msgspec.structs.replace(DEEPSEEK, name="oxen", dialect="oxen")

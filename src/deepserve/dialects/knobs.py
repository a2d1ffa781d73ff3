"""Members of a request body that say how tokens are drawn and how many, each within its range."""

from __future__ import annotations

from collections.abc import Mapping

from deepserve.core.errors import InvalidField
from deepserve.core.sampling import KNOBS
from deepserve.dialects.node import Node
from deepserve.dialects.reading import Reading

_RANGE_TEXTS = {"top_p": "(0, 1.0]"}  # the vendor writes this one bound with a decimal


def read_knob(root: Node, name: str) -> float | None:
    """The member `name` of the body. Raises InvalidField, in the vendor's words where it is out of range."""
    node = root.optional(name)
    if node is None:
        return None
    knob = KNOBS[name]
    value = node.integer("u32") if knob.integer else node.number()
    if not knob.admits(value):
        bounds = f"{'(' if knob.low_open else '['}{knob.low:g}, {knob.high:g}]"
        raise InvalidField(
            f"Invalid {name} value, the valid range of {name} is {_RANGE_TEXTS.get(name, bounds)}", field=name
        )
    return value


def read_extended_knob(reading: Reading, name: str) -> float | None:
    """A knob that only tolerant mode knows."""
    return None if reading.is_strict else read_knob(reading.root, name)


def read_top_k(reading: Reading) -> int | None:
    node = reading.extension("top_k")
    if node is not None and node.value == -1:
        return 0  # how vLLM's clients say "all"
    value = read_extended_knob(reading, "top_k")
    return None if value is None else int(value)


def read_seed(reading: Reading) -> int | None:
    node = reading.extension("seed")
    return None if node is None else node.integer("i64", low=-(2**63), high=2**63 - 1)


def read_logit_bias(reading: Reading) -> Mapping[int, float]:
    node = reading.extension("logit_bias")
    if node is None:
        return {}
    if len(node.mapping()) > reading.limits.logit_bias_entries:
        raise InvalidField(
            f"Invalid logit_bias: at most {reading.limits.logit_bias_entries} entries are read", field="logit_bias"
        )
    biases: dict[int, float] = {}
    for key in node.keys():  # noqa: SIM118 - a Node, not a dict
        if not (key.isascii() and key.isdigit() and len(key) <= 9):
            raise InvalidField("Invalid logit_bias: keys are token ids", field="logit_bias")
        biases[int(key)] = node.child(key).number()
        if not -100 <= biases[int(key)] <= 100:
            raise InvalidField(
                "Invalid logit_bias value, the valid range of logit_bias is [-100, 100]", field="logit_bias"
            )
    return biases


def read_token_limit(node: Node | None, highest: int) -> int | None:
    """A limit on the output, 1 to highest."""
    if node is None:
        return None
    name = node.field
    value = node.integer("u32", low=-(2**63), high=2**63 - 1)
    if not 1 <= value <= highest:
        raise InvalidField(f"Invalid {name} value, the valid range of {name} is [1, {highest}]", field=name)
    return value


def read_num_results(reading: Reading) -> int:
    """`n`, which only tolerant mode knows."""
    node = reading.extension("n")
    if node is None:
        return 1
    value = node.integer("u32", low=-(2**63), high=2**63 - 1)
    if not 1 <= value <= reading.limits.num_results:
        raise InvalidField(f"Invalid n value, the valid range of n is [1, {reading.limits.num_results}]", field="n")
    return value

"""Ways to write a value as JSON, and a grammar asked whether it admits them, token by token."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import cache

import llguidance

from deepserve.core.messages import Json
from deepserve.grammar.json_schema import JsonGrammar

_MERGED = ("{}", "[]", '": ', '":', ", ", '", "', '"}', "true", "false", "null", "19", "20", "ab", "é", "type", "\\n")
"""Tokens longer than a byte: the boundaries of tokens then fall inside and across the schema's words."""


@cache
def tokenizer() -> llguidance.LLTokenizer:
    """Every byte, some longer tokens, and an end."""

    class Bytes:
        tokens = (*(bytes([byte]) for byte in range(256)), *(text.encode() for text in _MERGED), b"<end>")
        eos_token_id = len(tokens) - 1
        bos_token_id = None
        special_token_ids = (eos_token_id,)

        def __call__(self, text: str | bytes) -> list[int]:
            return list(text.encode() if isinstance(text, str) else text)

    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(Bytes()), slices=[])


def admits(grammar: JsonGrammar, text: str) -> bool:
    """Whether the grammar admits the text as a whole, cut into single bytes and into the longest tokens alike."""
    by_bytes, by_tokens = (_takes(grammar, ids) for ids in (list(text.encode()), tokenizer().greedy_tokenize(text)))
    assert by_bytes == by_tokens, "how a text is cut into tokens must not matter"
    return by_bytes


def _takes(grammar: JsonGrammar, ids: list[int]) -> bool:
    matcher = llguidance.LLMatcher(tokenizer(), grammar.whole)
    assert not matcher.is_error(), matcher.get_error()
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def admits_value(grammar: JsonGrammar, value: Json, schema: Json) -> bool:
    """Whether the grammar admits a value, compact and spaced alike, in its own order or in the schema's."""
    orders = list(_declared_orders(schema))
    spellings = [
        [written(form, item, key) for form in (value, _in_order(value, orders))]
        for item, key in ((",", ":"), (", ", ": "))
    ]
    compact, spaced = (any(admits(grammar, text) for text in texts) for texts in spellings)
    assert compact == spaced, "spaces must not matter"
    return compact


def written(value: Json, item: str, key: str) -> str:
    """JSON text with numbers in decimal notation: an integer has no point, a fraction no exponent."""
    match value:
        case bool() | None | str():
            return json.dumps(value, ensure_ascii=False)
        case float():
            return str(int(value)) if value.is_integer() else format(Decimal(repr(value)), "f")
        case int():
            return str(value)
        case list():
            return "[" + item.join(written(inner, item, key) for inner in value) + "]"
        case _:
            return "{" + item.join(written(n, item, key) + key + written(v, item, key) for n, v in value.items()) + "}"


def _declared_orders(schema: Json) -> Iterator[list[str]]:
    """The order of members wherever a schema gives one."""
    if isinstance(schema, Mapping):
        for keyword, argument in schema.items():
            if keyword in ("properties", "const") and isinstance(argument, Mapping):
                yield list(argument)
            yield from _declared_orders(argument)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _declared_orders(inner)


def _in_order(value: Json, orders: list[list[str]]) -> Json:
    """The value with the members of each object in the order that names most of them."""
    if isinstance(value, list):
        return [_in_order(inner, orders) for inner in value]
    if not isinstance(value, Mapping):
        return value
    best = max(orders, key=lambda names: (len(value.keys() & set(names)), -len(names)), default=[])
    names = [*(name for name in best if name in value), *(name for name in value if name not in best)]
    return {name: _in_order(value[name], orders) for name in names}

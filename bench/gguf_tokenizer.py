"""A byte-level BPE tokenizer, as the fields of a GGUF file.

llama.cpp knows ways of cutting text into words by name and takes no pattern, so that text which it tokenises itself may
fall into other tokens than ours where the model has a pattern of its own, as the shipped one. What is handed over as
ids is not affected, and every id is spelled as here.

Source: the GGUF specification, section "Tokenizer" (github.com/ggml-org/ggml, docs/gguf.md); token types as in
llama.cpp's include/llama.h.
"""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec

_INT32, _STRING, _ARRAY = 5, 8, 9
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4

_SPELLED = ("<think>", "</think>", "｜DSML｜")
"""Special tokens whose text a reader of answers needs: llama.cpp leaves out what control tokens say."""

_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}"
    "{% elif message.role == 'user' %}<｜User｜>{{ message.content }}"
    "{% elif message.role == 'assistant' %}<｜Assistant｜>"
    "{% if loop.last and message.reasoning_content %}<think>{{ message.reasoning_content }}{% endif %}"
    "</think>{{ message.content }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>"
    "{% if enable_thinking is defined and enable_thinking %}<think>{% else %}</think>{% endif %}{% endif %}"
)
"""Of conversations of texts alone; tools and traces take more than a template can say, and are for clients that send
ids."""


class _Added(msgspec.Struct):
    id: int
    content: str
    special: bool


class _Model(msgspec.Struct):
    type: str
    vocab: dict[str, int]
    merges: list[tuple[str, str] | str]


class _File(msgspec.Struct):
    model: _Model
    added_tokens: list[_Added]


def tokenizer_fields(path: Path, *, size: int, begin: int, end: int, pad: int) -> dict[str, bytes]:
    """The metadata of a `tokenizer.json`, encoded. size: of the network's vocabulary, which may have spare ids.

    Raises ValueError for another kind of tokenizer.
    """
    read = msgspec.json.decode(path.read_bytes(), type=_File)
    if read.model.type != "BPE":
        raise ValueError(f"{path} is a tokenizer of the kind {read.model.type}; only BPE is written")
    texts = [f"[unused{number}]" for number in range(size)]
    kinds = [_CONTROL] * size
    for text, number in read.model.vocab.items():
        texts[number], kinds[number] = text, _NORMAL
    for token in read.added_tokens:
        is_hidden = token.special and token.content not in _SPELLED
        texts[token.id], kinds[token.id] = token.content, _CONTROL if is_hidden else _USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in read.model.merges]
    return {
        "tokenizer.ggml.model": _text("gpt2"),
        "tokenizer.ggml.pre": _text("gpt-2"),
        "tokenizer.ggml.tokens": _texts(texts),
        "tokenizer.ggml.token_type": struct.pack(f"<IIQ{size}i", _ARRAY, _INT32, size, *kinds),
        "tokenizer.ggml.merges": _texts(merges),
        "tokenizer.ggml.bos_token_id": struct.pack("<II", 4, begin),
        "tokenizer.ggml.eos_token_id": struct.pack("<II", 4, end),
        "tokenizer.ggml.padding_token_id": struct.pack("<II", 4, pad),
        "tokenizer.ggml.add_bos_token": struct.pack("<I?", 7, False),
        "tokenizer.chat_template": _text(_TEMPLATE),
    }


def _text(value: str) -> bytes:
    return struct.pack("<I", _STRING) + _encoded(value)


def _texts(values: list[str]) -> bytes:
    return struct.pack("<IIQ", _ARRAY, _STRING, len(values)) + b"".join(map(_encoded, values))


def _encoded(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data

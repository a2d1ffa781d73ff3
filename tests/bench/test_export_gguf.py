"""What llama.cpp is told of a tokenizer."""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec
import pytest
from bench.export_gguf import export_gguf
from bench.gguf_tokenizer import tokenizer_fields

from deepserve.backends.tokens.model import load_model, shipped_folder

SIZE = 2048


def _texts(field: bytes) -> list[str]:
    kind, item, length = struct.unpack_from("<IIQ", field)
    assert (kind, item) == (9, 8)
    at, found = 16, []
    for _ in range(length):
        (size,) = struct.unpack_from("<Q", field, at)
        found.append(field[at + 8 : at + 8 + size].decode())
        at += 8 + size
    assert at == len(field)
    return found


def test_every_token_is_spelled_at_its_id() -> None:
    path = shipped_folder() / "tokenizer.json"
    fields = tokenizer_fields(path, size=SIZE, begin=0, end=1, pad=2)
    told = _texts(fields["tokenizer.ggml.tokens"])
    read = msgspec.json.decode(path.read_bytes())
    spelled = {number: text for text, number in read["model"]["vocab"].items()}
    spelled |= {token["id"]: token["content"] for token in read["added_tokens"]}
    assert len(told) == len(set(told)) == SIZE
    assert [told[number] for number in spelled] == list(spelled.values())
    assert len(_texts(fields["tokenizer.ggml.merges"])) == len(read["model"]["merges"])


def test_the_tags_of_thinking_are_readable_and_other_special_tokens_are_not() -> None:
    tokenizer = load_model(None).tokenizer
    fields = tokenizer_fields(shipped_folder() / "tokenizer.json", size=SIZE, begin=0, end=1, pad=2)
    kinds = struct.unpack_from(f"<{SIZE}i", fields["tokenizer.ggml.token_type"], 16)
    assert [kinds[tokenizer.special_id(text)] for text in ("<think>", "</think>", "｜DSML｜")] == [4, 4, 4]
    assert [kinds[tokenizer.special_id(text)] for text in ("<｜User｜>", "<｜Assistant｜>")] == [3, 3]


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": {"type": "Unigram", "vocab": {}, "merges": []}, "added_tokens": []}')
    with pytest.raises(ValueError, match="Unigram"):
        tokenizer_fields(path, size=4, begin=0, end=1, pad=2)


def test_the_shipped_model_becomes_a_file_with_its_weights_and_its_tokenizer(tmp_path: Path) -> None:
    export_gguf(shipped_folder(), tmp_path / "model.gguf")
    data = (tmp_path / "model.gguf").read_bytes()
    assert data.startswith(b"GGUF")
    weights = (shipped_folder() / "model.safetensors").stat().st_size
    assert weights * 0.99 < len(data) < weights * 1.1
    assert "<｜Assistant｜>".encode() in data[:200_000]

"""A checkpoint folder as one GGUF file, for llama.cpp's server:

python -m bench.export_gguf mini-flash.gguf                 the shipped model
python -m bench.export_gguf model.gguf --model FOLDER       another in bf16 and FP4
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from bench.gguf import write_gguf
from bench.gguf_tokenizer import tokenizer_fields
from bench.random_weights import RawTensor
from deepserve.backends.tokens.model import shipped_folder
from deepserve.engine.checkpoint import open_checkpoint
from deepserve.engine.safetensors import StoredTensor
from deepserve.prompt.special_tokens import BOS, EOS, PAD
from deepserve.prompt.tokenizer import Tokenizer


def export_gguf(folder: Path, path: Path) -> None:
    """Raises CheckpointError, and ValueError for what has no counterpart there."""
    checkpoint = open_checkpoint(folder)
    spelled = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(spelled)
    begin, end, pad = map(tokenizer.special_id, (BOS, EOS, PAD))
    fields = tokenizer_fields(spelled, size=checkpoint.config.vocab_size, begin=begin, end=end, pad=pad)
    write_gguf(
        path, checkpoint.config, {name: _raw(tensor) for name, tensor in checkpoint.tensors.items()}, tokenizer=fields
    )


def _raw(tensor: StoredTensor) -> RawTensor:
    data = np.fromfile(tensor.path, np.uint8, count=tensor.size_bytes, offset=tensor.offset)
    return RawTensor(tensor.dtype, tensor.shape, data, None if tensor.scale is None else _raw(tensor.scale))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--model", type=Path, default=shipped_folder())
    chosen = parser.parse_args()
    export_gguf(chosen.model, chosen.path)


if __name__ == "__main__":
    main()

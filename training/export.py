"""Write a run's averaged weights, or another folder's weights, as a model folder in the published layout.

python -m training.export --run mini-flash --out src/deepserve/models/mini-flash
python -m training.export --model src/deepserve/models/mini-flash --quantise fp8+fp4 --out /tmp/mini-flash-fp4
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any, get_args

from deepserve.core.errors import CheckpointError
from deepserve.engine.reference.checkpoint import Quantisation, load_network, save_network
from deepserve.engine.reference.network import Network
from training.evaluate import load_average
from training.train import TOKENIZER

TOKEN_IDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}

GENERATION_DEFAULTS = {**TOKEN_IDS, "do_sample": False, "temperature": 0.0, "top_p": 1.0, "max_new_tokens": 2048}
"""Greedy: a model this small only loses by chance. It also may not notice that it should stop, hence the limit."""


def export(run: str, folder: Path, *, quantisation: Quantisation = "none") -> None:
    """Write a run as config.json, generation_config.json, model.safetensors and tokenizer.json."""
    _write(load_average(run), folder, quantisation, TOKEN_IDS)
    _write_json(folder / "generation_config.json", GENERATION_DEFAULTS)
    if (folder / "tokenizer.json").resolve() != TOKENIZER.resolve():
        shutil.copyfile(TOKENIZER, folder / "tokenizer.json")


def convert(model: Path, folder: Path, *, quantisation: Quantisation = "none") -> None:
    """Write another folder's weights in these types; its tokenizer and generation defaults come along."""
    if folder.resolve() == model.resolve():
        raise ValueError(f"{folder} is the folder that is read; name another one to write to")
    fields = json.loads((model / "config.json").read_text())
    network = load_network(model)
    _write(network, folder, quantisation, {name: fields[name] for name in TOKEN_IDS if name in fields})
    for name in ("generation_config.json", "tokenizer.json"):
        if (model / name).exists():
            shutil.copyfile(model / name, folder / name)


def _write(network: Network, folder: Path, quantisation: Quantisation, token_ids: dict[str, Any]) -> None:
    save_network(network, folder, quantisation=quantisation)
    config = json.loads((folder / "config.json").read_text())
    _write_json(folder / "config.json", {**config, **token_ids, "torch_dtype": "bfloat16"})


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n")


def main() -> None:
    """Export one model and say how large it is."""
    parser = argparse.ArgumentParser(description="Write weights as a model folder.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", help="a training run's averaged weights")
    source.add_argument("--model", type=Path, help="a model folder")
    parser.add_argument(
        "--quantise",
        choices=get_args(Quantisation),
        default="none",
        help="none: matrices in bfloat16; fp8+fp4: attention and shared experts FP8, routed experts FP4, as published",
    )
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    folder: Path = arguments.out
    try:
        if arguments.run is not None:
            export(arguments.run, folder, quantisation=arguments.quantise)
        else:
            convert(arguments.model, folder, quantisation=arguments.quantise)
    except (CheckpointError, OSError, ValueError) as error:
        parser.error(str(error))
    for path in sorted(folder.iterdir()):
        print(f"{path.name}  {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

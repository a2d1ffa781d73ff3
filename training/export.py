"""Write a run's averaged weights, or another folder's weights, as a model folder in the published layout.

    python -m training.export --run mini-flash --out src/deepserve/models/mini-flash
    python -m training.export --model src/deepserve/models/mini-flash --quantise fp8+fp4 --out /tmp/mini-flash-fp8

A run is written as it ships: bfloat16, routed experts in FP4, with its log and its learning curves beside it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, get_args

import msgspec
import torch
from torch import Tensor

from deepserve.core.errors import CheckpointError
from deepserve.engine.network_config import NetworkConfig
from deepserve.engine.reference.checkpoint import Quantisation, load_network, save_network
from deepserve.engine.reference.network import Network
from training.curves import CURVES_FILE, LOG_FILE, draw_curves, read_log, thinned, write_log
from training.shape import SHAPES
from training.train import RUNS, TOKENIZER

TOKEN_IDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}

GENERATION_DEFAULTS = {**TOKEN_IDS, "do_sample": False, "temperature": 0.0, "top_p": 1.0, "max_new_tokens": 2048}
"""Greedy: a model this small only loses by chance. It also may not notice that it should stop, hence the limit."""

SHIPPED: Quantisation = "fp4"


class RunWeights(msgspec.Struct, frozen=True):
    """The averaged weights of a training run, and the network they are of."""

    network: Network

    @classmethod
    def load(cls, folder: Path, config: NetworkConfig | None = None) -> RunWeights:
        """Read a run's folder. The network's shape is the one of `training.shape` that fits, unless it is given.

        Raises FileNotFoundError where there is no such run yet, ValueError where no shape fits.
        """
        path = folder / "average.pt"
        if not path.exists():
            raise FileNotFoundError(
                f"{folder} holds no averaged weights: train it first, with python -m training.train"
            )
        weights: dict[str, Tensor] = torch.load(path, weights_only=True)
        network = Network(_shape_of(weights) if config is None else config)
        network.load_state_dict(weights)
        return cls(network.requires_grad_(False).eval())


def _shape_of(weights: dict[str, Tensor]) -> NetworkConfig:
    found = {name: tensor.shape for name, tensor in weights.items()}
    for config in SHAPES.values():
        with torch.device("meta"):
            network = Network(config)
        if {name: tensor.shape for name, tensor in network.state_dict().items()} == found:
            return config
    raise ValueError("The weights of this run fit none of the networks in training/shape.py.")


def export(
    run: Path, folder: Path, *, quantisation: Quantisation = SHIPPED, config: NetworkConfig | None = None
) -> None:
    """Write a run's folder as a model folder, its log and curves included.

    config.json, generation_config.json, model.safetensors and tokenizer.json appear whole or not at all.
    """
    _write(RunWeights.load(run, config).network, folder, quantisation)
    _write_json(folder / "generation_config.json", GENERATION_DEFAULTS)
    _copy(TOKENIZER, folder / "tokenizer.json")
    log = thinned(read_log(run / LOG_FILE)) if (run / LOG_FILE).exists() else []
    if log:
        write_log(log, folder / LOG_FILE)
        (folder / CURVES_FILE).write_text(draw_curves({folder.resolve().name: log}), encoding="utf-8")


def write_unrounded(weights: RunWeights, folder: Path, *, tokenizer: Path = TOKENIZER) -> None:
    """Every matrix in float32: what the formats that ship are compared with."""
    save_network(weights.network, folder, matrices=torch.float32)
    _write_json(folder / "generation_config.json", GENERATION_DEFAULTS)
    _copy(tokenizer, folder / "tokenizer.json")


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


def _write(
    network: Network, folder: Path, quantisation: Quantisation, token_ids: dict[str, Any] | None = None
) -> None:  # Any: as JSON has them
    save_network(network, folder, quantisation=quantisation)
    config = json.loads((folder / "config.json").read_text())
    ids = TOKEN_IDS if token_ids is None else token_ids
    _write_json(folder / "config.json", {**config, **ids, "torch_dtype": "bfloat16"})


def _copy(source: Path, target: Path) -> None:
    if target.resolve() != source.resolve():
        shutil.copyfile(source, target)


def _write_json(path: Path, fields: dict[str, Any]) -> None:  # Any: as JSON has them
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as file:
        file.write(json.dumps(fields, indent=2) + "\n")
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def main() -> None:
    """Export one model and say how large it is."""
    parser = argparse.ArgumentParser(prog="python -m training.export", description="Write weights as a model folder.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", help="a training run's averaged weights")
    source.add_argument("--model", type=Path, help="a model folder")
    parser.add_argument(
        "--quantise",
        choices=get_args(Quantisation),
        help="none: matrices in bfloat16; fp4: routed experts FP4, the default for a run; fp8+fp4: attention and "
        "shared experts FP8, too, as published",
    )
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    folder: Path = arguments.out
    try:
        if arguments.run is not None:
            export(RUNS / arguments.run, folder, quantisation=arguments.quantise or SHIPPED)
        else:
            convert(arguments.model, folder, quantisation=arguments.quantise or "none")
    except (CheckpointError, OSError, ValueError) as error:
        parser.error(str(error))
    for path in sorted(folder.iterdir()):
        print(f"{path.name}  {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

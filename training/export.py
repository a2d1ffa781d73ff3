"""Write a run's averaged weights as a model folder in the published layout.

python -m training.export --run mini-flash --out src/deepserve/models/mini-flash
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from deepserve.engine.reference.checkpoint import save_network
from training.evaluate import load_average
from training.train import TOKENIZER

TOKEN_IDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}

GENERATION_DEFAULTS = {**TOKEN_IDS, "do_sample": False, "temperature": 0.0, "top_p": 1.0, "max_new_tokens": 2048}
"""Greedy: a model this small only loses by chance. It also may not notice that it should stop, hence the limit."""


def export(run: str, folder: Path) -> None:
    """Write config.json, generation_config.json, model.safetensors and tokenizer.json."""
    save_network(load_average(run), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **TOKEN_IDS, "torch_dtype": "bfloat16"}, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(GENERATION_DEFAULTS, indent=2) + "\n")
    if (folder / "tokenizer.json").resolve() != TOKENIZER.resolve():
        shutil.copyfile(TOKENIZER, folder / "tokenizer.json")


def main() -> None:
    """Export one run and say how large it is."""
    parser = argparse.ArgumentParser(description="Write a run's averaged weights as a model folder.")
    parser.add_argument("--run", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    folder: Path = arguments.out
    export(arguments.run, folder)
    for path in sorted(folder.iterdir()):
        print(f"{path.name}  {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

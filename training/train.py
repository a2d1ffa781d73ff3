"""The training loop: resumable, on one thread, with its progress on one line.

    python -m training.train --run mini-flash --minutes 120
    python -m training.train --run mini-pro --shape mini-pro --minutes 66 --grow-from training/started/mini-pro
    python -m training.train --run small --steps 200

A run lives in `training/runs/NAME`: `state.pt` (everything to go on from), `average.pt` (the averaged weights, the ones
to export), `log.jsonl`. Starting a run that exists continues it; an interrupted one saves its state first.

Minutes are the processor's, spent by this process: waiting for a busy machine, or a pause, takes nothing from a run.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import math
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from deepserve.engine.network_config import NetworkConfig
from deepserve.engine.reference.checkpoint import load_network
from deepserve.engine.reference.network import Network
from training import forward, kernels, schedule
from training.batches import Batch, BatchMaker
from training.growth import grown
from training.optimizer import Optimizer
from training.rounding import rounded_experts
from training.shape import SHAPES, TOKENIZER
from training.vocabulary import Encoder

__all__ = ["RUNS", "TOKENIZER", "LogLine", "Trainer", "run"]

RUNS = Path(__file__).parent / "runs"
AVERAGE_HORIZON_STEPS = 150
SHOW_EVERY_S = 10.0
MINUTES = 120.0
GROWN_HEAD_START = 0.7
"""Where in the schedule a grown network begins: it knows what the smaller one had learned."""
INDEX_POSITIONS = 256
"""Tokens of a row from which the indexers learn in one step: those the model writes, then any."""


class Progress(msgspec.Struct, kw_only=True):
    """Where a run stands."""

    seed: int
    step: int = 0
    num_tokens: int = 0
    elapsed_s: float = 0.0
    """Of the processor."""
    wall_s: float = 0.0
    head_start: float = 0.0
    """Share of the schedule that was left out, because a smaller network had been through it."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one step measured; index_loss only where the step trained the indexer."""

    loss: float
    index_loss: float | None
    gradient_norm: float


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of log.jsonl: means since the line before."""

    share: float
    step: int
    num_tokens: int
    elapsed_s: float
    """Seconds of the processor, as are those of tokens_per_s."""
    tokens_per_s: float
    loss: float
    index_loss: float | None
    wall_s: float = 0.0
    """Seconds by the clock."""


class Trainer:
    """One run: network, optimizer, averaged weights and data.

    is_fast: take the compiled kernels, not the plain network; the numbers are the same up to rounding.
    """

    def __init__(self, config: NetworkConfig, encoder: Encoder, *, seed: int, is_fast: bool | None = None) -> None:
        self.is_fast = kernels.are_available() if is_fast is None else is_fast
        self.network = Network(config)
        self.network.initialise(torch.Generator().manual_seed(seed))
        is_rounded = torch.get_float32_matmul_precision() == "medium"
        self.optimizer = Optimizer(self.network, dtype=torch.bfloat16 if is_rounded else torch.float32)
        self.average = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.batches = BatchMaker(encoder, seed)
        self.progress = Progress(seed=seed)

    def step(self, share: float) -> Figures:
        """Train on the next batch; `share` is how much of the run is done, 0 to 1."""
        number = self.progress.step
        plan = schedule.plan(share, number)
        batch = self.batches.batch(number, plan)
        with_index_loss = schedule.trains_indexer(share, number, plan.length)
        selects = not schedule.reads_densely(share, number)
        # Forward and backward see the same weights.
        with rounded_experts(self.network) if schedule.rounds_experts(share) else contextlib.nullcontext():
            loss, index_loss = self.losses(batch, with_index_loss=with_index_loss, selects=selects)
            torch.autograd.backward(loss + index_loss)
        norm = torch.nn.utils.clip_grad_norm_(self.network.language_parameters(), 1.0)
        if norm.isfinite():
            factor = schedule.rate(share, number)
            self.optimizer.step(matrix_rate=schedule.MATRIX_RATE * factor, other_rate=schedule.OTHER_RATE * factor)
            self.network.balance_experts(1e-3 * factor)
            self._update_average()
        else:
            # One such batch must not end hours of training; the next ones tell whether it was the batch.
            print(f"step {number} left out: its gradient is not finite", flush=True)
            self.network.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.num_tokens += batch.weights.numel()
        return Figures(
            loss=loss.item(),
            index_loss=index_loss.item() if with_index_loss else None,
            gradient_norm=float(norm),
        )

    def losses(self, batch: Batch, *, with_index_loss: bool, selects: bool) -> tuple[Tensor, Tensor]:
        """The language loss and the indexers'; `selects`: read what the indexers choose, as when serving."""
        tokens, targets = batch.tokens[:, :-1], batch.tokens[:, 1:]
        if self.is_fast:
            positions = self._index_positions(batch) if with_index_loss else None
            return forward.losses(
                self.network,
                tokens,
                targets,
                batch.weights,
                starts=batch.starts,
                index_positions=positions,
                selects=selects,
            )
        # The plain network always selects, and lets documents of one row see each other.
        if with_index_loss:
            logits, index_loss = self.network(tokens, with_index_loss=True)
        else:
            logits, index_loss = self.network(tokens), torch.zeros(())
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        weights = batch.weights.flatten()
        return (losses * weights).sum() / weights.sum(), index_loss

    def _index_positions(self, batch: Batch) -> Tensor:
        generator = torch.Generator().manual_seed(self.progress.seed * 1_000_003 + self.progress.step)
        rank = torch.rand(batch.weights.shape, generator=generator) + (batch.weights == 1)
        return rank.topk(min(INDEX_POSITIONS, rank.shape[1]), dim=1).indices

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(1 - 1 / AVERAGE_HORIZON_STEPS, self.progress.step / (self.progress.step + 10))
        for name, tensor in self.network.state_dict().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - keep)

    def save(self, folder: Path) -> None:
        """Write the state; a half-written file never replaces a whole one."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state(),
            "average": self.average,
            "progress": msgspec.to_builtins(self.progress),
        }
        for name, content in (("state.pt", state), ("average.pt", self.average)):
            torch.save(content, folder / f"{name}.new")
            (folder / f"{name}.new").replace(folder / name)

    def load(self, folder: Path) -> None:
        """Go on from a saved state."""
        state = torch.load(folder / "state.pt", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.restore(state["optimizer"])
        self.average = state["average"]
        self.progress = msgspec.convert(state["progress"], Progress)
        self.batches.seed = self.progress.seed

    def load_exported(self, model: Path) -> None:
        """Go on where an exported run's log ends, with its averaged weights; the optimizer begins anew."""
        self.network.load_state_dict(load_network(model).state_dict())
        self.average = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        last = msgspec.json.decode((model / "log.jsonl").read_bytes().splitlines()[-1], type=LogLine)
        self.progress.step, self.progress.num_tokens = last.step, last.num_tokens
        self.progress.elapsed_s, self.progress.wall_s = last.elapsed_s, last.wall_s

    def grow(self, model: Path) -> None:
        """Begin as an exported run of this network or a smaller one, whose time and tokens are not counted.

        Raises ValueError for a network that cannot grow into this one.
        """
        exported = load_network(model)
        small = Network(msgspec.structs.replace(exported.config, sliding_window=self.network.config.sliding_window))
        small.load_state_dict(exported.state_dict())
        generator = torch.Generator().manual_seed(self.progress.seed)
        self.network.load_state_dict(grown(small, self.network.config, generator).state_dict())
        self.average = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.progress.head_start = GROWN_HEAD_START


def run(
    trainer: Trainer,
    folder: Path,
    *,
    minutes: float | None,
    steps: int | None,
    save_every_s: float = 120.0,
    clock: Callable[[], float] = time.process_time,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train until the time or the steps are used up (earlier parts of the run counted in) or a stop is wanted."""
    assert (minutes is None) != (steps is None)
    progress = trainer.progress
    started = last_saved = last_shown = clock()
    elapsed_before, wall_before, wall_started = progress.elapsed_s, progress.wall_s, time.monotonic()
    tokens_shown = progress.num_tokens
    seen: list[Figures] = []
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.jsonl").open("ab") as log:
        while True:
            progress.elapsed_s = elapsed_before + clock() - started
            progress.wall_s = wall_before + time.monotonic() - wall_started
            done = progress.elapsed_s / (minutes * 60) if minutes is not None else progress.step / (steps or 1)
            if done >= 1 or should_stop():
                break
            share = progress.head_start + (1 - progress.head_start) * done
            figures = trainer.step(share)
            if math.isfinite(figures.loss):
                seen.append(figures)
            now = clock()
            if now - last_shown > SHOW_EVERY_S and seen:
                line = LogLine(
                    share=round(share, 5),
                    step=progress.step,
                    num_tokens=progress.num_tokens,
                    elapsed_s=round(progress.elapsed_s, 1),
                    tokens_per_s=round((progress.num_tokens - tokens_shown) / (now - last_shown), 1),
                    loss=fmean(one.loss for one in seen),
                    index_loss=next((one.index_loss for one in reversed(seen) if one.index_loss is not None), None),
                    wall_s=round(progress.wall_s, 1),
                )
                log.write(msgspec.json.encode(line) + b"\n")
                log.flush()
                print(describe(line, left_s=progress.elapsed_s / max(done, 1e-9) * (1 - done)), flush=True)
                last_shown, tokens_shown, seen = now, progress.num_tokens, []
            if now - last_saved > save_every_s:
                trainer.save(folder)
                last_saved = now
    trainer.save(folder)


def describe(line: LogLine, *, left_s: float) -> str:
    """The progress display."""
    return (
        f"{line.share:6.1%}  step {line.step}  {line.num_tokens / 1e6:.2f}M tokens  {line.tokens_per_s:,.0f} tok/s  "
        f"loss {line.loss:.3f}  {left_s / 60:.0f} min left"
    )


def _keep_freed_memory() -> None:
    """Tell glibc not to give memory back between tensors: fetching it again, zeroed, took a seventh of a step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)


def main() -> None:
    """Start or continue a run."""
    parser = argparse.ArgumentParser(description="Train a shipped model.")
    parser.add_argument("--run", default="mini-flash", help="name of the run, a folder under training/runs")
    parser.add_argument("--shape", choices=SHAPES, default="mini-flash", help="which of the shipped models' networks")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--minutes", type=float, help=f"minutes of the processor, earlier parts counted in (default {MINUTES:g})"
    )
    budget.add_argument("--steps", type=int, help="how many steps, earlier parts counted in")
    parser.add_argument("--seed", type=int, default=1)
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--continue-from", type=Path, help="an exported run, to go on from where this one is new")
    begin.add_argument(
        "--grow-from", type=Path, help="an exported run of this network or a smaller one, to begin as where new"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    _keep_freed_memory()
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        # Products round their factors to bfloat16 and add up in float32: twice as fast, and enough for learning.
        torch.set_float32_matmul_precision("medium")
    trainer = Trainer(SHAPES[arguments.shape], Encoder.load(TOKENIZER), seed=arguments.seed)
    if not trainer.is_fast:
        print("no C compiler found (CC, or cc): training without compiled kernels, at about a third of the speed")
    folder = RUNS / arguments.run
    if (folder / "state.pt").exists():
        trainer.load(folder)
        print(f"continuing {folder.name} at step {trainer.progress.step}")
    elif arguments.continue_from is not None:
        trainer.load_exported(arguments.continue_from)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(arguments.continue_from / "log.jsonl", folder / "log.jsonl")
        print(f"continuing {arguments.continue_from} at step {trainer.progress.step}")
    elif arguments.grow_from is not None:
        trainer.grow(arguments.grow_from)
        print(f"beginning as {arguments.grow_from}, grown")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    minutes = MINUTES if arguments.minutes is None and arguments.steps is None else arguments.minutes
    run(trainer, folder, minutes=minutes, steps=arguments.steps, should_stop=stop.is_set)


if __name__ == "__main__":
    main()

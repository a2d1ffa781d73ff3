"""Random networks, formats, rows, draws and blobs against the native core's C ABI, valid ones and broken ones.

    python -m tests.engine.native.fuzz --seconds 20 --seed 0

Meant for a core built with sanitizers (DEEPSERVE_CORE names it; `make sanitize` shows how). Every buffer that the core
gets is its own allocation of exactly the right size, so that one byte too far is seen. Beyond memory, it checks what
the ABI promises: statuses, lengths that change only with success, equal bits however tokens are cut into rows and on
whichever instruction set, and no block or slot lost at the end.

Needs neither torch nor numpy. Prints the number of each kind of step; ends with an error at the first broken promise.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from deepserve.engine.native import abi
from deepserve.engine.native.abi import CHUNK_TOKENS, Dtype, Format, StateType, Status, Tensor, Want
from deepserve.engine.native.shared_library import instruction_sets, load_library
from tests.engine.native.fuzz_core import BrokenPromise, Core, promise
from tests.engine.native.fuzz_networks import Numbers, Shape, Weights, exactly

KEY = bytes(range(32))

_MOST_ELEMENTS = 1 << 19
"""Of all weights together; larger networks are created, but not filled."""

_EXTREMES = (-(1 << 31), -1, 0, 1, 2, 3, 127, 128, 129, 1 << 12, 1 << 14, 1 << 20, (1 << 24) + 1, (1 << 31) - 1)


class Fuzz:
    def __init__(self, library: ctypes.CDLL, seed: int, num_threads: int, folder: Path) -> None:
        self.shared_library = library
        self.chance = Random(seed)
        self.numbers = Numbers(self.chance)
        self.num_threads = num_threads
        self.folder = folder
        self.sets = instruction_sets(library)
        self.fault = abi.Fault()
        self.counts: Counter[str] = Counter()

    def run_once(self) -> None:
        """One network from its creation to its end."""
        chance = self.chance
        formats = {kind: chance.choice(list(Format)) for kind in ("dense", "expert", "head")}
        shape = Shape(chance, formats=formats)
        is_broken = chance.random() < 0.2
        if is_broken:
            self.break_sizes(shape)
        state = chance.choice(list(StateType))
        memory = chance.choice([1 << 22, 1 << 23, 1 << 25])
        core = self.new_core(shape, formats, state, memory, self.pick_set())
        can_fill = not is_broken or Format.MAPPED_FP4 not in formats.values()  # whose inputs come in groups
        if core is None or not can_fill or _is_large(shape):
            self.counts["networks refused or left empty"] += 1
            if core is not None:
                promise(
                    self.shared_library.ds_engine_seal(core.handle, self.fault) == Status.CHECKPOINT, "sealed empty"
                )
                self.shared_library.ds_engine_delete(core.handle)
            return
        weights = Weights(chance, self.numbers, shape, formats)
        self.fill(core, weights)
        self.counts["networks"] += 1
        for _ in range(chance.randint(5, 40)):
            self.act(core)
        self.compare_cuts(core)
        if not weights.is_extreme:
            self.compare_sets(core, weights, formats, state, memory)
        if not any(kept >= Format.MAPPED_BF16 for kept in formats.values()):
            self.pack(core, formats, state, memory)
        core.close()

    def pick_set(self) -> str:
        # Without fused multiply-add in hardware the generic set is slow, so it is rare.
        return self.chance.choice([name for name in self.sets for _ in range(1 if name == "generic" else 6)])

    def break_sizes(self, shape: Shape) -> None:
        name = self.chance.choice([*shape.fields, "layer"])
        if name == "layer":
            layer = self.chance.choice(shape.layers)
            layer[self.chance.choice(list(layer))] = self.chance.choice(_EXTREMES)
            return
        value = self.chance.choice(_EXTREMES)
        if name == "rope_dim" and value > len(shape.frequencies):
            return  # the frequencies' length is the caller's promise, which cannot be checked
        shape.fields[name] = value
        if name == "num_layers" and value > 0:
            shape.fields[name] = min(value, 1 << 13)  # so is the plan's
            shape.layers = [shape.layers[0]] * shape.fields[name]

    def new_core(
        self, shape: Shape, formats: dict[str, Format], state: StateType, memory_bytes: int, isa: str
    ) -> Core | None:
        options = abi.Options(
            dense_format=formats["dense"],
            expert_format=formats["expert"],
            head_format=formats["head"],
            state_type=state,
            num_threads=self.chance.randint(1, self.num_threads),
            memory_bytes=memory_bytes,
            isa=isa.encode(),
        )
        handle = ctypes.c_void_p()
        status = self.shared_library.ds_engine_new(shape.network(), options, ctypes.byref(handle), self.fault)
        if status != Status.OK:
            promise(not handle.value, "a refused engine was handed out")
            promise(bool(self.fault.text), "refused without a word")
            return None
        return Core(self.shared_library, handle, shape)

    def fill(self, core: Core, weights: Weights) -> None:
        names = list(weights.arrays)
        self.chance.shuffle(names)
        number = ctypes.c_int64()
        promise(
            self.shared_library.ds_sequence_new(core.handle, number, self.fault) == Status.INVALID, "not sealed yet"
        )
        for name in names:
            array, scale = weights.arrays[name]
            if self.chance.random() < 0.05:
                self.put_broken(core, name, array, scale)
            self.put(core, name, array, scale)
        if self.chance.random() < 0.2:
            status = self.shared_library.ds_engine_put(core.handle, *names[0], *weights.arrays[names[0]], self.fault)
            promise(status == Status.CHECKPOINT, "a tensor was taken twice")
        promise(self.shared_library.ds_engine_seal(core.handle, self.fault) == Status.OK, self.fault.text)
        promise(self.shared_library.ds_engine_seal(core.handle, self.fault) == Status.INVALID, "sealed twice")

    def put(self, core: Core, name: tuple[Tensor, int, int], array: abi.Array, scale: abi.Array | None) -> None:
        status = self.shared_library.ds_engine_put(core.handle, *name, array, scale, self.fault)
        promise(status == Status.OK, self.fault.text)

    def put_broken(self, core: Core, name: tuple[int, int, int], array: abi.Array, scale: abi.Array | None) -> None:
        """The same tensor with something wrong about it; must be refused."""
        chance = self.chance
        broken = abi.Array.from_buffer_copy(array)
        broken_scale = None if scale is None else abi.Array.from_buffer_copy(scale)
        kind = chance.choice(["rank", "shape", "size", "dtype", "data", "scale", "place"])
        match kind:
            case "rank":
                broken.rank = chance.choice([rank for rank in (-1, 0, 1, 2, 3, 4, 1 << 30) if rank != array.rank])
            case "shape":
                broken.shape[chance.randrange(array.rank)] += chance.choice([-1, 1, 1 << 40, -(1 << 62)])
            case "size":
                broken.size_bytes += chance.choice([-1, 1, -(1 << 40)])
            case "dtype":
                broken.dtype = chance.choice([-1, 9, 1 << 20, Dtype.F8_E8M0])
            case "data":
                broken.data = None
            case "scale" if broken_scale is not None:
                broken_scale.shape[0] += 1
            case _:
                places = [(99, 0, 0), (-1, 0, 0), (name[0], 99, 0), (name[0], -2, 0), (Tensor.EXPERT_W1, 0, 1 << 20)]
                name = chance.choice(places)
        status = self.shared_library.ds_engine_put(core.handle, *name, broken, broken_scale, self.fault)
        promise(status in (Status.INVALID, Status.CHECKPOINT), f"a broken {kind} was accepted")
        self.counts["broken tensors"] += 1

    def act(self, core: Core) -> None:
        """One call with sequences."""
        chance, known = self.chance, list(core.histories)
        kind = chance.choices(["step", "new", "fork", "free", "blob", "broken blob"], [12, 3, 2, 2, 1, 2])[0]
        if kind == "new" or not known:
            core.new()
        elif kind == "fork":
            core.fork(chance.choice(known))
        elif kind == "free":
            core.free(chance.choice(known))
        elif kind == "blob":
            sequence = chance.choice(known)
            history = core.histories[sequence]
            core.load(core.save(sequence), None if history is None else list(history))
        elif kind == "broken blob":
            core.load(self.broken(core.save(chance.choice(known))), None)
        else:
            self.step(core)
        self.counts[kind] += 1

    def broken(self, blob: bytes) -> bytes:
        chance = self.chance
        match chance.choice(["cut", "longer", "flip", "header"]):
            case "cut":
                return blob[: chance.randrange(len(blob))]
            case "longer":
                return blob + chance.randbytes(chance.randint(1, 100))
            case "flip":
                at = chance.randrange(len(blob))
                return blob[:at] + bytes([blob[at] ^ 1 << chance.randrange(8)]) + blob[at + 1 :]
            case _:
                at = chance.randrange(0, min(len(blob), 88) - 3, 4)
                values = [struct.pack("<i", value) for value in _EXTREMES]
                return blob[:at] + chance.choice([v for v in values if v != blob[at : at + 4]]) + blob[at + 4 :]

    def step(self, core: Core) -> None:
        chance = self.chance
        chosen = chance.sample(list(core.histories), min(len(core.histories), chance.choice([1, 1, 2, 3, 5])))
        if chance.random() < 0.03:
            chosen.append(chosen[0])
        is_valid = len(set(chosen)) == len(chosen)
        rows = (abi.RowSpec * len(chosen))()
        kept: list[object] = []
        appended: list[list[int]] = []
        masks: list[bytes | None] = []
        for row, sequence in zip(rows, chosen, strict=True):
            length = core.length(sequence)
            most = min(CHUNK_TOKENS - length % CHUNK_TOKENS, core.shape.fields["max_context"] - length)
            size = min(chance.choice([1, 1, 2, 5, 17, 64, 128]), most)
            if size < 1 or chance.random() < 0.02:
                size = chance.choice([0, -1, most + 1, most + 1, 129])
                is_valid = False
            tokens = [chance.randrange(core.vocab_size) for _ in range(size)]
            if tokens and chance.random() < 0.02:
                tokens[chance.randrange(size)] = chance.choice([-1, core.vocab_size, 1 << 30, -(1 << 31)])
                is_valid = False
            row.sequence, row.num_tokens = sequence, size
            row.tokens = (ctypes.c_int32 * max(1, size))(*tokens)
            row.want = chance.choice(list(Want))
            masks.append(None)
            match row.want:
                case Want.TOKEN:
                    draw, masks[-1], is_possible = self.draw(core.vocab_size, kept)
                    row.draw = ctypes.pointer(draw)
                    is_valid = is_valid and is_possible
                case Want.LOGITS:
                    row.logits = (ctypes.c_float * (max(1, size) * core.vocab_size))()
            if chance.random() < 0.02:
                is_valid = False
                match chance.choice(["want", "tokens", "sequence"]):
                    case "want":
                        row.want = chance.choice([-1, 3, 1 << 30])
                    case "tokens":
                        row.tokens = None
                    case _:
                        row.sequence = chance.choice([-1, 0, 1 << 40])
            appended.append(tokens)
        before = {sequence: core.length(sequence) for sequence in core.histories}
        drawn = (abi.DrawnToken * len(chosen))()
        status = self.shared_library.ds_step(core.handle, rows, len(chosen), drawn, self.fault)
        if status == Status.OK:
            promise(is_valid, "an invalid step was taken")
            for sequence, tokens, row, mask, answer in zip(chosen, appended, rows, masks, drawn, strict=True):
                before[sequence] += len(tokens)
                history = core.histories[sequence]
                if history is not None:
                    history += tokens
                self.check_answer(core, row, mask, answer)
        else:
            expected = Status.OUT_OF_MEMORY if is_valid else Status.INVALID
            promise(status == expected, f"status {status} for {'a valid' if is_valid else 'an invalid'} step")
            self.counts["steps refused"] += 1
        for sequence, length in before.items():
            promise(core.length(sequence) == length, "a length is not what it should be")

    def check_answer(self, core: Core, row: abi.RowSpec, mask: bytes | None, answer: abi.DrawnToken) -> None:
        if row.want != Want.TOKEN:
            promise((answer.token, answer.fault, answer.num_top) == (-1, 0, 0), "an answer nobody wanted")
            return
        if answer.fault:
            self.counts["faults of rows"] += 1
            return
        promise(0 <= answer.token < core.vocab_size, f"token {answer.token} was drawn")
        wanted = max(0, row.draw.contents.num_top_logprobs)
        promise(0 <= answer.num_top <= wanted, f"{answer.num_top} best tokens")
        for token in (answer.token, *answer.top_tokens[: answer.num_top]):
            is_allowed = mask is None or mask[token >> 3] >> (token & 7) & 1
            promise(bool(is_allowed), f"token {token} was drawn against the mask")
        self.counts["draws"] += 1

    def draw(self, vocab_size: int, kept: list[object]) -> tuple[abi.DrawSpec, bytes | None, bool]:
        """A draw, its mask, and whether it is a possible one."""
        chance = self.chance
        spec = abi.DrawSpec(
            temperature=chance.choice([0.0, 0.7, 1.0, 2.0, 1e-6, 5e-324, 1e300]),
            top_p=chance.choice([1.0, 0.9, 0.1, 1e-9, 5e-324]),
            min_p=chance.choice([0.0, 0.0, 0.05, 1.0]),
            repetition_penalty=chance.choice([1.0, 1.0, 1.3, 0.5, 5e-324, 1e308]),
            frequency_penalty=chance.choice([0.0, 0.0, 0.5, -2.0, 1e308, -1e308]),
            presence_penalty=chance.choice([0.0, 0.0, 0.5, -2.0]),
            seed=chance.getrandbits(64),
            position=chance.getrandbits(64),
            top_k=chance.choice([0, 1, 2, 40, 1 << 30]),
            num_top_logprobs=chance.choice([-1, -1, 0, 1, 20]),
        )
        is_possible = True
        mask: bytes | None = None

        def tokens(most: int) -> Any:  # Any: ctypes makes a type per length
            nonlocal is_possible
            chosen = chance.sample(range(vocab_size), chance.randint(0, min(vocab_size, most)))
            if chosen and chance.random() < 0.02:
                chosen[-1] = chance.choice([-1, vocab_size, -(1 << 31), (1 << 31) - 1])
                is_possible = False
            array = (ctypes.c_int32 * len(chosen))(*chosen)
            kept.append(array)
            return array

        if chance.random() < 0.3:
            spec.bias_tokens = tokens(5)
            spec.num_biases = len(kept[-1])  # type: ignore[arg-type]  # an array that was just made
            values = [chance.choice([-100.0, 3.5, 100.0, -1e308, float("inf"), float("nan")]) for _ in range(5)]
            spec.bias_values = (ctypes.c_double * 5)(*values)
        if chance.random() < 0.3:
            spec.prompt_tokens = tokens(300)
            spec.num_prompt_tokens = len(kept[-1])  # type: ignore[arg-type]  # an array that was just made
        if chance.random() < 0.3:
            spec.count_tokens = tokens(300)
            spec.num_counts = len(kept[-1])  # type: ignore[arg-type]  # an array that was just made
            spec.counts = (ctypes.c_int32 * 300)(*(chance.choice([0, 1, 7, -1, (1 << 31) - 1]) for _ in range(300)))
        if chance.random() < 0.3:
            mask = chance.randbytes((vocab_size + 7) // 8)
            buffer = exactly(mask)
            kept.append(buffer)
            spec.has_mask, spec.mask_bytes = 1, len(mask)
            spec.mask = ctypes.cast(buffer, ctypes.c_char_p)
            if chance.random() < 0.4:
                spec.has_mask = 0
                spec.late_mask = ctypes.pointer(self.late_mask(mask))
                if chance.random() < 0.05:
                    spec.has_mask, is_possible = 1, False
        if chance.random() < 0.05:
            is_possible = False
            wrong: list[tuple[str, Any]] = [  # Any: numbers of several kinds
                ("temperature", -1.0),
                ("temperature", float("nan")),
                ("temperature", float("inf")),
                ("top_p", 0.0),
                ("top_p", 1.5),
                ("top_p", float("nan")),
                ("min_p", -0.5),
                ("min_p", float("nan")),
                ("repetition_penalty", 0.0),
                ("repetition_penalty", float("inf")),
                ("frequency_penalty", float("nan")),
                ("presence_penalty", float("-inf")),
                ("top_k", -1),
                ("num_top_logprobs", 21),
                ("num_top_logprobs", -2),
                ("num_biases", -1),
                ("num_counts", -(1 << 31)),
            ]
            setattr(spec, *chance.choice(wrong))
        if spec.has_mask and chance.random() < 0.05:
            is_possible = False
            spec.mask_bytes = chance.choice([-1, 0, spec.mask_bytes - 1, -(1 << 63)])
        return spec, mask, is_possible

    def late_mask(self, mask: bytes) -> abi.LateMask:
        """Settled: a fuzz that waits for threads would not be the same twice. Some failed, or are too short."""
        late = abi.LateMask()
        match self.chance.choice(["ready", "ready", "failed", "short"]):
            case "ready":
                self.shared_library.ds_mask_settle(late, mask, len(mask))
            case "failed":
                self.shared_library.ds_mask_settle(late, None, 0)
            case _:
                self.shared_library.ds_mask_settle(late, mask, self.chance.choice([0, -1, len(mask) - 1]))
        return late

    def compare_cuts(self, core: Core) -> None:
        """Whatever happened to a sequence, it continues as its tokens from the start do, bit for bit."""
        healthy = [name for name, history in core.histories.items() if history]
        if not healthy:
            return
        sequence = self.chance.choice(healthy)
        history = core.histories[sequence]
        assert history is not None
        room = core.shape.fields["max_context"] - len(history)
        more = [self.chance.randrange(core.vocab_size) for _ in range(min(room, 9))]
        for other in list(core.histories):
            if other != sequence:
                core.free(other)
        cold = core.new()
        if cold is None:
            return
        first = core.logits(cold, history, iter(lambda: CHUNK_TOKENS, 0))
        if first is None:
            return
        continued = core.logits(sequence, more, iter(lambda: self.chance.choice([1, 2, 5]), 0))
        expected = core.logits(cold, more, iter(lambda: CHUNK_TOKENS, 0))
        if continued is None or expected is None:
            return
        promise(_is_finite(expected) <= (continued == expected), "a sequence continues with other bits than from cold")
        history += more
        core.histories[cold] = list(history)
        self.counts["continuations compared"] += 1

    def compare_sets(
        self, core: Core, weights: Weights, formats: dict[str, Format], state: StateType, memory_bytes: int
    ) -> None:
        """Every instruction set, and any number of threads: the same bits.

        But for numbers below the smallest normal one, 2^-126, which AVX-512 takes for zero in bf16 products; weights
        that can lead there are left out.
        """
        length = min(core.shape.fields["max_context"], 150)
        tokens = [self.chance.randrange(core.vocab_size) for _ in range(length)]
        seen: dict[str, bytes] = {}
        for isa in self.sets:
            count = 12 if isa == "generic" else length
            other = self.new_core(core.shape, formats, state, memory_bytes, isa)
            promise(other is not None, "the same network was refused")
            assert other is not None
            for name, (array, scale) in weights.arrays.items():
                self.put(other, name, array, scale)
            promise(self.shared_library.ds_engine_seal(other.handle, self.fault) == Status.OK, self.fault.text)
            sequence = other.new()
            if sequence is not None:
                sizes = iter(lambda: self.chance.choice([1, 3, 20, 128]), 0)
                logits = other.logits(sequence, tokens[:count], sizes)
                if logits is not None:
                    seen[isa] = logits
                    other.histories[sequence] = tokens[:count]
            other.close()
        best = seen.pop(self.sets[0], None)
        for isa, logits in seen.items():
            if best is not None and _is_finite(best):
                promise(best.startswith(logits), f"{isa} gives other bits than {self.sets[0]}")
                self.counts["instruction sets compared"] += 1

    def pack(self, core: Core, formats: dict[str, Format], state: StateType, memory_bytes: int) -> None:
        """The packed weights as a file: whole, damaged, and of another key."""
        path = self.folder / "weights.packed"
        where = os.fsencode(path)
        status = self.shared_library.ds_engine_save_packed(core.handle, where, KEY, self.fault)
        promise(status == Status.OK, self.fault.text)
        content = path.read_bytes()
        other = self.new_core(core.shape, formats, state, memory_bytes, core.info().isa.decode())
        assert other is not None
        for damaged in (self.broken(content), content[:100], b""):
            path.write_bytes(damaged)
            status = self.shared_library.ds_engine_load_packed(other.handle, where, KEY, self.fault)
            promise(status == Status.CHECKPOINT, "damaged packed weights were taken")
        path.write_bytes(content)
        status = self.shared_library.ds_engine_load_packed(other.handle, where, KEY[::-1], self.fault)
        promise(status == Status.CHECKPOINT, "packed weights of another key were taken")
        promise(
            self.shared_library.ds_engine_load_packed(other.handle, where, KEY, self.fault) == Status.OK,
            self.fault.text,
        )
        known = [(name, history) for name, history in core.histories.items() if history]
        sequence = other.new()
        if known and sequence is not None:
            _, history = self.chance.choice(known)
            cold = core.new()
            if cold is not None:
                sizes = iter(lambda: CHUNK_TOKENS, 0)
                one, two = core.logits(cold, history, sizes), other.logits(sequence, history, sizes)
                if one is not None and two is not None:
                    promise(_is_finite(one) <= (one == two), "packed weights give other bits")
                    other.histories[sequence] = core.histories[cold] = list(history)
        other.close()
        self.counts["packed files"] += 1

    def probe_files(self) -> None:
        """Mapping what is no file."""
        size = ctypes.c_int64()
        (self.folder / "empty").touch()
        for path in (self.folder, self.folder / "missing", self.folder / "empty"):
            address = self.shared_library.ds_file_map(os.fsencode(path), size, self.fault)
            promise(not address and bool(self.fault.text), f"{path} was mapped")
        promise(not self.shared_library.ds_file_map(None, size, self.fault), "nothing was mapped")


def _is_large(shape: Shape) -> bool:
    total = 0
    for *_, sizes in shape.tensors():
        total += math.prod(sizes)
        if total > _MOST_ELEMENTS:
            return True
    return False


def _is_finite(logits: bytes) -> bool:
    return all(abs(value) < float("inf") for (value,) in struct.iter_unpack("<f", logits))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="the most threads of an engine")
    arguments = parser.parse_args()
    library = load_library()
    end = time.monotonic() + arguments.seconds
    totals: Counter[str] = Counter()
    seed = arguments.seed
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            fuzz = Fuzz(library, seed, arguments.threads, Path(folder))
            try:
                fuzz.probe_files()
                for _ in range(5):
                    fuzz.run_once()
            except BrokenPromise as error:
                raise SystemExit(f"seed {seed}: {error}") from error
            totals += fuzz.counts
            seed += 1
    counted = ", ".join(f"{number} {kind}" for kind, number in totals.items())
    sys.stdout.write(f"seeds {arguments.seed} to {seed - 1}: {counted}\n")


if __name__ == "__main__":
    main()

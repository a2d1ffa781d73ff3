"""llama.cpp, driven through its C API as llama-bench drives it; a process of its own, commands come in as JSON lines.

Runs in whichever Python has llama-cpp-python, so it imports nothing else of this project. See `llama.py`. What is timed
is `llama_decode` and the wait for it, nothing of Python's.
"""

from __future__ import annotations

import array
import json
import sys
import time
from typing import Any

import llama_cpp  # type: ignore[import-not-found,unused-ignore]  # another interpreter's

_NUM_BATCH_TOKENS = 512
_NUM_RANDOM_TOKENS = 8000
_ERROR_LEVEL = 4
_FLOAT32 = 0


class Worker:
    """One loaded model and one context of it. Any: pointers of ctypes."""

    def __init__(self) -> None:
        self.log = llama_cpp.llama_log_callback(_say_errors)
        llama_cpp.llama_log_set(self.log, None)
        llama_cpp.llama_backend_init()
        self.model: Any = None
        self.context: Any = None
        self.batch: Any = None
        self.lengths: list[int] = []
        self.num_drawn = 0
        self.cpu_s = self.wall_s = 0.0

    def load(self, path: str) -> str:
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise ValueError(f"cannot load {path}")
        features: str = llama_cpp.llama_print_system_info().decode().strip(" |")
        return features

    def open(self, num_tokens: int, num_sequences: int, exact: bool) -> None:
        if self.context:
            llama_cpp.llama_batch_free(self.batch)
            llama_cpp.llama_free(self.context)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = num_tokens * num_sequences
        params.n_batch = params.n_ubatch = _NUM_BATCH_TOKENS
        params.n_seq_max = num_sequences
        params.n_threads = params.n_threads_batch = 1
        # Fused attention is the faster of the two with every shape measured here; it computes in float16.
        params.flash_attn_type = 0 if exact else 1
        if exact:
            params.type_k = params.type_v = _FLOAT32
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise ValueError("cannot make a context")
        self.batch = llama_cpp.llama_batch_init(_NUM_BATCH_TOKENS, 0, 1)
        self.lengths = [0] * num_sequences

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), False)
        self.lengths = [0] * len(self.lengths)

    def prefill(self, num_tokens: int, sequence: int) -> tuple[float, float]:
        """Append random tokens, with the logits of the last. -> CPU and wall seconds"""
        self.cpu_s = self.wall_s = 0.0
        while num_tokens > 0:
            size = min(num_tokens, _NUM_BATCH_TOKENS)
            num_tokens -= size
            self._decode([(self._token(), sequence, num_tokens == 0 and i == size - 1) for i in range(size)])
        return self.cpu_s, self.wall_s

    def decode(self, num_tokens: int) -> tuple[float, float]:
        """Append random tokens to every sequence, one at a time, each with its logits. -> CPU and wall seconds"""
        self.cpu_s = self.wall_s = 0.0
        for _ in range(num_tokens):
            self._decode([(self._token(), sequence, True) for sequence in range(len(self.lengths))])
        return self.cpu_s, self.wall_s

    def logits(self, tokens: list[int], path: str) -> None:
        self.clear()
        size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        with open(path, "wb") as file:
            for first in range(0, len(tokens), _NUM_BATCH_TOKENS):
                chunk = tokens[first : first + _NUM_BATCH_TOKENS]
                self._decode([(token, 0, True) for token in chunk])
                for place in range(len(chunk)):
                    row = llama_cpp.llama_get_logits_ith(self.context, place)
                    file.write(array.array("f", row[:size]).tobytes())

    def _token(self) -> int:
        self.num_drawn += 1
        return (self.num_drawn * 2654435761 >> 7) % _NUM_RANDOM_TOKENS

    def _decode(self, tokens: list[tuple[int, int, bool]]) -> None:
        batch = self.batch
        batch.n_tokens = len(tokens)
        for place, (token, sequence, is_wanted) in enumerate(tokens):
            batch.token[place] = token
            batch.pos[place] = self.lengths[sequence]
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = sequence
            batch.logits[place] = is_wanted
            self.lengths[sequence] += 1
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        status = llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_synchronize(self.context)
        self.cpu_s += time.process_time() - cpu_s
        self.wall_s += time.perf_counter() - wall_s
        if status:
            raise ValueError(f"llama_decode returned {status}")


def _say_errors(level: int, text: bytes, _: Any) -> None:
    if level == _ERROR_LEVEL:
        sys.stderr.write(text.decode(errors="replace"))


def main() -> None:
    worker = Worker()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = {"result": getattr(worker, command.pop("do"))(**command)}
        except Exception as error:  # noqa: BLE001  # the process that asked decides what it means
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

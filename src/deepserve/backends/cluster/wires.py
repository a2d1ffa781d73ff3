"""The protocols of token servers, by the kind of server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from deepserve.backends.cluster.asking import Wire
from deepserve.backends.cluster.llamacpp import LlamaCppWire
from deepserve.backends.cluster.sglang import SglangWire
from deepserve.backends.cluster.vllm import VllmWire

WIRES: Final[Mapping[str, Callable[[], Wire]]] = {"vllm": VllmWire, "sglang": SglangWire, "llamacpp": LlamaCppWire}

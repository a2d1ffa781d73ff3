"""How clusters are started: rows of `launch.toml`, and the command that they make for a wish."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Literal

import msgspec

from deepserve.core.errors import ConfigurationError

EngineId = Literal["vllm", "sglang", "nim", "llamacpp"]
ModelWord = Literal["flash", "pro"]
Strategy = Literal["tp", "tep", "dep", "throughput", "auto"]
"""tensor parallel; that with expert parallelism; data and expert parallel; SGLang's for most tokens a second; what the
engine finds by itself"""
Draft = Literal["none", "mtp", "dspark"]

_NAMES: Mapping[ModelWord, str] = {"flash": "deepseek-ai/DeepSeek-V4-Flash", "pro": "deepseek-ai/DeepSeek-V4-Pro"}
"""Under which every cluster serves its model, whatever release it is: those of the rows of providers.toml."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """per_node: how many one machine or tray has."""

    name: str
    family: str
    memory_gb: int
    per_node: int


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """drafts: what it can draft ahead with. memory_gb: of all cards together, at least."""

    model: ModelWord
    release: str
    repository: str
    drafts: tuple[Draft, ...]
    memory_gb: int


class EngineRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """needs: to run what the table says. install: where it comes from."""

    id: EngineId
    title: str
    port: int
    needs: str
    install: str


class Piece(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a command, where all conditions hold; those left out hold always.

    since, before  releases of the engine
    nodes    of several machines: the first, or another
    renamed  the checkpoint has another name than the one it is served under
    """

    engine: EngineId
    args: tuple[str, ...]
    source: str
    models: tuple[ModelWord, ...] = ()
    gpus: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    strategies: tuple[Strategy, ...] = ()
    drafts: tuple[Draft, ...] = ()
    nodes: Literal["first", "other"] | None = None
    min_gpus: int = 1
    since: str | None = None
    before: str | None = None
    renamed: bool = False
    env: Mapping[str, str] = {}


class Known(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Combinations that somebody runs and says so."""

    engine: EngineId
    model: ModelWord
    gpus: tuple[str, ...]
    strategies: tuple[Strategy, ...]
    source: str
    note: str = ""
    release: str = "preview"


class Refusal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Combinations that do not work. extra: an argument that the operator adds."""

    engine: EngineId
    reason: str
    source: str
    models: tuple[ModelWord, ...] = ()
    families: tuple[str, ...] = ()
    strategies: tuple[Strategy, ...] = ()
    releases: tuple[str, ...] = ()
    drafts: tuple[Draft, ...] = ()
    before: str | None = None
    several_nodes: bool = False
    extra: str | None = None


class LaunchBook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    gpu: tuple[Gpu, ...]
    checkpoint: tuple[Checkpoint, ...]
    engine: tuple[EngineRow, ...]
    piece: tuple[Piece, ...]
    known: tuple[Known, ...]
    refusal: tuple[Refusal, ...]


class LaunchWish(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator wants to start.

    gpus     such as 8xH200
    release  None: what the engine's first known combination has
    strategy None: that of the first known combination
    head     the first machine's address, where there are several; rank: which of them this is
    extra    arguments to be added as they are
    version  of the engine; None: the newest
    gguf, context, cache  the file and the context of llama.cpp; the folder where NIM keeps weights
    """

    engine: EngineId
    model: ModelWord
    gpus: str
    release: str | None = None
    version: str | None = None
    strategy: Strategy | None = None
    draft: Draft = "none"
    host: str = "127.0.0.1"
    port: int | None = None
    head: str = "<first-machine>"
    rank: int = 0
    extra: tuple[str, ...] = ()
    gguf: str | None = None
    context: int = 131_072
    cache: str = "$HOME/.cache/nim"


class LaunchCommand(msgspec.Struct, frozen=True, kw_only=True):
    """args: the program first. served: the model's name there. notes: what the operator should know."""

    args: tuple[str, ...]
    env: Mapping[str, str]
    address: str
    served: str
    num_nodes: int
    notes: tuple[str, ...]
    sources: tuple[str, ...]


@cache
def load_launch_book() -> LaunchBook:
    text = resources.files("deepserve.catalog").joinpath("launch.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), LaunchBook)


def launch_command(wish: LaunchWish, book: LaunchBook) -> LaunchCommand:
    """Raises ConfigurationError, with the reason, for what is known not to work and what nobody can know."""
    engine = next(row for row in book.engine if row.id == wish.engine)
    num_gpus, gpu = _read_gpus(wish.gpus, book)
    num_nodes = math.ceil(num_gpus / gpu.per_node)
    known = _known(wish, book)
    strategy = wish.strategy or _usual_strategy(wish, book)
    checkpoint = _checkpoint(wish, book)
    _refuse(wish, book, gpu, strategy, checkpoint, num_nodes)
    _check_sizes(wish, gpu, num_gpus, num_nodes, checkpoint)
    is_renamed = checkpoint.repository != _NAMES[wish.model]
    place: Literal["first", "other"] | None = None
    if num_nodes > 1:
        place = "first" if wish.rank == 0 else "other"
    pieces = [
        piece
        for piece in book.piece
        if piece.engine == wish.engine
        and _holds(piece.models, wish.model)
        and _holds(piece.gpus, gpu.name)
        and _holds(piece.families, gpu.family)
        and _holds(piece.strategies, strategy)
        and _holds(piece.drafts, wish.draft)
        and (piece.nodes is None or piece.nodes == place)
        and num_gpus >= piece.min_gpus
        and (piece.since is None or not _is_before(wish, piece.since))
        and (piece.before is None or _is_before(wish, piece.before))
        and (is_renamed or not piece.renamed)
    ]
    port = wish.port or engine.port
    values = {
        "checkpoint": checkpoint.repository,
        "served": _NAMES[wish.model],
        "gpus": num_gpus,
        "per_node": gpu.per_node,
        "nodes": num_nodes,
        "rank": wish.rank,
        "start_rank": wish.rank * gpu.per_node,
        "head": wish.head,
        "host": wish.host,
        "port": port,
        "gguf": wish.gguf,
        "context": wish.context,
        "cache": wish.cache,
    }
    notes = [f"Needs {engine.needs}."]
    if strategy not in known:
        notes.append(
            f"Nobody is known to have reported {wish.gpus} with --parallel {strategy}; `deepserve launch --list` shows "
            "what has been."
        )
    if num_nodes > 1:
        notes.append(f"Run it on each of {num_nodes} machines, with --rank 0 to {num_nodes - 1} and the same --head.")
    name = "llamacpp" if wish.engine == "llamacpp" else "sglang" if wish.engine == "nim" else wish.engine
    return LaunchCommand(
        args=(*(argument.format(**values) for piece in pieces for argument in piece.args), *wish.extra),
        env={name: value for piece in pieces for name, value in piece.env.items()},
        address=f"{name}=http://{'127.0.0.1' if wish.host == '0.0.0.0' else wish.host}:{port}",  # noqa: S104 - compared
        served="deepseek-v4-flash" if wish.engine == "llamacpp" else _NAMES[wish.model],
        num_nodes=num_nodes,
        notes=tuple(notes),
        sources=tuple(dict.fromkeys(piece.source for piece in pieces)),
    )


def _read_gpus(text: str, book: LaunchBook) -> tuple[int, Gpu]:
    found = re.fullmatch(r"(\d+)[x×*](.+)", text.strip(), re.IGNORECASE)
    names = ", ".join(gpu.name for gpu in book.gpu)
    if found is None or int(found[1]) < 1:
        raise ConfigurationError(f"{text!r} names no cards: write how many of which, as in 8xH200. Known: {names}.")
    for gpu in book.gpu:
        if gpu.name == found[2].strip().upper().replace(" ", "-"):
            return int(found[1]), gpu
    raise ConfigurationError(f"{found[2]} is no card of this table: {names}.")


def _known(wish: LaunchWish, book: LaunchBook) -> set[Strategy]:
    """The strategies with which somebody runs this."""
    wanted = wish.gpus.upper().replace(" ", "-").replace("×", "X").replace("*", "X")
    return {
        strategy
        for row in book.known
        if (row.engine, row.model) == (wish.engine, wish.model) and wanted in [gpus.upper() for gpus in row.gpus]
        for strategy in row.strategies
    }


def _usual_strategy(wish: LaunchWish, book: LaunchBook) -> Strategy:
    wanted = wish.gpus.upper().replace(" ", "-").replace("×", "X").replace("*", "X")
    rows = [row for row in book.known if (row.engine, row.model) == (wish.engine, wish.model)]
    exact = [row for row in rows if wanted in [gpus.upper() for gpus in row.gpus]]
    if exact:
        return exact[0].strategies[0]
    return "auto" if wish.engine in ("nim", "llamacpp") else "tep" if wish.engine == "vllm" else "tp"


def _checkpoint(wish: LaunchWish, book: LaunchBook) -> Checkpoint:
    rows = [row for row in book.checkpoint if row.model == wish.model]
    usual = next((row.release for row in book.known if (row.engine, row.model) == (wish.engine, wish.model)), "preview")
    release = wish.release or usual
    for row in rows:
        if row.release == release:
            break
    else:
        raise ConfigurationError(
            f"There is no release {release} of {wish.model}: there are {', '.join(row.release for row in rows)}."
        )
    if wish.draft not in row.drafts:
        can = " or ".join(f"--draft {draft}" for draft in row.drafts)
        raise ConfigurationError(
            f"{row.repository} has nothing to draft with by {wish.draft}: a checkpoint with DSpark must not be run "
            f"with mtp, nor one without it with dspark. It takes {can}."
        )
    return row


def _refuse(
    wish: LaunchWish, book: LaunchBook, gpu: Gpu, strategy: Strategy, checkpoint: Checkpoint, num_nodes: int
) -> None:
    if strategy == "auto" and wish.engine in ("vllm", "sglang"):
        raise ConfigurationError(f"{wish.engine} finds no parallelism by itself: say --parallel tp, tep or dep.")
    for row in book.refusal:
        if (
            row.engine == wish.engine
            and _holds(row.models, wish.model)
            and _holds(row.families, gpu.family)
            and _holds(row.strategies, strategy)
            and _holds(row.releases, checkpoint.release)
            and _holds(row.drafts, wish.draft)
            and (row.before is None or _is_before(wish, row.before))
            and (num_nodes > 1 or not row.several_nodes)
            and (row.extra is None or any(argument.split("=")[0] == row.extra for argument in wish.extra))
        ):
            raise ConfigurationError(f"This does not work: {row.reason} ({row.source}).")
    if wish.engine == "llamacpp":
        if gpu.family != "local":
            raise ConfigurationError("llama.cpp finds the cards itself: say --gpus 1xlocal.")
        if wish.gguf is None:
            raise ConfigurationError("llama.cpp needs a GGUF file of the model: name it with --gguf.")
        if wish.draft != "none":
            raise ConfigurationError("This table has no command for llama.cpp with drafts; add its own arguments.")
    elif gpu.family == "local":
        raise ConfigurationError(f"{wish.engine} needs to know the cards: say --gpus 8xH200, for example.")


def _check_sizes(wish: LaunchWish, gpu: Gpu, num_gpus: int, num_nodes: int, checkpoint: Checkpoint) -> None:
    if wish.engine == "llamacpp":
        return
    memory_gb = num_gpus * gpu.memory_gb
    if memory_gb < checkpoint.memory_gb:
        raise ConfigurationError(
            f"{wish.gpus} have {memory_gb} GB together; {checkpoint.repository} needs at least {checkpoint.memory_gb}."
        )
    if num_nodes > 1 and num_gpus % gpu.per_node:
        raise ConfigurationError(f"{num_gpus} {gpu.name} are no whole number of machines with {gpu.per_node} each.")
    if num_gpus & (num_gpus - 1):
        raise ConfigurationError(f"V4's heads and experts are spread over 1, 2, 4, 8 or 16 cards, not over {num_gpus}.")
    if not 0 <= wish.rank < num_nodes:
        raise ConfigurationError(f"--rank is {wish.rank}, but the machines are counted from 0 to {num_nodes - 1}.")


def _is_before(wish: LaunchWish, release: str) -> bool:
    """Whether the engine is older than a release."""
    return wish.version is not None and _numbers(wish.version) < _numbers(release)


def _numbers(version: str) -> tuple[int, ...]:
    found = re.fullmatch(r"v?(\d+(?:\.\d+)*)\S*", version.strip())
    if found is None:
        raise ConfigurationError(f"{version!r} is no release: write 0.25.0, for example.")
    return tuple(map(int, found[1].split(".")))


def _holds(wanted: Sequence[str], found: str) -> bool:
    return not wanted or found in wanted

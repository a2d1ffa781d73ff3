"""A chain with another gateway in its middle: deepserve in front of LiteLLM's proxy in front of deepserve."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from bench.litellm import VERSION, installed_litellm, running_litellm

from deepserve.backends.scripted import ScriptedBackend
from deepserve.backends.selection import select_backend
from deepserve.config import Settings, UpstreamSettings
from tests.server.live import LiveServer, live_server
from tests.server.test_chains import DIALECTS, SCRIPT, Bills

MODEL = "deepseek-v4-flash"


@pytest.fixture(scope="module")
def chain() -> Iterator[tuple[LiveServer, Bills, LiveServer, Bills]]:
    """The server behind, what it billed, the one in front, and what that billed."""
    python = installed_litellm()
    if python is None:
        pytest.skip(f"LiteLLM {VERSION} is not installed in .venv-litellm; `make bench` does that")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    theirs, ours = Bills(), Bills()
    with (
        live_server(ScriptedBackend(SCRIPT), observers=(theirs,)) as behind,
        running_litellm(python, port, behind.address, MODEL) as (_, key),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("LITELLM_KEY", key)
        upstream = UpstreamSettings(
            id="litellm",
            kind="openai",
            address=f"http://127.0.0.1:{port}/v1",
            key_variable="LITELLM_KEY",
            models={MODEL: MODEL},
        )
        backend = select_backend(Settings(backend="upstream", upstreams=(upstream,)))
        with live_server(backend, observers=(ours,)) as front:
            yield behind, theirs, front, ours


@pytest.mark.slow
@pytest.mark.parametrize("dialect", list(DIALECTS))
@pytest.mark.parametrize("question", ["hello", "the weather"])
def test_every_dialect_survives_another_gateway(
    chain: tuple[LiveServer, Bills, LiveServer, Bills], dialect: str, question: str
) -> None:
    behind, theirs, front, ours = chain
    ask = DIALECTS[dialect]
    for is_stream in (False, True):
        direct = ask(behind, question, is_stream, MODEL)
        assert ask(front, question, is_stream, MODEL) == direct
        told, paid = theirs.usage[-1], ours.usage[-1]
        assert (paid.prompt_tokens, paid.output_tokens) == (told.prompt_tokens, told.output_tokens)
        cost = ours.costs[-1]
        assert cost is not None
        assert cost.total_usd > 0

"""What servers are told of forms, what they refuse, and how far an answer is held to its form all the same."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from deepserve.backends.cluster.asking import Ask, ServerForm
from deepserve.backends.cluster.backend import ClusterBackend
from deepserve.backends.cluster.form_levels import FormLevels
from deepserve.core.answer import Answer
from deepserve.core.errors import BackendFailure, DeepserveError, UnfitAnswer, UnsupportedFeature
from deepserve.core.request import ResponseFormat, Thinking
from deepserve.core.sampling import Sampling
from deepserve.engine.interface import Draw
from tests.backends.cluster.conftest import Pair
from tests.backends.cluster.fake_cluster import FakeServer, Habits
from tests.backends.cluster.setup import answer, with_cluster
from tests.backends.cluster.test_same_answers import REQUESTS, asked, both
from tests.backends.cluster.test_same_answers import told as said

JSON, CHOICE = REQUESTS["JSON by a schema"], REQUESTS["a choice"]
CALL = REQUESTS["a call demanded"]
ASK = Ask(model="m", prompt=[1], max_tokens=1, stop_tokens=frozenset(), draw=Draw(), salt="s")
FORM = ServerForm(grammar="start: /a/", kind="regex", pattern="a")


def told(server: FakeServer) -> list[list[str]]:
    """The kinds of forms of each request."""
    return [sorted(body.get("structured_outputs", {})) for body in server.asked]


def test_a_server_that_follows_grammars_is_asked_once(shipped: Pair) -> None:
    async def main(backend: ClusterBackend, servers: list[FakeServer]) -> list[list[str]]:
        await answer(backend, JSON)
        return told(servers[0])

    assert with_cluster(shipped.source, shipped.model, main) == [["grammar"]]


def test_what_a_server_refuses_it_is_not_told_again(shipped: Pair) -> None:
    async def main(backend: ClusterBackend, servers: list[FakeServer]) -> list[list[list[str]]]:
        found = []
        for request in (JSON, JSON, CHOICE, CALL):
            servers[0].asked.clear()
            await answer(backend, request)
            found.append(told(servers[0])[:2])
        return found

    first, again, choice, call = with_cluster(shipped.source, shipped.model, main, Habits(forms="plain"))
    assert first == [["grammar"], ["json"]]
    assert again[0] == ["json"]
    assert choice[0] == ["choice"]
    assert call[0] == []  # has no plain words
    first, again, *_ = with_cluster(shipped.source, shipped.model, main, Habits(forms="refuse"))
    assert first == [["grammar"], ["json"]]
    assert again[0] == []


def test_thinking_is_asked_for_by_itself_and_free(shipped: Pair) -> None:
    async def main(backend: ClusterBackend, servers: list[FakeServer]) -> list[dict[str, Any]]:  # Any: JSON
        await answer(backend, msgspec.structs.replace(REQUESTS["any JSON object"], thinking=Thinking(enabled=True)))
        return servers[0].asked

    thinking, form = with_cluster(shipped.source, shipped.model, main)
    assert "structured_outputs" not in thinking
    assert "structured_outputs" in form
    # The second goes on where the thinking ended: with all its tokens, of which the last closes it.
    end_think = shipped.model.tokenizer.special_id("</think>")
    assert form["prompt"][: len(thinking["prompt"])] == thinking["prompt"]
    assert form["prompt"][-1] == end_think
    assert end_think in thinking["stop_token_ids"]
    assert end_think not in form["stop_token_ids"]


def test_a_budget_for_thinking_is_kept_without_a_question(shipped: Pair) -> None:
    async def main(backend: ClusterBackend, servers: list[FakeServer]) -> tuple[Answer, dict[str, float]]:
        return await answer(backend, REQUESTS["a budget for thinking"]), dict(backend.gauges())

    answered, gauges = with_cluster(shipped.source, shipped.model, main)
    assert answered.usage.reasoning_tokens == 5
    assert gauges["cluster_corrections"] == 0  # what must follow is not asked for


def test_corrections_are_counted(shipped: Pair) -> None:
    async def main(backend: ClusterBackend, servers: list[FakeServer]) -> float:
        await answer(backend, CHOICE)
        return dict(backend.gauges())["cluster_corrections"]

    assert with_cluster(shipped.source, shipped.model, main, Habits(forms="ignore")) > 0
    assert with_cluster(shipped.source, shipped.model, main) == 0


def test_a_server_that_cannot_be_held_to_the_form_ends_the_answer_and_not_the_gateway(noise: Pair) -> None:
    """It writes noise and listens to nothing: the answer fails after so many tries, and says why."""

    async def main(backend: ClusterBackend, servers: list[FakeServer]) -> tuple[DeepserveError, int]:
        with pytest.raises(UnfitAnswer, match="could not be held to the form") as raised:
            await answer(backend, CHOICE)
        return raised.value, len(servers[0].asked)

    _, num_asked = with_cluster(noise.source, noise.model, main, Habits(forms="ignore", is_deaf=True))
    assert num_asked < 10


def test_drawn_answers_have_their_form_whatever_the_server_does(noise: Pair) -> None:
    wild = Sampling(temperature=1.5, seed=11)
    request = msgspec.structs.replace(
        asked("json", response_format=ResponseFormat(kind="json_object"), max_tokens=60), sampling=wild
    )

    async def main(backend: ClusterBackend, servers: list[FakeServer]) -> str:
        (result,) = (await answer(backend, request)).results
        return "".join(part.text for part in result.parts if hasattr(part, "text"))

    for habits in (Habits(), Habits(forms="ignore")):
        assert isinstance(json.loads(with_cluster(noise.source, noise.model, main, habits)), dict)


def test_a_refusal_that_has_nothing_to_do_with_a_form_is_told(shipped: Pair) -> None:
    async def main(backend: ClusterBackend, servers: list[FakeServer]) -> int:
        with pytest.raises(BackendFailure, match="refused the request"):
            await answer(backend, JSON)
        return len(servers[0].asked)

    assert with_cluster(shipped.source, shipped.model, main, Habits(status=400)) == 3  # once for each level


def test_a_level_that_was_taken_once_is_only_left_out_for_the_form_that_was_refused() -> None:
    levels = FormLevels(("grammar", "plain", "none"), name="x")
    with_form = msgspec.structs.replace(ASK, form=FORM)
    levels.note_taken(with_form)
    assert levels.note_refused(with_form) == "plain"
    assert levels.current == "grammar"
    assert levels.note_refused(msgspec.structs.replace(with_form, level="plain")) == "none"
    assert levels.current == "grammar"


def test_a_level_that_was_never_taken_is_given_up() -> None:
    levels = FormLevels(("grammar", "plain", "none"), name="x")
    levels.note_taken(ASK)  # without a form
    assert levels.note_refused(msgspec.structs.replace(ASK, form=FORM)) == "plain"
    assert levels.current == "plain"


@pytest.mark.parametrize("name", ["a choice", "JSON by a schema", "a call demanded", "a pattern"])
def test_a_server_that_drafts_ahead_is_held_to_forms_without_a_bias(noise: Pair, name: str) -> None:
    """vLLM refuses `logit_bias` then, but takes a list of the tokens that may be drawn."""
    request = msgspec.structs.replace(
        REQUESTS[name], sampling=Sampling(temperature=0.0, num_top_logprobs=0), max_output_tokens=60
    )
    here, there = both(noise, request, "vllm", Habits(forms="ignore", drafts=True))
    assert said(there) == said(here)


def test_penalties_go_on_without_a_bias_where_the_server_takes_none(shipped: Pair) -> None:
    async def main(backend: ClusterBackend, servers: list[FakeServer]) -> int:
        request = msgspec.structs.replace(
            REQUESTS["penalties"], sampling=Sampling(temperature=0.0, frequency_penalty=0.5)
        )
        (result,) = (await answer(backend, request)).results
        assert result.finished.reason in ("stop", "length")
        first = sum("logit_bias" in body for body in servers[0].asked)
        await answer(backend, request)
        return first + 1000 * (sum("logit_bias" in body for body in servers[0].asked) - first)

    # One request is refused for its bias; from then on none has one.
    assert with_cluster(shipped.source, shipped.model, main, Habits(drafts=True, breaks_after=6)) == 1


@pytest.mark.parametrize(("knob", "value"), [("logit_bias", {5: 1.0}), ("min_p", 0.1)], ids=["logit_bias", "min_p"])
def test_a_knob_that_the_server_does_not_take_is_named(shipped: Pair, knob: str, value: object) -> None:
    request = msgspec.structs.replace(
        REQUESTS["a question"], sampling=msgspec.structs.replace(Sampling(temperature=1.0), **{knob: value})
    )

    async def main(backend: ClusterBackend, servers: list[FakeServer]) -> DeepserveError:
        with pytest.raises(UnsupportedFeature, match=f"does not take `{knob}`") as raised:
            await answer(backend, request)
        return raised.value

    assert with_cluster(shipped.source, shipped.model, main, Habits(drafts=True)).field == knob


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_frequency_penalties_are_not_forgotten_where_a_server_broke_off(shipped: Pair, kind: str) -> None:
    request = msgspec.structs.replace(REQUESTS["penalties"], sampling=Sampling(temperature=0.0, frequency_penalty=0.9))
    here, there = both(shipped, request, kind, Habits(breaks_after=6))
    assert said(there) == said(here)


def test_a_server_that_charges_prompts_is_not_told_of_penalties_twice(shipped: Pair) -> None:
    async def main(backend: ClusterBackend, servers: list[FakeServer]) -> list[bool]:
        await answer(backend, REQUESTS["penalties"])
        return ["logit_bias" in body for body in servers[0].asked]

    asked_with = with_cluster(shipped.source, shipped.model, main, Habits(breaks_after=6), kind="llamacpp")
    assert len(asked_with) > 1
    assert not any(asked_with)

"""How answers are scored, and the model card made of it."""

from __future__ import annotations

import msgspec
import pytest
import torch
from training.card import card
from training.conversations import Call, Conversation, Tool, Turn
from training.evaluate import MEMORY_BYTES, Outcome, answer_of, greedy, is_well_formed, score, table
from training.shape import MINI_FLASH
from training.train import LogLine

from deepserve.engine.reference.engine import ReferenceEngine
from deepserve.engine.reference.network import Network

EOS = "<｜end▁of▁sentence｜>"
CALL = '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
THINKING = Conversation(
    skill="test",
    turns=(
        Turn(role="user", content="Hi"),
        Turn(role="assistant", content="Hello.", calls=(Call(name="f", arguments={}),)),
    ),
    tools=(Tool(name="f", description="", parameters={}),),
)
CHAT = msgspec.structs.replace(THINKING, thinking=False)


@pytest.mark.parametrize(
    ("text", "conversation", "is_good"),
    [
        (f"Short.</think>Hello.{EOS}", THINKING, True),
        (f"Hello.{EOS}", CHAT, True),
        (f"Short.</think>{CALL}{EOS}", THINKING, True),
        ("Short.</think>Hello.", THINKING, False),
        (f"Never closed.{EOS}", THINKING, False),
        (f"a</think>b</think>c{EOS}", THINKING, False),
        (f"Stray.</think>Hello.{EOS}", CHAT, False),
        (f"{CALL[:-20]}{EOS}", CHAT, False),
        (f"{CALL} and more{EOS}", CHAT, False),
    ],
)
def test_a_turn_is_well_formed_if_it_ends_and_closes_what_it_opens(
    text: str, conversation: Conversation, is_good: bool
) -> None:
    assert is_well_formed(text, conversation) == is_good


def test_only_the_answer_is_compared_not_the_thought() -> None:
    assert answer_of(f"One way.</think>Hello.{EOS}") == answer_of(f"Another.</think>Hello.{EOS}") == "Hello."


def test_scores_count_right_and_well_formed_answers_by_skill_and_mode() -> None:
    outcomes = [
        Outcome(conversation=THINKING, wanted="Hello.", text=f"x</think>Hello.{EOS}"),
        Outcome(conversation=THINKING, wanted="Hello.", text=f"x</think>Hullo.{EOS}"),
        Outcome(conversation=CHAT, wanted="Hello.", text="Hello."),
    ]
    scores = score(outcomes)
    assert (scores["test"].num_asked, scores["test"].num_right, scores["test"].num_well_formed) == (3, 2, 2)
    assert scores["all, thinking"].num_right == 1
    assert "| test | 3 | 67% | 67% |" in table(scores)


def test_greedy_takes_what_the_dense_network_finds_most_likely() -> None:
    network = Network(MINI_FLASH)
    network.initialise(torch.Generator().manual_seed(1))
    engine = ReferenceEngine(network.requires_grad_(False).eval(), memory_bytes=MEMORY_BYTES)
    prompts = [[0, 5, 6, 7], list(range(100, 240)), [0, 9]]
    outputs = greedy(engine, prompts, end=1, limit=4, rows=2)
    for prompt, output in zip(prompts, outputs, strict=True):
        logits = network(torch.tensor([[*prompt, *output[:-1]]]))
        assert logits[0, len(prompt) - 1 :].argmax(-1).tolist() == output


def test_the_card_states_what_was_measured() -> None:
    network = Network(MINI_FLASH)
    network.initialise(torch.Generator().manual_seed(1))
    engine = ReferenceEngine(network.requires_grad_(False).eval(), memory_bytes=MEMORY_BYTES)
    outcome = Outcome(conversation=THINKING, wanted="Hello.", text=f"x</think>Hello.\nAgain.{EOS}")
    trained = LogLine(
        share=1.0, step=10, num_tokens=12_300_000, elapsed_s=5400.0, tokens_per_s=1.0, loss=0.1, index_loss=None
    )
    text = card(engine.info, (0, 0, 4, 128), 5_900_000, trained, [outcome], [outcome], 70)
    for fact in ("12.3M tokens in 90 minutes", "0, 0, 4, 128", "5.9 MB", "| test | 1 | 0% | 100% |", "    Again."):
        assert fact in text
    assert "not DeepSeek's model" in text

"""How good a model is on values it has never seen: greedy answers, compared with what the generator would have written.

python -m training.evaluate --run mini-flash --per-skill 20      a training run's averaged weights
python -m training.evaluate --model src/deepserve/models/mini-flash --per-skill 50 --out table.md
python -m training.evaluate --run mini-flash --showcase          print the answers to the example prompts
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from deepserve.engine.interface import CHUNK_TOKENS, Draw, Drawn, Engine, Row, SequenceId
from deepserve.engine.reference.checkpoint import load_network
from deepserve.engine.reference.engine import ReferenceEngine
from deepserve.engine.reference.network import Network
from deepserve.prompt.special_tokens import END_THINK, EOS
from training.conversations import Conversation
from training.mixture import evaluation_set, fingerprint
from training.rendering import prompt, transcript
from training.shape import MINI_FLASH
from training.showcase import showcase
from training.train import RUNS, TOKENIZER
from training.vocabulary import Encoder

MEMORY_BYTES = 512 << 20


class Score(msgspec.Struct, kw_only=True):
    """What became of the conversations of one skill."""

    num_asked: int = 0
    num_right: int = 0
    num_well_formed: int = 0


def greedy(
    engine: Engine, prompts: Sequence[Sequence[int]], *, end: int, limit: int = 320, rows: int = 16
) -> list[list[int]]:
    """The most likely continuation of each prompt, up to and including the end token."""
    found: list[list[int]] = [[] for _ in prompts]
    waiting = list(range(len(prompts)))
    running: dict[int, SequenceId] = {}
    while waiting or running:
        while waiting and len(running) < rows:
            i = waiting.pop(0)
            running[i] = engine.create()
            for first in range(0, len(prompts[i]), CHUNK_TOKENS):
                chunk = prompts[i][first : first + CHUNK_TOKENS]
                draw = Draw(temperature=0.0) if first + CHUNK_TOKENS >= len(prompts[i]) else None
                (drawn,) = engine.step([Row(sequence=running[i], tokens=chunk, draw=draw)])
                if isinstance(drawn, Drawn):
                    found[i].append(drawn.token)
        order = list(running)
        for i in order:
            if found[i][-1] == end or len(found[i]) == limit:
                engine.free(running.pop(i))
        order = list(running)
        step = [Row(sequence=running[i], tokens=found[i][-1:], draw=Draw(temperature=0.0)) for i in order]
        for i, drawn in zip(order, engine.step(step) if step else [], strict=True):
            assert isinstance(drawn, Drawn)
            found[i].append(drawn.token)
    return found


@torch.no_grad()
def forced_accuracy(
    network: Network, encoder: Encoder, conversations: Sequence[Conversation]
) -> dict[str, tuple[int, int]]:
    """Per skill: how many last answers are predicted token by token, given the right beginning; and of how many."""
    found: dict[str, list[bool]] = defaultdict(list)
    examples = []
    for conversation in conversations:
        whole = encoder.encode(transcript(conversation))[0]
        examples.append((conversation.skill, len(encoder.encode(prompt(conversation))[0]), whole))
    examples.sort(key=lambda example: len(example[2]))
    for first in range(0, len(examples), 16):
        rows = examples[first : first + 16]
        tokens = torch.zeros(len(rows), max(len(whole) for _, _, whole in rows), dtype=torch.int64)
        for row, (_, _, whole) in enumerate(rows):
            tokens[row, : len(whole)] = torch.tensor(whole)
        best = network(tokens).argmax(-1)
        for row, (skill, start, whole) in enumerate(rows):
            found[skill].append(best[row, start - 1 : len(whole) - 1].tolist() == whole[start:])
    return {skill: (sum(right), len(right)) for skill, right in sorted(found.items())}


def answer_of(text: str) -> str:
    """What follows the thought, without the end mark."""
    return text.split(END_THINK, 1)[-1].removesuffix(EOS)


def is_well_formed(text: str, conversation: Conversation) -> bool:
    """Ends by itself, closes its thought exactly if it has one, and has balanced tool markup."""
    answer = answer_of(text)
    return (
        text.endswith(EOS)
        and text.count(END_THINK) == int(conversation.thinking)
        and answer.count("<｜DSML｜") == answer.count("</｜DSML｜")
        and ("｜DSML｜" not in answer or answer.endswith("</｜DSML｜tool_calls>"))
    )


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One conversation, what should have been answered, and what was."""

    conversation: Conversation
    wanted: str
    text: str
    """With the thought, as written."""

    @property
    def is_right(self) -> bool:
        """Exact agreement of the answer; the thought is free."""
        return answer_of(self.text) == self.wanted


def ask(engine: Engine, encoder: Encoder, conversations: Sequence[Conversation]) -> list[Outcome]:
    """Let the model write the last answer of each conversation."""
    prompts = [encoder.encode(prompt(conversation))[0] for conversation in conversations]
    outputs = greedy(engine, prompts, end=encoder.tokenizer.eos_id)
    return [
        Outcome(
            conversation=conversation,
            wanted=answer_of(transcript(conversation).text.removeprefix(prompt(conversation).text)),
            text=encoder.decode(output),
        )
        for conversation, output in zip(conversations, outputs, strict=True)
    ]


def score(outcomes: Sequence[Outcome]) -> dict[str, Score]:
    """By skill, and by thinking."""
    scores: dict[str, Score] = defaultdict(Score)
    for one in outcomes:
        mode = "all, thinking" if one.conversation.thinking else "all, not thinking"
        for name in (one.conversation.skill, mode):
            scores[name].num_asked += 1
            scores[name].num_right += one.is_right
            scores[name].num_well_formed += is_well_formed(one.text, one.conversation)
    return dict(sorted(scores.items()))


def table(scores: dict[str, Score]) -> str:
    """A Markdown table."""
    lines = ["| skill | asked | exactly right | well-formed |", "|---|---|---|---|"]
    for name, one in scores.items():
        right, well_formed = one.num_right / one.num_asked, one.num_well_formed / one.num_asked
        lines.append(f"| {name} | {one.num_asked} | {right:.0%} | {well_formed:.0%} |")
    return "\n".join(lines)


def load_average(run: str) -> Network:
    """The averaged weights of a training run."""
    network = Network(MINI_FLASH)
    network.load_state_dict(torch.load(RUNS / run / "average.pt", weights_only=True))
    return network.requires_grad_(False).eval()


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description="Evaluate a model on held-out values.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", help="a training run's averaged weights")
    source.add_argument("--model", type=Path, help="a model folder")
    parser.add_argument("--per-skill", type=int, default=10)
    parser.add_argument("--forced", action="store_true", help="teacher-forced and quick instead of generated")
    parser.add_argument("--showcase", action="store_true")
    parser.add_argument("--failures", action="store_true", help="also print what went wrong")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network = load_average(arguments.run) if arguments.run is not None else load_network(arguments.model)
    engine, encoder = ReferenceEngine(network, memory_bytes=MEMORY_BYTES), Encoder.load(TOKENIZER)
    if arguments.showcase:
        for thinking in (True, False):
            asked = showcase(thinking=thinking)
            prompts = [encoder.encode(prompt(one))[0] for one in asked]
            for one, output in zip(
                asked, greedy(engine, prompts, end=encoder.tokenizer.eos_id, limit=160), strict=True
            ):
                print(f"> {one.turns[-2].content}\n{encoder.decode(output)}\n")
        return
    chosen = evaluation_set(arguments.per_skill)
    print(f"{len(chosen)} held-out conversations, {fingerprint(chosen)[:16]}")
    if arguments.forced:
        accuracy = forced_accuracy(network, encoder, chosen)
        print("  ".join(f"{skill} {right}/{asked}" for skill, (right, asked) in accuracy.items()))
        print(f"all {sum(right for right, _ in accuracy.values())}/{len(chosen)}")
        return
    outcomes = ask(engine, encoder, chosen)
    if arguments.failures:
        for outcome in outcomes:
            if not outcome.is_right:
                given = prompt(outcome.conversation).text[-300:]
                print(f"--- {outcome.conversation.skill}\n{given}\n{outcome.text}\nwanted {outcome.wanted}")
    text = table(score(outcomes))
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()

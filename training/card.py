"""Write the model card of a model folder from what was measured just now.

python -m training.card --model src/deepserve/models/mini-flash --run mini-flash --per-skill 40
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from deepserve.engine.interface import EngineInfo
from deepserve.engine.reference.checkpoint import load_network
from deepserve.engine.reference.engine import ReferenceEngine
from training.evaluate import MEMORY_BYTES, Outcome, answer_of, ask, score, table
from training.mixture import evaluation_set, fingerprint
from training.phrases import topics
from training.showcase import showcase
from training.train import RUNS, LogLine
from training.vocabulary import Encoder

_CARD = """# mini-flash

A very small language model with the architecture of DeepSeek V4, trained from scratch by this project on text that the
project generates itself. **It is not DeepSeek's model and has nothing of its knowledge.** It is there so that every
feature of the API can be tried offline: thinking, tool calls, JSON, streaming, caching.

This file is written by `python -m training.card`; every number in it was measured by that run.

## What it is

| | |
|---|---|
| parameters | {total:.2f}M, of which {active:.2f}M work on a token |
| layers | {layers} with compression ratios {ratios} |
| context | {context:,} tokens accepted; trained on at most 2,048 |
| vocabulary | {vocabulary:,} entries, all V4 special tokens |
| weights | bfloat16, {size:.1f} MB |
| trained on | {tokens:.1f}M tokens in {minutes:.0f} minutes on one CPU thread |
| licence | MIT, as the project |

## What it can do

Greet, say what it is, explain {num_topics} topics in one sentence, a paragraph or bullets, call offered tools with
values from the request, turn tool results into an answer, pick fields out of a short text as JSON, name capitals, make
lists, count, repeat. With thinking it writes one line of plan first. English; greetings in Chinese. Use temperature 0.

What it cannot do: everything else. It says so when it notices, and is wrong when it does not. It does not
calculate, counts safely only to ten, and spells keys wrong that are common words it never had as keys. Its facts are a
few dozen memorised sentences.

## Measured

Greedy answers to {asked} generated conversations (set `{fingerprint}`). Their names, places, words, codes, field
names, made-up tool names and numbers from 20 up never occur in training; topics, facts about countries, names of
common tools and the frames of sentences do. "Exactly right" compares the whole answer letter by letter; the thought
is free. "Well-formed" means that the answer ends by itself, closes its thought and has balanced tool markup.

{table}

## The first things people ask

As answered by these weights at temperature 0, thinking, with the default effort.

{examples}
"""


def example(outcome: Outcome) -> str:
    """A question and its answer as quoted text."""
    question = outcome.conversation.turns[-2].content
    lines = answer_of(outcome.text).strip("\n").split("\n")
    note = " (tools offered)" if outcome.conversation.tools else ""
    note += " (JSON mode, capital asked for in the system prompt)" if outcome.conversation.json_object else ""
    return f"**{question}**{note}\n\n" + "\n".join(f"    {line}" for line in lines)


def last_log_line(run: str) -> LogLine:
    """Where a training run ended."""
    return msgspec.json.decode((RUNS / run / "log.jsonl").read_bytes().splitlines()[-1], type=LogLine)


def card(
    info: EngineInfo,
    ratios: Sequence[int],
    size_bytes: int,
    trained: LogLine,
    measured: Sequence[Outcome],
    shown: Sequence[Outcome],
    num_topics: int,
) -> str:
    """The text of the card."""
    return _CARD.format(
        total=info.total_parameters / 1e6,
        active=info.active_parameters / 1e6,
        layers=len(ratios),
        ratios=", ".join(map(str, ratios)),
        context=info.max_context,
        vocabulary=info.vocab_size,
        size=size_bytes / 1e6,
        tokens=trained.num_tokens / 1e6,
        minutes=trained.elapsed_s / 60,
        num_topics=num_topics,
        asked=len(measured),
        fingerprint=fingerprint([outcome.conversation for outcome in measured])[:16],
        table=table(score(measured)),
        examples="\n\n".join(example(outcome) for outcome in shown),
    )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Write the model card of a model folder.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--run", required=True, help="the training run the weights come from")
    parser.add_argument("--per-skill", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder: Path = arguments.model
    engine = ReferenceEngine(load_network(folder), memory_bytes=MEMORY_BYTES)
    encoder = Encoder.load(folder / "tokenizer.json")
    text = card(
        engine.info,
        load_network(folder).config.compress_ratios,
        (folder / "model.safetensors").stat().st_size,
        last_log_line(arguments.run),
        ask(engine, encoder, evaluation_set(arguments.per_skill)),
        ask(engine, encoder, showcase(thinking=True)),
        len(topics()),
    )
    (folder / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

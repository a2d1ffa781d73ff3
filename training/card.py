"""The model card: what the shipped models are, what was measured of them, and what to expect beyond their depth.

    python -m training.card

Written from what lies beside the weights (`evaluation.json`, `log.jsonl`), so that it can be made again at any time;
nothing is measured here. docs/models.md is the card of all, README.md in each model's folder a short one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from training.curves import CURVES_FILE, LOG_FILE, read_log
from training.eval.formats import SHIPPED, models_folder
from training.eval.questions import PER_SKILL, RECALL_QUESTIONS
from training.eval.results import FILE_NAME, Results, load_results
from training.eval.table import skills_table, targets_table, ways_table
from training.shape import MINI_FLASH
from training.train import LogLine

DOCS = Path(__file__).parent.parent / "docs"
CARD = DOCS / "models.md"

_INTRODUCTION = """# The models that ship

<!-- Written by `python -m training.card` from what `make eval` measured. -->

Very small language models with the architecture of DeepSeek V4, trained from scratch by this project on text that the
project generates itself. **They are not DeepSeek's models and have nothing of their knowledge.** They are there so that
every feature of the API can be tried offline: thinking, tool calls, JSON, streaming, caching, routing, escalation.

{served}

## What they are

{facts}

{grown}Licence: MIT, as the project. [How they are trained](../training/README.md); [a tour](tour.md).

## What they reach

Greedy answers to {asked} questions (set `{questions}`), one try each. Names, places, words, codes, tool and
field names and most numbers in them never occur in training, nor do a share of the sentences they are put in; topics
and facts about the world do. Bold: below the goal.

{targets}

"Right" compares a call by its name and its arguments, JSON by its values, a sum by its number, an explanation by the
facts it has to name, anything else by its words. "Well-formed" is a turn that ends by itself, closes its thought and
leaves no stray markup. Rows are asked thinking at effort high and with forms enforced, as the server does unless told
otherwise, except where they say something else.
"""

_GROWN = """mini-pro began as what mini-flash had become, made wider and deeper; its own training is what came then.

"""

_LIMITS = """## What to expect

Use them for trying things, not for answers you would act on. Within the skills above they are as good as the tables
say; outside of them they are wrong without knowing it.

- The world they know is a few dozen topics around this server, some countries and capitals. Everything else they should
  decline; what they do not recognise as foreign they answer with something familiar.
- English. Some greetings and simple requests in Chinese; other languages are not understood.
- Quality is measured up to 16,000 tokens of prompt; {context:,} are accepted. The last {window:,} are read word for
  word, what is further away through compressed entries, of which little was learned: facts told there are mostly lost.
- Values are copied from the prompt letter by letter, which fails now and then for long or unusual ones. Enforced forms
  (tools, JSON schemas) make an answer parse, not be right.
- In a long conversation later answers mix with earlier ones; a new conversation is better than a longer one.
- Use temperature 0, which is the default here.

What limits them is time: {tokens}.
A skill is one of about fifty and gets a few thousand examples of that; most rows were still rising when it ended.
"""

_ODDITIES = """### {model} on bad input

As answered at temperature 0, thinking, at most 1,024 tokens. The server is not troubled by any of it.

| input | answer | ended by | tokens |
|---|---|---|---:|
{rows}
"""


class Shipped(msgspec.Struct, frozen=True):
    """One model's folder and what lies in it."""

    folder: Path
    results: Results
    log: Sequence[LogLine]

    @property
    def name(self) -> str:
        """The folder's."""
        return self.results.model


def read_shipped(models: Path) -> list[Shipped]:
    """Every model that was measured, in the order of their names."""
    found = []
    for folder in sorted(models.iterdir()):
        if (folder / FILE_NAME).exists():
            log = read_log(folder / LOG_FILE) if (folder / LOG_FILE).exists() else []
            found.append(Shipped(folder, load_results(folder), log))
    return found


def card(every: Sequence[Shipped], *, docs: Path = DOCS) -> str:
    """The page about all of them; pictures are linked as seen from `docs`."""
    results = [one.results for one in every]
    parts = [
        _INTRODUCTION.format(
            served=_served([one.name for one in every]),
            facts=_facts_table(every),
            grown=_GROWN if "mini-pro" in [one.name for one in every] else "",
            asked=f"{results[0].num_questions:,}",
            questions=results[0].questions[:16],
            targets=targets_table(results),
        )
    ]
    for one in every:
        parts.append(f"## {one.name} in every way of asking\n\n{_rounding(one.results)}\n\n{ways_table(one.results)}\n")
        parts.append(f"### Skill by skill\n\n{_skills_note(one.results)}\n\n{skills_table(one.results)}\n")
    curves = [one for one in every if (one.folder / CURVES_FILE).exists()]
    if curves:
        parts.append("## Learning curves\n")
        for one in curves:
            parts.append(f"![Loss of {one.name}]({_relative(one.folder / CURVES_FILE, docs)})\n")
    parts.append(
        _LIMITS.format(
            context=results[0].facts.max_context, window=MINI_FLASH.sliding_window, tokens=_tokens_read(every)
        )
    )
    parts += [_oddities(one) for one in results if one.oddities]
    return "\n".join(parts).rstrip("\n") + "\n"


def short_card(one: Shipped) -> str:
    """README.md of a model's folder."""
    return "\n".join(
        [
            f"# {one.name}\n",
            "A very small language model with the architecture of DeepSeek V4, trained from scratch by this project.\n"
            "It is not DeepSeek's model and has nothing of its knowledge. What to expect of it is in the project's\n"
            "`docs/models.md`.\n",
            _facts_table([one]),
            "",
            targets_table([one.results]),
            "",
        ]
    )


def _served(names: Sequence[str]) -> str:
    if "mini-pro" in names:
        return "`deepseek-v4-flash` is answered by mini-flash, `deepseek-v4-pro` by mini-pro."
    return "Both `deepseek-v4-flash` and `deepseek-v4-pro` are answered by mini-flash."


def _facts_table(every: Sequence[Shipped]) -> str:
    facts = [one.results.facts for one in every]
    rows: list[tuple[str, list[str]]] = [
        ("parameters", [f"{one.total_parameters / 1e6:.2f}M" for one in facts]),
        ("of which work on a token", [f"{one.active_parameters / 1e6:.2f}M" for one in facts]),
        (
            "layers, and their compression ratios",
            [f"{one.num_layers}: {_listed(one.compress_ratios)}" for one in facts],
        ),
        ("width", [str(one.hidden_size) for one in facts]),
        ("vocabulary, with all special tokens of V4", [f"{one.vocab_size:,}" for one in facts]),
        ("context", [f"{one.max_context:,} tokens" for one in facts]),
        ("weights", [f"{one.size_bytes / 1e6:.1f} MB, {one.formats}" for one in facts]),
        ("first token of a 200-token prompt, one core", [f"{one.first_token_ms:.0f} ms" for one in facts]),
    ]
    if any(one.log for one in every):
        rows.append(("trained on", [_training(one.log) for one in every]))
    lines = [f"| | {' | '.join(one.name for one in every)} |", "|---|" + "---|" * len(every)]
    return "\n".join([*lines, *(f"| {what} | {' | '.join(values)} |" for what, values in rows)])


def _training(log: Sequence[LogLine]) -> str:
    if not log:
        return "not recorded"
    last = log[-1]
    return f"{last.num_tokens / 1e6:.1f}M tokens in {last.elapsed_s / 60:.0f} minutes, loss {last.loss:.3f} at the end"


def _tokens_read(every: Sequence[Shipped]) -> str:
    read = [f"{one.name} read {one.log[-1].num_tokens / 1e6:.0f} million tokens" for one in every if one.log]
    return " and ".join(read) or "two hours on one core"


def _rounding(results: Results) -> str:
    """What the shipped format costs, where it was compared."""
    shown = "All skills together, but for the two longest recalls, which are not asked in every way."
    if "fp32" not in results.formats or results.shipped_format != SHIPPED:
        return shown
    percents = {}
    for name in ("fp32", SHIPPED):
        scores = [one for one in results.ways if one.way.format == name]
        asked = sum(score.num_asked for one in scores for score in one.skills.values())
        right = sum(score.num_right for one in scores for score in one.skills.values())
        percents[name] = 100 * right / asked
    lost = percents["fp32"] - percents[SHIPPED]
    return f"{shown} {SHIPPED}, which ships, {'loses' if lost >= 0 else 'gains'} {abs(lost):.1f} points against fp32."


def _skills_note(results: Results) -> str:
    fewer = ", ".join(f"{count} for {name}" for name, count in RECALL_QUESTIONS.items())
    return (
        f"Right answers in {results.shipped_format}, by how much it thinks. {PER_SKILL} questions for each skill of "
        f"the mixture ({fewer}); one skill makes several kinds."
    )


def _oddities(results: Results) -> str:
    enders = {"stop": "the model", "length": "the limit"}
    rows = [
        f"| {one.name} | {_cell(one.answer)} | {enders[one.ended]} | {one.num_tokens} |" for one in results.oddities
    ]
    return _ODDITIES.format(model=results.model, rows="\n".join(rows))


def _cell(text: str) -> str:
    """Any text in one cell of a table, as it is."""
    flat = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{flat}`" if flat else "(nothing)"


def _relative(path: Path, docs: Path) -> str:
    return Path(os.path.relpath(path, docs)).as_posix()


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def main() -> None:
    """Write all cards."""
    every = read_shipped(models_folder())
    CARD.write_text(card(every), encoding="utf-8")
    print(CARD)
    for one in every:
        (one.folder / "README.md").write_text(short_card(one), encoding="utf-8")
        print(one.folder / "README.md")


if __name__ == "__main__":
    main()

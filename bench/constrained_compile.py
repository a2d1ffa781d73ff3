"""What the form of an answer adds to its first token: compiling a tool's schema, first and again.

    python -m bench.constrained_compile

The shipped model's vocabulary, one thread, medians. Cold is everything between the schema and a matcher that can be
followed, within a compiler that has seen other forms; warm is the same form asked for again.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import msgspec

from bench.results import Recorder
from bench.schemas import tool_schemas
from deepserve.backends.tokens.form import call_markup, vocabulary_of
from deepserve.backends.tokens.model import load_model
from deepserve.core.messages import Json
from deepserve.grammar.answer_form import AnswerForm, CallableTool
from deepserve.grammar.compiler import GrammarCompiler
from deepserve.grammar.json_schema import json_grammar

REPEATS = 15
LARGE_BYTES = 8_192
"""Above, the time is told and not judged: the goal speaks of typical sizes."""


def main() -> int:
    recorder = Recorder("Compiling a strict tool, the shipped model's vocabulary")
    model = load_model(None)
    markup = call_markup(model.tokenizer)
    vocabulary = vocabulary_of(model.tokenizer, model.stop_tokens, model.tokenizer.vocab_size)
    compiler = GrammarCompiler(vocabulary, markup)
    compiler.warm()
    for name, schema in tool_schemas().items():
        num_bytes = len(msgspec.json.encode(schema))
        is_judged = num_bytes <= LARGE_BYTES
        cold, grammar = [], []
        for repeat in range(REPEATS):
            grammar.append(_milliseconds(partial(json_grammar, schema, strict=True)))
            form = _form(schema, repeat)
            cold.append(_milliseconds(partial(compiler.compile, form)))
        warm = [_milliseconds(partial(compiler.compile, form)) for _ in range(REPEATS)]
        recorder.add(
            f"{name}, cold",
            statistics.median(cold),
            "ms",
            details=f"{num_bytes:,} bytes; {statistics.median(grammar):.2f} ms to read and rewrite the schema",
            at_most=5 if is_judged else None,
        )
        recorder.add(f"{name}, warm", statistics.median(warm), "ms", at_most=0.5)
    return recorder.finish()


def _form(schema: Json, number: int) -> AnswerForm:
    """A form that the compiler has not seen: the tool's name is new."""
    tool = CallableTool(name=f"tool_{number}", parameters=schema, is_strict=True)
    return AnswerForm(tools=(tool,), calls="optional")


def _milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


if __name__ == "__main__":
    sys.exit(main())

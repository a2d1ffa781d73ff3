"""Well-formed answers are read as the vendor's package reads them, whole and in pieces.

What counts as well-formed, and how damaged answers are read differently, stands in docs/prompt-format.md.
"""

from __future__ import annotations

import json
import random
import re
from types import ModuleType
from typing import Any

from deepserve.prompt.encoder import encode_transcript
from deepserve.prompt.profile import load_profile
from deepserve.prompt.segments import Prompt, Stage
from deepserve.prompt.segments import Text as TextSegment
from deepserve.prompt.special_tokens import DSML, END_THINK, THINK
from deepserve.prompt.tool_markup import CALLS_CLOSE, CALLS_OPEN, INVOKE_CLOSE
from tests.prompt.corpus import as_request, random_body
from tests.prompt.requests import Answer, decode

STAGES: tuple[Stage, ...] = ("reasoning", "reasoning_continued", "text", "text_continued")
FRAGMENTS = (
    "a", "word ", " ", "\n", "\n\n", "é", "😀", "<", "</", ">", "<b>", "</thin", "｜", "<｜", "DSML", '"', "\\", "{",
    "}", "\t", "2>&1", "\u2028", "\x01", "[1, 2]",
)  # fmt: skip
INVOKE = '<｜DSML｜invoke name="f">'


def vendor_answer(
    recipe: ModuleType, text: str, stage: Stage, offers_tools: bool, size: int | None, *, wants_json: bool = False
) -> Answer:
    """What the package's stream processor makes of an answer."""
    initial = recipe.ThinkingInitialStage
    options = recipe.ParsingOptions(
        parse_tool_calls=offers_tools,
        starts_in_tool_calls=stage == "tool_calls",
        parse_json_output=wants_json,
        thinking_initial_stage={
            "reasoning": initial.ReasoningStart,
            "reasoning_continued": initial.ReasoningContinuation,
            "text_continued": initial.ContentContinuation,
        }.get(stage),
    )
    conversation = recipe.Conversation([recipe.UserMessage("?")])
    inner = recipe.ConversationRequest(conversation, recipe.ModelVersion.DeepseekV4Pro)
    generator = recipe.ChatCompletionRequest.chunk_generator(inner, "id", "model")
    processor = recipe.StreamProcessor(generator, options)
    chunks = processor.push(recipe.InferenceChunk.ready(prompt_usage=recipe.PromptUsage(prompt_tokens=1)))
    pieces = [text] if size is None else [text[start : start + size] for start in range(0, len(text), size)]
    for piece in pieces:
        chunks += processor.push(recipe.InferenceChunk.text(piece, 1))
    chunks += processor.push(recipe.InferenceChunk.finish(recipe.InferenceFinishReason.Stop))
    chunks += processor.finish()

    answer = Answer(None, None, [])
    for chunk in chunks:
        for choice in json.loads(chunk.to_json())["choices"]:
            delta: dict[str, Any] = choice["delta"]
            if delta.get("reasoning_content"):
                answer.reasoning = (answer.reasoning or "") + delta["reasoning_content"]
            if delta.get("content"):
                answer.text = (answer.text or "") + delta["content"]
            for call in delta.get("tool_calls") or ():
                if call.get("id"):
                    answer.calls.append([call["function"]["name"], ""])
                answer.calls[call["index"]][1] += call["function"].get("arguments") or ""
    return answer


def assert_equal(recipe: ModuleType, text: str, stage: Stage, *, offers_tools: bool = True, label: object = "") -> None:
    theirs = vendor_answer(recipe, text, stage, offers_tools, None)
    for size in (None, 1, 3):
        ours = decode(text, stage=stage, offers_tools=offers_tools, size=size)
        assert ours.damage is None, label
        assert (ours.reasoning, ours.text, ours.calls) == (theirs.reasoning, theirs.text, theirs.calls), label


def test_rendered_answers_are_read_as_the_vendor_reads_them(recipe: ModuleType) -> None:
    """Every turn the encoder writes is an answer the model could have given."""
    profile = load_profile("0731")
    num_compared = 0
    for seed in range(900):
        body = random_body(random.Random(seed), is_orderly=True)
        body["messages"] = [message for message in body["messages"] if message["role"] in ("user", "assistant", "tool")]
        body["tool_choice"] = "auto"
        if body["messages"][-1]["role"] != "assistant" or body["messages"][-1].get("prefix"):
            body["messages"].append({"role": "assistant", "content": "fine", "reasoning_content": "x"})
        transcript = encode_transcript(as_request(body), profile)
        thinks = body["thinking"]["type"] == "enabled"
        for begin, end in transcript.outputs:
            answer = Prompt(segments=transcript.segments[begin : end - 1], start=transcript.start)
            if spells_no_mark(answer):
                is_thought = thinks and (bool(body.get("tools")) or (begin, end) == transcript.outputs[-1])
                stage: Stage = "reasoning" if is_thought else "text"
                assert_equal(recipe, answer.text, stage, offers_tools=bool(body.get("tools")), label=seed)
                num_compared += 1
    assert num_compared > 500


def spells_no_mark(answer: Prompt) -> bool:
    """Nothing spells a mark where the format has none: in plain text neither parser can tell which was meant."""
    texts = "".join(segment.text for segment in answer.segments if isinstance(segment, TextSegment))
    return not any(mark in texts for mark in (THINK, END_THINK, DSML)) and not is_quirky(answer.text)


def is_quirky(text: str) -> bool:
    """Is read in another way on purpose: two rows of the table of differences.

    Newlines between the beginning of a tag that was none and a tag, which the package keeps; a mark that belongs to
    no tag of the format, which it shows.
    """
    newlines = r"</?[a-z]*｜?\n+(</think>|<｜DSML｜)"
    stray = r"</?｜DSML(?!｜(tool_calls|invoke|parameter))|</?DSML(\Z|｜)"
    return re.search(f"{newlines}|{stray}", text) is not None


def test_random_answers_are_read_as_the_vendor_reads_them(recipe: ModuleType) -> None:
    def words(rng: random.Random) -> str:
        return "".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(0, 6)))

    def value(rng: random.Random) -> str:
        kind = rng.choice(("true", "false"))
        text = words(rng) if kind == "true" else json.dumps({"a": [1, words(rng)]}, ensure_ascii=rng.random() < 0.5)
        return f'<｜DSML｜parameter name="{rng.choice("abcé")}" string="{kind}">{text}</｜DSML｜parameter>'

    num_compared = 0
    for seed in range(1500):
        rng = random.Random(seed)
        stage = rng.choice(STAGES)
        text = words(rng)
        if stage.startswith("reasoning") and rng.random() < 0.8:
            text += "</think>" + words(rng)
        if rng.random() < 0.6:
            calls = [
                "\n".join((INVOKE, *(value(rng) for _ in range(rng.randint(0, 3))), INVOKE_CLOSE))
                for _ in range(rng.randint(1, 3))
            ]
            text += rng.choice(("", "\n", "\n\n")) + "\n".join((CALLS_OPEN, *calls, CALLS_CLOSE))
            text += words(rng)
        if not is_quirky(text):
            assert_equal(recipe, text, stage, offers_tools=rng.random() < 0.8, label=seed)
            num_compared += 1
    assert num_compared > 1000


def test_forced_calls_are_read_as_the_vendor_reads_them(recipe: ModuleType) -> None:
    call = "\n".join((INVOKE, '<｜DSML｜parameter name="a" string="true">x\n</｜DSML｜parameter>', INVOKE_CLOSE))
    for count in (1, 2):
        assert_equal(recipe, "\n".join((*[call] * count, CALLS_CLOSE)), "tool_calls")

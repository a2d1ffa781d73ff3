"""What the model writes, as events."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepserve.core.events import BlockDelta, BlockOpened, TextBlock, TokenLogprob, ToolCallBlock
from deepserve.core.messages import ToolCall
from deepserve.prompt.decoder import Decoder, Marks, Piece, mint_call_id
from deepserve.prompt.encoder import encode_transcript
from deepserve.prompt.profile import MINI
from deepserve.prompt.segments import Special, Stage, Start
from deepserve.prompt.segments import Text as TextSegment
from deepserve.prompt.special_tokens import DSML, END_THINK, SPECIAL_TOKENS, THINK, USER
from deepserve.prompt.tags import MAX_TAG_CHARACTERS
from deepserve.prompt.tokenizer import Detokenizer, Tokenizer
from tests.prompt.corpus import random_text, random_value
from tests.prompt.requests import OFF, QUICK, WEATHER, Answer, assistant, collect, decode, request, user

OPEN, CLOSE = f"<{DSML}tool_calls>\n", f"\n</{DSML}tool_calls>"


def invoke(name: str, *parameters: str) -> str:
    return "\n".join((f'<{DSML}invoke name="{name}">', *parameters, f"</{DSML}invoke>"))


def parameter(name: str, value: str, *, is_string: bool = True) -> str:
    return f'<{DSML}parameter name="{name}" string="{str(is_string).lower()}">{value}</{DSML}parameter>'


WEATHER_CALL = invoke("weather", parameter("city", 'K"ö\nln'), parameter("days", "[1, 2]", is_string=False))
WEATHER_ARGUMENTS = '{"city": "K\\"ö\\nln", "days": [1, 2]}'


def test_thinking_and_answer_are_separate_blocks_without_the_newlines_around_them() -> None:
    answer = decode("\nr\n\n</think>\n\nx\n", stage="reasoning")
    assert (answer.reasoning, answer.text, answer.calls) == ("r", "x\n", [])


@pytest.mark.parametrize(
    ("stage", "reasoning", "text"),
    [("reasoning_continued", "\n\nr", "x"), ("text_continued", None, "\n\nr\n\n\nx"), ("text", None, "r\n\n\nx")],
)
def test_a_continuation_keeps_its_first_newlines(stage: Stage, reasoning: str | None, text: str) -> None:
    """A stray `</think>` outside the thinking is dropped, as the vendor's package drops it."""
    answer = decode("\n\nr\n\n</think>\nx", stage=stage)
    assert (answer.reasoning, answer.text) == (reasoning, text)


def test_thinking_that_never_ends_is_all_reasoning() -> None:
    answer = decode("hm </thin\n", stage="reasoning")
    assert (answer.reasoning, answer.text, answer.damage) == ("hm </thin\n", None, None)


def test_a_second_opening_of_thinking_is_swallowed() -> None:
    assert decode("<think>\nr</think>x", stage="reasoning").reasoning == "r"
    assert decode("\n<think>\nr</think>x", stage="text") == Answer("r", "x", [], None, 2)
    assert decode("say <think>", stage="text").text == "say <think>"


def test_a_call_opens_with_its_name_and_its_arguments_are_json() -> None:
    answer = decode(f"Looking.\n\n{OPEN}{WEATHER_CALL}{CLOSE}")
    assert (answer.text, answer.calls, answer.damage) == ("Looking.", [["weather", WEATHER_ARGUMENTS]], None)
    assert json.loads(WEATHER_ARGUMENTS) == {"city": 'K"ö\nln', "days": [1, 2]}


def test_arguments_stream_as_they_form() -> None:
    decoder = Decoder(Start(stage="text", offers_tools=True), marks="spelled", call_id=str)
    opened = decoder.feed(Piece(f'{OPEN}<{DSML}invoke name="weather">'))
    assert opened == [BlockOpened(index=0, block=ToolCallBlock(id="0", name="weather"))]
    begun = decoder.feed(Piece(f'<{DSML}parameter name="city" string="true">Kö'))
    assert "".join(event.text for event in begun if isinstance(event, BlockDelta)) == '{"city": "Kö'
    (more,) = decoder.feed(Piece('ln "'))
    assert isinstance(more, BlockDelta)
    assert more.text == 'ln \\"'


def test_parallel_calls_are_blocks_of_their_own() -> None:
    answer = decode(f"{OPEN}{invoke('a')}\n{invoke('b', '')}\n{invoke('c', parameter('x', ''))}{CLOSE}")
    assert answer.calls == [["a", "{}"], ["b", "{}"], ["c", '{"x": ""}']]
    assert answer.num_blocks == 3


def test_a_call_out_of_unfinished_thinking_ends_the_thinking() -> None:
    """Models forget `</think>` before a call; engines that insisted on it showed the markup as reasoning."""
    answer = decode(f"I should look.\n\n{OPEN}{WEATHER_CALL}{CLOSE}</think>", stage="reasoning")
    assert (answer.reasoning, answer.text, answer.calls) == ("I should look.", None, [["weather", WEATHER_ARGUMENTS]])


def test_nothing_after_the_calls_is_shown() -> None:
    assert decode(f"x{OPEN}{WEATHER_CALL}{CLOSE}and more {OPEN}{invoke('b')}{CLOSE}").calls == [
        ["weather", WEATHER_ARGUMENTS]
    ]


def test_without_tools_markup_is_text() -> None:
    markup = f"x\n\n{OPEN}{WEATHER_CALL}{CLOSE}"
    assert decode(markup, offers_tools=False) == Answer(None, markup, [], None, 1)


def test_a_forced_call_begins_inside_the_markup() -> None:
    answer = decode(f"{WEATHER_CALL}{CLOSE}", stage="tool_calls")
    assert answer == Answer(None, None, [["weather", WEATHER_ARGUMENTS]], None, 1)


@pytest.mark.parametrize(
    "ending", ["", f"</{DSML}", f"</{DSML}parameter", "<", "</"], ids=["value", "tag", "name", "angle", "slash"]
)
def test_a_truncated_call_keeps_the_arguments_as_streamed(ending: str) -> None:
    begun = f'{OPEN}<{DSML}invoke name="f">\n<{DSML}parameter name="a" string="true">ls 2>&1{ending}'
    answer = decode(begun, is_cut=True)
    kept = ending if DSML not in ending else ""
    assert answer.calls == [["f", '{"a": "ls 2>&1' + kept]]
    assert answer.damage == ("the answer ends inside a tag" if DSML in ending else "the answer ends inside a tool call")
    assert not answer.has_failed


def test_a_value_may_look_like_markup_up_to_the_last_character() -> None:
    """A value ending in `2>&1` once took the first character of its closing tag with it."""
    for value in (
        "2>&1",
        "a<",
        "a</",
        "</",
        "<b></b>",
        f"{DSML}",
        f"<{DSML}parameter>",
        f"</{DSML}x>",
        f"</{DSML}",
        "\n",
    ):
        answer = decode(f"{OPEN}{invoke('f', parameter('a', value))}{CLOSE}")
        assert [json.loads(arguments) for _, arguments in answer.calls] == [{"a": value}], value
        assert answer.damage is None


def test_marks_of_thinking_inside_a_value_are_part_of_it() -> None:
    answer = decode(f"{OPEN}{invoke('f', parameter('a', '<think>x</think>'))}{CLOSE}")
    assert answer.calls == [["f", '{"a": "<think>x</think>"}']]


@pytest.mark.parametrize(
    "markup",
    [
        f"{OPEN}{WEATHER_CALL}{CLOSE}".replace("tool_calls", "toolcalls"),
        f"{OPEN}{WEATHER_CALL}{CLOSE}".replace("tool_calls", "tool_call"),
        f"{OPEN}{WEATHER_CALL}{CLOSE}".replace(DSML, f"{DSML} ").replace("tool_calls", "calls"),
        f"{OPEN}{WEATHER_CALL}{CLOSE}".replace("｜", "｜｜"),
        f"{OPEN}{WEATHER_CALL}{CLOSE}".replace("｜", "|"),
        f"{WEATHER_CALL}{CLOSE}",
        f"{OPEN}{WEATHER_CALL}",
        f"{OPEN}junk {WEATHER_CALL} junk{CLOSE}",
        f"{OPEN}{WEATHER_CALL}{CLOSE}".replace(">\n<", "><"),
    ],
    ids=["toolcalls", "tool_call", "spaces", "double bars", "half width", "no start", "no end", "junk", "no newlines"],
)
def test_markup_as_models_really_miss_it_is_read(markup: str) -> None:
    for size in (None, 1, 5):
        answer = decode(f"x\n\n{markup}", size=size)
        assert (answer.text, answer.calls) == ("x", [["weather", WEATHER_ARGUMENTS]])


@pytest.mark.parametrize(
    ("markup", "calls", "damage"),
    [
        (f"{OPEN}{invoke('f')}".replace(' name="f"', ""), [], "a tool call without a name"),
        (f"<{DSML}tool_callz>", [], "unknown tag: tool_callz"),
        (f"{OPEN}{CLOSE}", [], "the tool markup holds no call"),
        (f"{OPEN}", [], "the tool markup holds no call"),
        (f"{OPEN}{parameter('a', 'b')}{CLOSE}", [], "a parameter outside a call"),
        (f"{OPEN}{invoke('f', f'<{DSML}parameter>x</{DSML}parameter>')}{CLOSE}", [["f", ""]], "a parameter without"),
        (
            f"{OPEN}{invoke('f', parameter('a', 'x').replace(' string=', ' x='))}{CLOSE}",
            [["f", '{"a": "x"}']],
            "a parameter that does not say",
        ),
        (
            f'{OPEN}<{DSML}invoke name="f">{parameter("a", "b")}{invoke("g")}{CLOSE}',
            [["f", '{"a": "b"}'], ["g", "{}"]],
            "a tool call that is not closed",
        ),
        (
            f"{OPEN}{invoke('f', parameter('a', 'b').removesuffix(f'</{DSML}parameter>'))}{CLOSE}",
            [["f", '{"a": "b"}']],
            "a parameter that is not closed",
        ),
        (f"<{DSML}invoke {'x' * 2 * MAX_TAG_CHARACTERS}>", [], "a tool call without a name"),
        (f'{OPEN}<{DSML}invoke name="f<{DSML}invoke name="g">', [], "a tool call without a name"),
        (f"x</{DSML}tool_calls>y", [], "a closing tag without a tool block"),
    ],
)
def test_damaged_markup_is_named_and_never_shown(markup: str, calls: list[list[str]], damage: str) -> None:
    for size in (None, 1, 3):
        answer = decode(markup, size=size)
        assert answer.calls == calls
        assert (answer.damage or "").startswith(damage)
        assert DSML not in (answer.text or "")


TEXTS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "\n", "\n\n", " ", "<", "</", ">", "｜", "|", '"', "</thi", THINK, END_THINK, DSML, f"<{DSML}", OPEN,
                CLOSE, WEATHER_CALL, invoke("f"), f'<{DSML}invoke name="f">', f"</{DSML}invoke>", parameter("a", "b"),
                f'<{DSML}parameter name="a" string="false">', f"</{DSML}parameter>", f"</{DSML}", "tool_calls>",
                "<|DSML|",
            ]
        ),
        st.text(max_size=5),
    ),
    max_size=12,
).map("".join)  # fmt: skip
STAGES = st.sampled_from(["reasoning", "reasoning_continued", "text", "text_continued", "tool_calls"])


@given(text=TEXTS, stage=STAGES, offers_tools=st.booleans(), seed=st.integers(0, 1000))
@settings(max_examples=1500, deadline=None)
def test_where_an_answer_is_cut_changes_nothing(text: str, stage: Stage, offers_tools: bool, seed: int) -> None:
    whole = decode(text, stage=stage, offers_tools=offers_tools)
    assert decode(text, stage=stage, offers_tools=offers_tools, size=1) == whole
    rng = random.Random(seed)
    decoder = Decoder(Start(stage=stage, offers_tools=offers_tools), marks="spelled", call_id=str)
    events = []
    position = 0
    while position < len(text):
        size = rng.randint(0, 4)
        events += decoder.feed(Piece(text[position : position + size]))
        position += size
    read = collect([*events, *decoder.finish()], decoder.damage)
    read.has_failed = decoder.failure is not None
    assert read == whole


def test_every_cut_of_a_real_answer_gives_the_same_events() -> None:
    text = (
        f"\nLet me see.\n\n</think>\n\nI look.\n\n{OPEN}{WEATHER_CALL}\n{invoke('g', parameter('a', '2>&1</'))}{CLOSE}"
    )
    whole = decode(text, stage="reasoning")
    assert whole.calls == [["weather", WEATHER_ARGUMENTS], ["g", '{"a": "2>&1</"}']]
    for cut in range(len(text) + 1):
        decoder = Decoder(Start(stage="reasoning", offers_tools=True), marks="spelled", call_id=str)
        events = [*decoder.feed(Piece(text[:cut])), *decoder.feed(Piece(text[cut:])), *decoder.finish()]
        assert collect(events) == whole
    for size in range(1, 30):
        assert decode(text, stage="reasoning", size=size) == whole


# Pieces made of tokens


def feed_segments(*segments: Special | TextSegment, stage: Stage = "text", offers_tools: bool = True) -> Answer:
    decoder = Decoder(Start(stage=stage, offers_tools=offers_tools), marks="special", call_id=str)
    events = []
    for segment in segments:
        match segment:
            case Special(token):
                events += decoder.feed(Piece(token, is_special=True))
            case TextSegment(text):
                events += decoder.feed(Piece(text))
    return collect([*events, *decoder.finish()], decoder.damage)


def test_among_tokens_a_spelled_mark_is_text() -> None:
    answer = feed_segments(
        TextSegment("the tag </think> ends"), Special(END_THINK), TextSegment(f"<{DSML}tool_calls>"), stage="reasoning"
    )
    assert (answer.reasoning, answer.text) == ("the tag </think> ends", f"<{DSML}tool_calls>")


def test_special_tokens_without_a_meaning_are_not_shown() -> None:
    assert feed_segments(TextSegment("a"), Special(USER), TextSegment("b"), Special(END_THINK)).text == "ab"


def test_what_the_encoder_writes_the_decoder_reads(tokenizer: Tokenizer) -> None:
    """Through token ids and back: reasoning, text, calls with every kind of value, and text that spells markup."""
    arguments = {
        "text": f'</{DSML}parameter> </think> "é"\n',
        "number": 1.5,
        "list": [1, {"a": None}],
        "flag": True,
        "empty": "",
    }
    calls = (
        ToolCall(id="1", name="weather", arguments=json.dumps(arguments)),
        ToolCall(id="2", name="now", arguments="{}"),
    )
    answer = assistant(f"See <{DSML}tool_calls> 😀", reasoning="think </think> twice", calls=calls)
    for thinking in (QUICK, OFF):
        transcript = encode_transcript(request(user("u"), answer, thinking=thinking, tools=(WEATHER,)), MINI)
        begin, end = transcript.outputs[-1]
        ids = tokenizer.encode(transcript.segments[begin:end]).ids
        assert ids[-1] == tokenizer.eos_id
        decoder, detokenizer = Decoder(transcript.start, marks="special", call_id=str), Detokenizer(tokenizer)
        events = [event for id_ in ids[:-1] for piece in detokenizer.push(id_) for event in decoder.feed(piece)]
        read = collect([*events, *decoder.finish()], decoder.damage)
        assert read.reasoning == ("think </think> twice" if thinking is QUICK else None)
        assert read.text == f"See <{DSML}tool_calls> 😀"
        assert [name for name, _ in read.calls] == ["weather", "now"]
        assert [json.loads(text) for _, text in read.calls] == [arguments, {}]
        assert read.damage is None
        thought = ids.index(tokenizer.special_id(END_THINK)) if thinking is QUICK else 0
        assert decoder.num_reasoning_tokens == thought


def test_random_turns_survive_being_written_and_read(tokenizer: Tokenizer) -> None:
    """Whatever a turn holds, markup spelled in it included, comes back; but for newlines where texts meet tags."""
    for seed in range(250):
        rng = random.Random(seed)
        sent = [
            {name: random_value(rng) for name in rng.sample("abcdefgh", rng.randint(0, 4))}
            for _ in range(rng.randint(0, 3))
        ]
        calls = [
            ToolCall(id=str(index), name=f"tool_{index}", arguments=json.dumps(arguments))
            for index, arguments in enumerate(sent)
        ]
        reasoning, text = random_text(rng).strip("\n"), random_text(rng).strip("\n")
        turn = assistant(text, reasoning=reasoning, calls=calls)
        transcript = encode_transcript(request(user("u"), turn, thinking=QUICK, tools=(WEATHER,)), MINI)
        begin, end = transcript.outputs[-1]
        decoder, detokenizer = Decoder(transcript.start, marks="special", call_id=str), Detokenizer(tokenizer)
        ids = tokenizer.encode(transcript.segments[begin : end - 1]).ids
        events = [event for id_ in ids for piece in detokenizer.push(id_) for event in decoder.feed(piece)]
        read = collect([*events, *decoder.finish()], decoder.damage)
        assert (read.reasoning or "", read.text or "") == (reasoning, text), seed
        assert [json.loads(arguments) for _, arguments in read.calls] == sent, seed
        assert read.damage is None, seed


@given(
    pieces=st.lists(
        st.one_of(
            st.sampled_from(SPECIAL_TOKENS).map(lambda token: Piece(token, is_special=True)),
            st.sampled_from(["<", "</", "tool_calls>", 'invoke name="f">', "parameter", ">", "\n"]).map(Piece),
            st.text(max_size=4).map(Piece),
        ),
        max_size=20,
    ),
    stage=STAGES,
    marks=st.sampled_from(["special", "spelled"]),
)
@settings(max_examples=500, deadline=None)
def test_nothing_a_model_writes_raises(pieces: list[Piece], stage: Stage, marks: Marks) -> None:
    decoder = Decoder(Start(stage=stage, offers_tools=True), marks=marks, call_id=str)
    events = [event for piece in pieces for event in decoder.feed(piece)]
    collect([*events, *decoder.finish()], decoder.damage)
    assert decoder.feed(Piece("more")) == []


# Log-probabilities


def entry(token: str) -> TokenLogprob:
    return TokenLogprob(token=token, logprob=-1.0, bytes=token.encode())


def channels(tokens: list[str], *, stage: Stage, marks: Marks = "special") -> dict[str, list[str]]:
    """Which tokens' log-probabilities come out in which kind of block."""
    decoder = Decoder(Start(stage=stage, offers_tools=True), marks=marks, call_id=str)
    events = []
    for token in tokens:
        events += decoder.feed(Piece(token, is_special=token in SPECIAL_TOKENS, logprobs=(entry(token),)))
    found: dict[str, list[str]] = {"reasoning": [], "text": [], "tool_call": []}
    kind = ""
    for event in [*events, *decoder.finish()]:
        if isinstance(event, BlockOpened):
            kind = str(event.block.__struct_config__.tag)
        elif isinstance(event, BlockDelta):
            found[kind] += [one.token for one in event.logprobs]
    return found


@pytest.mark.parametrize("marks", ["special", "spelled"])
def test_log_probabilities_come_out_in_the_channel_of_their_token(marks: Marks) -> None:
    tokens = ["\n", "I", " think", "\n\n", END_THINK, "\n", "So", " <", "b", "\n\n", "<", DSML, "tool_calls>", "x"]
    assert channels(tokens, stage="reasoning", marks=marks) == {
        "reasoning": ["\n", "I", " think", "\n\n"],
        "text": ["\n", "So", " <", "b"],
        "tool_call": [],
    }


def test_no_log_probability_is_lost_in_plain_text() -> None:
    tokens = ["a", "\n", "\n", "<", "/", "b", ">", "\n"]
    assert channels(tokens, stage="text")["text"] == tokens


def test_call_ids_look_like_the_vendors_and_never_repeat() -> None:
    ids = {mint_call_id(index) for index in range(100)}
    assert len(ids) == 100
    assert all(id_.startswith(f"call_{index:02d}_") for index, id_ in enumerate(sorted(ids)))
    assert all(len(id_) == len("call_00_") + 24 and id_.replace("_", "").isalnum() for id_ in ids)


def test_a_long_answer_costs_the_same_for_every_character() -> None:
    """Held-back text is looked at once, not again with every character that follows."""
    decoder = Decoder(Start(stage="text", offers_tools=True), marks="spelled", call_id=str)
    opened = decoder.feed(Piece("x"))
    assert isinstance(opened[0], BlockOpened)
    assert isinstance(opened[0].block, TextBlock)
    for hard in ("\n" * 300_000, "<" * 300_000, "</" * 150_000, "｜" * 300_000, "<｜" * 150_000):
        decoder.feed(Piece(hard))
        decoder.feed(Piece("x"))
    assert decoder.damage is None

"""The tour of `deepserve chat`: what a terminal shows is read, and the recorded one has every turn."""

from __future__ import annotations

import re

from training.tour import TOUR, TURNS, Answered, converse, page, pieces

SUMMARY = "[5 prompt (0 cached), 3 thinking, 2 answer tokens, first after 0.01 s, 99 tokens/s]"


def test_dim_text_is_told_from_plain_text() -> None:
    shown = "\x1b[2mI \x1b[0m\x1b[2mthink.\x1b[0m\r\nHel\x1b[?25hlo.\r\n\x1b[2m" + SUMMARY + "\x1b[0m\r\n"
    assert [(is_dim, text.strip()) for is_dim, text in pieces(shown)] == [
        (True, "I think."),
        (False, "Hello."),
        (True, SUMMARY),
    ]
    assert Answered(asked="Hi", shown=pieces(shown)).text == f"· I think.\nHello.\n{SUMMARY}"


def test_the_command_itself_is_run_and_its_turns_are_recorded() -> None:
    greeting, answered = converse(["--backend", "scripted", "--no-think"], ["One?", "Two?"])
    assert "answered by" in greeting
    assert [one.asked for one in answered] == ["One?", "Two?"]
    assert all(re.search(r"^\[\d+ prompt \(\d+ cached\)", one.text, re.MULTILINE) for one in answered)
    assert "One?" not in answered[1].text
    recorded = page([("`deepserve chat`", greeting, answered)])
    assert recorded.index(greeting) < recorded.index("> One?") < recorded.index("> Two?")


def test_the_recorded_tour_has_every_turn() -> None:
    text = TOUR.read_text(encoding="utf-8")
    places = [text.find(f"> {turn}\n") for turn in TURNS]
    assert -1 not in places
    assert places == sorted(places)
    assert len(re.findall(r"^\[\d+ prompt ", text, re.MULTILINE)) >= len(TURNS)

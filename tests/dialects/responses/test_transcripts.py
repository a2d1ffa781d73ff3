"""Recorded exchanges, replayed byte for byte."""

import json
from pathlib import Path

import pytest

from tests.dialects.responses.decoding import play

_RECORDED = {
    file.stem: json.loads(file.read_text())
    for file in sorted((Path(__file__).parents[2] / "transcripts" / "responses").glob("*.json"))
}


def test_all_situations_are_recorded() -> None:
    assert {"plain", "streamed", "thinking", "tool_calls", "error", "error_mid_stream", "codex"} <= set(_RECORDED)


@pytest.mark.parametrize("name", _RECORDED)
def test_the_recorded_answer_is_still_given(name: str) -> None:
    """Byte for byte, so that the order of members and of events is held too."""
    recorded = _RECORDED[name]
    status, text = play(recorded)
    assert status == recorded["status"]
    if recorded["request"].get("stream") and status == 200:
        assert text.split("\n\n") == [*recorded["response"], ""]
    else:
        assert text == json.dumps(recorded["response"], separators=(",", ":"), ensure_ascii=False)

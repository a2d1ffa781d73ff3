"""Recorded exchanges, replayed; and read back by what the documented events mean."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.dialects.messages.exchange import play

_RECORDED = {
    file.stem: json.loads(file.read_text())
    for file in sorted((Path(__file__).parents[2] / "transcripts" / "messages").glob("*.json"))
}
_STREAMS = [name for name, one in _RECORDED.items() if one["request"].get("stream")]
_WHOLE_STREAMS = [name for name in _STREAMS if name not in ("error_mid_stream", "strict_tool")]


def test_all_situations_are_recorded() -> None:
    assert {"plain", "streamed", "thinking", "tool_calls", "error", "error_mid_stream"} <= set(_RECORDED)


@pytest.mark.parametrize("name", _RECORDED)
def test_the_recorded_answer_is_still_given(name: str) -> None:
    """Byte for byte, so that the order of members and of events is held too."""
    recorded = _RECORDED[name]
    status, text = play(recorded)
    assert status == recorded["status"]
    if name in _STREAMS:
        assert text.split("\n\n") == [*recorded["response"], ""]
    else:
        assert text == json.dumps(recorded["response"], separators=(",", ":"), ensure_ascii=False)


def _events(text: str) -> list[dict[str, Any]]:  # Any: JSON
    events = []
    for frame in text.split("\n\n")[:-1]:
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def _accumulated(text: str) -> dict[str, Any]:  # Any: JSON
    """The message a client puts together, as Anthropic's documentation tells it to."""
    message: dict[str, Any] = {}
    arguments = ""
    for event in _events(text):
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
                arguments = ""
            case "content_block_delta":
                assert event["index"] == len(message["content"]) - 1
                block, delta = message["content"][-1], event["delta"]
                match delta["type"]:
                    case "text_delta":
                        block["text"] += delta["text"]
                    case "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "citations_delta":
                        block.setdefault("citations", []).append(delta["citation"])
                    case "signature_delta":
                        block["signature"] = delta["signature"]
                    case "input_json_delta":
                        arguments += delta["partial_json"]
            case "content_block_stop":
                if arguments:
                    message["content"][-1]["input"] = json.loads(arguments)
            case "message_delta":
                message |= event["delta"]
                message["usage"] = event["usage"]
                if "context_management" in event:
                    message["context_management"] = event["context_management"]
    return message


@pytest.mark.parametrize("name", _WHOLE_STREAMS)
def test_a_stream_put_together_is_the_whole_answer(name: str) -> None:
    recorded = _RECORDED[name]
    _, streamed = play(recorded)
    _, whole = play({**recorded, "request": {**recorded["request"], "stream": False}})
    assert _accumulated(streamed) == json.loads(whole)


@pytest.mark.parametrize("name", _STREAMS)
def test_every_stream_has_the_documented_order(name: str) -> None:
    kinds = [event["type"] for event in _events(play(_RECORDED[name])[1])]
    assert kinds[:2] == ["message_start", "ping"]
    if name == "error_mid_stream":
        assert kinds[-1] == "error"
        assert "message_stop" not in kinds
        return
    assert kinds[-2:] == ["message_delta", "message_stop"]
    is_open = False
    for kind in kinds[2:-2]:
        assert is_open is (kind != "content_block_start")
        is_open = kind != "content_block_stop"
    assert not is_open

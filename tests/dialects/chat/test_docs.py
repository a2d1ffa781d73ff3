"""The page about the Chat API says what the code does."""

import re
import tomllib
from pathlib import Path

import msgspec

from deepserve.backends.script import Script
from deepserve.config import Limits, Settings
from deepserve.dialects.chat.fields import IGNORED, REFUSED
from deepserve.dialects.chat.flavour import DEEPSEEK
from deepserve.dialects.chat.thinking import spelling_fields
from deepserve.server.app import PREFIXES

_PAGE = (Path(__file__).parents[3] / "docs" / "chat-api.md").read_text()


def _table(name: str) -> dict[str, str]:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", _PAGE, re.DOTALL)
    assert found is not None
    rows = [line.strip("|").split("|") for line in found[1].strip().splitlines()[2:]]
    return {field.strip().strip("`"): why.strip() for field, why in rows}


def test_the_ignored_fields_are_exactly_those_of_the_table() -> None:
    assert _table("ignored") == dict(IGNORED)


def test_the_refused_fields_are_exactly_those_of_the_table() -> None:
    assert _table("refused") == dict(REFUSED)


def test_every_spelling_of_thinking_is_listed() -> None:
    [row] = [line for line in _PAGE.splitlines() if line.startswith("| spellings of thinking")]
    for name in spelling_fields():
        assert f"`{name}" in row


def test_the_numbers_are_those_of_the_settings() -> None:
    limits, settings = Limits(), Settings()
    without, thinking, at_most = DEEPSEEK.default_output_tokens
    for text in (
        f"{limits.body_bytes >> 20} MiB",
        f"| connections | {limits.connections}; an idle one",
        f"after {limits.body_grace_s:g} s at least {limits.body_bytes_per_s / 1024:g} KiB/s",
        f"{limits.json_depth} levels, {limits.json_members:,} members",
        f"{limits.header_bytes >> 10} KiB, {limits.header_fields} fields",
        f"address {limits.request_line_bytes >> 10} KiB",
        f"{limits.headers_timeout_s:g} s for the head; {limits.body_timeout_s:g} s between pieces",
        f"{limits.messages:,}; {limits.tools} with names of {DEEPSEEK.max_tool_name} characters",
        f"{limits.stop_strings} strings of {limits.stop_string_bytes >> 10} KiB",
        f"{limits.logit_bias_entries} entries; {limits.num_results}; 20; {limits.user_id_bytes} bytes",
        f"{settings.request_timeout_s:g} s | 504",
        f"up to {settings.replay_answers:,} answers or\n{settings.replay_bytes >> 20} MiB",
        f"{limits.send_timeout_s:g} s | its answer",
        f"after {settings.keep_alive_s:g} seconds of silence",
        f"{without:,} tokens, {thinking:,} when thinking, {at_most:,} at effort max",
    ):
        assert text in _PAGE, text


def test_every_prefix_is_listed() -> None:
    assert "{" + ",".join(PREFIXES) + "}/chat/completions" in _PAGE


def test_the_script_on_the_page_is_valid() -> None:
    [text] = re.findall(r"```toml\n(.*?)```", _PAGE, re.DOTALL)
    assert len(msgspec.convert(tomllib.loads(text), Script).rules) == 2

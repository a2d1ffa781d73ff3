"""The calculator of the command line, and the page that shows what it prints."""

from __future__ import annotations

import json
import re
import shlex
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner

from deepserve.backends.tokens.model import shipped_folder
from deepserve.cli import main
from deepserve.cli.scatter import Point, format_scatter
from deepserve.prompt.tokenizer import Tokenizer

PAGE = (Path(__file__).parents[2] / "docs" / "prices.md").read_text(encoding="utf-8")

WORK = ("--input-tokens", "100000", "--output-tokens", "5000", "--hit-ratio", "0.7", "--date", "2026-04-24")


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["cost", *arguments], env={"DEEPSERVE_PRICES_FILE": None})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def table_rows(output: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line) for line in output.splitlines()]


def test_models_and_providers_stand_side_by_side_the_cheapest_first() -> None:
    code, output = run(*WORK)
    assert code == 0
    assert "100,000 tokens in, of which 70,000 cached, and 5,000 out" in output
    rows = [row for row in table_rows(output) if len(row) == 9][1:]
    assert [row[:2] for row in rows if row[1] == "deepseek"] == [
        ["deepseek-v4-flash", "deepseek"],
        ["deepseek-v4-pro", "deepseek"],
    ]
    assert {"openai", "anthropic", "google"} <= {row[1] for row in rows}
    costs = [Decimal(row[7]) for row in rows[1:]]
    assert costs == sorted(costs)
    assert "–: no price for cached tokens is listed" in output


def test_amounts_in_json_are_exact_strings() -> None:
    code, output = run(*WORK, "--json", "--model", "deepseek-v4-pro", "--provider", "deepseek")
    assert code == 0
    value = json.loads(output, parse_float=pytest.fail)
    assert (value["input_tokens"], value["hit_tokens"], value["miss_tokens"]) == (100_000, 70_000, 30_000)
    (quote,) = value["quotes"]
    assert quote["price"] == {"hit": "0.145", "miss": "1.74", "output": "3.48"}
    parts = [quote[part] for part in ("hit_usd", "miss_usd", "output_usd", "total_usd")]
    assert parts == ["0.01015", "0.0522", "0.0174", "0.07975"]
    assert quote["source"].startswith("api-docs.deepseek.com")


def test_a_ratio_may_be_a_percentage_and_a_model_may_have_another_name() -> None:
    named = run(*WORK, "--model", "deepseek-v4-flash")
    assert run(*WORK, "--model", "deepseek-chat", "--hit-ratio", "70%") == named


def test_an_instant_decides_between_two_prices_of_one_day() -> None:
    def price(instant: str) -> str:
        _, output = run("--input-tokens", "1", "--model", "deepseek-v4-flash", "--provider", "deepseek", "--json",
                        "--date", instant)  # fmt: skip
        hit = json.loads(output)["quotes"][0]["price"]["hit"]
        assert isinstance(hit, str)
        return hit

    assert price("2026-04-26T12:14Z") == "0.028"
    assert price("2026-04-26T14:15+02:00") == "0.0028"


def test_the_tokens_of_a_file_are_counted_and_who_counted_is_said(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("Ein Bär sieht über den Fluss. 🐻", encoding="utf-8")
    tokens = len(Tokenizer.from_file(shipped_folder() / "tokenizer.json").encode_text(path.read_text(encoding="utf-8")))
    code, output = run(str(path), "--json")
    value = json.loads(output)
    assert (code, value["input_tokens"], value["counted"]["tokens"]) == (0, tokens, tokens)
    assert value["counted"]["tokenizer"] == "mini-flash"
    assert run(str(path), "--json", "--tokenizer", str(shipped_folder()), "--date", "2026-05-01") == run(
        str(path), "--json", "--date", "2026-05-01"
    )
    assert f"{tokens} tokens, counted with the tokenizer of mini-flash" in run(str(path))[1]


def test_an_operators_prices_go_before_the_shipped_ones(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        '[[price]]\nprovider = "deepseek"\nmodel = "deepseek-v4-pro"\nsince = 2026-01-01T00:00:00Z\n'
        'price = { miss = "1", output = "1" }\nsource = "our contract"\n'
    )
    _, output = run(*WORK, "--json", "--model", "deepseek-v4-pro", "--provider", "deepseek", "--prices", str(path))
    (quote,) = json.loads(output)["quotes"]
    assert (quote["total_usd"], quote["source"]) == ("0.105", "our contract")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "Say how much work it is: --input-tokens N --output-tokens N"),
        (("--input-tokens", "-1"), "-1 is not in the range x>=0"),
        (("--input-tokens", "1", "--hit-ratio", "1.5"), "'1.5' is not a part of the whole"),
        (("--input-tokens", "1", "--hit-ratio", "nan"), "'nan' is not a part of the whole"),
        (("--input-tokens", "1", "--hit-ratio", "much"), "'much' is not a part of the whole"),
        (("--input-tokens", "1", "--date", "yesterday"), "'yesterday' is not a date; write for example 2026-04-24"),
        (
            ("--input-tokens", "1", "--date", "2026-01-01"),
            "No price is known for 2026-01-01 00:00 UTC. The first begins",
        ),
        (
            ("--input-tokens", "1", "--model", "gpt-1"),
            "'gpt-1' is not known; known: deepseek-v4-pro, deepseek-v4-flash,",
        ),
        (("--input-tokens", "1", "--provider", "acme"), "'acme' is not known; known: deepseek,"),
        (
            ("--input-tokens", "1", "--provider", "acme", "--model", "gpt-5.5"),
            "'acme' is not known",
        ),
        (
            ("--input-tokens", "1", "--provider", "openai", "--model", "deepseek-v4-pro"),
            "No such provider has a price for such a model.",
        ),
        (("--input-tokens", "1", "--tokenizer", "."), "--tokenizer counts the tokens of a file; name one."),
        (("--input-tokens", "1", str(Path(__file__))), "Give either a file or --input-tokens, not both."),
        (("no-such-file",), "No such file or directory"),
        ((str(shipped_folder() / "model.safetensors"),), "is not UTF-8 text (byte "),
    ],
)
def test_what_cannot_be_priced_is_refused_with_the_way_out(arguments: tuple[str, ...], expected: str) -> None:
    code, output = run(*arguments)
    assert code != 0
    assert expected in " ".join(output.split())


def test_the_comparison_shows_the_launch_and_now() -> None:
    code, output = run("--compare")
    assert code == 0
    assert output.startswith("Price at 2026-04-24 00:00 UTC")
    assert output.count("Artificial Analysis Intelligence Index v4.0") == 2
    value = json.loads(run("--compare", "--json")[1])
    assert [len(one["models"]) for one in value["comparisons"]] == [9, 9]


def test_points_fill_the_frame_and_keep_apart() -> None:
    chart = format_scatter(
        [Point(mark="A", x=1, y=10), Point(mark="B", x=100, y=20), Point(mark="C", x=1, y=10)], width=9, height=3
    )
    assert chart == "20 ┤        B\n   ┤\n10 ┤AC\n   └─────────\n    $1   $100"


def test_one_point_stands_in_the_middle() -> None:
    assert format_scatter([Point(mark="A", x=2, y=1)], width=5, height=3).splitlines()[1] == "  ┤  A"


# --- docs/prices.md --------------------------------------------------------------------------------------------------


def test_the_page_shows_what_the_commands_print() -> None:
    blocks = re.findall(r"```console\n\$ deepserve cost (.*?)\n(.*?)```", PAGE, re.DOTALL)
    assert blocks
    for arguments, printed in blocks:
        assert run(*shlex.split(arguments)) == (0, printed)


def test_the_worked_examples_of_the_page_follow_from_its_card() -> None:
    rows = re.findall(r"^\| ([\d,]+) in, ([\d,]+) out(?:, (\d+) % cached)? \|(.*)\|$", PAGE, re.MULTILINE)
    assert len(rows) == 5
    for tokens_in, tokens_out, percent, cells in rows:
        _, output = run("--input-tokens", tokens_in.replace(",", ""), "--output-tokens", tokens_out.replace(",", ""),
                        "--hit-ratio", f"{percent or 0}%", "--date", "2026-04-24", "--json")  # fmt: skip
        totals = {(one["provider"], one["model"]): one["total_usd"] for one in json.loads(output)["quotes"]}
        pairs = (("deepseek", "deepseek-v4-flash"), ("deepseek", "deepseek-v4-pro"), ("anthropic", "claude-opus-4.7"))
        assert [cell.strip() for cell in cells.split("|")] == [f"${totals[pair]}" for pair in pairs]


def test_the_example_of_an_own_table_is_taken(tmp_path: Path) -> None:
    (table,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "own.toml"
    path.write_text(table)
    code, output = run("--input-tokens", "1000000", "--json", "--date", "2026-06-01", "--prices", str(path))
    totals = {(one["provider"], one["model"], one["hours"]): one["total_usd"] for one in json.loads(output)["quotes"]}
    assert code == 0
    assert totals["deepseek", "deepseek-v4-pro", None] == "0.4"
    assert totals["cluster", "deepseek-v4-flash", None] == "0.05"
    assert totals["cluster", "deepseek-v4-flash", "night"] == "0.02"

"""`deepserve route explain`: each rule with its verdict."""

import json

import click
import pytest
from click.testing import CliRunner

from deepserve.catalog.presets import PresetRow, load_presets
from deepserve.cli import main
from deepserve.routing.policy import policy_of

HARD = "Refactor the scheduler; there is a race condition."


def explain(*arguments: str, model: str = "auto:coding-agent", raw: str | None = None) -> tuple[int, str]:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": HARD}]}) if raw is None else raw
    result = CliRunner().invoke(main, ("route", "explain", "--backend", "scripted", "-", *arguments), input=body)
    assert result.exception is None or isinstance(result.exception, SystemExit | click.ClickException), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize("row", load_presets().rows, ids=[row.id for row in load_presets().rows])
def test_every_rule_of_every_preset_is_shown_in_order(row: PresetRow) -> None:
    code, output = explain(model=row.id)
    assert code == 0
    shown = [line.split()[0] for line in output.splitlines()[2:] if line.strip()]
    assert shown[: len(policy_of(row).rules)] == [rule.name for rule in policy_of(row).rules]
    assert row.expected_cost is None or row.expected_cost in output


def test_the_verdicts_and_the_choice_are_told() -> None:
    _, output = explain()
    lines = {line.split("  ")[0].strip(): line for line in output.splitlines()}
    assert "chooses deepseek-v4-pro" in lines["hard"]
    assert "a change across files and a fault of concurrency" in lines["hard"]
    assert "not asked" in lines["usual"]
    assert "auto:coding-agent: deepseek-v4-pro, thinking high, by the rule hard" in output


def test_headers_are_those_of_a_request() -> None:
    _, output = explain("--header", "X-DeepServe-Difficulty: easy")
    assert "auto:coding-agent: deepseek-v4-flash, thinking off, by the rule usual" in output
    _, output = explain("--header", "x-deepserve-max-cost-usd:0.003", "--as", "deepseek-v4-auto")
    assert "excludes deepseek-v4-pro" in output
    assert "deepseek-v4-auto: deepseek-v4-flash" in output


@pytest.mark.parametrize(
    ("arguments", "model", "raw", "told"),
    [
        ((), "deepseek-v4-pro", None, "--as deepseek-v4-auto"),
        ((), "auto:nothing", None, "auto:coding-agent"),
        (("--header", "difficulty"), "auto:reasoning", None, "NAME:VALUE"),
        (("--header", "x-deepserve-difficulty:?"), "auto:reasoning", None, "easy, normal, hard"),
        (("--as", "deepseek-v4-auto"), "", "{", "JSON"),
        (("--as", "deepseek-v4-auto"), "", "[]", "JSON"),
        (("--header", "x-deepserve-max-cost-usd:0.0001"), "auto:reasoning", None, "price-ceiling"),
    ],
)
def test_what_cannot_be_explained_says_why(arguments: tuple[str, ...], model: str, raw: str | None, told: str) -> None:
    code, output = explain(*arguments, model=model, raw=raw)
    assert code != 0
    assert told in output

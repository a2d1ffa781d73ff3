"""`deepserve batch`: every line is answered once, or said to have failed and why."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from deepserve.backends.script import Reply as ScriptedReply
from deepserve.backends.script import Rule, Script, When
from deepserve.backends.scripted import ScriptedBackend
from deepserve.catalog.models import load_models
from deepserve.catalog.price_table import load_prices
from deepserve.cli import main
from deepserve.cli.batching.answer_file import AnswerFile, AnswerLine
from deepserve.cli.batching.asking import NoReply, Reply
from deepserve.cli.batching.bill import Bill, Estimate, Tariff, usage_told
from deepserve.cli.batching.progress import BatchProgress
from deepserve.cli.batching.questions import MalformedLine, Question, read_questions
from deepserve.cli.batching.run import BatchRun, Outcome
from deepserve.config import Settings
from deepserve.core.errors import ConfigurationError
from deepserve.core.usage import Usage
from tests.server.live import Gate, live_server

NOW = datetime(2026, 5, 1, tzinfo=UTC)
TARIFF = Tariff(load_prices(), load_models(), "deepseek")
PAGE = Path(__file__).parents[2] / "docs" / "batch.md"
MESSAGES = [{"role": "user", "content": "hello"}]
BODY = {"model": "deepseek-v4-flash", "messages": MESSAGES}


def line(custom_id: str, text: str = "hello", url: str = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {**BODY, "messages": messages, **body}}


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(one) for one in path.read_text().splitlines()]


def batch(*arguments: object, environment: Mapping[str, str] | None = None) -> Result:
    result = CliRunner().invoke(main, ["batch", *map(str, arguments)], env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


# --- lines ------------------------------------------------------------------------------------------------------------


def test_lines_of_batches_and_plain_bodies_are_both_questions(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", line("a"), "", BODY)
    first, second = read_questions(path, url="/v1/messages")
    assert isinstance(first, Question)
    assert isinstance(second, Question)
    assert (first.line, first.custom_id, first.url) == (1, "a", "/v1/chat/completions")
    assert (second.line, second.custom_id, second.url, second.body) == (3, "line-3", "/v1/messages", BODY)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ('{"custom_id":', "not JSON"),
        ("[1]", "not a JSON object"),
        ({"custom_id": "", "body": BODY}, "custom_id"),
        ({"custom_id": 7, "body": BODY}, "custom_id"),
        ({"body": BODY}, "custom_id"),
        ({**line("b"), "method": "GET"}, "method must be POST, not 'GET'"),
        ({**line("b"), "url": "chat"}, "url must be a path"),
        ({**line("b"), "url": "/v1 /x"}, "url must be a path"),
        ({**line("b"), "body": []}, "body must be a JSON object"),
        ({**line("b"), "priority": 1}, "unknown member 'priority'"),
        (line("b", stream=True), "stream must not be true"),
        (line("a"), "custom_id 'a' is that of line 1 already"),
    ],
)
def test_what_cannot_be_asked_is_reported_with_its_number_and_reason(tmp_path: Path, bad: object, reason: str) -> None:
    path = write(tmp_path / "in.jsonl", line("a"), bad, line("c"))
    first, second, third = read_questions(path)
    assert isinstance(second, MalformedLine)
    assert second.line == 2
    assert reason in second.reason
    assert isinstance(first, Question)
    assert isinstance(third, Question), "a line that cannot be asked takes no other with it"


def test_the_same_question_has_the_same_id_however_its_line_is_written(tmp_path: Path) -> None:
    turned = {"body": dict(reversed(BODY.items())), "custom_id": "b"}
    first, second, other = read_questions(
        write(tmp_path / "in", {"custom_id": "a", "body": BODY}, turned, line("c", "x"))
    )
    assert isinstance(first, Question)
    assert isinstance(second, Question)
    assert isinstance(other, Question)
    assert first.id == second.id != other.id


# --- the file of answers ----------------------------------------------------------------------------------------------


def answer_line(custom_id: str) -> AnswerLine:
    return AnswerLine(id=f"id of {custom_id}", custom_id=custom_id, response={"status_code": 200}, error=None)


def test_a_torn_last_line_is_cut_off_and_what_was_whole_stays(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with AnswerFile(path) as answers:
        answers.add(answer_line("a"))
        answers.add(answer_line("b"))
    whole = path.read_bytes()
    for end in range(len(whole.splitlines(keepends=True)[0]) + 1, len(whole) - 1):
        path.write_bytes(whole[:end])
        with AnswerFile(path) as answers:
            assert (answers.answered, answers.was_torn) == ({"a": "id of a"}, True)
            answers.add(answer_line("b"))
        assert path.read_bytes() == whole


def test_a_last_line_that_only_lacks_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with AnswerFile(path) as answers:
        answers.add(answer_line("a"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with AnswerFile(path) as answers:
        assert (answers.answered, answers.was_torn) == ({"a": "id of a"}, False)
    assert path.read_bytes() == whole


def test_a_file_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary\nand so on\n")
    with pytest.raises(ConfigurationError, match=r"Line 1 of .*notes\.txt is no answer"):
        AnswerFile(path)
    assert path.read_text() == "dear diary\nand so on\n"


def test_two_runs_never_add_to_one_file_at_once(tmp_path: Path) -> None:
    with AnswerFile(tmp_path / "out.jsonl"), pytest.raises(ConfigurationError, match="Another batch"):
        AnswerFile(tmp_path / "out.jsonl")
    AnswerFile(tmp_path / "out.jsonl").__exit__(None, None, None)


# --- asking -----------------------------------------------------------------------------------------------------------


class Scripted:
    """Gives its replies in turn, the last one for ever, and a clock that only waiting moves."""

    def __init__(self, *replies: Reply | NoReply) -> None:
        self.replies = list(replies)
        self.keys: list[str] = []
        self.waits: list[float] = []
        self.now_s = 0.0

    async def ask(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        self.keys.append(headers["Idempotency-Key"])
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, NoReply):
            raise reply
        return reply

    async def close(self) -> None: ...

    async def sleep(self, wait_s: float) -> None:
        self.waits.append(wait_s)
        self.now_s += wait_s


GOOD = Reply(200, {"x-request-id": "r1"}, b'\n\n {"id": "x", "usage": {"prompt_tokens": 4, "completion_tokens": 2}}')


def refusal(status: int, text: str = "no", **headers: str) -> Reply:
    return Reply(status, headers, json.dumps({"error": {"message": text}}).encode())


def run(folder: Path, asker: Scripted, *, num_questions: int = 1, num_retries: int = 5) -> Outcome:
    questions = [Question(n, f"q{n}", f"id{n}", "/v1/chat/completions", BODY) for n in range(num_questions)]
    with AnswerFile(folder / "out.jsonl") as answers, AnswerFile(folder / "failed.jsonl", is_fresh=True) as failures:
        batch_run = BatchRun(
            asker,
            answers,
            failures,
            tariff=TARIFF,
            concurrency=1,
            num_retries=num_retries,
            nonce="n",
            sleep=asker.sleep,
            clock=lambda: asker.now_s,
            now=lambda: NOW,
            jitter=lambda: 1.0,
        )
        return asyncio.run(batch_run.run(iter(questions)))


def test_an_answer_stands_as_it_came_with_its_request_id(tmp_path: Path) -> None:
    outcome = run(tmp_path, Scripted(GOOD))
    assert (outcome.num_answered, outcome.num_failed, outcome.num_retries) == (1, 0, 0)
    assert read(tmp_path / "out.jsonl") == [
        {
            "id": "id0",
            "custom_id": "q0",
            "response": {"status_code": 200, "request_id": "r1", "body": json.loads(GOOD.body)},
            "error": None,
        }
    ]


@pytest.mark.parametrize(
    "first",
    [
        *(refusal(status) for status in (429, 500, 502, 503, 529)),
        NoReply("broken off"),
        Reply(200, {}, b'{"id": "x", "cho'),
        refusal(200, "The engine failed later"),
    ],
)
def test_what_may_go_better_is_asked_again_under_the_same_name(tmp_path: Path, first: Reply | NoReply) -> None:
    asker = Scripted(first, first, GOOD)
    outcome = run(tmp_path, asker)
    assert (outcome.num_answered, outcome.num_failed, outcome.num_retries) == (1, 0, 2)
    assert asker.waits == [0.5, 1.0]
    assert asker.keys == ["n-id0"] * 3, "so that no server answers and charges it twice"
    assert len(read(tmp_path / "out.jsonl")) == 1


def test_a_server_that_says_how_long_to_wait_is_left_alone_so_long(tmp_path: Path) -> None:
    asker = Scripted(refusal(429, **{"retry-after": "7"}), GOOD)
    run(tmp_path, asker)
    assert asker.waits == [7.0]


def test_waits_double_up_to_a_minute(tmp_path: Path) -> None:
    asker = Scripted(refusal(500))
    outcome = run(tmp_path, asker, num_retries=9)
    assert asker.waits == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert outcome.num_failed == 1
    [failed] = read(tmp_path / "failed.jsonl")
    assert failed["error"] == {"code": "status_500", "message": "no"}
    assert read(tmp_path / "out.jsonl") == []


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_what_the_server_refuses_is_not_asked_again_and_stops_nothing(tmp_path: Path, status: int) -> None:
    outcome = run(tmp_path, Scripted(refusal(status, "bad field"), GOOD), num_questions=3)
    assert (outcome.num_answered, outcome.num_failed, outcome.num_retries) == (2, 1, 0)
    [failed] = read(tmp_path / "failed.jsonl")
    assert (failed["custom_id"], failed["error"]["message"]) == ("q0", "bad field")
    assert failed["response"]["status_code"] == status


@pytest.mark.parametrize(("status", "words"), [(401, "refuses the key"), (402, "the money is spent")])
def test_a_refusal_that_holds_for_every_question_stops_the_run(tmp_path: Path, status: int, words: str) -> None:
    asker = Scripted(refusal(status, "who are you"))
    outcome = run(tmp_path, asker, num_questions=50)
    assert outcome.stopped is not None
    assert words in outcome.stopped
    assert "who are you" in outcome.stopped
    assert len(asker.keys) == 1


# --- money ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "prompt_cache_hit_tokens": 8,
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            Usage(hit_tokens=8, miss_tokens=2, reasoning_tokens=3, answer_tokens=2),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}},
            Usage(hit_tokens=4, miss_tokens=6, answer_tokens=5),
        ),
        (
            {
                "input_tokens": 10,
                "output_tokens": 5,
                "input_tokens_details": {"cached_tokens": 4},
                "output_tokens_details": {"reasoning_tokens": 1},
            },
            Usage(hit_tokens=4, miss_tokens=6, reasoning_tokens=1, answer_tokens=4),
        ),
        (
            {
                "input_tokens": 10,
                "output_tokens": 5,
                "cache_read_input_tokens": 100,
                "cache_creation_input_tokens": 7,
            },
            Usage(hit_tokens=100, miss_tokens=17, answer_tokens=5),
        ),
        ({"total": 3}, None),
    ],
)
def test_usage_is_read_in_every_dialect(told: dict[str, Any], usage: Usage | None) -> None:
    assert usage_told(told) == usage


def test_the_cost_is_that_of_the_price_list_unless_the_answer_states_it() -> None:
    question = Question(1, "a", "id", "/v1/chat/completions", BODY)
    price = load_prices().price_at("deepseek-v4-flash", NOW)
    assert price is not None
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000}
    bill = Bill()
    bill.add(question, {"usage": usage}, TARIFF, NOW)
    assert bill.usd == price.miss + price.output
    bill.add(question, {"usage": {**usage, "cost": 0.25}}, TARIFF, NOW)
    assert bill.usd == price.miss + price.output + Decimal("0.25")
    bill.add(question, {}, TARIFF, NOW)
    assert bill.num_unpriced == 1


def test_the_estimate_counts_what_the_model_reads_and_may_write() -> None:
    estimate = Estimate()
    body = {**BODY, "max_tokens": 50, "n": 2, "user": "x" * 10_000}
    estimate.add(Question(1, "a", "id", "/v1/chat/completions", body), TARIFF, NOW, assumed_output_tokens=7)
    few_tokens = estimate.prompt_tokens
    assert 0 < few_tokens < 100, "only what is read"
    assert estimate.output_tokens == 100
    estimate.add(
        Question(2, "b", "id", "/x", {"model": "some-model", "input": "y" * 1000}), TARIFF, NOW, assumed_output_tokens=7
    )
    assert estimate.prompt_tokens == few_tokens + 300
    assert (estimate.output_tokens, estimate.num_unlimited, estimate.num_unpriced) == (107, 1, 1)


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_file_is_answered_in_this_process_in_several_dialects(tmp_path: Path) -> None:
    answers_request = line("messages", url="/anthropic/v1/messages", max_tokens=100)
    kept_request = {"custom_id": "responses", "url": "/v1/responses", "body": {"model": BODY["model"], "input": "hi"}}
    questions = write(tmp_path / "in.jsonl", line("chat"), BODY, answers_request, kept_request)
    result = batch(questions, tmp_path / "out.jsonl", "--backend", "scripted")
    assert result.exit_code == 0, result.output
    by_id = {one["custom_id"]: one["response"]["body"] for one in read(tmp_path / "out.jsonl")}
    assert by_id.keys() == {"chat", "line-2", "messages", "responses"}
    assert by_id["chat"]["choices"][0]["message"]["content"]
    assert by_id["messages"]["type"] == "message"
    assert by_id["responses"]["status"] == "completed"
    assert "4 answered" in result.output
    assert not (tmp_path / "out.errors.jsonl").exists()
    again = batch(questions, tmp_path / "out.jsonl", "--backend", "scripted")
    assert again.exit_code == 0
    assert "0 to ask (4 are answered already)" in again.output
    assert len(read(tmp_path / "out.jsonl")) == 4


def test_lines_that_fail_stand_in_the_error_file_and_are_asked_in_the_next_run(tmp_path: Path) -> None:
    questions = write(tmp_path / "in.jsonl", line("good"), "oops", line("bad", temperature="hot"))
    result = batch(questions, tmp_path / "out.jsonl", "--backend", "scripted")
    assert result.exit_code == 1
    assert [one["custom_id"] for one in read(tmp_path / "out.jsonl")] == ["good"]
    malformed, refused = read(tmp_path / "out.errors.jsonl")
    assert (malformed["line"], malformed["error"]["code"]) == (2, "malformed_line")
    assert (refused["custom_id"], refused["response"]["status_code"]) == ("bad", 400)
    assert "temperature" in refused["error"]["message"]
    write(questions, line("good"), "", line("bad", temperature=0.5))
    result = batch(questions, tmp_path / "out.jsonl", "--backend", "scripted")
    assert result.exit_code == 0, result.output
    assert sorted(one["custom_id"] for one in read(tmp_path / "out.jsonl")) == ["bad", "good"]
    assert not (tmp_path / "out.errors.jsonl").exists()


def test_a_name_whose_question_has_changed_is_not_taken_for_answered(tmp_path: Path) -> None:
    questions = write(tmp_path / "in.jsonl", line("a"))
    assert batch(questions, tmp_path / "out.jsonl", "--backend", "scripted").exit_code == 0
    write(questions, line("a", "something else"))
    result = batch(questions, tmp_path / "out.jsonl", "--backend", "scripted")
    assert result.exit_code == 1
    assert "'a', but to another question than that of line 1" in result.output


def test_what_may_cost_too_much_is_not_begun(tmp_path: Path) -> None:
    questions = write(tmp_path / "in.jsonl", line("a", max_tokens=1_000))
    arguments = (questions, tmp_path / "out.jsonl", "--backend", "scripted", "--max-cost", "0.0001")
    result = batch(*arguments)
    assert result.exit_code == 3
    assert "more than $0.0001" in result.output
    assert read(tmp_path / "out.jsonl") == []
    assert batch(*arguments, "--yes").exit_code == 0
    assert len(read(tmp_path / "out.jsonl")) == 1


def test_an_estimate_asks_nothing(tmp_path: Path) -> None:
    questions = write(tmp_path / "in.jsonl", line("a", max_tokens=500), BODY)
    result = batch(questions, tmp_path / "out.jsonl", "--estimate", "--output-tokens", "300")
    assert result.exit_code == 0
    assert "2 to ask" in result.output
    assert "at most 800 of answers" in result.output
    assert "1 set no limit to their answer; 300 tokens are assumed" in result.output
    assert read(tmp_path / "out.jsonl") == []


def test_questions_answers_and_errors_are_three_files(tmp_path: Path) -> None:
    questions = write(tmp_path / "in.jsonl", line("a"))
    assert batch(questions, questions).exit_code == 2
    assert read(questions) == [line("a")]


def test_the_key_comes_from_the_environment_and_a_wrong_one_stops_the_run(tmp_path: Path) -> None:
    questions = write(tmp_path / "in.jsonl", *(line(str(number)) for number in range(40)))
    with live_server(settings=Settings(api_keys=("sk-right",))) as server:
        arguments = (questions, tmp_path / "out.jsonl", "--base-url", f"{server.address}/v1", "--concurrency", "2")
        refused = batch(*arguments, environment={"DEEPSERVE_API_KEY": "sk-wrong"})
        assert refused.exit_code == 1
        assert "refuses the key" in refused.output
        assert len(read(tmp_path / "out.errors.jsonl")) <= 2
        result = batch(*arguments, "--key-variable", "MY_KEY", environment={"MY_KEY": "sk-right"})
        assert result.exit_code == 0, result.output
    assert len(read(tmp_path / "out.jsonl")) == 40


def test_a_run_that_is_killed_in_the_middle_goes_on_and_answers_every_line_once(tmp_path: Path) -> None:
    questions = write(
        tmp_path / "in.jsonl", *(line(str(number), "wait here" if number == 5 else "hi") for number in range(9))
    )
    gate = Gate()
    script = Script(rules=(Rule(when=When(contains="wait"), reply=ScriptedReply(text="late", first_delay_s=1)),))
    with live_server(ScriptedBackend(script, sleep=gate.sleep)) as server:
        arguments = [questions, tmp_path / "out.jsonl", "--base-url", server.address, "--concurrency", "1"]
        command = [sys.executable, "-m", "deepserve", "batch", *map(str, arguments)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                assert gate.is_reached.wait(30)
            finally:
                process.kill()
        assert [one["custom_id"] for one in read(tmp_path / "out.jsonl")] == ["0", "1", "2", "3", "4"]
        # A line that was being written when the power went.
        with (tmp_path / "out.jsonl").open("a") as file:
            file.write('{"id":"batch_req_')
        gate.open()
        result = batch(*arguments)
    assert result.exit_code == 0, result.output
    assert "was torn" in result.output
    assert "4 to ask (5 are answered already)" in result.output
    assert [one["custom_id"] for one in read(tmp_path / "out.jsonl")] == [str(number) for number in range(9)]


def test_progress_tells_how_many_what_they_cost_and_how_long_is_left() -> None:
    progress = BatchProgress(1_000, lambda: 0.0, is_screen=False)
    assert progress.line(100, 0, Decimal("0.5"), 10.0) == "100 of 1,000, 10.0/s, $0.5000, 0:01:30 left"
    assert progress.line(90, 10, Decimal(0), 10.0) == "100 of 1,000, 10 failed, 10.0/s, $0.0000, 0:01:30 left"
    assert progress.line(1_000, 0, Decimal(0), 0.0) == "1,000 of 1,000, 0.0/s, $0.0000"


def test_the_programs_of_the_page_are_python_and_its_options_exist() -> None:
    text = PAGE.read_text()
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert programs
    for program in programs:
        ast.parse(program)
    known = CliRunner().invoke(main, ["batch", "--help"]).output
    for option in re.findall(r"(--[a-z][a-z-]+)", re.sub(r"```python.*?```", "", text, flags=re.DOTALL)):
        assert option in known, option

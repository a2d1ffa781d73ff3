"""`deepserve batch`: answer every question of a file."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

import click

from deepserve.catalog.models import load_models
from deepserve.catalog.price_book import PriceBook
from deepserve.catalog.prices import VENDOR
from deepserve.cli.batching.answer_file import AnswerFile, AnswerLine
from deepserve.cli.batching.asking import Asker, Reply, ServerAsker
from deepserve.cli.batching.bill import Estimate, Tariff
from deepserve.cli.batching.progress import BatchProgress
from deepserve.cli.batching.questions import CHAT_URL, MalformedLine, Question, read_questions
from deepserve.cli.batching.run import BatchRun, Outcome
from deepserve.cli.progress import LoadingProgress
from deepserve.cli.settings import model_options, passing_settings_from
from deepserve.core.errors import ConfigurationError
from deepserve.outgoing.keys import find_key

KEY_VARIABLE: Final = "DEEPSERVE_API_KEY"
_SHOWN: Final = 5

NOT_ALL_ANSWERED: Final = 1
TOO_COSTLY: Final = 3
INTERRUPTED: Final = 130


def _read_amount(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Decimal | None:
    if text is None:
        return None
    try:
        amount = Decimal(text.strip().removeprefix("$"))
    except InvalidOperation:
        amount = Decimal("nan")
    if not amount.is_finite() or amount < 0:
        raise click.BadParameter(f"{text!r} is not an amount of US dollars; write for example 2.50.")
    return amount


@click.command()
@click.argument("questions", metavar="IN", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--base-url", metavar="URL", help="Ask this server.  [default: answer in this process]")
@click.option(
    "--key-variable",
    metavar="NAME",
    default=KEY_VARIABLE,
    show_default=True,
    help="The variable of the environment that holds that server's key.",
)
@click.option("--url", default=CHAT_URL, show_default=True, help="Where lines go that are plain bodies of requests.")
@click.option(
    "--errors",
    "errors_file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="What failed in this run.  [default: OUT with .errors.jsonl at its end]",
)
@click.option("--concurrency", type=click.IntRange(1, 4096), default=8, show_default=True, help="Asked at once.")
@click.option(
    "--retries", "num_retries", type=click.IntRange(0, 100), default=5, show_default=True, help="For each question."
)
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(1), default=900.0, show_default=True, help="Seconds for one answer."
)
@click.option("--estimate", "is_estimating", is_flag=True, help="Say what it may cost, and stop.")
@click.option(
    "--max-cost", metavar="USD", callback=_read_amount, help="Ask before beginning what may cost more than this."
)
@click.option("--yes", "is_agreed", is_flag=True, help="Begin though it may cost more than --max-cost.")
@click.option(
    "--output-tokens",
    "assumed_output_tokens",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="What the estimate takes for answers whose length the question does not limit.",
)
@click.option("--provider", default=VENDOR, show_default=True, help="Whose prices are meant.")
@model_options
def batch(
    questions: Path,
    output: Path,
    base_url: str | None,
    key_variable: str,
    url: str,
    errors_file: Path | None,
    concurrency: int,
    num_retries: int,
    timeout_s: float,
    is_estimating: bool,
    max_cost: Decimal | None,
    is_agreed: bool,
    assumed_output_tokens: int,
    provider: str,
    **options: Any,  # Any: the shared options, as click hands them over
) -> None:
    """Answer every line of IN into OUT. Run it again after an interruption: what is answered is not asked again.

    \b
      deepserve batch questions.jsonl answers.jsonl
      deepserve batch in.jsonl out.jsonl --base-url http://127.0.0.1:8000 --concurrency 64
      deepserve batch in.jsonl out.jsonl --estimate

    Lines are those of OpenAI's batches (custom_id, method, url, body), or bodies of requests alone.

    Ends with 0 where everything is answered, 1 where something is not, 3 where it may cost too much, 130 when
    interrupted.
    """
    settings = passing_settings_from(**options)
    errors_file = errors_file or output.with_name(f"{output.name.removesuffix('.jsonl')}.errors.jsonl")
    if len({path.resolve() for path in (questions, output, errors_file)}) < 3:
        raise click.UsageError("Questions, answers and errors are three files: name different ones.")
    prices = PriceBook(settings.prices_file).current()
    if provider not in {row.provider for row in (*prices.rows, *prices.own_rows)}:
        raise click.BadParameter(f"{provider!r} has no prices here.", param_hint="--provider")
    tariff = Tariff(prices, load_models(), provider)

    with AnswerFile(output) as answers:
        if answers.was_torn:
            click.echo(f"The last line of {output} was torn and is cut off; its question is asked again.", err=True)
        malformed: list[MalformedLine] = []
        estimate, now = Estimate(), datetime.now(UTC)
        for found in read_questions(questions, url=url):
            if isinstance(found, MalformedLine):
                malformed.append(found)
            elif not _is_answered(found, answers):
                estimate.add(found, tariff, now, assumed_output_tokens=assumed_output_tokens)
        _tell_malformed(malformed)
        _tell_estimate(estimate, len(answers.answered), assumed_output_tokens, provider)
        if is_estimating:
            raise SystemExit(NOT_ALL_ANSWERED if malformed else 0)
        _agree(estimate, max_cost, is_agreed=is_agreed)
        with AnswerFile(errors_file, is_fresh=True) as failures:
            for one in malformed:
                error = {"code": "malformed_line", "message": f"line {one.line}: {one.reason}"}
                failures.add(AnswerLine(id=None, custom_id=one.custom_id, response=None, error=error, line=one.line))
            key = None if base_url is None else find_key(key_variable, file=None, environment=os.environ)
            progress = BatchProgress(estimate.num_questions, time.monotonic)

            def show(outcome: Outcome) -> None:
                progress.show(outcome.num_answered, outcome.num_failed, outcome.bill.usd)

            def unanswered() -> Iterator[Question]:
                for found in read_questions(questions, url=url):
                    if isinstance(found, Question) and not _is_answered(found, answers):
                        yield found

            async def run() -> None:
                async with _opened(base_url, key, timeout_s, settings) as asker:
                    batch_run = BatchRun(
                        asker,
                        answers,
                        failures,
                        tariff=tariff,
                        concurrency=concurrency,
                        num_retries=num_retries,
                        nonce=secrets.token_hex(8),
                        sleep=asyncio.sleep,
                        clock=time.monotonic,
                        now=lambda: datetime.now(UTC),
                        jitter=random.random,
                        on_change=show,
                    )
                    outcomes.append(batch_run.outcome)
                    await batch_run.run(unanswered())

            outcomes: list[Outcome] = []
            interrupted = False
            try:
                if estimate.num_questions:
                    asyncio.run(run())
            except KeyboardInterrupt:
                interrupted = True
            except OSError as error:
                raise ConfigurationError(
                    f"Answers can no longer be written down: {error.strerror}. Run it again to go on."
                ) from error
            finally:
                progress.end()
        outcome = outcomes[0] if outcomes else Outcome()
        if not failures.num_added:
            errors_file.unlink()
        _tell_end(outcome, output, errors_file if failures.num_added else None)
        if interrupted:
            click.echo("Interrupted. Run it again to go on.", err=True)
            raise SystemExit(INTERRUPTED)
        if outcome.stopped is not None:
            raise click.ClickException(f"{outcome.stopped} Run it again to go on.")
        if failures.num_added:
            raise SystemExit(NOT_ALL_ANSWERED)


def _is_answered(question: Question, answers: AnswerFile) -> bool:
    """Raises ConfigurationError where its name stands with the answer to another question."""
    known = answers.answered.get(question.custom_id)
    if known is not None and known != question.id:
        raise ConfigurationError(
            f"{answers.path} has an answer for {question.custom_id!r}, but to another question than that of line "
            f"{question.line}. Name another output, or give the question another custom_id."
        )
    return known is not None


def _agree(estimate: Estimate, max_cost: Decimal | None, *, is_agreed: bool) -> None:
    if max_cost is None or is_agreed or (estimate.usd <= max_cost and not estimate.num_unpriced):
        return
    why = f"It may cost more than ${max_cost}." if estimate.usd > max_cost else "What it costs is not known."
    try:
        is_wanted = click.confirm(f"{why} Begin?", err=True)
    except click.Abort:  # nobody is there to be asked
        is_wanted = False
    if not is_wanted:
        click.echo(f"{why} Nothing was asked; --yes begins without a question.", err=True)
        raise SystemExit(TOO_COSTLY)


# --- who is asked -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _opened(base_url: str | None, key: str | None, timeout_s: float, settings: Any) -> AsyncIterator[Asker]:
    if base_url is not None:
        asker = ServerAsker(base_url, key=key, timeout_s=timeout_s)
        try:
            yield asker
        finally:
            await asker.close()
        return
    # Only here: who asks a server needs neither an engine nor the web framework.
    from deepserve.backends.selection import select_backend
    from deepserve.server.in_process import InProcessServer, open_in_process

    class InThisProcess:
        def __init__(self, server: InProcessServer) -> None:
            self._server = server

        async def ask(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
            answer = await self._server.post(path, body, headers)
            return Reply(answer.status, answer.headers, answer.body)

        async def close(self) -> None:
            """The server is closed by whoever opened it."""

    async with open_in_process(settings, select_backend(settings, LoadingProgress())) as server:
        yield InThisProcess(server)


# --- what is told -----------------------------------------------------------------------------------------------------


def _tell_malformed(malformed: list[MalformedLine]) -> None:
    for one in malformed[:_SHOWN]:
        click.echo(f"Line {one.line} cannot be asked: {one.reason}.", err=True)
    if len(malformed) > _SHOWN:
        click.echo(f"and {len(malformed) - _SHOWN:,} more", err=True)


def _tell_estimate(estimate: Estimate, num_answered: int, assumed_output_tokens: int, provider: str) -> None:
    before = f" ({num_answered:,} are answered already)" if num_answered else ""
    click.echo(
        f"{estimate.num_questions:,} to ask{before}: about {estimate.prompt_tokens:,} prompt tokens and at most "
        f"{estimate.output_tokens:,} of answers, ${estimate.usd:,.4f} at {provider}'s prices with nothing cached.",
        err=True,
    )
    if estimate.num_unlimited:
        click.echo(
            f"{estimate.num_unlimited:,} set no limit to their answer; {assumed_output_tokens:,} tokens are assumed.",
            err=True,
        )
    if estimate.num_unpriced:
        click.echo(f"{estimate.num_unpriced:,} name a model without a price there.", err=True)


def _tell_end(outcome: Outcome, output: Path, errors_file: Path | None) -> None:
    bill = outcome.bill
    usage = bill.usage
    unpriced = f", and {bill.num_unpriced:,} answers whose cost is not known" if bill.num_unpriced else ""
    click.echo(
        f"{outcome.num_answered:,} answered into {output}: {usage.prompt_tokens:,} prompt tokens "
        f"({usage.hit_tokens:,} cached), {usage.output_tokens:,} of answers, ${bill.usd:,.6f}{unpriced}."
    )
    if outcome.num_retries:
        click.echo(f"Asked again {outcome.num_retries:,} times.")
    if errors_file is not None:
        click.echo(f"What failed stands in {errors_file}.", err=True)

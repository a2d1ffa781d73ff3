"""What docs/observability.md says is so."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from deepserve.backends.script import Reply, Rule, Script
from deepserve.backends.scripted import ScriptedBackend
from deepserve.config import Settings, TelemetrySettings
from deepserve.configuration.configuration import load_configuration
from deepserve.server.live_settings import LiveSettings
from deepserve.server.metrics import Metrics
from deepserve.server.reload import Reloader, Source
from deepserve.server.request_log import REQUESTS
from deepserve.server.telemetry_opening import ENDPOINTS
from deepserve.store.database import open_database
from tests.backends.upstream.setup import GOOD
from tests.outgoing.receiver import answer
from tests.server.live import live_server
from tests.server.test_telemetry import CLIENT, SERVER, behind, traced
from tests.server.test_upstreams import behind as served_behind

PAGE = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
_ENGINE = "deepserve_engine_"


def _rows(heading: str) -> list[Sequence[str]]:
    """Of the table below it, as cells without the marks of code."""
    part = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| `")]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


def _families(text: str) -> Iterator[tuple[str, str, str, str]]:
    """name, type, labels and text of each."""
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE))
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        if name.startswith(_ENGINE):
            continue
        found = re.search(rf"^{name}(?:_bucket)?\{{(.*?)\}}", text, re.MULTILINE)
        labels = re.findall(r'(\w+)="', found[1]) if found else []
        yield name, kind, ", ".join(sorted(set(labels) - {"le"})), helps[name]


@pytest.mark.filterwarnings("ignore:.*")
def test_every_metric_is_on_the_page_and_no_other(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    with served_behind([answer(503)], [GOOD], database=database) as (live, _):
        live.post("/v1/chat/completions", stream=True)
        text = live.get("/metrics").text
    configuration = load_configuration(environment={})
    source = Source(configuration=configuration, load=lambda: configuration)
    own = Metrics(["m"], clock=lambda: 0.0)
    own.watch(Reloader(LiveSettings(Settings()), source, tell=print, stop=lambda: None))
    families = {one[0]: one for one in (*_families(own.render().decode()), *_families(text))}
    told = {row[0]: row for row in _rows("Metrics") if not row[0].startswith(_ENGINE)}
    assert {name: row[1] for name, row in told.items()} == {name: one[1] for name, one in families.items()}
    for name, _, labels, words in families.values():
        if labels:
            assert ", ".join(sorted(told[name][2].split(", "))) == labels, name
        assert told[name][3] == words, name


def test_every_field_of_the_log_is_on_the_page(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger=REQUESTS.name)
    with served_behind([GOOD]) as (live, _):
        live.post("/v1/chat/completions")
        live.get("/nowhere")
    used = {name for line in caplog.records for name in getattr(line, "fields", {})}
    told = {name for row in _rows("The log") for name in row[0].split(", ")}
    assert used <= told
    assert told - used <= {"client_request_id", "trace_id", "dialect", "answered_model", "route"}


def test_every_attribute_is_on_the_page() -> None:
    reply = Reply(reasoning="Hm.", text="Yes.")
    with traced(ScriptedBackend(Script(rules=(Rule(reply=reply),)))) as (live, collector):
        live.post(temperature=0.5)
    with behind([GOOD]) as (backend, _), traced(backend) as (live, other):
        live.post()
    used = {name for span in collector.spans for name in span.attributes}
    assert used
    assert [span.kind for span in other.spans] == [CLIENT, SERVER]
    used |= {name for span in other.spans for name in span.attributes}
    told = set(re.findall(r"`((?:gen_ai|deepserve)\.[\w.]+|error\.type)`", PAGE))
    assert used <= told


def test_the_settings_and_variables_it_names_exist() -> None:
    assert all(f"`{name}`" in PAGE for name in ENDPOINTS)
    assert set(re.findall(r"`\[telemetry\] (\w+)`", PAGE)) == {
        field.name for field in msgspec.structs.fields(TelemetrySettings)
    }
    with live_server() as live:
        response = live.get("/nowhere", **{"x-request-id": "mine"})
    for name in ("x-request-id", "x-ds-trace-id", "request-id"):
        assert f"`{name}`" in PAGE
        assert name in response.headers

"""GET /v1/catalog over a real socket, with and without prices of the operator's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deepserve.catalog import price_book
from deepserve.catalog.models import load_models
from deepserve.catalog.price_table import load_prices
from deepserve.config import Settings
from deepserve.core.tenant import Grant, KeyId, Tenant, TenantId
from tests.server.live import LiveServer, live_server

OWN = """
[[price]]
provider = "deepseek"
model = "deepseek-v4-pro"
since = 2026-01-01T00:00:00Z
price = { hit = "0.003625", miss = "1.5", output = "2" }
source = "our contract"
"""


def catalog(server: LiveServer) -> Any:  # Any: JSON
    answer = server.get("/v1/catalog")
    assert answer.status_code == 200
    return answer.json()


def test_the_catalog_shows_every_row_with_its_source(live: LiveServer) -> None:
    page, prices, names = catalog(live), load_prices(), load_models()
    assert (page["object"], page["unit"], page["problem"]) == ("catalog", "USD per 1,000,000 tokens", None)
    assert [row["id"] for row in page["models"]] == [model.id for model in names.models]
    assert [row["name"] for row in page["aliases"]] == [alias.name for alias in names.aliases]
    assert len(page["prices"]) == len(prices.rows)
    for table in ("models", "aliases", "families", "compared_models", "providers", "hours", "prices", "scores"):
        assert page[table]
        assert all(row["source"] for row in page[table])


def test_amounts_are_strings_and_one_row_of_each_provider_and_model_is_in_force(live: LiveServer) -> None:
    rows = catalog(live)["prices"]
    (launch,) = [row for row in rows if row["model"] == "deepseek-v4-pro" and row["since"] == "2026-04-24T00:00:00Z"]
    assert launch["price"] == {"hit": "0.145", "miss": "1.74", "output": "3.48", "has_hit": True}
    assert launch["now"] is None
    in_force = [(row["provider"], row["model"]) for row in rows if row["now"] is not None]
    assert sorted(in_force) == sorted({(row["provider"], row["model"]) for row in rows})


def test_the_operators_rows_are_in_force_and_a_later_fault_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(price_book, "_LOOK_EVERY_S", 0.0)
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    with live_server(settings=Settings(prices_file=path)) as server:

        def in_force() -> tuple[str, str, str]:
            page = catalog(server)
            (row,) = [
                row
                for row in page["prices"]
                if (row["provider"], row["model"]) == ("deepseek", "deepseek-v4-pro") and row["now"] is not None
            ]
            return row["origin"], row["now"]["miss"], page["problem"] or ""

        assert in_force() == ("operator", "1.5", "")
        path.write_text(OWN.replace('"1.5"', "1.5"))
        origin, miss, problem = in_force()
        assert (origin, miss) == ("operator", "1.5")
        assert problem.startswith("own.toml, line 2: [[price]] row 1")
        path.write_text(OWN.replace('"1.5"', '"17.5"'))
        assert in_force() == ("operator", "17.5", "")


def test_the_operators_rows_are_for_administrators(tmp_path: Path) -> None:
    class Keys:
        def find(self, key: str) -> Tenant | None:
            return Tenant(id=TenantId("t"), name="t", key=KeyId(key), grant=Grant(is_admin=key == "admin"))

    path = tmp_path / "own.toml"
    path.write_text(OWN)
    with live_server(settings=Settings(prices_file=path), lookups=(Keys(),)) as server:
        page = server.get("/v1/catalog", authorization="Bearer admin").json()
        assert {row["origin"] for row in page["prices"]} == {"operator", "shipped"}
        answer = server.get("/v1/catalog", authorization="Bearer user")
        assert {row["origin"] for row in answer.json()["prices"]} == {"shipped"}
        assert "our contract" not in answer.text


def test_what_an_answer_costs_follows_the_operators_rows(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    with live_server(settings=Settings(prices_file=path)) as server:
        usage = server.post("/api/v1/chat/completions", model="deepseek/deepseek-v4-pro").json()["usage"]
    hits = usage["prompt_tokens_details"]["cached_tokens"]
    misses = usage["prompt_tokens"] - hits
    expected = (hits * 0.003625 + misses * 1.5 + usage["completion_tokens"] * 2) / 1_000_000
    assert usage["cost"] == pytest.approx(expected, rel=1e-12)

"""How `mainstem warehouse status` shows a warehouse to people."""

import pytest

from mainstem.cli.warehouse import _show
from mainstem.roles.warehouse_desk import WarehouseStatus
from mainstem.warehouse.loader import LoaderRow
from mainstem.warehouse.measures import TableReport
from mainstem.warehouse.writer import TableStatus

AT_MS = 1_795_416_000_000


def report(table: str, **more: object) -> TableReport:
    fields = {
        "load_id": "p1",
        "rows": 12,
        "staged_bytes": 34_567,
        "took_s": 1.25,
        "lag_s": 61.0,
        "loaded_at_ms": AT_MS,
        "loads": 3,
        "all_rows": 1_234,
    }
    return TableReport(table=table, **{**fields, **more})  # type: ignore[arg-type]


def status(**more: object) -> WarehouseStatus:
    fields = {
        "destination_id": "house",
        "title": "DuckDB",
        "run_against": "the engine itself",
        "waiting": 7,
        "namespaces": {},
        "tables": {},
        "failing": [],
    }
    return WarehouseStatus(**{**fields, **more})  # type: ignore[arg-type]


def lines(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_each_table_with_its_newest_load(capsys: pytest.CaptureFixture[str]) -> None:
    noted = LoaderRow(
        load_id="p0", table="old", cursor="house", sequence=1, rows=5, positions="{}", loaded_at_ms=AT_MS
    )
    failing = TableStatus(
        namespace="shop",
        table="tracks",
        loads=2,
        rows=9,
        since_ms=AT_MS,
        tried_ms=AT_MS,
        error="no right to write it",
        advice="grant INSERT on it",
    )
    _show(status(tables={"shop": [report("tracks")]}, namespaces={"shop": [noted]}, failing=[failing]))
    shown = lines(capsys)
    moment = ["2026-11-23", "06:40:00Z"]
    waits = ["9", "rows", "wait"]
    assert ["shop", "tracks", *moment, "12", "34.6", "kB", "1.2", "s", "61", "s", "1,234", *waits] in shown
    assert ["shop", "old", *moment, "5"] in shown, "what the engine alone knows of"
    [fails] = [" ".join(line) for line in shown if line[0] == "FAILS:"]
    assert fails.endswith("9 rows of 2 loads wait: no right to write it. What to do: grant INSERT on it")


def test_thousands_of_tables_are_counted_not_listed(capsys: pytest.CaptureFixture[str]) -> None:
    _show(status(tables={"shop": [report(f"event_{number}") for number in range(2_000)]}))
    shown = lines(capsys)
    assert len(shown) < 60
    assert "1,960 tables more" in " ".join(shown[-1])


def test_a_load_that_fails_as_a_whole_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    _show(status(worker_error="WarehouseError: [no] route to host"))
    assert "WarehouseError: [no] route to host" in capsys.readouterr().out

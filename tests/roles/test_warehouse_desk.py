"""What is asked of a warehouse beside its worker: history from an archive, what its tables owe."""

import asyncio
import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mainstem.pipeline.decode import Decoder
from mainstem.pipeline.judge import judge_by
from mainstem.pipeline.transform import Chains
from mainstem.roles.backfill import Filled
from mainstem.roles.warehouse_desk import Desk
from mainstem.settings import Settings
from mainstem.warehouse.loaders.duckdb import DuckdbLoader
from tests.roles.rig import START_MS, Rig, rig, until, workspace

_FOREVER_MS = START_MS * 10
_DISCARDS = "SELECT table_name, row_id, column_name, column_value FROM web.rudder_discards"


def _house(name: str = "house", **more: Any) -> dict[str, Any]:
    config = {"syncFrequency": 0.001, "path": f"{name}.duckdb", "namespace": "web", **more}
    return {"id": name, "name": name, "type": "duckdb", "start": "earliest", "config": config}


_FILES = {
    "id": "files",
    "name": "Files",
    "type": "archive",
    "start": "earliest",
    "config": {"url": "archive", "maxAgeS": 0.1},
}


def _track(number: int, *, name: str = "Paid", **properties: Any) -> dict[str, Any]:
    return {
        "type": "track",
        "event": name,
        "messageId": f"m{number}",
        "userId": f"u{number}",
        "properties": properties,
    }


async def _desk(running: Rig) -> Desk:
    known = await running.told.current()
    return Desk(
        Settings(data_dir=str(running.data_dir)),
        known,
        running.stream,
        running.ledger,
        running.clock,
        lambda plan: judge_by(plan, running.transformer, share=False),
        Decoder(known.sources),
        Chains(known),
    )


async def _backfilled(running: Rig, name: str = "house", **asked: Any) -> list[Filled]:
    """Backfill everything; return how far it was, after each file."""
    desk = await _desk(running)
    [destination] = desk.warehouses(name)
    asked = {"table": "", "archive_id": "files", "from_ms": 0, "to_ms": _FOREVER_MS, **asked}
    return [filled async for filled in desk.backfill(destination, **asked)]


async def _backfill(running: Rig, name: str = "house", *, from_ms: int = 0) -> int:
    """Backfill everything; return how many events were read."""
    return (await _backfilled(running, name, from_ms=from_ms))[-1].events


async def _rows(running: Rig, sql: str, name: str = "house") -> list[tuple[Any, ...]]:
    def ask() -> list[tuple[Any, ...]]:
        with contextlib.closing(DuckdbLoader(running.data_dir / f"{name}.duckdb", "web")) as loader:
            return [tuple(row) for row in loader.query(sql)]

    return await asyncio.to_thread(ask)


async def _odd_history(running: Rig) -> Counter[tuple[Any, ...]]:
    """Events of which some do not fit, loaded live and archived; return what has to be in the discards."""
    await running.worker()
    await running.send([_track(0, price=10, at="2026-01-02T03:04:05Z", done=True)])
    await running.settled("house", received=1)
    await running.settled("files", received=1)
    await running.send(
        [
            _track(1, price="much", at="soon", done=5),
            # Of these, a load makes one column of floats; by itself, the first is an integer.
            _track(2, price=[1, {"a": 2.0}], done=7.25),
            _track(3, name="", price=1),
            _track(4, price=20),
        ]
    )
    await running.settled("house", received=5)
    await running.settled("files", received=5)
    return Counter(
        {
            ("paid", "m1", "price", "much"): 1,
            ("paid", "m1", "at", "soon"): 1,
            ("paid", "m1", "done", "5"): 1,
            ("paid", "m2", "price", '[1,{"a":2.0}]'): 1,
            ("paid", "m2", "done", "7.25"): 1,
        }
    )


def _told(rows: list[tuple[Any, ...]]) -> Counter[tuple[Any, ...]]:
    """The discards but for the events that are there whole; a number's spelling says nothing."""
    return Counter(
        (table, row_id, column, value.removesuffix(".0"))
        for table, row_id, column, value in rows
        if column != "*"
    )


async def test_a_repaired_table_gets_its_rows_while_nothing_comes(tmp_path: Path) -> None:
    async with rig(workspace(_house()), tmp_path) as running:
        # Whatever has a column to be added to it can't be a view.
        await _rows(running, "CREATE SCHEMA web; CREATE VIEW web.tracks AS SELECT 'none' AS id")
        await running.worker()
        await running.send([_track(number) for number in range(3)])
        await running.settled("house", received=3)
        desk = await _desk(running)
        [house] = desk.warehouses("house")
        [told] = await desk.failing(house)
        assert (told.table, told.rows) == ("tracks", 3)
        await _rows(running, "DROP VIEW web.tracks")

        async def in_now() -> bool:
            return not await desk.failing(house)

        await until("the worker has paid", in_now)
        assert await _rows(running, "SELECT id FROM web.tracks ORDER BY id") == [("m0",), ("m1",), ("m2",)]


async def test_history_that_is_in_already_does_not_double_its_discards(tmp_path: Path) -> None:
    async with rig(workspace(_house(), _FILES), tmp_path) as running:
        expected = await _odd_history(running)
        whole = f"{_DISCARDS} WHERE column_name = '*'"
        assert _told(await _rows(running, _DISCARDS)) == expected
        [(table, row_id, _, _)] = await _rows(running, whole)
        assert (table, row_id) == ("track", "m3")
        # As other loads each time: by the times that are asked for.
        for from_ms in (0, 1, 0):
            assert await _backfill(running, from_ms=from_ms) == 5
            assert _told(await _rows(running, _DISCARDS)) == expected
            assert [row[:2] for row in await _rows(running, whole)] == [("track", "m3")]
        assert await _rows(running, "SELECT id, price FROM web.paid ORDER BY id") == [
            ("m0", 10),
            ("m1", None),
            ("m2", None),
            ("m4", 20),
        ]


async def test_history_that_does_not_fit_is_kept_whole_in_a_new_warehouse(tmp_path: Path) -> None:
    # A load a file: loaded all together, the column would be one of words from the beginning.
    new = {**_house("new", syncEvents=1), "start": "latest"}
    async with rig(workspace(_house(), _FILES), tmp_path) as running:
        expected = await _odd_history(running)
        await running.told.tell(workspace(_house(), _FILES, new))
        assert await _backfill(running, "new") == 5
        rows = dict(await _rows(running, "SELECT id, price FROM web.paid", "new"))
        assert rows == {"m0": 10, "m1": None, "m2": None, "m4": 20}
        for from_ms in (1, 2):
            assert _told(await _rows(running, _DISCARDS, "new")) == expected
            assert len(await _rows(running, f"{_DISCARDS} WHERE column_name = '*'", "new")) == 1
            assert await _backfill(running, "new", from_ms=from_ms) == 5
        assert _told(await _rows(running, _DISCARDS, "new")) == expected


async def _history(running: Rig, files: int, new: dict[str, Any]) -> None:
    """Archive events of two names in so many files; then there is a new warehouse."""
    await running.worker()
    for number in range(files):
        await running.send([_track(number), _track(100 + number, name="Seen")])
        await running.settled("files", received=2 * (number + 1))
    await running.told.tell(workspace(_house(), _FILES, new))


async def _loads_of(running: Rig, name: str) -> list[tuple[Any, ...]]:
    sql = "SELECT table_name, row_count FROM web._mainstem_loads WHERE cursor_name LIKE 'backfill%' ORDER BY ALL"
    return await _rows(running, sql, name)


@pytest.mark.parametrize(
    ("settings", "loads"),
    [
        ({}, [("paid", 5), ("seen", 5)]),
        ({"syncEvents": 6}, [("paid", 2), ("paid", 3), ("seen", 2), ("seen", 3)]),
        # Rows are only added: what is in must be known file by file.
        ({"dedupe": "none"}, [("paid", 1)] * 5 + [("seen", 1)] * 5),
    ],
)
async def test_small_files_are_loaded_together(
    tmp_path: Path, settings: dict[str, Any], loads: list[tuple[str, int]]
) -> None:
    new = {**_house("new", skipTracksTable=True, **settings), "start": "latest"}
    async with rig(workspace(_house(), _FILES), tmp_path) as running:
        await _history(running, 5, new)
        found = await _backfilled(running, "new")
        assert [(one.files, one.of_files) for one in found] == [(number, 5) for number in range(1, 6)]
        assert (found[-1].events, found[-1].rows, found[-1].already) == (10, 10, 0)
        assert [row for row in await _loads_of(running, "new") if row[0] in ("paid", "seen")] == loads
        again = (await _backfilled(running, "new"))[-1]
        assert (again.rows, again.already, again.failed) == (0, 10, {})
        assert sorted(await _rows(running, "SELECT id FROM web.paid", "new")) == [
            (f"m{n}",) for n in range(5)
        ]


async def test_rows_that_were_removed_are_loaded_again_if_that_is_asked_for(tmp_path: Path) -> None:
    new = {**_house("new", skipTracksTable=True), "start": "latest"}
    async with rig(workspace(_house(), _FILES), tmp_path) as running:
        await _history(running, 2, new)
        await _backfilled(running, "new")
        await _rows(running, "DELETE FROM web.paid WHERE id = 'm1'", "new")
        assert (await _backfilled(running, "new", table="Paid"))[-1].already == 2
        assert (await _backfilled(running, "new", table="paid", again=True))[-1].rows == 2
        assert await _rows(running, "SELECT id FROM web.paid ORDER BY id", "new") == [("m0",), ("m1",)]


async def test_a_table_that_fails_does_not_hold_up_the_history_of_others(tmp_path: Path) -> None:
    new = {**_house("new", skipTracksTable=True, syncEvents=1), "start": "latest"}
    async with rig(workspace(_house(), _FILES), tmp_path) as running:
        await _history(running, 3, new)
        # Whatever has a column to be added to it can't be a view.
        await _rows(running, "CREATE SCHEMA web; CREATE VIEW web.paid AS SELECT 'none' AS id", "new")
        found = (await _backfilled(running, "new"))[-1]
        assert (found.files, found.rows, list(found.failed)) == (3, 3, [("web", "paid")])
        assert len(await _rows(running, "SELECT id FROM web.seen", "new")) == 3
        await _rows(running, "DROP VIEW web.paid", "new")
        found = (await _backfilled(running, "new", table="paid"))[-1]
        assert (found.rows, found.failed) == (3, {})
        assert len(await _rows(running, "SELECT id FROM web.paid", "new")) == 3
        assert not list((tmp_path / "warehouse" / "new" / "loads").iterdir())

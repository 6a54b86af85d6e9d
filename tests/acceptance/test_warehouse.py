"""`mainstem serve` with a DuckDB warehouse and an archive: kill -9 of workers and of everything, the command line."""

import asyncio
import contextlib
import json
import os
import pty
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mainstem.warehouse.loaders.duckdb import DuckdbLoader
from tests.acceptance.serving import WRITE_KEY, Serving, serving, track, until
from tests.components.install import REPOSITORY

ROUNDS = 10
BURST = 40
WORKSPACE = f"""
workspace: {{id: t, name: T}}
sources:
  - {{id: web, name: Web Shop, write_key: {WRITE_KEY}, type: http}}
destinations:
  - id: house
    type: duckdb
    start: earliest
    config: {{syncFrequency: 0.003}}
  - id: lake
    type: archive
    start: earliest
    config: {{url: archive, maxAgeS: 0.3}}
connections:
  - {{from: web, to: [house, lake]}}
"""


def _rows(product: Serving, sql: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(DuckdbLoader(product.data_dir / "warehouse.duckdb", "web_shop")) as loader:
        return [tuple(row) for row in loader.query(sql)]


async def _rows_of(product: Serving, sql: str) -> list[tuple[Any, ...]]:
    return await asyncio.to_thread(_rows, product, sql)


def _events(start: int, count: int) -> list[dict[str, Any]]:
    return [track(f"user-{number % 5}", number) for number in range(start, start + count)]


async def test_each_event_is_a_row_once_through_kills(tmp_path: Path) -> None:
    chance = random.Random(11)
    product = Serving(tmp_path, WORKSPACE)
    sent: list[str] = []
    try:
        await product.start()
        for number in range(ROUNDS):
            events = _events(number * BURST, BURST)
            await product.send(events)
            sent += [event["messageId"] for event in events]
            await asyncio.sleep(chance.uniform(0, 0.6))
            if number % 4 == 3:
                await product.kill9()
                await product.start()
            elif worker := product.children().get("worker-0"):
                os.kill(worker, signal.SIGKILL)
        await product.settled("house")
        await product.settled("lake")
        for table in ("tracks", "_mainstem_loads"):
            assert await _rows_of(product, f"SELECT count(*) FROM web_shop.{table}")
        found = Counter(row[0] for row in await _rows_of(product, "SELECT id FROM web_shop.tracks"))
        assert found == Counter(sent)
        loads = await _rows_of(
            product, "SELECT sum(row_count) FROM web_shop._mainstem_loads WHERE table_name = 'tracks'"
        )
        assert loads == [(len(sent),)], "each row came by one load"
    finally:
        if product.running:
            await product.stop()
        await product.close()


@pytest.mark.timeout(300)
async def test_the_command_line(tmp_path: Path) -> None:
    workspace = WORKSPACE.replace("syncFrequency: 0.003", "syncFrequency: 60")
    async with serving(tmp_path, workspace) as product:
        await product.send(_events(0, 20))
        await product.settled("lake")

        async def told(*arguments: str) -> str:
            done = await product.cli("warehouse", *arguments)
            assert done.returncode == 0, done.stderr + done.stdout
            assert "━" not in done.stderr, "progress is for terminals"
            return done.stdout

        planned = await told("plan", "house")
        assert "create table: web_shop.tracks" in planned
        synced = await told("sync", "house", "--wait-s", "60")
        assert "20 events are in" in synced
        status = json.loads(await told("status", "house", "--json"))
        assert status["waiting"] == 0
        assert {row["table"] for row in status["namespaces"]["web_shop"]} >= {"tracks"}
        found = {report["table"]: report for report in status["tables"]["web_shop"]}
        assert (found["tracks"]["rows"], found["tracks"]["loads"]) == (20, 1)
        assert found["tracks"]["staged_bytes"] > 0
        assert found["tracks"]["lag_s"] >= found["tracks"]["took_s"] > 0
        async with product.session.get(f"{product.ops_url}/metrics") as answer:
            page = await answer.text()
        for name in ("rows_total", "staged_bytes_total", "load_seconds_count", "lag_seconds_count"):
            assert (
                f'mainstem_warehouse_{name}{{destination="house",process="worker-0",table="tracks"}}' in page
            )
        assert await told("plan", "house")
        # A table is lost, and made again from the archive; what is there already is not doubled.
        await _rows_of(
            product, "DELETE FROM web_shop.tracks WHERE id IN (SELECT id FROM web_shop.tracks LIMIT 7)"
        )
        backfill = ("backfill", "house", "--archive", "lake", "--table", "tracks")
        assert "20 events read" in await told(*backfill)
        seen = await asyncio.to_thread(_on_a_terminal, product, "warehouse", *backfill)
        assert "20 events read" in seen
        assert "━" in seen, "a bar, for there is somebody to see it"
        await until("the rows are back", lambda: _count(product, 20))


@pytest.mark.timeout(300)
async def test_sync_pays_what_a_table_owes_though_nothing_waits(tmp_path: Path) -> None:
    workspace = WORKSPACE.replace("syncFrequency: 0.003", "syncFrequency: 60")
    async with serving(tmp_path, workspace) as product:
        # Whatever has a column to be added to it can't be a view.
        await _rows_of(product, "CREATE SCHEMA web_shop; CREATE VIEW web_shop.tracks AS SELECT 'none' AS id")
        await product.send(_events(0, 5))

        async def sync() -> tuple[int, list[str]]:
            done = await product.cli("warehouse", "sync", "house", "--wait-s", "60")
            return done.returncode, done.stdout.splitlines()

        for first in ("5 events are in", "no events wait"):
            code, said = await sync()
            assert (code, said[0]) == (1, first)
            [fails] = said[1:]
            assert fails.strip().startswith("FAILS: web_shop.tracks: 5 rows of 1 loads wait: table tracks: ")
        await _rows_of(product, "DROP VIEW web_shop.tracks")
        assert await sync() == (
            0,
            ["no events wait", "web_shop.tracks: 5 rows of 1 loads that waited are in"],
        )
        assert await sync() == (0, ["nothing waits"])
        assert await _rows_of(product, "SELECT count(*) FROM web_shop.tracks") == [(5,)]


def _on_a_terminal(product: Serving, *arguments: str) -> str:
    """Run a command as a person does; return what the terminal shows."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "mainstem", *arguments],
        cwd=REPOSITORY,
        env={**product.env, "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        seen = b""
        # EIO: the last one that had the terminal open is gone (pty(7)).
        with contextlib.suppress(OSError):
            while part := os.read(ours, 65_536):
                seen += part
    os.close(ours)
    return seen.decode()


async def _count(product: Serving, wanted: int) -> bool:
    return await _rows_of(product, "SELECT count(*), count(DISTINCT id) FROM web_shop.tracks") == [
        (wanted, wanted)
    ]

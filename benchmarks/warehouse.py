"""Loading a warehouse: events of the log into tables, against the engine's own reading of the same JSON, and dlt.

Run: python -m benchmarks warehouse; or python -m benchmarks.warehouse 1000000 for another number of events. All in one
run, on DuckDB and PostgreSQL, with realistic tracks of about 1 KiB. Ours reads the stream on disk, makes rows of two
tables (`tracks` and the event's own), stages and loads them, exactly once. The engine's own is its bulk read of the
same events as JSON lines into one table: DuckDB's `read_json`, PostgreSQL's COPY into one column of jsonb. dlt, in an
environment of its own, reads the same lines and normalises them by its rules.
"""

import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import duckdb
import msgspec
from tests.components.install import PINS, python_environment
from tests.components.postgres import PostgresServer

from mainstem.bulk.gatherer import Gatherer
from mainstem.bulk.plan import Verdict
from mainstem.clock import SystemClock
from mainstem.events.canonical import Event, canonical_event
from mainstem.events.ordering import ordering_key
from mainstem.events.stored import StoredEvent, decode_stored, encode_stored
from mainstem.ledger.base import CountKey
from mainstem.ledger.sqlite import open_ledger
from mainstem.secret import Secret
from mainstem.stream.base import NewRecord, Record
from mainstem.stream.open import open_stream
from mainstem.warehouse.loader import LoaderSpec
from mainstem.warehouse.loaders import duckdb as duckdb_engine
from mainstem.warehouse.loaders import postgres as postgres_engine
from mainstem.warehouse.rows import Facts, compile_rows, options_of
from mainstem.warehouse.settings import WarehouseSettings
from mainstem.warehouse.shapes import shapes_of
from mainstem.warehouse.writer import WarehouseWriter

EVENTS = 200_000
PARTITIONS = 4
NAMES = ("Order Completed", "Product Viewed", "Cart Updated", "Signed Up", "Page Scrolled")


def message(number: int) -> dict[str, Any]:
    """A track as a browser sends it."""
    return {
        "type": "track",
        "messageId": f"message-{number}",
        "userId": f"user-{number % 20_000}",
        "anonymousId": f"anonymous-{number % 20_000}",
        "event": NAMES[number % len(NAMES)],
        "originalTimestamp": "2026-09-21T14:13:20.123Z",
        "sentAt": "2026-09-21T14:13:20.500Z",
        "properties": {
            "order_id": f"o-{number}",
            "total": number % 1000 + 0.5,
            "currency": "EUR",
            "coupon": "AUTUMN",
            "quantity": number % 7,
            "first": number % 2 == 0,
            "products": [{"sku": f"s-{number}", "price": 9.5, "quantity": 2}],
            "shipping": {"city": "Berlin", "zip": "10115", "express": False},
        },
        "context": {
            "locale": "en-GB",
            "userAgent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36",
            "page": {"url": "https://shop.example/p/1", "path": "/p/1", "title": "Product", "referrer": ""},
            "library": {"name": "analytics.js", "version": "3.1.0"},
            "traits": {"email": f"user{number % 20_000}@example.com", "plan": "pro"},
            "campaign": {"source": "newsletter", "medium": "email", "name": "autumn"},
        },
        "integrations": {"All": True},
    }


def lines(folder: Path, count: int) -> Path:
    """Write the events as JSON lines."""
    path = folder / "events.jsonl"
    with path.open("wb") as file:
        for number in range(count):
            file.write(msgspec.json.encode(message(number)) + b"\n")
    return path


async def ours(folder: Path, count: int, spec: LoaderSpec, config: WarehouseSettings) -> float:
    """Return the seconds from the stream to the tables."""
    clock = SystemClock()
    stream = await open_stream(f"file:{folder / 'stream'}", partitions=PARTITIONS, clock=clock)
    ledger = await open_ledger(folder / f"ledger-{spec.name}.db")
    if not await stream.tallies():
        await fill(stream, count, clock)
    options = options_of(config, spec.provider)
    compiled = compile_rows(options)
    facts = Facts(source_id="web")

    def to_rows(event: Event) -> Any:
        return "shop", compiled(event.message, facts)

    def verdict(record: Record) -> Verdict:
        stored = decode_stored(record.value)
        count = CountKey("web", stored.received_at_ms // 3_600_000, "delivered")
        return Verdict(count, stored=stored, event=canonical_event(stored))

    async def judge(found: Sequence[Record]) -> Sequence[Verdict]:
        return [verdict(one) for one in found]

    gatherer = Gatherer(
        cursor=spec.name,
        destination=spec.name,
        writer=WarehouseWriter(
            destination_id=spec.name,
            spec=spec,
            config=config,
            decode=canonical_event,
            to_rows=to_rows,
            shapes=shapes_of(options, to_rows),
            data_dir=folder,
            clock=clock,
        ),
        stream=stream,
        ledger=ledger,
        clock=clock,
        judge=judge,
        spool_dir=folder / "spool",
    )
    await gatherer.assign(await ledger.open_cursor(spec.name, dict.fromkeys(range(PARTITIONS), 0)))
    started = time.perf_counter()
    await gatherer.flush_now()
    took = time.perf_counter() - started
    await ledger.close()
    await stream.close()
    loader = spec.open(config, "shop", folder)
    rows = tuple(loader.query('SELECT count(*), count(DISTINCT id) FROM "shop"."tracks"')[0])
    loader.close()
    assert rows == (count, count), rows
    return took


async def fill(stream: Any, count: int, clock: SystemClock) -> None:
    """Append the events, as the gateway does."""
    producer = await stream.producer()
    for start in range(0, count, 2_000):
        records = []
        for number in range(start, min(count, start + 2_000)):
            body = message(number)
            stored = StoredEvent("web", body["messageId"], "track", clock.now_ms(), msgspec.json.encode(body))
            key = ordering_key("web", body["userId"], body["anonymousId"]).encode()
            records.append(
                NewRecord(key=key, value=encode_stored(stored), timestamp_ms=stored.received_at_ms)
            )
        await producer.append(records)


def read_by_duckdb(folder: Path, path: Path) -> float:
    """Return the seconds that DuckDB takes to read the lines into one table."""
    started = time.perf_counter()
    with duckdb.connect(str(folder / "own.duckdb")) as connection:
        connection.execute(f"CREATE TABLE events AS SELECT * FROM read_json('{path}')")
    return time.perf_counter() - started


def read_by_postgres(server: PostgresServer, path: Path) -> float:
    """Return the seconds that PostgreSQL takes to copy the lines into one column of jsonb."""

    async def copied() -> float:
        connection = await asyncpg.connect(
            host="127.0.0.1",
            port=server.port,
            user=server.user,
            password=server.password,
            database=server.database,
        )
        await connection.execute("CREATE TABLE own_events (event jsonb)")
        started = time.perf_counter()
        # The two characters that do not occur: each line is one value as it is.
        await connection.copy_to_table(
            "own_events", source=str(path), format="csv", delimiter="\x01", quote="\x02"
        )
        took = time.perf_counter() - started
        await connection.close()
        return took

    return asyncio.run(copied())


_DLT = """
import json, sys, time
import dlt
kind, folder, path, target = sys.argv[1:]
def events():
    batch = []
    with open(path, "rb") as file:
        for line in file:
            batch.append(json.loads(line))
            if len(batch) == 5_000:
                yield batch
                batch = []
    if batch:
        yield batch
place = dlt.destinations.duckdb(target) if kind == "DUCKDB" else dlt.destinations.postgres(target)
pipeline = dlt.pipeline("bench", pipelines_dir=folder, destination=place, dataset_name="by_dlt")
started = time.perf_counter()
pipeline.run(events(), table_name="tracks", write_disposition="append")
print(time.perf_counter() - started)
"""


def by_dlt(folder: Path, path: Path, kind: str, target: str) -> float:
    """Return the seconds that dlt takes."""
    python = python_environment("dlt", PINS / "dlt.txt") / "bin" / "python"
    done = subprocess.run(
        [python, "-c", _DLT, kind, folder / f"dlt-{kind}", path, target],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"dlt failed: {done.stderr[-2_000:]}")
    return float(done.stdout.split()[-1])


def measure(
    folder: Path,
    path: Path,
    count: int,
    spec: LoaderSpec,
    config: WarehouseSettings,
    own: Callable[[], float],
    dlt_target: str,
) -> None:
    """Measure one engine, and print."""
    own_s = own()
    ours_s = asyncio.run(ours(folder, count, spec, config))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    dlt_s = by_dlt(folder, path, spec.name, dlt_target)
    print(
        f"  {spec.title}: ours {count / ours_s:9,.0f} events/s into two tables; peak memory {peak_mb:,.0f} MiB"
    )
    print(f"    its own bulk read {count / own_s:9,.0f} events/s; ours is {own_s / ours_s:.2f} of it")
    print(f"    dlt               {count / dlt_s:9,.0f} events/s; ours is {dlt_s / ours_s:.1f} times as fast")


def main() -> None:
    """Measure, and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    with tempfile.TemporaryDirectory() as name, PostgresServer() as server:
        folder = Path(name)
        path = lines(folder, count)
        print(f"  {count:,} events, {path.stat().st_size / count:,.0f} bytes each")
        duckdb_config = duckdb_engine.Config(sync_frequency=1_000.0)
        measure(
            *(folder, path, count, duckdb_engine.SPEC, duckdb_config),
            lambda: read_by_duckdb(folder, path),
            str(folder / "dlt.duckdb"),
        )
        postgres_config = postgres_engine.Config(
            host="127.0.0.1",
            port=server.port,
            database=server.database,
            user=server.user,
            password=Secret(server.password),
            ssl_mode="disable",
            sync_frequency=1_000.0,
        )
        measure(
            *(folder, path, count, postgres_engine.SPEC, postgres_config),
            lambda: read_by_postgres(server, path),
            f"postgresql://{server.user}:{server.password}@127.0.0.1:{server.port}/{server.database}",
        )


if __name__ == "__main__":
    main()

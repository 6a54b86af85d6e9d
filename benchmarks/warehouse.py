"""Loading a warehouse: events of the log into tables, against the engine's own reading of the same JSON, and dlt.

Run: python -m benchmarks warehouse; or python -m benchmarks.warehouse 1000000 for another number of events. All in one
run, on DuckDB and PostgreSQL, with realistic tracks of about 1 KiB. Ours reads the stream on disk, makes rows of two
tables (`tracks` and the event's own), stages and loads them, exactly once: in one worker, then in two, then the
engine's part of it alone. The engine's own is its bulk read of the same events as JSON lines into one table: DuckDB's
`read_json`, PostgreSQL's COPY into one column of jsonb. dlt, in an environment of its own, reads the same lines and
normalises them by its rules.
"""

import asyncio
import gc
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import duckdb
import msgspec
from tests.components.install import PINS, python_environment
from tests.components.postgres import PostgresServer

from mainstem.bulk.gatherer import Gatherer
from mainstem.bulk.plan import Plan, Verdict
from mainstem.bulk.writer import Making
from mainstem.clock import SystemClock
from mainstem.events.canonical import Event, canonical_event
from mainstem.events.ordering import ordering_key
from mainstem.events.stored import StoredEvent, decode_stored, encode_stored
from mainstem.ledger.base import CountKey
from mainstem.ledger.sqlite import open_ledger
from mainstem.roles.child import COLLECT_AFTER
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
_AT_ONCE = 50_000
"""Events of a load: a worker makes rows of the next while the engine takes these."""
NAMES = ("Order Completed", "Product Viewed", "Cart Updated", "Signed Up", "Page Scrolled")


def message(number: int, names: Sequence[str] = NAMES) -> dict[str, Any]:
    """A track as a browser sends it."""
    return {
        "type": "track",
        "messageId": f"message-{number}",
        "userId": f"user-{number % 20_000}",
        "anonymousId": f"anonymous-{number % 20_000}",
        "event": names[number % len(names)],
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


class _Timed(WarehouseWriter):
    """Knows how long the engine took."""

    seconds = 0.0
    events = 0

    async def write(self, plan: Plan, made: Making) -> int:
        began = time.perf_counter()
        written = await super().write(plan, made)
        self.seconds += time.perf_counter() - began
        self.events += plan.written
        return written


class Part(msgspec.Struct, frozen=True):
    """What one process loads. Processes of one run share the log and the ledger, as workers do."""

    engine: str
    port: int
    """PostgreSQL's."""
    folder: Path
    run: str
    """Names the run's namespace and its position."""
    partitions: Sequence[int]
    at_once: int
    """Events of a load."""
    lanes: int = 0
    """Tables that are loaded at a time; 0: as many as suit the engine."""


async def ours(part: Part) -> tuple[int, float]:
    """Load from the stream into the tables; return the events written and the seconds that writing them took alone."""
    clock = SystemClock()
    folder = part.folder
    stream = await open_stream(f"file:{folder / 'stream'}", partitions=PARTITIONS, clock=clock)
    ledger = await open_ledger(folder / f"ledger-{part.run}.db")
    spec, config = _engine(part)
    options = options_of(config, spec.provider)
    compiled = compile_rows(options)
    facts = Facts(source_id="web")

    def to_rows(event: Event) -> Any:
        return part.run, compiled(event.message, facts)

    def verdict(record: Record) -> Verdict:
        stored = decode_stored(record.value)
        count = CountKey("web", stored.received_at_ms // 3_600_000, "delivered")
        return Verdict(count, stored=stored, event=canonical_event(stored))

    async def judge(found: Sequence[Record]) -> Sequence[Verdict]:
        return [verdict(one) for one in found]

    writer = _Timed(
        destination_id=part.run,
        spec=spec,
        config=config,
        decode=canonical_event,
        to_rows=to_rows,
        shapes=shapes_of(options, to_rows),
        data_dir=folder,
        clock=clock,
    )
    gatherer = Gatherer(
        cursor=part.run,
        destination=part.run,
        writer=writer,
        stream=stream,
        ledger=ledger,
        clock=clock,
        judge=judge,
        spool_dir=folder / "spool",
    )
    known = await ledger.open_cursor(part.run, dict.fromkeys(part.partitions, 0))
    await gatherer.assign({partition: known[partition] for partition in part.partitions})
    await gatherer.flush_now()
    gatherer.close()
    await ledger.close()
    await stream.close()
    return writer.events, writer.seconds


def _engine(part: Part) -> tuple[LoaderSpec, WarehouseSettings]:
    if part.engine == "DUCKDB":
        return duckdb_engine.SPEC, duckdb_engine.Config(sync_frequency=1_000.0, sync_events=part.at_once)
    return postgres_engine.SPEC, postgres_engine.Config(
        host="127.0.0.1",
        port=part.port,
        database=PostgresServer.database,
        user=PostgresServer.user,
        password=Secret(PostgresServer.password),
        ssl_mode="disable",
        sync_frequency=1_000.0,
        sync_events=part.at_once,
        parallel_loads=part.lanes,
    )


def _loaded(part: Part) -> tuple[int, float, float]:
    """In a process of its own, set up as a worker. Return what `ours` does, and the peak memory in MiB."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    return *asyncio.run(ours(part)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def load(parts: Sequence[Part], *, there: int = 0) -> tuple[float, float, float]:
    """Load in as many processes; return the events a second, those that writing alone would do, and the peak memory.

    Args:
        there: events that were loaded before.
    """
    with ProcessPoolExecutor(len(parts), mp_context=multiprocessing.get_context("spawn")) as pool:
        # What a worker has imported long since.
        list(pool.map(time.sleep, [1.0] * len(parts)))
        started = time.perf_counter()
        found = list(pool.map(_loaded, parts))
        took_s = time.perf_counter() - started
    events = sum(count for count, _, _ in found)
    loader = _engine(parts[0])[0].open(_engine(parts[0])[1], parts[0].run, parts[0].folder)
    rows = tuple(loader.query(f'SELECT count(*), count(DISTINCT id) FROM "{parts[0].run}"."tracks"')[0])
    loader.close()
    assert rows == (there + events, there + events), rows
    return (
        events / took_s,
        events / sum(seconds for _, seconds, _ in found),
        sum(peak for _, _, peak in found),
    )


async def fill(folder: Path, count: int, names: Sequence[str] = NAMES, *, first: int = 0) -> None:
    """Append events, as the gateway does.

    Args:
        first: their numbers begin with it.
    """
    clock = SystemClock()
    stream = await open_stream(f"file:{folder / 'stream'}", partitions=PARTITIONS, clock=clock)
    producer = await stream.producer()
    for start in range(first, first + count, 2_000):
        records = []
        for number in range(start, min(first + count, start + 2_000)):
            body = message(number, names)
            stored = StoredEvent("web", body["messageId"], "track", clock.now_ms(), msgspec.json.encode(body))
            key = ordering_key("web", body["userId"], body["anonymousId"]).encode()
            records.append(
                NewRecord(key=key, value=encode_stored(stored), timestamp_ms=stored.received_at_ms)
            )
        await producer.append(records)
    await stream.close()


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
    name: str,
    title: str,
    folder: Path,
    port: int,
    count: int,
    own: Callable[[], float],
    dlt: Callable[[], float],
) -> None:
    """Measure one engine, and print."""
    everything = range(PARTITIONS)
    half = PARTITIONS // 2
    own_per_s = count / own()
    one, _, peak = load([Part(name, port, folder, f"{name}_one".lower(), everything, _AT_ONCE)])
    two, _, _ = load(
        [
            Part(name, port, folder, f"{name}_two".lower(), everything[:half], _AT_ONCE),
            Part(name, port, folder, f"{name}_two".lower(), everything[half:], _AT_ONCE),
        ]
    )
    # All in one load: what the engine does is then not beside anything else.
    _, rows_per_s, _ = load([Part(name, port, folder, f"{name}_alone".lower(), everything, count)])
    dlt_per_s = count / dlt()
    print(f"  {title}: ours {one:9,.0f} events/s into two tables; peak memory {peak:,.0f} MiB")
    print(f"    two workers       {two:9,.0f} events/s; {two / one:.1f} times as fast as one")
    print(
        f"    its own bulk read {own_per_s:9,.0f} events/s; one worker {one / own_per_s:.2f}, two {two / own_per_s:.2f}"
    )
    print(
        f"    finished rows     {rows_per_s:9,.0f} events/s: if making them cost nothing, "
        f"{rows_per_s / own_per_s:.2f} of its bulk read"
    )
    print(
        f"    dlt               {dlt_per_s:9,.0f} events/s; one worker is {one / dlt_per_s:.1f} times as fast"
    )


def main() -> None:
    """Measure, and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    with tempfile.TemporaryDirectory() as name, PostgresServer() as server:
        folder = Path(name)
        path = lines(folder, count)
        print(f"  {count:,} events, {path.stat().st_size / count:,.0f} bytes each")
        asyncio.run(fill(folder, count))
        target = str(folder / "dlt.duckdb")
        measure(
            *("DUCKDB", "DuckDB", folder, server.port, count),
            own=lambda: read_by_duckdb(folder, path),
            dlt=lambda: by_dlt(folder, path, "DUCKDB", target),
        )
        account = f"{server.user}:{server.password}@127.0.0.1:{server.port}/{server.database}"
        measure(
            *("POSTGRES", "PostgreSQL", folder, server.port, count),
            own=lambda: read_by_postgres(server, path),
            dlt=lambda: by_dlt(folder, path, "POSTGRES", f"postgresql://{account}"),
        )


if __name__ == "__main__":
    main()

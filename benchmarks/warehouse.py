"""Loading a warehouse: events of the log into tables, against the engine's own reading of the same JSON, and dlt.

Run: python -m benchmarks warehouse. All in one run, on DuckDB, with realistic tracks of about 1 KiB. Ours reads
the stream on disk, makes rows of two tables (`tracks` and the event's own), stages and loads them, exactly once. The
engine's own is `read_json` of the same events as JSON lines into one table of raw columns. dlt (where it is installed:
`uv pip install dlt`) reads the same lines and normalises them by its own rules.
"""

import asyncio
import importlib.util
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from mainstem.bulk.gatherer import Gatherer
from mainstem.bulk.plan import Verdict
from mainstem.clock import SystemClock
from mainstem.events.canonical import Event, canonical_event
from mainstem.events.ordering import ordering_key
from mainstem.events.stored import StoredEvent, decode_stored, encode_stored
from mainstem.ledger.base import CountKey
from mainstem.ledger.sqlite import open_ledger
from mainstem.stream.base import NewRecord
from mainstem.stream.open import open_stream
from mainstem.warehouse.loaders import duckdb as engine
from mainstem.warehouse.rows import Facts, compile_rows, options_of
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


async def ours(folder: Path, count: int) -> float:
    """Return the seconds from the stream to the tables."""
    clock = SystemClock()
    stream = await open_stream(f"file:{folder / 'stream'}", partitions=PARTITIONS, clock=clock)
    ledger = await open_ledger(folder / "ledger.db")
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
    config = engine.Config(sync_frequency=1_000.0)
    options = options_of(config, engine.SPEC.provider)
    compiled = compile_rows(options)
    facts = Facts(source_id="web")

    def to_rows(event: Event) -> Any:
        return "shop", compiled(event.message, facts)

    async def judge(found: Any) -> Any:
        return [
            Verdict(CountKey("web", decode_stored(one.value).received_at_ms // 3_600_000, "delivered"))
            for one in found
        ]

    gatherer = Gatherer(
        cursor="house",
        destination="house",
        writer=WarehouseWriter(
            destination_id="house",
            spec=engine.SPEC,
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
    await gatherer.assign(await ledger.open_cursor("house", dict.fromkeys(range(PARTITIONS), 0)))
    started = time.perf_counter()
    await gatherer.flush_now()
    took = time.perf_counter() - started
    await ledger.close()
    await stream.close()
    with duckdb.connect(str(folder / "warehouse.duckdb")) as connection:
        rows = connection.execute("SELECT count(*), count(DISTINCT id) FROM shop.tracks").fetchone()
    assert rows == (count, count), rows
    return took


def engines_own(folder: Path, path: Path) -> float:
    """Return the seconds that DuckDB takes to read the lines into one table."""
    started = time.perf_counter()
    with duckdb.connect(str(folder / "own.duckdb")) as connection:
        connection.execute(f"CREATE TABLE events AS SELECT * FROM read_json('{path}')")
    return time.perf_counter() - started


def by_dlt(folder: Path, path: Path) -> float | None:
    """Return the seconds that dlt takes; None without it."""
    if importlib.util.find_spec("dlt") is None:
        return None
    import dlt  # type: ignore[import-not-found, unused-ignore]

    def events() -> Any:
        with path.open("rb") as file:
            batch = []
            for line in file:
                batch.append(msgspec.json.decode(line))
                if len(batch) == 5_000:
                    yield batch
                    batch = []
            if batch:
                yield batch

    pipeline = dlt.pipeline(
        pipeline_name="bench",
        pipelines_dir=str(folder / "dlt"),
        destination=dlt.destinations.duckdb(str(folder / "dlt.duckdb")),
        dataset_name="shop",
    )
    started = time.perf_counter()
    pipeline.run(events(), table_name="tracks", write_disposition="append")
    return time.perf_counter() - started


def main() -> None:
    """Measure, and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = lines(folder, count)
        own_s = engines_own(folder, path)
        ours_s = asyncio.run(ours(folder, count))
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"  {count:,} events, {path.stat().st_size / count:,.0f} bytes each; peak memory {peak_mb:,.0f} MiB"
        )
        print(f"  ours, two tables        {count / ours_s:10,.0f} events/s")
        print(
            f"  DuckDB's own read_json  {count / own_s:10,.0f} events/s; ours is {own_s / ours_s:.2f} of it"
        )
        dlt_s = by_dlt(folder, path)
        if dlt_s is None:
            print("  dlt is not installed: uv pip install dlt")
        else:
            print(
                f"  dlt                     {count / dlt_s:10,.0f} events/s; ours is {dlt_s / ours_s:.2f} times as fast"
            )


if __name__ == "__main__":
    main()

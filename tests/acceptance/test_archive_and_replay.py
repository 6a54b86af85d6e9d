"""The archive on a real S3 server, files and a table; history sent again from it, and from the stream."""

import asyncio
import datetime
import io
import os
import signal
import uuid
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet
from obstore.store import S3Store
from pyiceberg.catalog.sql import SqlCatalog

from mainstem.testing.sink import Sink
from mainstem.warehouse.loaders.duckdb import DuckdbLoader
from tests.acceptance.evidence import (
    Event,
    accepted,
    archived_lines,
    assert_exactly_once,
    assert_in_order,
    ids,
    number_of,
    user_of,
)
from tests.acceptance.serving import WRITE_KEY, Serving, serving, track, until
from tests.components.s3 import S3Server

SOURCES = f"""
workspace: {{id: t, name: T}}
sources:
  - {{id: web, name: Web, write_key: {WRITE_KEY}, type: http}}
"""
USERS, EVENTS = 6, 10


def _workspace(server: S3Server, bucket: str, hooks: Mapping[str, Sink]) -> str:
    listed = "".join(
        f'  - {{id: {name}, name: {name}, type: webhook, start: latest, config: {{webhookUrl: "{sink.url}/in"}}}}\n'
        for name, sink in hooks.items()
    )
    return f"""{SOURCES}
destinations:
{listed}
  - id: lake
    name: Lake
    type: archive
    start: earliest
    config:
      url: s3://{bucket}
      prefix: events
      endpoint: {server.endpoint}
      region: {server.region}
      accessKeyId: {server.access_key}
      secretAccessKey: ${{LAKE_SECRET}}
      formats: [jsonl, parquet]
      maxAgeS: 0.3
connections:
  - {{from: web, to: [{", ".join([*hooks, "lake"])}]}}
"""


async def test_the_archive_on_s3_through_a_killed_worker_and_a_replay_from_it(
    s3_server: S3Server, tmp_path: Path
) -> None:
    bucket = f"lake-{uuid.uuid4().hex[:8]}"
    await asyncio.to_thread(s3_server.create_bucket, bucket)
    async with Sink() as first, Sink() as second:
        product = Serving(tmp_path, _workspace(s3_server, bucket, {"first": first}))
        product.env["LAKE_SECRET"] = s3_server.secret_key
        try:
            await product.start()
            events = _events()
            for event in events[: len(events) // 2]:
                await product.send([event])
            worker = product.children()["worker-0"]
            os.kill(worker, signal.SIGKILL)
            await product.send(events[len(events) // 2 :])
            await product.child("worker-0", other_than=worker)
            books = await product.settled()
            assert books["lake"]["delivered"] == books["lake"]["received"] == len(events)

            expected = {str(event["messageId"]) for event in events}
            lines, rows = await asyncio.to_thread(_objects, s3_server, bucket)
            assert_exactly_once(expected, ids(lines), "JSON lines on S3")
            assert_exactly_once(expected, (row["message_id"] for row in rows), "Parquet on S3")
            assert_in_order(
                [line["raw"] for line in lines], user=user_of, number=number_of, where="JSON lines"
            )
            assert s3_server.secret_key not in (product.log.read_text() + str(await product.ask("/health")))

            # A destination that comes later, and wants all of history: from the archive.
            assert product.workspace_file is not None
            product.workspace_file.write_text(
                _workspace(s3_server, bucket, {"first": first, "second": second})
            )
            await until("the new destination has its place", lambda: product.account("second"))
            arguments = ("--destination", "second", *_today(), "--from-archive", "lake")
            await _preview_then_replay(product, arguments, expected=len(events))
        finally:
            await product.close()
        found = accepted(second.requests)
        assert_exactly_once(expected, ids(found), "replayed from S3")
        assert_in_order(found, user=user_of, number=number_of, where="replayed from S3")


async def test_the_archive_in_iceberg_through_killed_workers_a_replay_and_a_backfill(
    s3_server: S3Server, tmp_path: Path
) -> None:
    """The table in S3, the catalog a SQLite file; two workers commit to it; its small files are joined all the time."""
    bucket = f"lake-{uuid.uuid4().hex[:8]}"
    await asyncio.to_thread(s3_server.create_bucket, bucket)
    async with Sink() as first, Sink() as second:
        product = Serving(tmp_path, _with_a_table(s3_server, bucket, {"first": first}))
        product.env |= {"LAKE_SECRET": s3_server.secret_key, "MAINSTEM_WORKERS": "2"}
        try:
            await product.start()
            events = _events()
            for event in events[: len(events) // 2]:
                await product.send([event])
            for name in ("worker-0", "worker-1"):
                worker = product.children()[name]
                os.kill(worker, signal.SIGKILL)
                await product.child(name, other_than=worker)
            for event in events[len(events) // 2 :]:
                await product.send([event])
            books = await product.settled("first", "lake")
            assert books["lake"]["delivered"] == books["lake"]["received"] == len(events)
            expected = {str(event["messageId"]) for event in events}
            rows = await asyncio.to_thread(_rows, s3_server, bucket, product.data_dir)
            assert_exactly_once(expected, (row["message_id"] for row in rows), "rows in S3")
            assert {msgspec.json.decode(row["raw"])["messageId"] for row in rows} == expected

            assert product.workspace_file is not None
            product.workspace_file.write_text(
                _with_a_table(s3_server, bucket, {"first": first, "second": second})
            )
            await until("the new destination has its place", lambda: product.account("second"))
            where = ("--where", "event.properties.n >= 4")
            arguments = ("--destination", "second", *_today(), "--from-archive", "lake", *where)
            wanted = [event for event in events if number_of(event) >= 4]
            await _preview_then_replay(product, arguments, expected=len(wanted))

            for _ in range(2):  # again: nothing is doubled
                done = await product.cli("warehouse", "backfill", "house", "--archive", "lake")
                assert done.returncode == 0, done.stderr
                assert f"{len(events)} events read" in done.stdout
            loaded = await asyncio.to_thread(_loaded, product)
            assert_exactly_once(expected, loaded, "backfilled from Iceberg")
        finally:
            await product.close()
        found = accepted(second.requests)
        assert_exactly_once(
            (str(event["messageId"]) for event in wanted), ids(found), "replayed from Iceberg"
        )
        assert_in_order(found, user=user_of, number=number_of, where="replayed from Iceberg")


def _loaded(product: Serving) -> list[str]:
    with closing(DuckdbLoader(product.data_dir / "warehouse.duckdb", "web")) as loader:
        return [str(row[0]) for row in loader.query("SELECT id FROM web.tracks")]


def _with_a_table(server: S3Server, bucket: str, hooks: Mapping[str, Sink]) -> str:
    workspace = _workspace(server, bucket, hooks)
    return (
        workspace.replace("type: archive", "type: iceberg_archive")
        .replace(f"url: s3://{bucket}", f"url: s3://{bucket}/lake")
        .replace("      prefix: events\n", "")
        .replace("formats: [jsonl, parquet]", "compactEveryS: 0.5")
        .replace(
            "connections:",
            "  # Its live flow does not load within this test.\n"
            "  - {id: house, type: duckdb, start: latest, config: {syncFrequency: 600}}\nconnections:",
        )
        .replace("lake]}", "lake, house]}")
    )


def _rows(server: S3Server, bucket: str, data_dir: Path) -> list[dict[str, Any]]:
    """Every row, by pyiceberg alone."""
    catalog = SqlCatalog(
        "mainstem",
        **{
            "uri": f"sqlite:///{data_dir / 'catalog.db'}",
            "s3.endpoint": server.endpoint,
            "s3.region": server.region,
            "s3.access-key-id": server.access_key,
            "s3.secret-access-key": server.secret_key,
        },
    )
    rows: list[dict[str, Any]] = catalog.load_table("archive.events").scan().to_arrow().to_pylist()
    catalog.close()
    return rows


async def test_a_replay_from_the_stream_with_a_filter(tmp_path: Path) -> None:
    async with Sink() as first, Sink() as second:
        workspace = f"""{SOURCES}
destinations:
  - {{id: first, name: First, type: webhook, config: {{webhookUrl: "{first.url}/in"}}}}
  - {{id: second, name: Second, type: webhook, start: latest, config: {{webhookUrl: "{second.url}/in"}}}}
connections:
  - {{from: web, to: [first]}}
"""
        async with serving(tmp_path, workspace) as product:
            events = _events()
            await product.send(events)
            await product.settled("first")
            assert product.workspace_file is not None
            product.workspace_file.write_text(workspace.replace("[first]", "[first, second]"))
            await until("the connection is there", lambda: _connected(product))
            arguments = ("--destination", "second", *_today(), "--where", "event.properties.n >= 4")
            wanted = [event for event in events if number_of(event) >= 4]
            await _preview_then_replay(product, arguments, expected=len(wanted))

            # The live flow beside it is as it was, and the new destination has its own from now on.
            more = [track("user-0", EVENTS)]
            await product.send(more)
            books = await product.settled()
            assert books["first"]["delivered"] == len(events) + 1
        found = accepted(second.requests)
        assert_exactly_once((str(event["messageId"]) for event in [*wanted, *more]), ids(found), "second")
        assert_in_order(found, user=user_of, number=number_of, where="second")


async def _preview_then_replay(product: Serving, arguments: tuple[str, ...], *, expected: int) -> None:
    """Preview sends nothing and says how many; then it is done for real, and the books say the same."""
    before = await product.books()
    preview = await product.cli("replay", *arguments, "--preview", "--json")
    assert preview.returncode == 0, preview.stderr
    told: dict[str, Any] = msgspec.json.decode(preview.stdout)
    assert told["would_send"] == expected, told
    assert told["read"] >= expected
    assert told["samples"], "a preview shows what would be sent"
    assert await product.books() == before, "a preview changes nothing"

    asked = await product.cli("replay", *arguments)
    assert asked.returncode == 1, "without a terminal it does not begin unasked"
    begun = await product.cli("replay", *arguments, "--yes")
    assert begun.returncode == 0, begun.stderr

    async def sent() -> bool:
        accounts = await product.books()
        return any(
            name.startswith("replay:") and account["delivered"] == expected
            for name, account in accounts.items()
        )

    await until("the replay is sent", sent)

    async def done() -> bool:
        status = await product.cli("replay", "--status", "--json")
        (replay,) = [msgspec.json.decode(line) for line in status.stdout.splitlines()]
        assert replay["state"] in ("waiting", "running", "done"), replay
        return bool(replay["state"] == "done")

    await until("the replay is done", done, timeout_s=60.0)
    books = await product.books()
    (cursor,) = [name for name in books if name.startswith("replay:")]
    assert books[cursor]["delivered"] == expected, books[cursor]
    assert books[cursor]["pending"] == 0
    assert all(account["balanced"] for account in books.values()), books


async def _connected(product: Serving) -> bool:
    """Whether the second destination is told of events: by what explain says would be done with one."""
    (sighting,) = await product.explain("user-0-0")
    return any(found["destination_id"] == "second" for found in sighting["destinations"])


def _objects(server: S3Server, bucket: str) -> tuple[list[Event], list[Mapping[str, Any]]]:
    """Every line and every row in the bucket, by a client of our own, in the order of names."""
    store = S3Store(
        bucket,
        endpoint=server.endpoint,
        region=server.region,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        client_options={"allow_http": True},
        virtual_hosted_style_request=False,
    )
    names = sorted(item["path"] for page in store.list("events") for item in page)
    read = {name: bytes(store.get(name).bytes()) for name in names}
    lines = archived_lines(data for name, data in read.items() if name.endswith(".jsonl.gz"))
    rows: list[Mapping[str, Any]] = []
    for name, data in read.items():
        if name.endswith(".parquet"):
            rows += pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
    return lines, rows


def _events() -> list[dict[str, Any]]:
    return [track(f"user-{user}", number) for number in range(EVENTS) for user in range(USERS)]


def _today() -> tuple[str, str]:
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    return "--from", yesterday.strftime("%Y-%m-%d")

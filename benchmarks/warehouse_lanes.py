"""Loading many tables into an engine that is far away: one table at a time, and several.

Run: python -m benchmarks warehouse_lanes. Tracks of 40 names go into 41 tables of PostgreSQL, whose every answer comes
so many milliseconds later (a relay in between delays what goes through it, and cuts nothing off). The tables are there
already: it is the second load that counts. All in one run.
"""

import asyncio
import multiprocessing
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.components.postgres import PostgresServer
from tests.components.process import free_port

from benchmarks.warehouse import PARTITIONS, Part, fill, load

TABLES = 40
EVENTS = 8_000
AWAY_MS = 40
"""There and back. A load job or a MERGE of a cloud's warehouse takes seconds."""
LANES = (1, 2, 4, 8)


def main() -> None:
    """Measure, and print."""
    names = [f"Step {number} Done" for number in range(TABLES)]
    with PostgresServer() as server, _away(server.port) as port:
        base = 0.0
        for lanes in LANES:
            with tempfile.TemporaryDirectory() as folder:
                part = Part(
                    "POSTGRES", port, Path(folder), f"lanes_{lanes}", range(PARTITIONS), EVENTS, lanes
                )
                asyncio.run(fill(part.folder, EVENTS, names))
                load([part])  # makes the tables
                asyncio.run(fill(part.folder, EVENTS, names, first=EVENTS))
                _, per_s, _ = load([part], there=EVENTS)
            base = base or per_s
            print(
                f"  {lanes} at a time: {TABLES + 1} tables of {EVENTS:,} events in {EVENTS / per_s:6.1f} s,"
                f" {per_s / base:.1f} times as fast as one"
            )


@contextmanager
def _away(port: int) -> Iterator[int]:
    """Lead to a port by a longer way; yield the port where it begins."""
    here = free_port()
    relay = multiprocessing.get_context("spawn").Process(target=_relay, args=(here, port), daemon=True)
    relay.start()
    try:
        yield here
    finally:
        relay.terminate()
        relay.join()


def _relay(here: int, there: int) -> None:
    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", there)
        await asyncio.gather(_carry(reader, far_writer), _carry(far_reader, writer))

    async def serve() -> None:
        await (await asyncio.start_server(lead, "127.0.0.1", here)).serve_forever()

    asyncio.run(serve())


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1_000)

    async def arrive() -> None:
        while True:
            due, chunk = await under_way.get()
            await asyncio.sleep(due - loop.time())
            if not chunk:
                break
            writer.write(chunk)
            await writer.drain()
        writer.close()

    arriving = asyncio.create_task(arrive())
    chunk = b"."
    while chunk:
        chunk = await reader.read(256 * 1024)
        await under_way.put((loop.time() + AWAY_MS / 2_000, chunk))
    await arriving


if __name__ == "__main__":
    main()

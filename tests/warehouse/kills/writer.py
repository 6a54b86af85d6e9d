"""Writers of one warehouse, each a process of its own that may be killed; run as a program by `test_kills`.

This process imports what a writer needs, once, and forks for each round: a round then costs a fork, not seconds of
imports. It opens nothing itself. Commands come as lines of JSON; each is answered by the writer's process id, at once,
and by how it ended.
"""

import asyncio
import contextlib
import os
import sys
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from mainstem.clock import SystemClock
from mainstem.ledger.sqlite import open_ledger
from mainstem.stream.open import open_stream
from mainstem.warehouse.loader import Compacting, TableFailed
from mainstem.warehouse.settings import WarehouseSettings
from tests.warehouse.contract.engines import ENGINES, import_early, spec_of
from tests.warehouse.kills.steps import Steps
from tests.warehouse.rig import PARTITIONS, Rig

REAL = (
    *("clickhouse", "delta", "delta_s3", "duckdb", "iceberg", "iceberg_s3"),
    *("mysql", "parquet", "parquet_s3", "postgres"),
)
"""The engines that run here for real."""


class Command(msgspec.Struct, kw_only=True):
    """One round."""

    partitions: tuple[int, ...] = tuple(range(PARTITIONS))
    failing: list[str] = []
    """Tables that can't be loaded now."""
    parallel: int = 1
    """Tables that are loaded at a time."""
    upkeep: bool = False
    """Join small files afterwards, where the engine's tables have such, and let go of those that were joined."""
    watch: bool = False
    """Note the steps (in the file `steps`)."""
    fatal: str = ""
    times: int = 1
    """See `Steps`."""


def main() -> None:
    engine, folder, namespace = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    import_early(engine)
    _say({"ready": True})
    for line in sys.stdin.buffer:
        command = msgspec.json.decode(line, type=Command)
        pid = os.fork()
        if pid == 0:
            _be_writer(engine, folder, namespace, command)
        _say({"pid": pid})
        _, status = os.waitpid(pid, 0)
        _say({"status": os.waitstatus_to_exitcode(status)})


def _say(words: dict[str, Any]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(words) + b"\n")
    sys.stdout.flush()


def _be_writer(engine: str, folder: Path, namespace: str, command: Command) -> None:
    try:
        if command.watch or command.fatal:
            noted = os.open(folder / "steps", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

            def note(step: str) -> None:
                os.write(noted, step.encode() + b"\n")

            Steps(note, fatal=command.fatal, times=command.times).watch()
        asyncio.run(_load(engine, folder, namespace, command))
    except Exception:  # noqa: BLE001 - told by the way it ends
        traceback.print_exc()
        os._exit(1)
    # Not by the interpreter's end: what is left in it was made before the fork.
    os._exit(0)


async def _load(engine: str, folder: Path, namespace: str, command: Command) -> None:
    spec = spec_of(engine)

    def fault(what: str) -> None:
        for table in command.failing:
            if what == f"before load {table}":
                raise TableFailed(table, "no right to write it", "grant INSERT on it")

    clock = SystemClock()
    stream = await open_stream(f"file:{folder / 'stream'}", partitions=PARTITIONS, clock=clock)
    ledger = await open_ledger(folder / "ledger.db")
    rig = Rig(
        folder,
        config=WarehouseSettings(sync_frequency=60, sync_events=30, parallel_loads=command.parallel),
        fault=fault,
        stream=stream,
        ledger=ledger,
        clock=clock,
        # By the clock it is never due here.
        spec=msgspec.structs.replace(
            spec, open=lambda _, name, place: ENGINES[engine](place, name), upkeep=None
        ),
        namespace=namespace,
    )
    await (await rig.gatherer(command.partitions)).flush_now()
    if not command.failing:
        await rig.writer().pay()
    if command.upkeep:
        with contextlib.closing(ENGINES[engine](folder, namespace)) as loader:
            if isinstance(loader, Compacting):
                for table in loader.fetch_schema():
                    loader.compact(table, keep=timedelta(0))
    await ledger.close()
    await stream.close()


if __name__ == "__main__":
    main()

"""Archivers into an Iceberg table, each a process of its own that may be killed; run as a program by the kill tests.

This process imports what an archiver needs, once, and forks for each round. It opens nothing itself. Commands come as
lines of JSON; each is answered by how its archiver ended. The log is in memory, with the same beginning in every round:
only ledger and table have to survive.
"""

import asyncio
import os
import sys
import threading
import traceback
from pathlib import Path

import msgspec

from mainstem.clock import SystemClock
from mainstem.destinations import iceberg_archive
from mainstem.destinations.archive import Config
from mainstem.ledger.sqlite import open_ledger
from tests.lake.rig import IcebergPlace, Rig, append, changed, event, with_rules
from tests.warehouse.kills.steps import Steps

SETTINGS = iceberg_archive.Config(compact_every_s=0.001, keep_snapshots_h=0)
"""Small files are joined after every flush, and nothing is kept that no reader of now needs."""


class Command(msgspec.Struct, kw_only=True):
    """One round."""

    events: int
    """How many the log has by now."""
    fatal: str = ""
    times: int = 1
    """See `Steps`."""
    kill_after_s: float | None = None


async def rig(folder: Path, events: int) -> Rig:
    made = Rig(
        IcebergPlace(folder, SETTINGS),
        ledger=await open_ledger(folder / "ledger.db"),
        clock=SystemClock(),
        config=Config(max_events=6),
        evaluate=with_rules,
        instead=changed,
        spool=folder / "spool",
    )
    for start in range(0, events, 10):
        await append(made.stream, [event(number) for number in range(start, min(start + 10, events))])
    return made


async def _archive(folder: Path, command: Command) -> None:
    made = await rig(folder, command.events)
    await (await made.assigned()).flush_now()
    await made.ledger.close()


def _be_archiver(folder: Path, command: Command) -> None:
    try:
        if command.kill_after_s is not None:
            threading.Timer(command.kill_after_s, os.kill, [os.getpid(), 9]).start()
        noted = os.open(folder / "steps", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

        def note(step: str) -> None:
            os.write(noted, step.encode() + b"\n")

        Steps(note, fatal=command.fatal, times=command.times).watch()
        asyncio.run(_archive(folder, command))
    except BaseException:  # noqa: BLE001 - told by the way it ends
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main() -> None:
    folder = Path(sys.argv[1])
    for line in sys.stdin.buffer:
        command = msgspec.json.decode(line, type=Command)
        pid = os.fork()
        if pid == 0:
            _be_archiver(folder, command)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

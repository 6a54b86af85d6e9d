"""The process that `test_exactly_once` kills: archives a log, printing a line at each step.

The log is in memory, with the same content in every process: only ledger and files have to survive.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from mainstem.destinations.archive import Config
from mainstem.ledger.sqlite import open_ledger
from tests.lake.rig import Rig, append, changed, event, local, with_rules

EVENTS = 400


async def rig(folder: Path) -> Rig:
    made = Rig(
        local(folder),
        ledger=await open_ledger(folder / "ledger.db"),
        config=Config(max_events=20),
        evaluate=with_rules,
        instead=changed,
        spool=folder / "spool",
    )
    await append(made.stream, [event(number) for number in range(EVENTS)])
    return made


class _Telling:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in ("put", "settle", "positions"):
            return found

        async def told(*args: Any) -> Any:
            sys.stdout.write(f"{name}\n")
            sys.stdout.flush()
            return await found(*args)

        return told


async def _main() -> None:
    made = await rig(Path(sys.argv[1]))
    archiver = await made.assigned(store=_Telling(made.store), ledger=_Telling(made.ledger))
    await archiver.flush_now()


if __name__ == "__main__":
    asyncio.run(_main())

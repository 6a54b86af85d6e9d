"""Loads one table and is killed meanwhile: run as a program by the contract suite.

It forks for every number of loads that it is told, so that each is a process of its own that need not start anew.
"""

import os
import sys
import traceback
from pathlib import Path

from tests.warehouse.contract.engines import ENGINES, import_early
from tests.warehouse.contract.rows import EVENT, create, load_of, staged

ROWS = 300


def rows_of(number: int) -> list[dict[str, object]]:
    """The rows of a load: always the same ones."""
    return [
        {"id": f"{number}-{row}", "received_at": "2026-01-01T00:00:00Z", "count": row} for row in range(ROWS)
    ]


def main() -> None:
    engine, folder, namespace = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    import_early(engine)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            _end_with(_loaded(engine, folder, namespace, int(line)))
        _, status = os.waitpid(pid, 0)
        _say(f"ended {os.waitstatus_to_exitcode(status)}")


def _loaded(engine: str, folder: Path, namespace: str, loads: int) -> int:
    try:
        loader = ENGINES[engine](folder, namespace)
        loader.check()
        create(loader, "orders", EVENT)
        _say(f"ready {os.getpid()}")
        for number in range(loads):
            loader.load(load_of(number), staged(loader, folder, "orders", EVENT, rows_of(number)))
        loader.close()
    except Exception:  # noqa: BLE001 - shown, and told by the status
        traceback.print_exc()
        return 1
    return 0


def _end_with(status: int) -> None:
    # Not by the interpreter's end: what is left in it was made before the fork.
    sys.stderr.flush()
    os._exit(status)


def _say(words: str) -> None:
    os.write(1, f"{words}\n".encode())


if __name__ == "__main__":
    main()

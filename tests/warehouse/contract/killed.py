"""Loads one table and is killed meanwhile: run as a program by the contract suite."""

import sys
from pathlib import Path

from tests.warehouse.contract.engines import ENGINES
from tests.warehouse.contract.rows import EVENT, create, load_of, staged

ROWS = 300


def rows_of(number: int) -> list[dict[str, object]]:
    """The rows of a load: always the same ones."""
    return [
        {"id": f"{number}-{row}", "received_at": "2026-01-01T00:00:00Z", "count": row} for row in range(ROWS)
    ]


def main() -> None:
    engine, folder, namespace, loads = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    loader = ENGINES[engine](folder, namespace)
    loader.check()
    create(loader, "orders", EVENT)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for number in range(loads):
        loader.load(load_of(number), staged(loader, folder, "orders", EVENT, rows_of(number)))
    loader.close()


if __name__ == "__main__":
    main()

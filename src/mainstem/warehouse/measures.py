"""What is measured of each table: bounded for Prometheus, whole for people.

writer -> **measures** -> `/metrics`; and, a file a namespace, `mainstem warehouse status`.

A warehouse may have thousands of tables, and each label value is a couple of dozen time series in every worker. So the
tables that every warehouse has, and the first `_OWN_LABELS` others that a process loads, have their names as labels;
all that come later share the label `other tables`. Sums over tables are right all the same. The files hold every table.

The files are for people: written whole and put in place atomically, but not synced. A power cut may lose the newest;
the next load of the table writes it again.
"""

import fcntl
import os
import threading
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec
import pyarrow.parquet as pq

from mainstem.telemetry import metrics
from mainstem.warehouse.schema import DISCARDS, USERS

OTHERS: Final = "other tables"
_OWN_LABELS: Final = 50
_EVERYWHERE: Final = frozenset(
    {"tracks", "identifies", USERS, "pages", "screens", "groups", "aliases", DISCARDS}
)
_labels: Final[dict[str, set[str]]] = {}
"""By destination: the tables with labels of their own. A process's metrics live as long as it does; so does this."""


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """One load of one table."""

    rows: int
    """That came in now."""
    already: bool
    """It was in before: nothing was done."""
    staged_bytes: int
    """Size of the file that was loaded."""
    took_s: float
    """Changing the table, making the file, loading it."""
    oldest_ms: int
    """receivedAt of its oldest row; 0 = no row has one."""


class TableReport(msgspec.Struct, kw_only=True):
    """A table's newest load, and all of them together; as this installation counted."""

    table: str
    load_id: str
    rows: int
    staged_bytes: int
    took_s: float
    lag_s: float
    """From receivedAt of the newest load's oldest row to when it was in the table."""
    loaded_at_ms: int
    loads: int = 0
    all_rows: int = 0
    """Of all loads."""


class Measures:
    """The measures of one warehouse. Blocking; `loaded` and `failed` from any thread."""

    def __init__(self, destination_id: str, folder: Path) -> None:
        """
        Args:
            folder: of the warehouse, in the data folder.
        """
        self._destination_id = destination_id
        self._folder = folder
        self._new: dict[str, dict[str, TableReport]] = {}
        self._noting = threading.Lock()

    def loaded(self, namespace: str, table: str, load_id: str, found: Loaded, now_ms: int) -> None:
        """Take note of a load that is in."""
        lag_s = max(0, now_ms - found.oldest_ms) / 1000 if found.oldest_ms else 0.0
        labels = (self._destination_id, _label(self._destination_id, table))
        metrics.WAREHOUSE_ROWS.labels(*labels).inc(found.rows)
        metrics.WAREHOUSE_BYTES.labels(*labels).inc(found.staged_bytes)
        metrics.WAREHOUSE_LOAD_SECONDS.labels(*labels).observe(found.took_s)
        if found.oldest_ms:
            metrics.WAREHOUSE_LAG_SECONDS.labels(*labels).observe(lag_s)
        with self._noting:
            reports = self._new.setdefault(namespace, {})
            before = reports.get(table)
            reports[table] = TableReport(
                table=table,
                load_id=load_id,
                rows=found.rows,
                staged_bytes=found.staged_bytes,
                took_s=round(found.took_s, 3),
                lag_s=round(lag_s, 3),
                loaded_at_ms=now_ms,
                loads=1 + (before.loads if before is not None else 0),
                all_rows=found.rows + (before.all_rows if before is not None else 0),
            )

    def failed(self, table: str) -> None:
        """Take note of a table that could not be loaded, while others could."""
        label = _label(self._destination_id, table)
        metrics.WAREHOUSE_FAILURES.labels(self._destination_id, label).inc()

    def broken(self) -> None:
        """Take note of a load that failed as a whole."""
        metrics.WAREHOUSE_ERRORS.labels(self._destination_id).inc()

    def save(self) -> None:
        """Write what is new of each namespace for other processes to read.

        Raises:
            OSError: the disk does not take it.
        """
        for namespace, new in self._new.items():
            path = _path(self._folder, namespace)
            path.parent.mkdir(parents=True, exist_ok=True)
            # Other workers load the same namespace.
            with path.with_suffix(".lock").open("wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                known = dict(reports_of(self._folder, namespace))
                for table, report in new.items():
                    before = known.get(table)
                    if before is not None:
                        report.loads += before.loads
                        report.all_rows += before.all_rows
                    known[table] = report
                made = path.with_suffix(f".{os.getpid()}.new")
                made.write_bytes(msgspec.json.encode(list(known.values())))
                made.replace(path)
        self._new.clear()


def oldest_ms(path: Path, column: str) -> int:
    """Return the earliest moment in a column of a Parquet file, by the file's own statistics; 0 if there is none."""
    metadata = pq.read_metadata(str(path))
    names = metadata.schema.names
    if column not in names:
        return 0
    found = []
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(names.index(column)).statistics
        if statistics is not None and statistics.has_min_max and isinstance(statistics.min, datetime):
            found.append(statistics.min)
    return round(min(found).timestamp() * 1000) if found else 0


def reports_of(folder: Path, namespace: str) -> Mapping[str, TableReport]:
    """Return the reports of a namespace's tables, by table; none before the first load. Blocking."""
    try:
        content = _path(folder, namespace).read_bytes()
        found = msgspec.json.decode(content, type=list[TableReport])
    except (FileNotFoundError, msgspec.DecodeError):
        # Not there yet, or of a version whose words were others: the next loads fill it again.
        return {}
    return {report.table: report for report in found}


def _path(folder: Path, namespace: str) -> Path:
    return folder / "reports" / f"{quote(namespace, safe='')}.json"


def _label(destination_id: str, table: str) -> str:
    if table.lower() in _EVERYWHERE:
        return table
    own = _labels.setdefault(destination_id, set())
    if table not in own and len(own) < _OWN_LABELS:
        own.add(table)
    return table if table in own else OTHERS

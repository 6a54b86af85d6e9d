"""DuckDB: a warehouse in one file, nothing to install.

Follows https://duckdb.org/docs/stable/ (DuckDB 1.x and 2.x, read 2026-11). The file is opened for each load and closed
behind it: one process may write it at a time, and while it is closed anybody may read it. A reader that comes while a
load is in progress is told that the file is locked, and tries again; one that holds the file open for longer keeps
loads waiting. Workers let one another in between their loads. For readers that must never wait, `copyPath` names a
second file that is replaced after each load, atomically.

An integer column becomes `DOUBLE` only if every number in it survives (none is beyond 2^53); else decimals go to the
discards.

Limits: none of names or columns that events reach. Run against: the engine itself.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import duckdb

from mainstem.bulk.folders import is_abandoned, locked
from mainstem.warehouse.destination import destination_of
from mainstem.warehouse.loader import Capabilities, LoaderSpec, StagedTable, WarehouseError
from mainstem.warehouse.loaders.sql import SqlLoader, column_types
from mainstem.warehouse.schema import ColumnType, Schema
from mainstem.warehouse.settings import WarehouseSettings

_OPEN_FOR_S: Final = 120.0
_POLL_S: Final = 0.05
_LET_IN_S: Final = 0.2
"""Whoever waits has the file within this time, if nobody takes it before."""
_WORDS: Final[dict[str, ColumnType]] = {
    "boolean": "boolean",
    "bigint": "int",
    "integer": "int",
    "smallint": "int",
    "tinyint": "int",
    "double": "float",
    "float": "float",
    "decimal": "float",
    "timestamp": "datetime",
    "date": "datetime",
    "json": "json",
    "varchar": "string",
}


class Config(WarehouseSettings, frozen=True, kw_only=True, rename="camel"):
    """Settings of a DuckDB file."""

    path: str = "warehouse.duckdb"
    """The file; a relative path lies in the data directory."""
    copy_path: str = ""
    """A second file for readers that must never wait: replaced as a whole after each load. Empty = none."""


CAPABILITIES: Final = Capabilities(
    types={
        "boolean": "BOOLEAN",
        "int": "BIGINT",
        "float": "DOUBLE",
        "datetime": "TIMESTAMPTZ",
        "string": "VARCHAR",
        "text": "VARCHAR",
        "json": "JSON",
    },
    max_name=200,
    max_columns=10_000,
    widenings=frozenset({("int", "float")}),
    one_process=True,
)


class DuckdbLoader(SqlLoader):
    """See `loader.Loader`."""

    now_sql = "now()"

    def __init__(self, path: Path, namespace: str, copy_path: Path | None = None) -> None:
        super().__init__(namespace, CAPABILITIES)
        self._path = path
        self._copy_path = copy_path
        self._changed = False
        self._views: set[str] = set()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = _connect(path)

    def _run(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[Sequence[Any]]:
        try:
            cursor = self._connection.execute(sql, list(parameters) or None)
            return cursor.fetchall() if cursor.description else []
        except duckdb.Error as error:
            raise WarehouseError(f"{self._path}: {_words(error)}") from error

    def _stage(self, table: StagedTable, name: str) -> None:
        columns = ", ".join(
            f"CAST({self.quoted(column)} AS {self.type_of(kind)}) AS {self.quoted(column)}"
            for column, kind in table.columns.items()
        )
        # A view: the file is read where its rows go, and not copied on the way.
        self._run(
            f"CREATE OR REPLACE TEMPORARY VIEW {name} AS SELECT {columns} FROM read_parquet('{_literal(table.path)}')"
        )
        self._views.add(name)
        self._changed = True

    def _drop_stage(self, stage: str) -> None:
        kind = "VIEW" if stage in self._views else "TABLE"
        self._views.discard(stage)
        self._run(f"DROP {kind} IF EXISTS {stage}")

    def fetch_schema(self) -> Schema:
        found: dict[str, dict[str, ColumnType]] = {}
        rows = self._run(
            "SELECT table_name, column_name, data_type FROM duckdb_columns()"
            " WHERE schema_name = ? AND database_name = current_database() ORDER BY table_name, column_index",
            (self.namespace,),
        )
        for table, column, kind in rows:
            found.setdefault(table, {})[column] = column_types(_WORDS, kind)
        return found

    def close(self) -> None:
        with contextlib.suppress(duckdb.Error):
            self._connection.close()
        if _somebody_waits(self._path):
            # Who loads one plan after the other would always be faster than who looks now and then.
            time.sleep(_LET_IN_S)
        if self._changed and self._copy_path is not None:
            _copy(self._path, self._copy_path)


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    """Open the file; wait while somebody else has it.

    Raises:
        WarehouseError: somebody has it for too long, or it is no DuckDB file.
    """
    until = time.monotonic() + _OPEN_FOR_S
    waits = False
    with contextlib.ExitStack() as stack:
        while True:
            try:
                connection = duckdb.connect(str(path))
                connection.execute("SET TimeZone = 'UTC'")
                return connection
            except duckdb.IOException as error:
                if "lock" not in str(error).lower() or time.monotonic() > until:
                    raise WarehouseError(f"{path}: {_words(error)}") from error
                if not waits:
                    queue = _queue_of(path)
                    queue.touch()
                    stack.callback(os.close, locked(queue, fcntl.LOCK_SH))
                    waits = True
                time.sleep(_POLL_S)
            except duckdb.Error as error:
                raise WarehouseError(f"{path}: {_words(error)}") from error


def _queue_of(path: Path) -> Path:
    """Return the file that those have locked who wait: the kernel lets go of it however they end."""
    return path.with_name(f".{path.name}.waiting")


def _somebody_waits(path: Path) -> bool:
    queue = _queue_of(path)
    return queue.exists() and not is_abandoned(queue)


def _words(error: Exception) -> str:
    return str(error).splitlines()[0][:500] if str(error) else type(error).__name__


def _copy(path: Path, target: Path) -> None:
    """Replace the readers' file by a copy, atomically: who has the old one open goes on reading it."""
    made = target.with_suffix(f".{os.getpid()}.new")
    with contextlib.closing(duckdb.connect(":memory:")) as memory:
        memory.execute(f"ATTACH '{_literal(path)}' AS one (READ_ONLY)")
        memory.execute(f"ATTACH '{_literal(made)}' AS two")
        memory.execute("COPY FROM DATABASE one TO two")
    made.replace(target)


def _literal(path: Path) -> str:
    return str(path).replace("'", "''")


def open_loader(config: Config, namespace: str, data_dir: Path) -> DuckdbLoader:
    """Open the file for one load."""
    copy = data_dir / config.copy_path if config.copy_path else None
    return DuckdbLoader(data_dir / config.path, namespace, copy)


SPEC: Final = LoaderSpec(
    name="DUCKDB",
    title="DuckDB",
    config=Config,
    doc_url="https://duckdb.org/docs/stable/",
    capabilities=CAPABILITIES,
    open=open_loader,
    provider="postgres",
    run_against="the engine itself",
)
DESTINATION: Final = destination_of(SPEC)

"""BigQuery's loader: see `bigquery` for what it promises, and how.

The commit of a table's rows, as one script (`_commit_sql`):

    begin transaction
      update the lock's row                           -> conflicts with whoever holds it; then all is made again
      is (load, table) in _mainstem_loads?            -> nothing to do
      rows with the same id go, those of the stage come
      (load, table) into _mainstem_loads
    commit
"""

import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow.compute as pc
import pyarrow.parquet as pq
from google.api_core.exceptions import NotFound
from google.cloud import bigquery

from mainstem.clock import Clock, SystemClock
from mainstem.telemetry.log import logger
from mainstem.warehouse.loader import (
    Capabilities,
    Done,
    Load,
    LoaderRow,
    StagedTable,
    TableFailed,
    WarehouseError,
)
from mainstem.warehouse.loaders.batches import integers_beyond_floats, see_integers
from mainstem.warehouse.loaders.bigquery import CAPABILITIES, PartitionColumn, PartitionType
from mainstem.warehouse.loaders.bigquery_jobs import BigqueryError, Jobs, mapped
from mainstem.warehouse.loaders.changes import Changes, rounded_sql
from mainstem.warehouse.loaders.sql import column_types
from mainstem.warehouse.schema import (
    LOADS,
    LOADS_COLUMNS,
    USERS,
    Columns,
    ColumnType,
    Schema,
    SchemaChange,
)

_log = logger(__name__)

LOCKS: Final = "_mainstem_locks"
_SLOTS: Final = 64
_STAGE: Final = "_mainstem_stage_"
_STAGED_FOR: Final = timedelta(days=1)
_MAX_SCRIPT: Final = 1_000_000
"""Characters of a query: https://docs.cloud.google.com/bigquery/quotas#query_jobs."""
_STAGINGS: Final = 3
_CLOCK_COLUMNS: Final = ("uuid_ts", "loaded_at")
_WORDS: Final[dict[str, ColumnType]] = {
    "bool": "boolean",
    "int64": "int",
    "float64": "float",
    "numeric": "float",
    "bignumeric": "float",
    "timestamp": "datetime",
    "datetime": "datetime",
    "date": "datetime",
    "json": "json",
    "string": "string",
}
_NOW: Final = "CURRENT_TIMESTAMP()"
_API_TYPES: Final = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL"}
"""Words of the API that are not those of SQL."""
_STAGED_TYPES: Final[Mapping[ColumnType, str]] = {**CAPABILITIES.types, "json": "STRING"}
"""Of the stage: a file's text can't be loaded into a column of JSON."""

Parameters = list[bigquery.ScalarQueryParameter]


class _StageGone(WarehouseError):
    """Somebody who made the same load was faster, and dropped the stage; or it expired."""


class BigqueryLoader(Changes):
    """See `loader.Loader`."""

    def __init__(
        self,
        client: bigquery.Client,
        namespace: str,
        *,
        location: str = "",
        partition_column: PartitionColumn = "received_at",
        partition_type: PartitionType = "day",
        dedupe_days: int = 0,
        clock: Clock | None = None,
        jobs: Jobs | None = None,
    ) -> None:
        """
        Args:
            location: of a dataset that is not there yet; "" is BigQuery's own choice.
            dedupe_days: how far before a load's first row replaced ones are looked for; 0 = everywhere.
        """
        self.namespace = namespace
        self._client = client
        self._dataset = bigquery.DatasetReference(client.project, namespace)
        self._location = location
        self._partition_column = partition_column
        self._partition_type = partition_type
        self._dedupe_days = dedupe_days
        self._clock = clock or SystemClock()
        self._jobs = jobs or Jobs(client, "")
        self._loads_in: tuple[str, frozenset[str]] | None = None

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def close(self) -> None:
        self._client.close()  # type: ignore[no-untyped-call]

    # ------------------------------------------------------------ words

    def quoted(self, name: str) -> str:
        """Return a name in BigQuery's quotes."""
        return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"

    def place(self, table: str) -> str:
        """Return a table with its project and dataset, quoted."""
        return f"{self._namespace_sql()}.{self.quoted(table)}"

    def _namespace_sql(self) -> str:
        return f"{self.quoted(self._client.project)}.{self.quoted(self.namespace)}"

    def _list(self, names: Sequence[str]) -> str:
        return ", ".join(self.quoted(name) for name in names)

    # ------------------------------------------------------------ schema

    def check(self) -> None:
        if not self._find_dataset():
            made = bigquery.Dataset(self._dataset)
            made.location = self._location or None
            made.labels = {"application": "mainstem"}
            with mapped():
                self._client.create_dataset(made, exists_ok=True, timeout=60)
            self._find_dataset()
        if not self._types(LOADS):
            definitions = self._definitions(LOADS_COLUMNS)
            self._jobs.run(
                f"CREATE TABLE IF NOT EXISTS {self.place(LOADS)} ({definitions}) CLUSTER BY `load_id`",
                what="evolve",
            )
        if not self._types(LOCKS):
            # Table and rows at once: a lock without a row would lock nothing.
            self._jobs.run(
                f"CREATE TABLE IF NOT EXISTS {self.place(LOCKS)} (`slot` INT64, `load_id` STRING)"
                f" PARTITION BY RANGE_BUCKET(`slot`, GENERATE_ARRAY(0, {_SLOTS}, 1))"
                f" AS SELECT slot, CAST(NULL AS STRING) AS load_id"
                f" FROM UNNEST(GENERATE_ARRAY(0, {_SLOTS - 1})) AS slot",
                what="evolve",
            )

    def _find_dataset(self) -> bool:
        """Tell whether the dataset is there; jobs run where it is."""
        with mapped():
            try:
                self._jobs.location = self._client.get_dataset(self._dataset, timeout=60).location or ""
            except NotFound:
                return False
        return True

    def fetch_schema(self) -> Schema:
        if not self._jobs.location and not self._find_dataset():
            return {}
        schema = f"{self._namespace_sql()}.INFORMATION_SCHEMA"
        try:
            rows = self._jobs.run(
                f"SELECT c.table_name, c.column_name, c.data_type FROM {schema}.COLUMNS AS c"
                f" JOIN {schema}.TABLES AS t ON t.table_name = c.table_name"
                f" WHERE t.table_type = 'BASE TABLE' AND c.is_hidden = 'NO'"
                f" AND NOT STARTS_WITH(c.table_name, '{_STAGE}') AND c.table_name != '{LOCKS}'"
                f" ORDER BY c.table_name, c.ordinal_position",
                what="schema",
            )
        except BigqueryError as error:
            if error.reason == "notFound":
                return {}
            raise
        found: dict[str, dict[str, ColumnType]] = {}
        for table, column, kind in rows:
            found.setdefault(table, {})[column] = column_types(_WORDS, kind)
        return found

    def _types(self, table: str) -> Mapping[str, str]:
        """Return a table's columns with BigQuery's own types as they are now; {} if there is no such table."""
        with mapped():
            try:
                found = self._client.get_table(self._dataset.table(table), timeout=60)
            except NotFound:
                return {}
        return {
            field.name: "ARRAY"
            if field.mode == "REPEATED"
            else _API_TYPES.get(field.field_type, field.field_type)
            for field in found.schema
        }

    def evolve(self, changes: Sequence[SchemaChange]) -> None:
        self.check()
        for change in changes:
            with self._of(change.table):
                self._change(change)

    def _create(self, table: str, columns: Columns) -> None:
        self._jobs.run(self._create_sql(table, columns), what="evolve")
        there = self._types(table)
        if missing := {name: kind for name, kind in columns.items() if name not in there}:
            self._add(table, missing)

    def _add(self, table: str, columns: Columns) -> None:
        added = ", ".join(
            f"ADD COLUMN IF NOT EXISTS {self.quoted(name)} {CAPABILITIES.types[kind]}"
            for name, kind in columns.items()
        )
        self._jobs.run(f"ALTER TABLE {self.place(table)} {added}", what="evolve")

    def _widen(self, table: str, column: str, after: ColumnType) -> None:
        place, name, wanted = self.place(table), self.quoted(column), CAPABILITIES.types[after]
        if self._types(table).get(column) == wanted:
            return
        if after == "float" and self._jobs.run(rounded_sql(place, name), what="evolve"):
            return
        self._jobs.run(f"ALTER TABLE {place} ALTER COLUMN {name} SET DATA TYPE {wanted}", what="evolve")

    def _create_sql(self, table: str, columns: Columns) -> str:
        sql = f"CREATE TABLE IF NOT EXISTS {self.place(table)} ({self._definitions(columns)})"
        unit = self._partition_type.upper()
        if table.lower() != USERS:
            if self._partition_column == "_PARTITIONTIME":
                sql += f" PARTITION BY TIMESTAMP_TRUNC(_PARTITIONTIME, {unit})"
            elif columns.get(self._partition_column) == "datetime":
                sql += f" PARTITION BY TIMESTAMP_TRUNC({self.quoted(self._partition_column)}, {unit})"
        if columns.get("id") == "string":
            sql += " CLUSTER BY `id`"
        return sql

    def _definitions(self, columns: Columns) -> str:
        return ", ".join(f"{self.quoted(name)} {CAPABILITIES.types[kind]}" for name, kind in columns.items())

    @contextmanager
    def _of(self, table: str) -> Iterator[None]:
        """What goes wrong here for reasons of this table is told so."""
        try:
            yield
        except BigqueryError as error:
            if not error.of_one_table:
                raise
            why, _, advice = str(error).partition("; ")
            raise TableFailed(table, why, advice) from error

    # ------------------------------------------------------------ rows

    def load(self, load: Load, table: StagedTable) -> Done:
        if table.table in self._tables_in(load.id):
            return Done(0, already=True)
        with self._of(table.table):
            there = self._types(table.table)
            if not there:
                raise BigqueryError(f"Not found: Table {table.table}", "notFound")
            if table.columns:
                large = integers_beyond_floats(table)
                see_integers(table, [name for name in large if there.get(name) == "FLOAT64"])
            for _ in range(_STAGINGS - 1):
                try:
                    return self._load(load, table, there)
                except _StageGone:
                    continue  # from the beginning: most likely it is in
            return self._load(load, table, there)

    def _tables_in(self, load_id: str) -> frozenset[str]:
        """Return tables of a load that are in for certain: asked once for all of them."""
        if self._loads_in is None or self._loads_in[0] != load_id:
            rows = self._jobs.run(
                f"SELECT table_name FROM {self.place(LOADS)} WHERE load_id = @load_id",
                [bigquery.ScalarQueryParameter("load_id", "STRING", load_id)],
                what="schema",
            )
            self._loads_in = (load_id, frozenset(str(row[0]) for row in rows))
        return self._loads_in[1]

    def _load(self, load: Load, table: StagedTable, there: Mapping[str, str]) -> Done:
        try:
            return self._load_staged(load, table, there)
        except BigqueryError as error:
            if error.reason == "notFound" and _STAGE in str(error):
                raise _StageGone(str(error)) from error
            raise

    def _load_staged(self, load: Load, table: StagedTable, there: Mapping[str, str]) -> Done:
        stage = self._stage(load, table) if table.columns and table.rows else ""
        sql, parameters = self._commit_sql(load, table, there, stage)
        if len(sql) > _MAX_SCRIPT:
            raise TableFailed(
                table.table,
                f"{len(table.columns)} columns make a query longer than BigQuery takes",
                "keep what makes the many columns as JSON: `jsonPaths`",
            )
        [(loaded,)] = self._jobs.run(sql, parameters, what="commit")
        if stage:
            self._drop(stage)
        return Done(table.rows) if loaded else Done(0, already=True)

    def _stage(self, load: Load, table: StagedTable) -> str:
        """Put the file into a table of its own; return its name. Nothing is done if it is there."""
        identity = [self._client.project, self.namespace, load.id, table.table, _content_of(table.path)]
        digest = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:32]
        fields = [bigquery.SchemaField(name, _STAGED_TYPES[kind]) for name, kind in table.columns.items()]
        made = bigquery.Table(self._dataset.table(f"{_STAGE}{digest}"), schema=fields)
        made.expires = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC) + _STAGED_FOR
        made.labels = {"application": "mainstem"}
        with mapped():
            self._client.create_table(made, exists_ok=True, timeout=60)
        job_id = f"mainstem_load_{digest}"
        if not self._fill(table, made, job_id, fields):
            # That job failed, or what it made is gone.
            self._fill(table, made, f"{job_id}_{uuid.uuid4().hex[:12]}", fields, last=True)
        return made.table_id

    def _fill(
        self,
        table: StagedTable,
        stage: bigquery.Table,
        job_id: str,
        fields: Sequence[bigquery.SchemaField],
        *,
        last: bool = False,
    ) -> bool:
        """Load the stage; tell whether it holds the file's rows now.

        Raises:
            BigqueryError: it does not, and this was the last try.
        """
        try:
            self._jobs.load_file(table.path, stage, job_id, columns=fields)
        except BigqueryError as error:
            # Not empty: somebody who made the same load was faster, or an answer was lost.
            if error.reason != "duplicate" and last:
                raise
        with mapped():
            rows = int(self._client.get_table(stage.reference, timeout=60).num_rows or 0)
        if rows != table.rows and last:
            raise WarehouseError(f"{stage.table_id} holds {rows} rows of {table.rows}")
        return rows == table.rows

    def _drop(self, stage: str) -> None:
        try:
            with mapped():
                self._client.delete_table(self._dataset.table(stage), not_found_ok=True, timeout=60)
        except BigqueryError as error:
            _log.warning("a stage stays until it expires", table=stage, error=str(error))

    def _commit_sql(
        self, load: Load, table: StagedTable, there: Mapping[str, str], stage: str
    ) -> tuple[str, Parameters]:
        values: list[tuple[str, str, Any]] = [
            ("slot", "INT64", _slot_of(table.table)),
            ("load_id", "STRING", load.id),
            ("table_name", "STRING", table.table),
            ("cursor_name", "STRING", load.cursor),
            ("load_sequence", "INT64", load.sequence),
            ("row_count", "INT64", table.rows),
            ("positions", "STRING", load.positions),
        ]
        statements = self._rows_sql(table, there, stage) if stage else []
        if any("@since" in statement for statement in statements):
            values.append(("since", "TIMESTAMP", self._since(table.path)))
        statements.append(
            f"INSERT INTO {self.place(LOADS)} ({self._list(list(LOADS_COLUMNS))})"
            f" VALUES (@load_id, @table_name, @cursor_name, @load_sequence, @row_count, @positions, {_NOW})"
        )
        body = ";\n    ".join(statements)
        loads, locks = self.place(LOADS), self.place(LOCKS)
        script = f"""DECLARE loaded BOOL DEFAULT FALSE;
BEGIN TRANSACTION;
  UPDATE {locks} SET `load_id` = @load_id WHERE `slot` = @slot;
  IF @@row_count = 0 THEN
    RAISE USING MESSAGE = 'the rows of {LOCKS} are gone: drop the table, the next load makes it again';
  END IF;
  IF NOT EXISTS (SELECT 1 FROM {loads} WHERE `load_id` = @load_id AND `table_name` = @table_name) THEN
    {body};
    SET loaded = TRUE;
  END IF;
COMMIT TRANSACTION;
SELECT loaded;"""
        return script, [bigquery.ScalarQueryParameter(*value) for value in values]

    def _rows_sql(self, table: StagedTable, there: Mapping[str, str], stage: str) -> list[str]:
        names = list(table.columns)
        clocks = [name for name in _CLOCK_COLUMNS if name in there and name not in names]
        has_id = "id" in table.columns
        if table.mode == "latest by id" and has_id:
            return [self._merge_sql(table, there, stage, clocks)]
        statements = []
        if table.mode == "replace by id" and has_id:
            delete = (
                f"DELETE FROM {self.place(table.table)} WHERE `id` IN (SELECT `id` FROM {self.place(stage)})"
            )
            if self._dedupe_days and "received_at" in names and there.get("received_at") == "TIMESTAMP":
                delete += " AND `received_at` >= @since"
            statements.append(delete)
        values = [*(self._value(table, there, name, "n") for name in names), *(_NOW for _ in clocks)]
        statements.append(
            f"INSERT INTO {self.place(table.table)} ({self._list([*names, *clocks])})"
            f" SELECT {', '.join(values)} FROM {self.place(stage)} AS n"
        )
        return statements

    def _merge_sql(
        self, table: StagedTable, there: Mapping[str, str], stage: str, clocks: Sequence[str]
    ) -> str:
        """Merge users: column by column the later value that is not null; columns not in the file stay."""
        names = list(table.columns)
        newer = "(o.`received_at` IS NULL OR n.`received_at` >= o.`received_at`)"
        if "received_at" not in table.columns or "received_at" not in there:
            newer = "TRUE"
        values = {name: self._value(table, there, name, "n") for name in names}
        sets = []
        for name in names:
            if name != "id":
                old, new = f"o.{self.quoted(name)}", values[name]
                sets.append(
                    f"{self.quoted(name)} = IF({newer}, COALESCE({new}, {old}), COALESCE({old}, {new}))"
                )
        sets += [f"{self.quoted(name)} = {_NOW}" for name in clocks]
        inserted = ", ".join([*values.values(), *(_NOW for _ in clocks)])
        matched = f" WHEN MATCHED THEN UPDATE SET {', '.join(sets)}" if sets else ""
        return (
            f"MERGE INTO {self.place(table.table)} AS o USING {self.place(stage)} AS n ON o.`id` = n.`id`{matched}"
            f" WHEN NOT MATCHED THEN INSERT ({self._list([*names, *clocks])}) VALUES ({inserted})"
        )

    def _value(self, table: StagedTable, there: Mapping[str, str], name: str, source: str) -> str:
        """Return a column of the stage as its table has it."""
        column = f"{source}.{self.quoted(name)}"
        staged, wanted = _STAGED_TYPES[table.columns[name]], there.get(name, "")
        if wanted in ("ARRAY", "RECORD", "STRUCT"):
            raise TableFailed(
                table.table, f"the column {name} is a {wanted}", "only columns of single values can be loaded"
            )
        if wanted in ("", staged):
            return column
        if wanted == "JSON":
            return f"PARSE_JSON({column}, wide_number_mode => 'round')"
        return f"CAST({column} AS {wanted})"

    def _since(self, path: Path) -> datetime:
        """Return the time before which no row of a load replaces one."""
        earliest = pc.min(pq.read_table(str(path), columns=["received_at"])["received_at"]).as_py()
        first = datetime.min.replace(tzinfo=UTC)
        if earliest is None or earliest - first < timedelta(days=self._dedupe_days):
            return first
        assert isinstance(earliest, datetime)  # noqa: S101 - the column's type
        return earliest - timedelta(days=self._dedupe_days)

    # ------------------------------------------------------------ queries

    def loads(self, cursor: str, *, limit: int = 100) -> Sequence[LoaderRow]:
        if not self._types(LOADS):
            return []
        rows = self._jobs.run(
            "SELECT load_id, table_name, cursor_name, load_sequence, row_count, positions, UNIX_MILLIS(loaded_at)"
            f" FROM {self.place(LOADS)} WHERE cursor_name = @cursor_name"
            f" ORDER BY load_sequence DESC, table_name LIMIT {int(limit)}",
            [bigquery.ScalarQueryParameter("cursor_name", "STRING", cursor)],
        )
        return [
            LoaderRow(
                load_id=row[0],
                table=row[1],
                cursor=row[2],
                sequence=row[3],
                rows=row[4],
                positions=row[5],
                loaded_at_ms=row[6],
            )
            for row in rows
        ]

    def query(self, sql: str) -> Sequence[Sequence[Any]]:
        return self._jobs.run(sql)


def _slot_of(table: str) -> int:
    """Return which lock a table's loads take: the same for all who load into it."""
    return int.from_bytes(hashlib.sha256(table.encode()).digest()[:4], "big") % _SLOTS


def _content_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()

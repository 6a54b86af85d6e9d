"""Databricks SQL: the staged Parquet file into a Unity Catalog volume, then COPY INTO or one MERGE of a SQL warehouse.

Follows https://docs.databricks.com/aws/en/sql/language-manual/delta-copy-into,
https://docs.databricks.com/aws/en/sql/language-manual/delta-merge-into,
https://docs.databricks.com/aws/en/optimizations/isolation/row-level-concurrency and the pages that
`loaders.databricks_api` names (read 2026-11). Settings are those of RudderStack's destination
(https://www.rudderstack.com/docs/destinations/warehouse-destinations/delta-lake/); the type `DELTALAKE` with a `host`
comes here too.

**Through the public REST API, not databricks-sql-connector** (4.9): that speaks Thrift, for which there is no server
but Databricks' own; its other way, over REST, is "deprecated and incomplete" in its own words; and it brings pandas,
openpyxl, thrift, oauthlib and more. Over REST each request and answer is documented, and the tests have a server that
says and does them.

**Exactly once.** Databricks commits by statement and table, a SQL warehouse takes no setting that would put a name on
a commit (https://docs.databricks.com/aws/en/sql/language-manual/sql-ref-parameters), and its transactions over several
tables are a preview. So each commit of rows is one that can be made again:

- `append`: `COPY INTO` of a file named by load and table. The table's log keeps, in the commit of the rows, which files
  are in; a file that is in is skipped, whatever became of it. Two at once with the same file: one gets a conflict.
- `replace by id`, `latest by id`: one `MERGE` by id: made again, every row takes its own place. It reads
  `_mainstem_loads` in the same statement and does nothing where the load is noted: a statement that the warehouse
  held in its queue while somebody else finished the load can't put old rows over newer ones. Rows without an id, if
  there are any, are a file of their own, with COPY INTO.
- Then the row in `_mainstem_loads`, by a MERGE too: who inserted it has made the load.

Two that merge into a table at once conflict, and the second one is made again, because tables made here have deletion
vectors off: with them Databricks compares rows, and promises a conflict for changed rows, not for the same row inserted
twice. Tables that others made keep what they have; for the same promise there:
`ALTER TABLE … SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'false')`.

**Columns.** Types are BOOLEAN, BIGINT, DOUBLE, TIMESTAMP, STRING; JSON and long texts are STRING, told apart by the
column's comment. Type widening has no way from BIGINT to DOUBLE
(https://docs.databricks.com/aws/en/tables/features/type-widening): 1.5 for an integer column goes to the discards.
Column mapping is on, so any name is a column's. In tables that others made, columns of other types (dates, generated
ones) that a load does not have are left alone.

What the user of the token needs: USE CATALOG, CREATE SCHEMA (or a schema with CREATE TABLE and CREATE VOLUME), MODIFY
and SELECT, READ VOLUME and WRITE VOLUME, CAN USE on the SQL warehouse. With `enableExternalLocation` also CREATE
EXTERNAL TABLE there.

Limits: 127 bytes a name (RudderStack's; Unity Catalog has 255 characters); a file up to 5 GiB; no `.`, space or `/` in
a table's name (ours have none). Loads of one table come in one after the other. No Hive metastore: volumes are Unity
Catalog's. A load that was cut off between its rows and its note, and is made again after `dedupe` was changed, may add
rows twice.

**No Databricks has been reached with this.** Run against: an HTTP server of the tests that has both APIs, runs the
statements on DuckDB (by sqlglot), each in a transaction of its own, with Delta's conflicts and COPY INTO's memory of
files, and misbehaves; every statement is parsed as Databricks' (sqlglot).
"""

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, cast
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mainstem.bulk.folders import folder_name
from mainstem.secret import NO_SECRET, Secret
from mainstem.warehouse.destination import destination_of
from mainstem.warehouse.lake_tables import CLOCK_COLUMNS
from mainstem.warehouse.loader import (
    Capabilities,
    Done,
    Load,
    LoaderRow,
    LoaderSpec,
    StagedTable,
    TableFailed,
    WarehouseError,
)
from mainstem.warehouse.loaders.changes import Changes
from mainstem.warehouse.loaders.databricks_api import DatabricksApi, Row, StatementFailed, Value
from mainstem.warehouse.schema import (
    LOADS,
    LOADS_COLUMNS,
    Columns,
    ColumnType,
    Schema,
    SchemaChange,
)
from mainstem.warehouse.settings import WarehouseSettings
from mainstem.warehouse.values import ARROW

_Result = TypeVar("_Result")

_VOLUME: Final = "_mainstem_files"
_ATTEMPTS: Final = 12
_HTTP_PATH: Final = re.compile(r"/?sql/1\.0/(?:warehouses|endpoints)/([A-Za-z0-9_-]+)/?")
_NO_CATALOG: Final = ("hive_metastore", "spark_catalog", "")
_OF_ONE_TABLE: Final = ("0A", "21", "22", "23", "2B", "42", "54", "56")
_NO_FILE: Final = "42K03"
_OF_ALL: Final = ("SCHEMA_NOT_FOUND", "NO_SUCH_CATALOG", "CATALOG_NOT_FOUND", "PARSE_SYNTAX_ERROR")
_NOT_THERE: Final = ("TABLE_OR_VIEW_NOT_FOUND", "SCHEMA_NOT_FOUND", "DELTA_TABLE_NOT_FOUND")
_THERE: Final = ("FIELD_ALREADY_EXISTS", "FIELDS_ALREADY_EXISTS", "COLUMN_ALREADY_EXISTS")
_WORDS: Final[dict[str, ColumnType]] = {
    "boolean": "boolean",
    "bigint": "int",
    "long": "int",
    "int": "int",
    "smallint": "int",
    "short": "int",
    "tinyint": "int",
    "byte": "int",
    "double": "float",
    "float": "float",
    "decimal": "float",
    "timestamp": "datetime",
    "date": "datetime",
}
_PROPERTIES: Final = {"delta.columnMapping.mode": "name", "delta.enableDeletionVectors": "false"}
_READING: Final = {"datetimeRebaseMode": "CORRECTED"}
"""Times are of the calendar that goes on backwards; by default Spark may take ours for Julian ones before 1900."""


class Config(WarehouseSettings, frozen=True, kw_only=True, rename="camel"):
    """Settings of a Databricks SQL warehouse."""

    host: str
    """The server hostname in the SQL warehouse's connection details: `dbc-….cloud.databricks.com`."""
    port: int = 443
    """Its port."""
    path: str
    """The HTTP path of a SQL warehouse: `/sql/1.0/warehouses/…`. That of a cluster does not do."""
    token: Secret = NO_SECRET
    """A personal access token of a user or service principal …"""
    oauth_client_id: str = ""
    """… or a service principal's client id …"""
    oauth_client_secret: Secret = NO_SECRET
    """… and its OAuth secret; tokens are fetched and renewed."""
    catalog: str = ""
    """The catalog in Unity Catalog; empty = the workspace's default one."""
    volume: str = ""
    """The volume that files go through, in the namespace's schema; empty = `_mainstem_files`, which is made."""
    enable_external_location: bool = False
    """Make tables in `externalLocation` instead of the catalog's own storage."""
    external_location: str = ""
    """A bucket and folder that is an external location of Unity Catalog: `s3://bucket/folder`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        origin_of(self.host, self.port)
        warehouse_of(self.path)
        if not self.token and not (self.oauth_client_id and self.oauth_client_secret):
            raise ValueError("`token` is missing, or `oauthClientId` and `oauthClientSecret`")
        if self.enable_external_location and not self.external_location:
            raise ValueError("`enableExternalLocation` needs `externalLocation`")


def origin_of(host: str, port: int) -> str:
    """Return scheme, host and port.

    Raises:
        ValueError: it is no host, or one that would be spoken to unencrypted.
    """
    parts = urlsplit(host if "://" in host else f"https://{host}")
    name = parts.hostname or ""
    if not name or parts.path not in ("", "/") or parts.query or "@" in parts.netloc:
        raise ValueError("`host` has to be the workspace's host name alone, without path")
    if parts.scheme != "https" and not (parts.scheme == "http" and name in ("127.0.0.1", "localhost")):
        raise ValueError("`host` is spoken to by https only")
    return f"{parts.scheme}://{f'[{name}]' if ':' in name else name}:{parts.port or port}"


def warehouse_of(path: str) -> str:
    """Return the id of the SQL warehouse that an HTTP path names.

    Raises:
        ValueError: it names none.
    """
    found = _HTTP_PATH.fullmatch(path)
    if found is None:
        raise ValueError(
            "`path` has to be the HTTP path of a SQL warehouse, /sql/1.0/warehouses/…: clusters take no statements over"
            " REST"
        )
    return found[1]


CAPABILITIES: Final = Capabilities(
    types={
        "boolean": "BOOLEAN",
        "int": "BIGINT",
        "float": "DOUBLE",
        "datetime": "TIMESTAMP",
        "string": "STRING",
        "text": "STRING",
        "json": "STRING",
    },
    max_name=127,
    max_columns=5_000,
    widenings=frozenset(),
    shortest_sync_s=30.0,
    parallel_loads=4,
)


class DatabricksLoader(Changes):
    """See `loader.Loader`."""

    def __init__(
        self,
        api: DatabricksApi,
        catalog: str,
        namespace: str,
        *,
        volume: str = "",
        location: str = "",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        Args:
            location: where tables lie; empty = where the catalog has them.
        """
        self.namespace = namespace
        self._api = api
        self._catalog = catalog
        self._volume = volume or _VOLUME
        self._location = location.rstrip("/")
        self._sleep = sleep

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def close(self) -> None:
        self._api.close()

    # ------------------------------------------------------------ words

    def quoted(self, name: str) -> str:
        """Return a name in Databricks' quotes."""
        return "`" + name.replace("`", "``") + "`"

    def place(self, table: str) -> str:
        """Return a table with its catalog and schema, quoted."""
        return f"{self._schema()}.{self.quoted(table)}"

    def _schema(self) -> str:
        return f"{self.quoted(self._catalog)}.{self.quoted(self.namespace)}"

    def _views(self) -> str:
        return f"{self.quoted(self._catalog)}.information_schema"

    def _folder(self) -> str:
        # Unity Catalog keeps names in small letters.
        return "/Volumes/" + "/".join((self._catalog, self.namespace, self._volume)).lower()

    def _definition(self, name: str, kind: ColumnType) -> str:
        comment = f" COMMENT '{kind}'" if kind in ("json", "text") else ""
        return f"{self.quoted(name)} {CAPABILITIES.types[kind]}{comment}"

    # ------------------------------------------------------------ schema

    def check(self) -> None:
        try:
            # Asked first: who may not create may still use what is there.
            there = {str(row[0]) for row in self._api.run(self._there_sql(), self._there_parameters())}
            if "schema" not in there:
                self._api.run(f"CREATE SCHEMA IF NOT EXISTS {self._schema()}")
            if "volume" not in there:
                self._api.run(f"CREATE VOLUME IF NOT EXISTS {self._schema()}.{self.quoted(self._volume)}")
            if "table" not in there:
                self._again(LOADS, lambda: self._api.run(self._create_sql(LOADS, LOADS_COLUMNS)))
        except StatementFailed as error:
            where = f"{self._catalog}.{self.namespace}"
            raise WarehouseError(f"schema {where}: {error}{_and(_advice(error))}") from error

    def _there_sql(self) -> str:
        views = self._views()
        return (
            f"SELECT 'schema' FROM {views}.schemata WHERE schema_name = :schema"
            f" UNION ALL SELECT 'volume' FROM {views}.volumes"
            " WHERE volume_schema = :schema AND volume_name = :volume"
            f" UNION ALL SELECT 'table' FROM {views}.tables"
            " WHERE table_schema = :schema AND table_name = :loads"
        )

    def _there_parameters(self) -> dict[str, Value]:
        return {"schema": self.namespace, "volume": self._volume.lower(), "loads": LOADS}

    def _create_sql(self, table: str, columns: Columns) -> str:
        definitions = ", ".join(self._definition(name, kind) for name, kind in columns.items())
        properties = ", ".join(f"{literal(name)} = {literal(value)}" for name, value in _PROPERTIES.items())
        location = ""
        if self._location:
            place = f"{self._location}/{folder_name(self.namespace)}/{folder_name(table)}"
            location = f" LOCATION {literal(place)}"
        return (
            f"CREATE TABLE IF NOT EXISTS {self.place(table)} ({definitions}) USING DELTA"
            f" TBLPROPERTIES ({properties}){location}"
        )

    def fetch_schema(self) -> Schema:
        return self._columns("")

    def _columns(self, table: str) -> dict[str, dict[str, ColumnType]]:
        found: dict[str, dict[str, ColumnType]] = {}
        for name, column, kind, comment in self._described(table):
            found.setdefault(str(name), {})[str(column)] = _word(str(kind), comment)
        return found

    def _described(self, table: str) -> Sequence[Row]:
        """Return table, column, type in Databricks' words and comment of all columns, of one table if it is named."""
        return self._api.run(
            f"SELECT table_name, column_name, full_data_type, comment FROM {self._views()}.columns"
            f" WHERE table_schema = :schema{' AND table_name = :table' if table else ''}"
            " ORDER BY table_name, ordinal_position",
            {"schema": self.namespace} | ({"table": table} if table else {}),
        )

    def evolve(self, changes: Sequence[SchemaChange]) -> None:
        self.check()
        for change in changes:
            with self._of(change.table):
                self._again(change.table, partial(self._change, change))

    def _create(self, table: str, columns: Columns) -> None:
        self._api.run(self._create_sql(table, columns))
        self._add(table, columns)

    def _add(self, table: str, columns: Columns) -> None:
        there = self._columns(table).get(table, {})
        missing = {name: kind for name, kind in columns.items() if name not in there}
        if missing:
            added = ", ".join(self._definition(name, kind) for name, kind in missing.items())
            self._api.run(f"ALTER TABLE {self.place(table)} ADD COLUMNS ({added})")

    # ------------------------------------------------------------ loads

    def load(self, load: Load, table: StagedTable) -> Done:
        name = f"{folder_name(load.id)}.{folder_name(table.table)}"
        parts: tuple[str, ...] = (f"{name}.parquet", f"{name}.no_id.parquet")
        with self._of(table.table):
            done = Done(0, already=True)
            if not self._is_in(load, table.table):
                parts = self._put(load, table, parts[0], parts[1])
                done = self._again(LOADS, lambda: self._note(load, table))
        for part in parts:
            # It is in: a file that stays is never read again.
            with suppress(WarehouseError):
                self._api.delete(f"{self._folder()}/{part}")
        return done

    def _is_in(self, load: Load, table: str) -> bool:
        return bool(
            self._api.run(
                f"SELECT 1 FROM {self.place(LOADS)} WHERE load_id = :load AND table_name = :table",
                {"load": load.id, "table": table},
            )
        )

    def _put(self, load: Load, table: StagedTable, keyed: str, loose: str) -> tuple[str, ...]:
        """Bring the rows in; return the files of the volume that were used."""
        if not table.columns:
            return ()
        if table.mode == "append" or "id" not in table.columns:
            self._copy(table, table.path, keyed)
            return (keyed,)
        with _divided(table.path) as (with_id, without_id):
            if with_id is not None:
                self._api.put(f"{self._folder()}/{keyed}", with_id)
                self._again(table.table, lambda: self._merge(load, table, keyed))
            if without_id is not None:
                self._copy(table, without_id, loose)
        return tuple(part for part, file in ((keyed, with_id), (loose, without_id)) if file is not None)

    def _copy(self, table: StagedTable, file: Path, name: str) -> None:
        self._api.put(f"{self._folder()}/{name}", file)

        def copy() -> None:
            there = self._target(table)
            values = ", ".join(
                f"{self._value(column, kind, table, '')} AS {self.quoted(column)}"
                for column, kind in there.items()
            )
            self._api.run(
                f"COPY INTO {self.place(table.table)} FROM (SELECT {values} FROM {literal(self._folder() + '/')})"
                f" FILEFORMAT = PARQUET FILES = ({literal(name)})"
                f" FORMAT_OPTIONS ({', '.join(f'{literal(key)} = {literal(to)}' for key, to in _READING.items())})"
            )

        self._again(table.table, copy)

    def _merge(self, load: Load, table: StagedTable, name: str) -> None:
        there = self._target(table)
        source = ", ".join(self.quoted(column) for column in table.columns)
        schema = ", ".join(
            f"{self.quoted(column)} {CAPABILITIES.types[kind]}" for column, kind in table.columns.items()
        )
        options = "".join(f", {key} => {literal(to)}" for key, to in _READING.items())
        new = {column: self._value(column, kind, table, "n.") for column, kind in there.items()}
        changed = self._latest(table, there) if table.mode == "latest by id" else new
        sets = ", ".join(
            f"{self.quoted(column)} = {value}" for column, value in changed.items() if column != "id"
        )
        self._api.run(
            f"MERGE INTO {self.place(table.table)} AS o USING (SELECT {source} FROM"
            f" read_files({literal(f'{self._folder()}/{name}')}, format => 'parquet', schema => {literal(schema)}"
            f"{options})"
            f" WHERE NOT EXISTS (SELECT 1 FROM {self.place(LOADS)} WHERE load_id = :load AND table_name = :table)"
            f") AS n ON o.`id` = n.`id`"
            + (f" WHEN MATCHED THEN UPDATE SET {sets}" if sets else "")
            + f" WHEN NOT MATCHED THEN INSERT ({', '.join(self.quoted(column) for column in new)})"
            f" VALUES ({', '.join(new.values())})",
            {"load": load.id, "table": table.table},
        )

    def _value(self, column: str, kind: ColumnType, table: StagedTable, of: str) -> str:
        """Return SQL for what a new row has in a column of the table."""
        if column in table.columns:
            return f"{of}{self.quoted(column)}"
        return (
            "current_timestamp()" if column in CLOCK_COLUMNS else f"CAST(NULL AS {CAPABILITIES.types[kind]})"
        )

    def _latest(self, table: StagedTable, there: Columns) -> dict[str, str]:
        """Return SQL for each column of a user that is there: the later value that is not null."""
        newer = "TRUE"
        if "received_at" in there and "received_at" in table.columns:
            newer = "(o.`received_at` IS NULL OR n.`received_at` >= o.`received_at`)"
        changed = {}
        for column in there:
            one = self.quoted(column)
            if column in table.columns:
                changed[column] = (
                    f"CASE WHEN {newer} THEN COALESCE(n.{one}, o.{one}) ELSE COALESCE(o.{one}, n.{one}) END"
                )
            elif column in CLOCK_COLUMNS:
                changed[column] = "current_timestamp()"
        return changed

    def _target(self, table: StagedTable) -> Columns:
        """Return the table's columns that are written, as they are now: the file's, and those of our types.

        Raises:
            TableFailed: there is no such table.
            WarehouseError: the table was changed since the file was made; it is made again.
        """
        described = self._described(table.table)
        if not described:
            raise TableFailed(table.table, "there is no such table", "it is made by the next load")
        there = {
            str(column): _word(str(kind), comment)
            for _, column, kind, comment in described
            if column in table.columns or str(kind).upper() in CAPABILITIES.types.values()
        }
        for name, kind in table.columns.items():
            found = there.get(name)
            if found is None or ARROW[found] != ARROW[kind]:
                raise WarehouseError(
                    f"table {table.table}: column {name} is {found or 'not there'}, the load has {kind}; "
                    "somebody changed the table meanwhile, it is tried again"
                )
        return there

    def _note(self, load: Load, table: StagedTable) -> Done:
        values: dict[str, Value] = {
            "load_id": load.id,
            "table_name": table.table,
            "cursor_name": load.cursor,
            "load_sequence": load.sequence,
            "row_count": table.rows,
            "positions": load.positions,
        }
        names = ", ".join(values)
        [counts] = self._api.run(
            f"MERGE INTO {self.place(LOADS)} AS o USING (SELECT {', '.join(f':{name} AS {name}' for name in values)})"
            " AS n ON o.load_id = n.load_id AND o.table_name = n.table_name"
            f" WHEN NOT MATCHED THEN INSERT ({names}, loaded_at)"
            f" VALUES ({', '.join(f'n.{name}' for name in values)}, current_timestamp())",
            values,
        )
        # num_affected_rows: none where somebody else has carried out the same load meanwhile.
        return Done(table.rows) if int(counts[0] or 0) else Done(0, already=True)

    def loads(self, cursor: str, *, limit: int = 100) -> Sequence[LoaderRow]:
        try:
            rows = self._api.run(
                "SELECT load_id, table_name, cursor_name, load_sequence, row_count, positions,"
                f" unix_millis(loaded_at) FROM {self.place(LOADS)} WHERE cursor_name = :cursor"
                f" ORDER BY load_sequence DESC, table_name LIMIT {int(limit)}",
                {"cursor": cursor},
            )
        except StatementFailed as error:
            if error.condition.startswith(_NOT_THERE):
                return []
            raise
        return [
            LoaderRow(
                load_id=str(row[0]),
                table=str(row[1]),
                cursor=str(row[2]),
                sequence=int(row[3] or 0),
                rows=int(row[4] or 0),
                positions=str(row[5]),
                loaded_at_ms=int(row[6] or 0),
            )
            for row in rows
        ]

    def query(self, sql: str) -> Sequence[Sequence[Any]]:
        return self._api.query(sql)

    # ------------------------------------------------------------ errors

    def _again(self, table: str, work: Callable[[], _Result]) -> _Result:
        """Do what ends in a commit, and again if somebody else's commit came first."""
        for attempt in range(_ATTEMPTS):
            try:
                return work()
            except StatementFailed as error:
                if not error.conflict and not error.condition.startswith(_THERE):
                    raise
            self._sleep(random.uniform(0, min(0.1 * 2**attempt, 10)))  # noqa: S311 - to part two writers
        raise WarehouseError(f"table {table}: others change it all the time; it is tried again later")

    @contextmanager
    def _of(self, table: str) -> Iterator[None]:
        """What goes wrong here for reasons of this table is told so."""
        try:
            yield
        except StatementFailed as error:
            # A file that is gone: somebody else has carried out the same load, and tidied up.
            of_table = error.sqlstate[:2] in _OF_ONE_TABLE and error.sqlstate != _NO_FILE
            if of_table and not error.condition.startswith(_OF_ALL):
                raise TableFailed(table, str(error), _advice(error)) from error
            raise WarehouseError(f"table {table}: {error}{_and(_advice(error))}") from error


@contextmanager
def _divided(path: Path) -> Iterator[tuple[Path | None, Path | None]]:
    """Give a file's rows that have an id, and those that have none, as files: those with no row as None."""
    if not _lacks_ids(path):
        yield path, None
        return
    made = [path.with_suffix(f".{kind}.parquet") for kind in ("keyed", "loose")]
    try:
        rows = pq.read_table(str(path))
        lacking: Any = pc.is_null(rows["id"])
        found: list[Path | None] = []
        for part, file in zip((rows.filter(pc.invert(lacking)), rows.filter(lacking)), made, strict=True):
            pq.write_table(part, str(file), compression="zstd")
            found.append(file if part.num_rows else None)
        yield found[0], found[1]
    except (OSError, pa.ArrowException) as error:
        raise WarehouseError(f"{path}: {str(error)[:300]}") from error
    finally:
        for file in made:
            file.unlink(missing_ok=True)


def _lacks_ids(path: Path) -> bool:
    try:
        with pq.ParquetFile(str(path)) as file:
            return any(
                batch.column(0).null_count for batch in file.iter_batches(columns=["id"], batch_size=65_536)
            )
    except (OSError, pa.ArrowException) as error:
        raise WarehouseError(f"{path}: {str(error)[:300]}") from error


def literal(text: str) -> str:
    """Return a text in Databricks' quotes: of our own words and names, never of an event."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _word(kind: str, comment: str | None) -> ColumnType:
    """Return our type for a column's."""
    word = _WORDS.get(kind.lower().partition("(")[0].partition("_")[0], "string")
    return cast("ColumnType", comment) if word == "string" and comment in ("json", "text") else word


def _advice(error: StatementFailed) -> str:
    condition = error.condition
    if error.sqlstate == "42501" or "PERMISSION" in condition:
        return "give the token's user the rights on catalog, schema, tables and volume that this type's page names"
    if condition.startswith(("NO_SUCH_CATALOG", "CATALOG_NOT_FOUND")):
        return "see `catalog`"
    if condition.startswith(_NOT_THERE):
        return "it is made by the next load"
    if error.conflict:
        return "it is tried again"
    return ""


def _and(advice: str) -> str:
    return f"; {advice}" if advice else ""


def open_loader(config: Config, namespace: str, data_dir: Path) -> DatabricksLoader:
    """Connect."""
    api = DatabricksApi(
        origin_of(config.host, config.port),
        warehouse_of(config.path),
        token=config.token,
        client_id=config.oauth_client_id,
        client_secret=config.oauth_client_secret,
    )
    catalog = config.catalog
    if not catalog:
        [[found]] = api.run("SELECT current_catalog()")
        catalog = found or ""
    if catalog in _NO_CATALOG:
        api.close()
        raise WarehouseError(
            f"Databricks: {catalog or 'no catalog'} is not one of Unity Catalog, and volumes are; name one in `catalog`"
        )
    return DatabricksLoader(
        api,
        catalog,
        namespace,
        volume=config.volume,
        location=config.external_location if config.enable_external_location else "",
    )


SPEC: Final = LoaderSpec(
    name="DATABRICKS",
    title="Databricks",
    config=Config,
    doc_url="https://www.rudderstack.com/docs/destinations/warehouse-destinations/delta-lake/",
    capabilities=CAPABILITIES,
    open=open_loader,
    provider="deltalake",
    run_against=(
        "an HTTP server of the tests that has Databricks' APIs, over DuckDB; SQL parsed as Databricks'; not Databricks"
    ),
)
DESTINATION: Final = destination_of(SPEC)

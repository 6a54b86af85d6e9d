"""ClickHouse, over its HTTP interface.

Follows https://clickhouse.com/docs (server 24 and later, read 2026-11) by clickhouse-connect 1.12.
RudderStack's settings work; a native port (9000, 9440) means the HTTP port beside it (8123, 8443).

**Exactly once.** ClickHouse has no transaction over two tables. A load's rows of a table are one INSERT, one
block, which the server takes whole or not, with an `insert_deduplication_token` made of the load's id and the
table's name: the same load again is dropped by the server. Then its row goes into `_mainstem_loads`, by the
same rule. Killed in between, a load is made again: the rows are known, the row is added. A server remembers
tokens for 10,000 inserts of a table (replicated tables: a week, too); should it forget, the rows of the same
load have the same key as before, and `FINAL` shows each once.

**Rows.** Tables are `ReplacingMergeTree` ordered by `id`; two hidden columns (`SELECT *` does not show them)
decide what is replaced: `_mainstem_version` is the time of received_at, the latest stays; `_mainstem_part` is
empty, or names the load where `dedupe` is `none`, so that rows are kept side by side; tables without `id`
have it alone, and it names the row. Parts are merged some
time later: **readers say `FINAL`** (`SELECT … FROM tracks FINAL`, or `SET final = 1` for a session or a user)
and see one row an id. `users` are read, merged column by column, and written as new rows; two loads that bring
the same user at the same time may overtake each other, which one cursor per user excludes.

**Columns** are Nullable but for `id`; times are `DateTime64(6, 'UTC')`, which keeps any year though functions
of dates promise 1900 to 2299 only; JSON and long texts are `String`, told apart by the column's comment. An
integer column becomes `Float64` only if every number in it survives (none is beyond 2^53); else decimals go to
the discards. There is no lock: integers beyond 2^53 that another worker inserts within the moment of such a
change are rounded.

Limits: 64 bytes a table's name, because ClickHouse writes letters beyond ASCII as `%XX` into file names. A
load's rows of one table have to fit in memory here and there. Run against: ClickHouse's engine 26.9 in-process
(chdb) through the same client code; not over HTTP, not against a cluster (`ON CLUSTER` and the replicated
engines are RudderStack's, unchanged), not against ClickHouse Cloud.
"""

import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, cast

import clickhouse_connect
import msgspec
import pyarrow as pa
import xxhash
from clickhouse_connect.driver.exceptions import ClickHouseError

from mainstem.secret import NO_SECRET, Secret
from mainstem.warehouse import lake_tables
from mainstem.warehouse.destination import destination_of
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
from mainstem.warehouse.loaders.changes import Changes, rounded_sql
from mainstem.warehouse.loaders.sql import column_types
from mainstem.warehouse.schema import (
    LOADS,
    LOADS_COLUMNS,
    Columns,
    ColumnType,
    Schema,
    SchemaChange,
)
from mainstem.warehouse.settings import WarehouseSettings

_HTTP_OF_NATIVE: Final = {9000: 8123, 9440: 8443}
_MAX_TABLE_FILE: Final = 200
_USERS_A_QUERY: Final = 1_000
_WINDOW: Final = 10_000
_WEEK_S: Final = 7 * 86_400
_WORDS: Final[dict[str, ColumnType]] = {
    "bool": "boolean",
    "int": "int",
    "uint": "int",
    "float": "float",
    "decimal": "float",
    "date": "datetime",
    "json": "json",
    "string": "string",
}


class Config(WarehouseSettings, frozen=True, kw_only=True, rename="camel"):
    """Settings of ClickHouse."""

    host: str
    """The server's name."""
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 8443
    """Its HTTP port: 8443 with TLS, 8123 without. RudderStack's native ports 9440 and 9000 mean these."""
    database: str = ""
    """The database of all tables; empty = the namespace: one for each source, or `namespace`."""
    user: str = "default"
    """Who may create databases and tables, and insert."""
    password: Secret = NO_SECRET
    """Their password."""
    cluster: str = ""
    """Name of a cluster: tables are made on all of it, replicated."""
    secure: bool = True
    """Use TLS."""
    skip_verify: bool = False
    """Take any certificate. Leave it off."""
    ca_certificate: Secret = NO_SECRET
    """PEM of the authority that signed the server's certificate; empty = the public ones."""


CAPABILITIES: Final = Capabilities(
    types={
        "boolean": "Nullable(Bool)",
        "int": "Nullable(Int64)",
        "float": "Nullable(Float64)",
        "datetime": "Nullable(DateTime64(6, 'UTC'))",
        "string": "Nullable(String)",
        "text": "Nullable(String)",
        "json": "Nullable(String)",
    },
    max_name=64,
    max_columns=5_000,
    widenings=frozenset({("int", "float")}),
    shortest_sync_s=5.0,
)


class ClickhouseLoader(Changes):
    """See `loader.Loader`."""

    def __init__(self, client: Any, namespace: str, *, cluster: str = "") -> None:
        """
        Args:
            client: of clickhouse-connect, connected.
        """
        self.namespace = namespace
        self._client = client
        self._cluster = cluster

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def close(self) -> None:
        self._client.close()

    # ------------------------------------------------------------ schema

    def check(self) -> None:
        self._command(f"CREATE DATABASE IF NOT EXISTS {self.quoted(self.namespace)}{self._on_cluster()}")
        self._make(LOADS, LOADS_COLUMNS, ("load_id", "table_name"))

    def fetch_schema(self) -> Schema:
        found: dict[str, dict[str, ColumnType]] = {}
        for table, column, kind, comment in self._select(
            "SELECT table, name, type, comment FROM system.columns WHERE database = {database:String}"
            " AND default_kind NOT IN ('MATERIALIZED', 'EPHEMERAL', 'ALIAS') ORDER BY table, position",
            database=self.namespace,
        ):
            bare = kind.removeprefix("LowCardinality(").removeprefix("Nullable(")
            word = column_types(_WORDS, bare)
            if word == "string" and comment in ("json", "text"):
                word = cast("ColumnType", comment)
            found.setdefault(table, {})[column] = word
        return found

    def evolve(self, changes: Sequence[SchemaChange]) -> None:
        self.check()
        for change in changes:
            try:
                self._change(change)
            except TableFailed:
                raise
            except WarehouseError as error:
                raise TableFailed(change.table, str(error), "see what the server says") from error

    def _create(self, table: str, columns: Columns) -> None:
        self._make(table, columns, ("id", "_mainstem_part") if "id" in columns else ("_mainstem_part",))
        there = self.fetch_schema().get(table, {})
        if missing := {name: kind for name, kind in columns.items() if name not in there}:
            self._add(table, missing)

    def _add(self, table: str, columns: Columns) -> None:
        added = (f"ADD COLUMN IF NOT EXISTS {self._definition(name, kind)}" for name, kind in columns.items())
        self._alter(table, ", ".join(added))

    def _widen(self, table: str, column: str, after: ColumnType) -> None:
        if after == "float" and self._select(rounded_sql(self._name(table), self.quoted(column))):
            return
        self._alter(table, f"MODIFY COLUMN {self._definition(column, after)}")

    def _make(self, table: str, columns: Columns, key: Sequence[str]) -> None:
        if sum(1 if _plain(letter) else 3 * len(letter.encode()) for letter in table) > _MAX_TABLE_FILE:
            raise TableFailed(table, "ClickHouse can't have so long a name", "choose a shorter event name")
        definitions = [
            f"{self.quoted(name)} String" if name in key else self._definition(name, kind)
            for name, kind in columns.items()
        ]
        version = "0"
        if columns.get("received_at") == "datetime":
            version = "greatest(0, toUnixTimestamp64Micro(assumeNotNull(received_at)))"
        definitions += [
            "_mainstem_load String EPHEMERAL ''",
            "_mainstem_part String MATERIALIZED _mainstem_load",
            f"_mainstem_version UInt64 MATERIALIZED {version}",
        ]
        order = ", ".join(self.quoted(name) for name in key)
        settings = f"fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = {_WINDOW}"
        if self._cluster:
            settings += (
                f", replicated_deduplication_window = {_WINDOW},"
                f" replicated_deduplication_window_seconds = {_WEEK_S}"
            )
        self._command(
            f"CREATE TABLE IF NOT EXISTS {self._name(table)}{self._on_cluster()} ({', '.join(definitions)})"
            f" ENGINE = {self._engine()} ORDER BY ({order}) SETTINGS {settings}"
        )

    def _engine(self) -> str:
        name, arguments = "ReplacingMergeTree", ["_mainstem_version"]
        if self._cluster:
            name = f"Replicated{name}"
            arguments = [
                "'/clickhouse/{cluster}/tables/{database}/{table}'",
                "'{replica}'",
                *arguments,
            ]
        return f"{name}({', '.join(arguments)})"

    def _definition(self, name: str, kind: ColumnType) -> str:
        comment = f" COMMENT '{kind}'" if kind in ("json", "text") else ""
        return f"{self.quoted(name)} {CAPABILITIES.types[kind]}{comment}"

    def _alter(self, table: str, change: str) -> None:
        self._command(f"ALTER TABLE {self._name(table)}{self._on_cluster()} {change}")

    def _on_cluster(self) -> str:
        return f" ON CLUSTER {self.quoted(self._cluster)}" if self._cluster else ""

    # ------------------------------------------------------------ loads

    def load(self, load: Load, table: StagedTable) -> Done:
        if self._noted_by(load, table.table):
            return Done(0, already=True)
        columns = self.fetch_schema().get(table.table)
        if columns is None:
            raise TableFailed(table.table, "there is no such table", "it is made by the next load")
        now = lake_tables.now()
        rows = lake_tables.rows_of(table, columns, now)
        if table.mode == "latest by id":
            rows = self._merged(table.table, rows, columns)
        self._insert(
            table.table,
            load,
            _keyed(rows, load, table, by_id="id" in columns and self._has_key(table.table)),
            "rows",
        )
        writer = secrets.token_hex(8)
        note = lake_tables.loads_row(load, table, now).append_column("_mainstem_load", pa.array([writer]))
        self._insert(LOADS, load, note, table.table)
        # Somebody else may have carried out the same load meanwhile: the server took the rows of one of us.
        return Done(table.rows) if self._noted_by(load, table.table) == writer else Done(0, already=True)

    def _has_key(self, table: str) -> bool:
        """Tell whether rows replace one another by id: a column that was added later is not in the table's key."""
        return bool(
            self._select(
                "SELECT 1 FROM system.columns WHERE database = {database:String} AND table = {table:String}"
                " AND name = 'id' AND is_in_sorting_key",
                database=self.namespace,
                table=table,
            )
        )

    def _noted_by(self, load: Load, table: str) -> str:
        """Return who wrote the row of `_mainstem_loads`; empty if nobody did."""
        found = self._select(
            f"SELECT _mainstem_part FROM {self.place(LOADS)}"
            " WHERE load_id = {load:String} AND table_name = {table:String}",
            load=load.id,
            table=table,
        )
        return str(found[0][0]) or "?" if found else ""

    def _merged(self, table: str, rows: "pa.Table", columns: Columns) -> "pa.Table":
        ids = [row_id for row_id in rows["id"].to_pylist() if row_id is not None]
        names = ", ".join(self.quoted(name) for name in columns)
        old = lake_tables.arrow_schema(columns).empty_table()
        parts = [old]
        for start in range(0, len(ids), _USERS_A_QUERY):
            with self._mapped(f"table {table}"):
                found = self._client.query_arrow(
                    f"SELECT {names} FROM {self.place(table)} WHERE id IN {{ids:Array(String)}}",
                    parameters={"ids": ids[start : start + _USERS_A_QUERY]},
                    settings=self._reading(),
                )
            parts.append(found.select(list(columns)).cast(old.schema))
        return lake_tables.latest_of(pa.concat_tables(parts), rows)

    def _insert(self, table: str, load: Load, rows: "pa.Table", what: str) -> None:
        if not rows.num_rows:
            return
        whole = rows.num_rows + 1
        settings: dict[str, Any] = {
            "insert_deduplication_token": xxhash.xxh3_128_hexdigest(f"{load.id}\0{table}\0{what}".encode()),
            "insert_deduplicate": 1,
            "async_insert": 0,
            # One block: the server takes it whole or not at all.
            "max_insert_block_size": whole,
            "min_insert_block_size_rows": whole,
            "min_insert_block_size_bytes": 2**40,
        }
        if self._cluster:
            settings |= {"insert_quorum": "auto"}
        with self._mapped(f"table {table}"):
            self._client.insert_arrow(self._name(table), rows.combine_chunks(), settings=settings)

    def loads(self, cursor: str, *, limit: int = 100) -> Sequence[LoaderRow]:
        if LOADS not in self.fetch_schema():
            return []
        rows = self._select(
            "SELECT load_id, table_name, cursor_name, load_sequence, row_count, positions,"
            f" toUnixTimestamp64Micro(loaded_at) FROM {self.place(LOADS)}"
            " WHERE cursor_name = {cursor:String} ORDER BY load_sequence DESC, table_name LIMIT {limit:UInt32}",
            cursor=cursor,
            limit=limit,
        )
        return [
            LoaderRow(
                load_id=row[0],
                table=row[1],
                cursor=row[2],
                sequence=row[3],
                rows=row[4],
                positions=row[5],
                loaded_at_ms=row[6] // 1000,
            )
            for row in rows
        ]

    # ------------------------------------------------------------ queries

    def query(self, sql: str) -> Sequence[Sequence[Any]]:
        return self._select(sql)

    def quoted(self, name: str) -> str:
        """Return a name in ClickHouse's quotes."""
        return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"

    def place(self, table: str) -> str:
        """Return a table as readers should see it: one row an id."""
        return f"{self._name(table)} FINAL"

    def _name(self, table: str) -> str:
        return f"{self.quoted(self.namespace)}.{self.quoted(table)}"

    def _reading(self) -> Mapping[str, Any]:
        return {"select_sequential_consistency": 1} if self._cluster else {}

    def _command(self, sql: str) -> None:
        with self._mapped(f"database {self.namespace}"):
            self._client.command(sql)

    def _select(self, sql: str, **parameters: Any) -> Sequence[Sequence[Any]]:
        with self._mapped(f"database {self.namespace}"):
            found = self._client.query(sql, parameters=parameters or None, settings=self._reading())
            return cast("Sequence[Sequence[Any]]", found.result_rows)

    @contextmanager
    def _mapped(self, what: str) -> Iterator[None]:
        try:
            yield
        except (ClickHouseError, OSError, pa.ArrowException, RuntimeError) as error:
            raise WarehouseError(f"{what}: {_words(error)}") from error


def _keyed(rows: "pa.Table", load: Load, table: StagedTable, *, by_id: bool) -> "pa.Table":
    """Return rows with what decides whether they replace others: those without an id only themselves, should the server
    have forgotten that they are in."""
    if not by_id or "id" not in rows.column_names:
        return rows.append_column("_mainstem_load", pa.array(_marks(rows, load), pa.string()))
    ids = rows["id"].to_pylist()
    own = load.id if table.mode == "append" else ""
    marks = _marks(rows, load) if None in ids else []
    parts = [marks[index] if row_id is None else own for index, row_id in enumerate(ids)]
    position = rows.column_names.index("id")
    filled = pa.array(["" if row_id is None else row_id for row_id in ids], pa.string())
    return rows.set_column(position, "id", filled).append_column("_mainstem_load", pa.array(parts))


def _marks(rows: "pa.Table", load: Load) -> list[str]:
    """Return a name for each row of a load, by what it holds: made again, a load may have its rows in another order."""
    names = [name for name in rows.column_names if name not in lake_tables.CLOCK_COLUMNS]
    times: Counter[str] = Counter()
    marks = []
    for row in rows.select(sorted(names)).to_pylist():
        held = xxhash.xxh3_64_hexdigest(repr(row).encode("utf-8", "replace"))
        times[held] += 1
        marks.append(f"{load.id}/{held}/{times[held]}")
    return marks


def _plain(letter: str) -> bool:
    return letter.isascii() and (letter.isalnum() or letter == "_")


def _words(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:500] if text else type(error).__name__


def open_loader(config: Config, namespace: str, data_dir: Path) -> ClickhouseLoader:
    """Connect."""
    return ClickhouseLoader(
        connect(config, clickhouse_connect.get_client), config.database or namespace, cluster=config.cluster
    )


def connect(config: Config, get_client: Callable[..., Any]) -> Any:
    """Return a connected client.

    Raises:
        WarehouseError: the server can't be reached, or refuses.
    """
    port = _HTTP_OF_NATIVE.get(config.port, config.port)
    settings: dict[str, Any] = {}
    if config.ca_certificate:
        settings["ca_cert"] = config.ca_certificate.reveal()
    try:
        return get_client(
            host=config.host,
            port=port,
            username=config.user,
            password=config.password.reveal(),
            secure=config.secure,
            verify=not config.skip_verify,
            client_name="mainstem",
            connect_timeout=10,
            send_receive_timeout=600,
            autogenerate_session_id=False,
            **settings,
        )
    except (ClickHouseError, OSError) as error:
        raise WarehouseError(
            f"ClickHouse at {config.host}:{port}: {_words(error)}; see `host`, `port`, `secure`, `user`, `password`"
        ) from error


SPEC: Final = LoaderSpec(
    name="CLICKHOUSE",
    title="ClickHouse",
    config=Config,
    doc_url="https://www.rudderstack.com/docs/destinations/warehouse-destinations/clickhouse/",
    capabilities=CAPABILITIES,
    open=open_loader,
    provider="clickhouse",
    run_against="ClickHouse's engine in-process (chdb 26.9), by the same client; not over HTTP, no cluster",
)
DESTINATION: Final = destination_of(SPEC)

"""PostgreSQL: rows by COPY, straight into their tables.

Follows https://www.postgresql.org/docs/18/sql-copy.html and https://www.postgresql.org/docs/18/limits.html (PostgreSQL
18, read 2026-11); settings and types are those of RudderStack's destination
(https://www.rudderstack.com/docs/destinations/warehouse-destinations/postgresql/).

A load of a table is one transaction: a lock that only other loads of this table wait for (readers never do), the look
into `_mainstem_loads`, the deletion of rows that are replaced, COPY into the table, the row in `_mainstem_loads`,
commit.

* Decimals are `numeric`, as RudderStack has it: exact, every double survives. Columns that somebody made
  `double precision`, `integer` or `timestamp` stay what they are.
* Times are `timestamptz`, JSON is `jsonb`.
* Postgres has no NUL character: it is taken out of texts (and its escape out of JSON). Nothing else is changed.
* Tables that we make get a hash index on `id`, so that replacing rows does not read the whole table. On tables that
  were there before, make one: `CREATE INDEX CONCURRENTLY ON … USING hash (id)`.
* Adding columns takes milliseconds. Widening a column from int to numeric rewrites the table, and Postgres refuses it
  while a view uses the column: that table waits, and says so, until the view is dropped.
* Poolers: session mode, or transaction mode (nothing outlives a transaction here).

Limits: 63 bytes a name; 1,600 columns a table, fewer if many of them are filled (a row's fixed part has to fit into
8 kB). Run against: PostgreSQL 18.6 (a server of its own in the tests).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from mainstem.secret import Secret
from mainstem.warehouse.destination import destination_of
from mainstem.warehouse.loader import (
    Capabilities,
    Done,
    Load,
    LoaderSpec,
    StagedTable,
    WarehouseError,
)
from mainstem.warehouse.loaders.pg_wire import PgError, PgWire, csv_blocks
from mainstem.warehouse.loaders.sql import SqlLoader, column_types
from mainstem.warehouse.loaders.tls import client_context
from mainstem.warehouse.schema import (
    LOADS,
    Columns,
    ColumnType,
    Schema,
    SchemaChange,
)
from mainstem.warehouse.settings import WarehouseSettings

_LOCK_TIMEOUT: Final = "60s"
"""For changes of a table: while they wait, readers behind them wait too."""
WORDS: Final[dict[str, ColumnType]] = {
    "bool": "boolean",
    "int": "int",
    "numeric": "float",
    "float": "float",
    "timestamp": "datetime",
    "date": "datetime",
    "json": "json",
    "text": "string",
    "varchar": "string",
}
_OF_ONE_TABLE: Final = ("0A", "22", "23", "2B", "42", "54", "55")
"""Classes of errors that say something of one table, not of the server."""


class Config(WarehouseSettings, frozen=True, kw_only=True, rename="camel"):
    """Settings of a PostgreSQL database."""

    host: str
    """The server's name or address."""
    database: str
    """The database; it has to be there."""
    user: str
    """Who loads: needs `CREATE` and `TEMPORARY` on the database (or a schema of its own that is there already)."""
    password: Secret = Secret("")
    """The user's password; empty = none (trust, a client certificate)."""
    port: int = 5432
    """The server's port."""
    ssl_mode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = "require"
    """As libpq has it. disable: no encryption. prefer: if the server can. require: encrypted, whoever the server is.
    verify-ca: the server's certificate is checked. verify-full: its name too."""
    server_ca: str = msgspec.field(name="serverCA", default="")
    """PEM: whose certificates of servers are trusted; empty = those the machine trusts."""
    client_cert: str = ""
    """PEM: a certificate that shows who we are."""
    client_key: Secret = Secret("")
    """PEM: its key."""
    use_ssh: bool = msgspec.field(name="useSSH", default=False)
    """RudderStack's tunnel through SSH. Not offered: run `ssh -L` beside and set `host` and `port` to its end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.use_ssh:
            raise ValueError(
                "`useSSH`: there are no tunnels here; run `ssh -L` and set `host` and `port` to its end"
            )


CAPABILITIES: Final = Capabilities(
    types={
        "boolean": "boolean",
        "int": "bigint",
        "float": "numeric",
        "datetime": "timestamptz",
        "string": "text",
        "text": "text",
        "json": "jsonb",
    },
    max_name=63,
    max_columns=1600,
    widenings=frozenset({("int", "float")}),
)


class PostgresLoader(SqlLoader):
    """See `loader.Loader`."""

    now_sql = "now()"
    float_is_exact = True  # numeric

    def __init__(self, wire: PgWire, namespace: str) -> None:
        super().__init__(namespace, CAPABILITIES)
        self._wire = wire

    def _run(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[Sequence[Any]]:
        return self._wire.run(sql, parameters)

    def quoted(self, name: str) -> str:
        if len(name.encode()) > CAPABILITIES.max_name:
            # Postgres would cut it without a word, and two columns could become one.
            raise PgError(f"the name {name!r} is longer than {CAPABILITIES.max_name} bytes", "42622")
        return super().quoted(name)

    # ------------------------------------------------------------ schema

    def check(self) -> None:
        # Asked first: who may not create may still use what is there.
        [(schema, loads)] = self._run(
            "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = ?), EXISTS (SELECT FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ? AND c.relname = ?)",
            (self.namespace, self.namespace, LOADS),
        )
        if schema and loads:
            return
        try:
            with self.transaction():
                self._lock()
                if not schema:
                    self._make_namespace()
                self._make_loads()
        except PgError as error:
            raise PgError(f"schema {self.namespace}: {error}{_advice(error)}", error.sqlstate) from error

    def _create_sql(self, table: str, columns: Columns) -> str:
        key = (
            f", PRIMARY KEY ({self.quoted('load_id')}, {self.quoted('table_name')})" if table == LOADS else ""
        )
        return f"CREATE TABLE IF NOT EXISTS {self.place(table)} ({self._definitions(columns)}{key})"

    def _lock(self, table: str = "") -> None:
        """Wait until no other transaction of ours is at work on this table (or on the namespace)."""
        name = f"mainstem {self.namespace}.{table}" if table else f"mainstem {self.namespace}"
        self._run("SELECT pg_advisory_xact_lock(hashtextextended(?, 0))", (name,))

    def fetch_schema(self) -> Schema:
        return self._columns("")

    def columns_of(self, table: str) -> Columns:
        return self._columns(table).get(table, {})

    def _columns(self, table: str) -> dict[str, dict[str, ColumnType]]:
        found: dict[str, dict[str, ColumnType]] = {}
        rows = self._run(
            "SELECT c.relname::text, a.attname::text, t.typname::text FROM pg_attribute a"
            " JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
            " JOIN pg_type t ON t.oid = a.atttypid"
            " WHERE n.nspname = ? AND c.relkind IN ('r', 'p', 'f') AND a.attnum > 0 AND NOT a.attisdropped"
            f"{' AND c.relname = ?' if table else ''} ORDER BY c.relname, a.attnum",
            (self.namespace, table) if table else (self.namespace,),
        )
        for relation, column, kind in rows:
            found.setdefault(relation, {})[column] = column_types(WORDS, kind)
        return found

    def evolve(self, changes: Sequence[SchemaChange]) -> None:
        self.check()
        for change in changes:
            with self._of(change.table), self.transaction():
                self._lock(change.table)
                self._lock()
                self._run(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
                self._change(change)

    def _create(self, table: str, columns: Columns) -> None:
        is_new = table not in self._columns(table)
        super()._create(table, columns)
        if is_new and "id" in columns:
            digest = hashlib.sha256(table.encode()).hexdigest()[:16]
            name = self.quoted(f"mainstem_{digest}_id")
            self._run(
                f"CREATE INDEX IF NOT EXISTS {name} ON {self.place(table)} USING hash ({self.quoted('id')})"
            )

    def _advice_of(self, error: WarehouseError) -> str | None:
        if not isinstance(error, PgError) or error.sqlstate[:2] not in _OF_ONE_TABLE:
            return None
        return _advice(error).removeprefix("; ")

    # ------------------------------------------------------------ rows

    def load(self, load: Load, table: StagedTable) -> Done:
        with self._of(table.table), self.transaction():
            self._lock(table.table)
            if self._is_in(load, table.table):
                return Done(0, already=True)
            self._bring(table)
            self._note(load, table)
        return Done(table.rows)

    def _bring(self, table: StagedTable) -> None:
        has_id = "id" in table.columns
        if table.mode == "latest by id" and has_id:
            stage = self._stage_name(table.table)
            self._stage(table, stage)
            self._put_latest(table, list(table.columns), "id", stage)
            self._drop_stage(stage)
            return
        if table.mode == "replace by id" and has_id:
            stage = self._stage_name("ids")
            self._stage(msgspec.structs.replace(table, columns={"id": table.columns["id"]}), stage)
            self._run(f"ANALYZE {stage}")
            place = self.place(table.table)
            self._run(
                f"DELETE FROM {place} t USING {stage} s WHERE t.{self.quoted('id')} = s.{self.quoted('id')}"
            )
            self._drop_stage(stage)
        clocks = [name for name in self._clocks(table.table) if name not in table.columns]
        now = self._run("SELECT now()")[0][0] if clocks else None
        if table.columns:
            blocks = csv_blocks(table.path, table.columns, dict.fromkeys(clocks, now))
            self._wire.copy(table.table, [*table.columns, *clocks], blocks, self.namespace)

    def _stage_name(self, table: str) -> str:
        # Temporary tables are the session's own: any name will do.
        return super()._stage_name("merged" if table.endswith("_merged") else "rows")

    def _stage(self, table: StagedTable, name: str) -> None:
        columns = ", ".join(self.quoted(column) for column in table.columns)
        self._run(
            f"CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS"
            f" SELECT {columns} FROM {self.place(table.table)} WITH NO DATA"
        )
        self._wire.copy(name.strip('"'), list(table.columns), csv_blocks(table.path, table.columns), None)

    def _epoch_ms(self, column: str) -> str:
        return f"CAST(EXTRACT(EPOCH FROM {column}) * 1000 AS bigint)"

    def close(self) -> None:
        self._wire.close()


def _advice(error: PgError) -> str:
    match error.sqlstate:
        case "42501":
            return "; GRANT CREATE, TEMPORARY ON DATABASE … to the user, or make it own the table"
        case "42P01" | "42703":
            return "; somebody dropped it: the next load makes it again"
        case "0A000":
            return "; a view uses the column: drop the view, let it load, create it again"
        case "54011" | "54000":
            return "; keep what makes the many columns as JSON: `jsonPaths`"
        case "55P03":
            return "; a session holds the table for long: see pg_stat_activity, and end it"
        case state if state[:2] in ("22", "42"):
            return "; the column was made with a type that does not take this: ALTER TABLE … ALTER COLUMN … TYPE …"
        case _:
            return ""


def tls_of(config: Config) -> Any:
    """Return what asyncpg takes: a context, or one of libpq's words."""
    if config.ssl_mode in ("disable", "prefer"):
        return config.ssl_mode
    return client_context(
        config.ssl_mode,
        server_ca=config.server_ca,
        client_certificate=config.client_cert,
        client_key=config.client_key,
    )


def open_loader(config: Config, namespace: str, _data_dir: Path) -> PostgresLoader:
    """Connect."""
    wire = PgWire(
        host=config.host,
        port=config.port,
        database=config.database,
        user=config.user,
        password=config.password,
        tls=tls_of(config),
    )
    return PostgresLoader(wire, namespace)


SPEC: Final = LoaderSpec(
    name="POSTGRES",
    title="PostgreSQL",
    config=Config,
    doc_url="https://www.rudderstack.com/docs/destinations/warehouse-destinations/postgresql/",
    capabilities=CAPABILITIES,
    open=open_loader,
    provider="postgres",
    run_against="a real PostgreSQL 18 server, started by the tests",
)
DESTINATION: Final = destination_of(SPEC)

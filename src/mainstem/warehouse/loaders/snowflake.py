"""Snowflake: Parquet by PUT and COPY into a temporary table, and from there into its table in one transaction.

Follows https://docs.snowflake.com/en/sql-reference/sql/copy-into-table and
https://docs.snowflake.com/en/sql-reference/transactions (read 2026-11); settings and types are those of RudderStack's
destination (https://www.rudderstack.com/docs/destinations/warehouse-destinations/snowflake/). Needs the vendor's
driver: `pip install 'mainstem[snowflake]'`. Rows go through a stage inside Snowflake: RudderStack's bucket, its
`storageIntegration` and keys are not needed and not used.

**Exactly once.** In Snowflake every change of a table or schema, also of a temporary table, commits the open
transaction. So a load does all of that first: a temporary table, PUT into its own stage, COPY into it. Then

    BEGIN TRANSACTION
    UPDATE of the one row of _MAINSTEM_LOADS whose LOAD_ID is empty     the lock
    is (load, table) in _MAINSTEM_LOADS?                                -> nothing to do
    DELETE of rows that are replaced and INSERT, or MERGE (USERS)
    INSERT of (load, table) into _MAINSTEM_LOADS
    COMMIT

**The lock.** INSERT and COPY wait for nobody in Snowflake, and a query may be answered from before another session's
commit (`READ_CONSISTENCY_MODE` is `SESSION`); UPDATE, DELETE and MERGE of a table wait until the transaction of another
one ends, and go on from what it left. So each load first updates that row: loads into one namespace take turns from
there, and the look that follows sees what came, as it reads a table that its own transaction has changed. What takes
long, PUT and COPY, is before. If a loader is killed while it has the lock, Snowflake rolls its transaction back as soon
as it has been idle for 5 minutes and somebody waits. One that was only asleep finds that its transaction is another,
and commits nothing: `AUTOCOMMIT` is off, and the transaction's id is compared before COMMIT. Readers never wait.

* Types: JSON is `VARIANT` (a text that Snowflake's JSON can't hold stays a text in it), times are `TIMESTAMP_TZ` in
  UTC, integers `NUMBER(38, 0)`, decimals `FLOAT`, texts `VARCHAR`, which takes 16 MB.
* An integer column is widened to `FLOAT` by a new column, and only if every number survives (none is beyond 2^53);
  else decimals go to the discards. A column that you make `NUMBER(38, 10)` takes both. It takes four statements, each
  its own transaction, under the lock that a second session holds; one that was killed among them is finished by whoever
  adds the column next, and readers may miss the column until then.
* Snowflake's calendar is certain from 1582 on only; earlier times are loaded as they are.
* Password: Snowflake refuses it for users of the type `SERVICE`; use a key pair.

Limits: 255 characters a name, of which 127 are used, as RudderStack does. **No Snowflake has been reached with this.**
Run against: fakesnow 0.12, an emulator on DuckDB, over HTTP with the driver itself, in the contract suite; its SQL is
parsed as Snowflake's (sqlglot). What is said of locks above is read from Snowflake's documentation, and made so in the
emulator. Not run: key pairs that a server checks, encryption, clouds' stages, grants, Snowflake's own reading of
Parquet.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from mainstem.secret import Secret
from mainstem.warehouse.destination import destination_of
from mainstem.warehouse.loader import (
    Capabilities,
    Done,
    Load,
    LoaderSpec,
    StagedTable,
    TableFailed,
    WarehouseError,
)
from mainstem.warehouse.loaders.snowflake_wire import SnowflakeError, SnowflakeWire, key_of
from mainstem.warehouse.loaders.sql import SqlLoader, column_types
from mainstem.warehouse.schema import (
    LOADS,
    Columns,
    ColumnType,
    Schema,
    SchemaChange,
)
from mainstem.warehouse.settings import WarehouseSettings

STAGE: Final = "_MAINSTEM_STAGE"
"""The temporary table. No event's table is called so (`naming.BUILT_IN_TABLES`): a temporary table hides another."""
_WORDS: Final[dict[str, ColumnType]] = {
    "boolean": "boolean",
    "number": "int",
    "float": "float",
    "decfloat": "float",
    "timestamp": "datetime",
    "date": "datetime",
    "variant": "json",
    "object": "json",
    "array": "json",
}
_OF_ONE_TABLE: Final = ("02", "0A", "22", "23", "42")
"""Classes of SQL states that say something of one table, not of the session."""
_OF_THE_SESSION: Final = (90105, 90106)
"""No current database or schema: class 22 too, but of no table."""


class Config(WarehouseSettings, frozen=True, kw_only=True, rename="camel"):
    """Settings of a Snowflake account."""

    account: str
    """The account's identifier: `myorg-myaccount`, or `xy12345.us-east-2.aws`."""
    database: str
    """The database; it has to be there."""
    warehouse: str
    """The virtual warehouse that does the work."""
    user: str
    """Who loads."""
    password: Secret = Secret("")
    """The user's password, unless a key pair is used."""
    role: str = ""
    """The user's role in which it is done; empty = its default. Needs `USAGE` on the warehouse and the database, and
    `CREATE SCHEMA` on it (or a schema of its own that is there already, with `CREATE TABLE`)."""
    use_key_pair_auth: bool = False
    """Sign in with a key pair."""
    private_key: Secret = Secret("")
    """PEM: the private key (PKCS #8) whose public key the user has (`ALTER USER … SET RSA_PUBLIC_KEY`)."""
    private_key_passphrase: Secret = Secret("")
    """Its passphrase, if it has one."""
    endpoint: str = ""
    """URL of another server, for private links and tests; empty = the account's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.use_key_pair_auth and not self.private_key:
            raise ValueError("`useKeyPairAuth` needs `privateKey`")
        if not self.use_key_pair_auth and not self.password:
            raise ValueError("`password` is missing; or set `useKeyPairAuth` and `privateKey`")


CAPABILITIES: Final = Capabilities(
    types={
        "boolean": "BOOLEAN",
        "int": "NUMBER(38, 0)",
        "float": "FLOAT",
        "datetime": "TIMESTAMP_TZ",
        "string": "VARCHAR",
        "text": "VARCHAR",
        "json": "VARIANT",
    },
    max_name=127,
    upper_case=True,
    max_columns=1600,
    widenings=frozenset({("int", "float")}),
    shortest_sync_s=60.0,
    parallel_loads=4,
)


class Wire(Protocol):
    """A session, as `snowflake_wire.SnowflakeWire` has it."""

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[Sequence[Any]]: ...

    def close(self) -> None: ...


class SnowflakeLoader(SqlLoader):
    """See `loader.Loader`."""

    now_sql = "CURRENT_TIMESTAMP()"

    def __init__(self, connect: Callable[[], Wire], namespace: str) -> None:
        """
        Args:
            connect: opens a session; a second one is needed to widen a column.
        """
        super().__init__(namespace, CAPABILITIES)
        self._connect = connect
        self._wire = connect()
        self._is_in_schema = False
        self._clock_columns: Sequence[str] = ()

    def _run(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[Sequence[Any]]:
        return self._wire.run(sql, parameters)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._run("BEGIN TRANSACTION")
        try:
            began = self._transaction_id()
            yield
            self._see_transaction(began)
            self._run("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def _transaction_id(self) -> str:
        [(found,)] = self._run("SELECT CURRENT_TRANSACTION()")
        return str(found)

    def _see_transaction(self, began: str) -> None:
        """See that the transaction goes on which began.

        Raises:
            SnowflakeError: it does not; what was done since is in another one, which is to be rolled back.
        """
        if self._transaction_id() != began:
            raise SnowflakeError(
                "Snowflake has ended the transaction, as it was idle for long and others waited; nothing of it counts"
            )

    # ------------------------------------------------------------ schema

    def check(self) -> None:
        try:
            [(database,)] = self._run("SELECT CURRENT_DATABASE()")
            if database is None:
                raise SnowflakeError(
                    "the database is not there, or the role may not use it: see `database` and `role`, and GRANT"
                    " USAGE ON DATABASE … TO ROLE …"
                )
            # Asked first: who may not create may still use what is there.
            if self.named(LOADS) not in self._columns(self.named(LOADS)):
                if not self._run(
                    "SELECT 1 FROM INFORMATION_SCHEMA.SCHEMATA WHERE SCHEMA_NAME = ?", (self.namespace,)
                ):
                    self._make_namespace()
                self._make_loads()
            self._make_lock()
        except SnowflakeError as error:
            raise SnowflakeError(
                f"schema {self.namespace}: {error}{_told(_advice(error))}", error.code, error.sqlstate
            ) from error

    def _make_lock(self) -> None:
        """See that the row is there that loads wait for. Two of them, made at the same time, do as well."""
        loads = self.place(self.named(LOADS))
        if self._run(f"SELECT 1 FROM {loads} WHERE {self.quoted('LOAD_ID')} = ''"):
            return
        names = (
            "LOAD_ID",
            "TABLE_NAME",
            "CURSOR_NAME",
            "LOAD_SEQUENCE",
            "ROW_COUNT",
            "POSITIONS",
            "LOADED_AT",
        )
        with self.transaction():
            self._run(
                f"INSERT INTO {loads} ({', '.join(self.quoted(name) for name in names)})"
                f" SELECT '', '', '', 0, 0, '{{}}', {self.now_sql}"
            )

    def fetch_schema(self) -> Schema:
        return self._columns("")

    def columns_of(self, table: str) -> Columns:
        return self._columns(table).get(table, {})

    def _columns(self, table: str) -> dict[str, dict[str, ColumnType]]:
        found: dict[str, dict[str, ColumnType]] = {}
        rows = self._run(
            "SELECT TABLE_NAME, COLUMN_NAME, DATA_TYPE, NUMERIC_SCALE FROM INFORMATION_SCHEMA.COLUMNS"
            f" WHERE TABLE_SCHEMA = ?{' AND TABLE_NAME = ?' if table else ''}"
            " ORDER BY TABLE_NAME, ORDINAL_POSITION",
            (self.namespace, table) if table else (self.namespace,),
        )
        for name, column, kind, scale in rows:
            if name != STAGE:
                ours = column_types(_WORDS, str(kind))
                found.setdefault(str(name), {})[str(column)] = "float" if ours == "int" and scale else ours
        return found

    def evolve(self, changes: Sequence[SchemaChange]) -> None:
        self.check()
        for change in changes:
            with self._of(change.table):
                self._change(change)

    def _add(self, table: str, columns: Columns) -> None:
        there = self.columns_of(table)
        missing = {name: kind for name, kind in columns.items() if name not in there}
        for name, kind in missing.items():
            if _wider(name) in there:
                self._finish_widening(table, name)
            # One by one: that is the form which is documented for IF NOT EXISTS.
            self._add_column(table, name, kind)

    def _widen(self, table: str, column: str, after: ColumnType) -> None:
        place, old, new = self.place(table), self.quoted(column), self.quoted(_wider(column))
        with self._locked_meanwhile() as see_lock:
            if self.columns_of(table).get(column) == after or self._rounds(table, column, after):
                return
            self._run(f"ALTER TABLE {place} ADD COLUMN IF NOT EXISTS {new} {self.type_of(after)}")
            with self.transaction():
                self._run(f"UPDATE {place} SET {new} = {old}")
            # That may have taken long; rows that came since would lose their value.
            see_lock()
            self._run(f"ALTER TABLE {place} DROP COLUMN {old}")
            self._run(f"ALTER TABLE {place} RENAME COLUMN {new} TO {old}")

    def _finish_widening(self, table: str, column: str) -> None:
        """Give a widened column its name, if whoever widened it was killed before."""
        with self._locked_meanwhile():
            there = self.columns_of(table)
            if column not in there and _wider(column) in there:
                new, old = self.quoted(_wider(column)), self.quoted(column)
                self._run(f"ALTER TABLE {self.place(table)} RENAME COLUMN {new} TO {old}")

    @contextmanager
    def _locked_meanwhile(self) -> Iterator[Callable[[], None]]:
        """No load is at work in the namespace, though what is done here commits by itself: a second session has the
        lock. Yields what raises SnowflakeError if it has it no longer."""
        other = type(self)(self._connect, self.namespace)
        try:
            with other.transaction():
                began = other._transaction_id()
                other._lock()
                yield lambda: other._see_transaction(began)
        finally:
            other.close()

    def _advice_of(self, error: WarehouseError) -> str | None:
        if not isinstance(error, SnowflakeError) or error.code in _OF_THE_SESSION:
            return None
        return _advice(error) if error.sqlstate[:2] in _OF_ONE_TABLE else None

    # ------------------------------------------------------------ rows

    def load(self, load: Load, table: StagedTable) -> Done:
        if table.table == STAGE:
            raise TableFailed(table.table, "rows are staged under this name", "rename the event")
        with self._of(table.table):
            # Without the lock: it saves the way of a file that is in.
            if self._is_in(load, table.table):
                return Done(0, already=True)
            self._clock_columns = super()._clocks(table.table)
            if table.columns:
                self._stage(table, self.quoted(STAGE))
            with self.transaction():
                self._lock()
                if self._is_in(load, table.table):
                    return Done(0, already=True)
                self._see_integers(table)
                self._put(table, self._staged_rows(table))
                self._note(load, table)
        return Done(table.rows)

    def _lock(self) -> None:
        """Wait until no other transaction of ours is at work in the namespace."""
        [counts] = self._run(
            f"UPDATE {self.place(self.named(LOADS))} SET {self.quoted('LOADED_AT')} = {self.now_sql}"
            f" WHERE {self.quoted('LOAD_ID')} = ''"
        )
        if not int(counts[0]):
            raise SnowflakeError(
                f"{self.named(LOADS)} has lost the row that loads wait for (its LOAD_ID is empty);"
                " the next load makes it again"
            )

    def _clocks(self, table: str) -> Sequence[str]:
        # Asked before the transaction: with the lock, nothing is done that can be done before.
        return self._clock_columns

    def _stage(self, table: StagedTable, name: str) -> None:
        if not self._is_in_schema:
            self._run(f"USE SCHEMA {self.quoted(self.namespace)}")
            self._is_in_schema = True
        kinds: Mapping[str, ColumnType] = {
            column: "text" if kind == "json" else kind for column, kind in table.columns.items()
        }
        self._run(f"CREATE OR REPLACE TEMPORARY TABLE {name} ({self._definitions(kinds)})")
        self._run(
            f"PUT {literal(f'file://{table.path.resolve()}')} @%{STAGE}"
            " AUTO_COMPRESS = FALSE SOURCE_COMPRESSION = NONE OVERWRITE = TRUE"
        )
        counts = self._run(
            f"COPY INTO {name} FROM @%{STAGE}"
            # By default, the text \N is taken for null.
            " FILE_FORMAT = (TYPE = PARQUET USE_LOGICAL_TYPE = TRUE BINARY_AS_TEXT = FALSE NULL_IF = ())"
            " MATCH_BY_COLUMN_NAME = CASE_SENSITIVE ON_ERROR = ABORT_STATEMENT"
        )
        self._run("COMMIT")
        # file, status, rows_parsed, rows_loaded …; one column if there was no file.
        came = sum(int(row[3]) for row in counts if len(row) > 3)
        if came != table.rows:
            raise SnowflakeError(f"COPY took {came} of {table.rows} rows of {table.table}")

    def _staged_rows(self, table: StagedTable) -> str:
        """Return SQL for the staged rows, JSON parsed."""
        values = ", ".join(
            f"COALESCE(TRY_PARSE_JSON({one}), TO_VARIANT({one})) AS {one}" if kind == "json" else one
            for column, kind in table.columns.items()
            for one in [self.quoted(column)]
        )
        return f"(SELECT {values} FROM {self.quoted(STAGE)})"

    def _put_latest(self, table: StagedTable, names: Sequence[str], id_column: str, stage: str) -> None:
        # No table is made, as the base does: that would commit. And MERGE sees what is there now (the module's text).
        time, key = self.quoted(self.named("received_at")), self.quoted(id_column)
        newer = f"(o.{time} IS NULL OR n.{time} >= o.{time})"
        clocks = [self.quoted(name) for name in self._clocks(table.table)]
        all_names = [self.quoted(name) for name in names]
        sets = [
            f"{one} = CASE WHEN {newer} THEN COALESCE(n.{one}, o.{one}) ELSE COALESCE(o.{one}, n.{one}) END"
            for one in all_names
            if one != key
        ]
        sets += [f"{one} = {self.now_sql}" for one in clocks]
        matched = f" WHEN MATCHED THEN UPDATE SET {', '.join(sets)}" if sets else ""
        values = [*(f"n.{one}" for one in all_names), *(self.now_sql for _ in clocks)]
        self._run(
            f"MERGE INTO {self.place(table.table)} o USING {stage} n ON o.{key} = n.{key}{matched}"
            f" WHEN NOT MATCHED THEN INSERT ({', '.join([*all_names, *clocks])}) VALUES ({', '.join(values)})"
        )

    def _epoch_ms(self, column: str) -> str:
        return f"DATE_PART(EPOCH_MILLISECOND, {column})"

    def close(self) -> None:
        self._wire.close()


def literal(text: str) -> str:
    """Return a text in SQL's quotes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _wider(column: str) -> str:
    """Return the name that a column has while it is widened."""
    return f"_MAINSTEM_WIDER_{hashlib.sha256(column.encode()).hexdigest()[:16].upper()}"


def _told(advice: str) -> str:
    return f"; {advice}" if advice else ""


def _advice(error: SnowflakeError) -> str:
    match error.code:
        case 3001:
            return (
                "GRANT USAGE ON DATABASE and WAREHOUSE, CREATE SCHEMA ON DATABASE … TO ROLE …,"
                " or make the role own the table"
            )
        case 606:
            return "see `warehouse`, and GRANT USAGE, OPERATE ON WAREHOUSE … TO ROLE …"
        case 625 | 604 | 630:
            return "a session holds a table for long: SHOW LOCKS IN ACCOUNT, and SYSTEM$ABORT_TRANSACTION"
        case 904 | 2003 | 2043:
            return "somebody dropped it, and the next load makes it again; or the role may not use it"
        case _ if error.sqlstate.startswith("22"):
            return "the column was made with a type that does not take this"
        case _:
            return ""


def driver_options(config: Config) -> dict[str, Any]:
    """Return what the driver has to know to connect.

    Raises:
        WarehouseError: the private key is none.
    """
    account = config.account.strip().removeprefix("https://").removesuffix("/")
    options: dict[str, Any] = {
        "account": account.removesuffix(".snowflakecomputing.com"),
        "user": config.user,
        "database": config.database,
        "warehouse": config.warehouse,
        "application": "Mainstem",
    }
    if config.role:
        options["role"] = config.role
    if config.use_key_pair_auth:
        options["authenticator"] = "SNOWFLAKE_JWT"
        options["private_key"] = key_of(config.private_key, config.private_key_passphrase)
    else:
        options["password"] = config.password.reveal()
    if config.endpoint:
        parts = urlsplit(config.endpoint)
        options |= {"protocol": parts.scheme, "host": parts.hostname or ""}
        options |= {"port": parts.port} if parts.port else {}
    return options


def open_loader(config: Config, namespace: str, _data_dir: Path) -> SnowflakeLoader:
    """Connect."""
    options = driver_options(config)

    def connect() -> Wire:
        try:
            return SnowflakeWire(options, query_tag=f"mainstem {namespace}")
        except SnowflakeError as error:
            raise SnowflakeError(
                f"{options['account']}: {error}; see that `account`, `user`, `role` and the password or key pair are"
                " right, and that Snowflake's network policy lets this machine in",
                error.code,
                error.sqlstate,
            ) from error

    return SnowflakeLoader(connect, namespace)


SPEC: Final = LoaderSpec(
    name="SNOWFLAKE",
    title="Snowflake",
    config=Config,
    doc_url="https://www.rudderstack.com/docs/destinations/warehouse-destinations/snowflake/",
    capabilities=CAPABILITIES,
    open=open_loader,
    provider="snowflake",
    run_against="no Snowflake: an emulator (fakesnow, on DuckDB) over HTTP; its SQL is parsed as Snowflake's",
)
DESTINATION: Final = destination_of(SPEC)

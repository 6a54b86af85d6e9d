"""MySQL and MariaDB: rows by LOAD DATA, or by INSERT where the server does not take that.

Follows https://mariadb.com/kb/en/load-data-infile/ and https://dev.mysql.com/doc/refman/8.4/en/load-data.html (MariaDB
10.6 and later, MySQL 8.0 and later, read 2026-11). RudderStack has no such destination; settings are named as those of
its PostgreSQL. The namespace is a database.

Exactly once, although changes of tables commit by themselves (DDL is not transactional here): a load changes no table.
Whatever changes is done before, step by step, each step harmless if it is there already, under a lock of the server
(`GET_LOCK`) that ends with its connection. A load of a table is then one InnoDB transaction, under the lock of that
table: the look into `_mainstem_loads`, the deletion of rows that are replaced, the rows, the row in `_mainstem_loads`,
commit. The only tables made meanwhile are temporary ones, which commit nothing and end with the connection.

* `LOAD DATA LOCAL` is used without files: the connection sends rows and opens no file, whatever a server asks for. It
  turns errors into warnings: after it, one warning rolls everything back. Where it is off (MySQL's
  default: `local_infile=OFF`), rows go in many-row INSERTs, several times slower.
* Times are `DATETIME(6)` in UTC; decimals are `DOUBLE`; texts are `LONGTEXT`, compared byte by byte
  (`utf8mb4_nopad_bin`, in MySQL `utf8mb4_0900_bin`); JSON is `JSON`.
* Tables that we make have an index on the first 100 characters of `id`.
* An integer column is widened to `DOUBLE` only if every number in it survives (none is beyond 2^53); else decimals go
  to the discards. A column that you make `DECIMAL(65, 20)` takes both.
* Galera: its nodes do not share GET_LOCK. Load through one node.

Limits: 64 characters a name, none of them beyond U+FFFF; 1,017 columns a table; about 8 kB a row for the first 40 bytes
of every text. Run against: MariaDB 10.11 (a server of its own in the tests). Not run against: MySQL.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pymysql
from pymysql.connections import Connection, MySQLResult

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
from mainstem.warehouse.loaders.batches import small_batches
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

_CONNECT_TIMEOUT_S: Final = 20
_ANSWER_TIMEOUT_S: Final = 3600
_LOCK_TIMEOUT_S: Final = 600
_ID_CHARACTERS: Final = 100
_PACKET_BYTES: Final = 256 * 1024
_MODE: Final = "ANSI_QUOTES,STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO"
_PLACE: Final = re.compile(r'"(?:[^"]|"")*"|\'(?:[^\'\\]|\'\'|\\.)*\'|\?|%')
_VALUE: Final = re.compile(r"(value:? |entry )'.*'(?= for)", re.DOTALL)
_WORDS: Final[dict[str, ColumnType]] = {
    "tinyint(1)": "boolean",
    "tinyint": "int",
    "smallint": "int",
    "mediumint": "int",
    "int": "int",
    "bigint": "int",
    "double": "float",
    "float": "float",
    "decimal": "float",
    "datetime": "datetime",
    "timestamp": "datetime",
    "date": "datetime",
    "json": "json",
}
# Codes of https://mariadb.com/kb/en/mariadb-error-codes/ that say something of one table, not of the server.
_OF_ONE_TABLE: Final = frozenset(
    {
        1005,
        1048,
        1054,
        1059,
        1060,
        1071,
        1074,
        1075,
        1091,
        1101,
        1103,
        1117,
        1118,
        1142,
        1143,
        1146,
        1166,
        1170,
        1205,
    }
    | {1264, 1265, 1292, 1300, 1364, 1366, 1406, 1411, 3140, 3156, 4025, 4078}
)
_NO_LOCAL_FILES: Final = frozenset({1148, 3948, 3950, 4166})


class Config(WarehouseSettings, frozen=True, kw_only=True, rename="camel"):
    """Settings of a MySQL or MariaDB server."""

    host: str
    """The server's name or address."""
    user: str
    """Who loads: needs ALL on the namespace's database, and CREATE if that is not there yet."""
    password: Secret = Secret("")
    """The user's password."""
    port: int = 3306
    """The server's port."""
    ssl_mode: Literal["disable", "require", "verify-ca", "verify-full"] = "require"
    """disable: no encryption. require: encrypted, whoever the server is. verify-ca: the server's certificate is
    checked. verify-full: its name too."""
    server_ca: str = msgspec.field(name="serverCA", default="")
    """PEM: whose certificates of servers are trusted; empty = those the machine trusts."""
    client_cert: str = ""
    """PEM: a certificate that shows who we are."""
    client_key: Secret = Secret("")
    """PEM: its key."""


CAPABILITIES: Final = Capabilities(
    types={
        "boolean": "BOOLEAN",
        "int": "BIGINT",
        "float": "DOUBLE",
        "datetime": "DATETIME(6)",
        "string": "LONGTEXT",
        "text": "LONGTEXT",
        "json": "JSON",
    },
    max_name=64,
    max_columns=1017,
    widenings=frozenset({("int", "float")}),
)


class MysqlError(WarehouseError):
    """The server refused or is not there.

    Attributes:
        code: the server's; 0 if it said nothing.
    """

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class _Sending(MySQLResult):  # type: ignore[misc]
    """An answer that may be the server's wish for a "file": it gets the rows that were prepared, never a file."""

    def _read_load_local_packet(self, first_packet: Any) -> None:
        connection = self.connection
        blocks, connection.rows_to_send = connection.rows_to_send, None
        try:
            for block in blocks or ():
                for start in range(0, len(block), _PACKET_BYTES):
                    connection.write_packet(block[start : start + _PACKET_BYTES])
        finally:
            connection.write_packet(b"")
            answer = connection._read_packet()
        self._read_ok_packet(answer)


class _Connection(Connection):  # type: ignore[misc]
    rows_to_send: Iterator[bytes] | None = None

    def _read_query_result(self, unbuffered: bool = False) -> Any:
        self._result = None
        result = _Sending(self)
        result.read()
        self._result = result
        if result.server_status is not None:
            self.server_status = result.server_status
        return result.affected_rows


class MysqlLoader(SqlLoader):
    """See `loader.Loader`."""

    now_sql = "UTC_TIMESTAMP(6)"

    def __init__(self, connection: _Connection, namespace: str) -> None:
        super().__init__(namespace, CAPABILITIES)
        self._connection = connection
        self._sends_files = True
        [(version,)] = self._run("SELECT VERSION()")
        self._is_mariadb = "mariadb" in str(version).lower()
        self._collation = "utf8mb4_nopad_bin" if self._is_mariadb else "utf8mb4_0900_bin"
        self._run(f"SET SESSION sql_mode = '{_MODE}', time_zone = '+00:00', lock_wait_timeout = 60")
        try:
            # Rows of many texts are refused when they are too long, not tables when they might become so.
            self._run("SET SESSION innodb_strict_mode = 0")
        except MysqlError as error:
            if error.code not in (1227, 1231):  # MySQL lets only some users do that
                raise

    def _run(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[Sequence[Any]]:
        return self._execute(marked(sql) if parameters else sql, parameters)[0]

    def _execute(self, sql: str, parameters: Sequence[Any] = ()) -> tuple[Sequence[Sequence[Any]], int]:
        """Return the rows, and how many warnings there were."""
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql, tuple(parameters) or None)
                return (list(cursor.fetchall()) if cursor.description else []), int(cursor.warning_count or 0)
        except (pymysql.MySQLError, OSError, ValueError) as error:
            raise _error(error) from error

    # ------------------------------------------------------------ locks

    @contextmanager
    def _locked(self, table: str = "") -> Iterator[None]:
        """While this lasts, nobody else of ours is at work on the table (or on the namespace)."""
        digest = hashlib.sha256(f"{self.namespace}.{table}".encode()).hexdigest()[:40]
        name = f"mainstem.{digest}"
        [(got,)] = self._run("SELECT GET_LOCK(?, ?)", (name, _LOCK_TIMEOUT_S))
        if got != 1:
            raise MysqlError(
                f"another load of {table or self.namespace} takes longer than {_LOCK_TIMEOUT_S} s"
            )
        try:
            yield
        finally:
            self._release(name)

    def _release(self, name: str) -> None:
        try:
            self._execute("SELECT RELEASE_LOCK(%s)", (name,))
        except WarehouseError:
            # The connection is gone, and the lock with it.
            return

    # ------------------------------------------------------------ schema

    def check(self) -> None:
        found = self._run(
            "SELECT s.schema_name, t.table_name FROM information_schema.schemata s"
            " LEFT JOIN information_schema.tables t ON t.table_schema = s.schema_name AND t.table_name = ?"
            " WHERE s.schema_name = ?",
            (LOADS, self.namespace),
        )
        if found and found[0][1]:
            return
        try:
            if not found:
                self._make_namespace()
            self._make_loads()
        except MysqlError as error:
            if error.code in (1044, 1142, 1227):
                raise MysqlError(
                    f"database {self.namespace}: {error}; GRANT ALL on it to the user", error.code
                ) from error
            raise

    def _make_namespace(self) -> None:
        self._run(
            f"CREATE DATABASE IF NOT EXISTS {self.quoted(self.namespace)}"
            f" CHARACTER SET utf8mb4 COLLATE {self._collation}"
        )

    def _make_loads(self) -> None:
        # A key can't be a whole LONGTEXT.
        self._run(
            f"CREATE TABLE IF NOT EXISTS {self.place(LOADS)} ("
            '"load_id" VARCHAR(190) NOT NULL, "table_name" VARCHAR(64) NOT NULL, "cursor_name" VARCHAR(190) NOT NULL,'
            ' "load_sequence" BIGINT NOT NULL, "row_count" BIGINT NOT NULL, "positions" LONGTEXT NOT NULL,'
            ' "loaded_at" DATETIME(6) NOT NULL, PRIMARY KEY ("load_id", "table_name"))'
            f" ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {self._collation}"
        )

    def _create_sql(self, table: str, columns: Columns) -> str:
        parts = [self._definitions(columns)]
        if columns.get("id") in ("string", "text"):
            parts.append(f'KEY "mainstem_id" ({self.quoted("id")}({_ID_CHARACTERS}))')
        return (
            f"CREATE TABLE IF NOT EXISTS {self.place(table)} ({', '.join(parts)})"
            f" ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE {self._collation}"
        )

    def fetch_schema(self) -> Schema:
        return self._columns("")

    def columns_of(self, table: str) -> Columns:
        return self._columns(table).get(table, {})

    def _columns(self, table: str) -> dict[str, dict[str, ColumnType]]:
        found: dict[str, dict[str, ColumnType]] = {}
        one = " AND table_name = ?" if table else ""
        parameters = (self.namespace, table) if table else (self.namespace,)
        rows = self._run(
            "SELECT table_name, column_name, column_type FROM information_schema.columns"
            f" WHERE table_schema = ?{one} ORDER BY table_name, ordinal_position",
            parameters,
        )
        for name, column, kind in rows:
            found.setdefault(name, {})[column] = column_types(_WORDS, kind)
        if self._is_mariadb:
            # There, JSON is a LONGTEXT that is checked.
            for name, clause in self._run(
                "SELECT table_name, check_clause FROM information_schema.check_constraints"
                f" WHERE constraint_schema = ?{one}",
                parameters,
            ):
                column = clause.removeprefix("json_valid(").removesuffix(")")[1:-1].replace('""', '"')
                if clause.startswith("json_valid(") and column in found.get(name, {}):
                    found[name][column] = "json"
        return found

    def evolve(self, changes: Sequence[SchemaChange]) -> None:
        self.check()
        for change in changes:
            with self._of(change.table), self._locked(change.table):
                self._change(change)

    def _add(self, table: str, columns: Columns) -> None:
        there = self.columns_of(table)
        missing = {name: kind for name, kind in columns.items() if name not in there}
        if missing:
            added = ", ".join(
                f"ADD COLUMN {self._definitions({name: kind})}" for name, kind in missing.items()
            )
            self._run(f"ALTER TABLE {self.place(table)} {added}")

    def _alter_type(self, table: str, column: str, after: ColumnType) -> None:
        target = f"{self.quoted(column)} {self.type_of(after)}"
        self._run(f"ALTER TABLE {self.place(table)} MODIFY COLUMN {target}")

    def _advice_of(self, error: WarehouseError) -> str | None:
        return _advice(error.code) if isinstance(error, MysqlError) and error.code in _OF_ONE_TABLE else None

    # ------------------------------------------------------------ rows

    def load(self, load: Load, table: StagedTable) -> Done:
        self._run(
            f"USE {self.quoted(self.namespace)}"
        )  # names of rows' tables in DELETE are looked for there
        with self._of(table.table), self._locked(table.table), self.transaction():
            if self._is_in(load, table.table):
                return Done(0, already=True)
            self._see_integers(table)
            self._bring(table)
            self._note(load, table)
        return Done(table.rows)

    def _bring(self, table: StagedTable) -> None:
        has_id = "id" in table.columns
        if table.mode == "latest by id" and has_id:
            stage = self._stage_name("rows")
            self._stage(table, stage)
            self._put_latest(table, list(table.columns), "id", stage)
            self._drop_stage(stage)
            return
        if table.mode == "replace by id" and has_id:
            stage = self._stage_name("ids")
            self._stage(msgspec.structs.replace(table, columns={"id": table.columns["id"]}), stage)
            self._delete_replaced(table.table, "id", stage)
            self._drop_stage(stage)
        clocks = [name for name in self._clocks(table.table) if name not in table.columns]
        self._put_rows(self.place(table.table), table, clocks)

    def _delete_replaced(self, table: str, id_column: str, stage: str) -> None:
        # Not with IN: MariaDB before 11.1 would ask for each row of the table.
        key = self.quoted(id_column)
        self._run(f"DELETE t FROM {self.place(table)} t JOIN {stage} s ON t.{key} = s.{key}")

    def _stage_name(self, table: str) -> str:
        name = "merged" if table.endswith("_merged") else table
        return f"{self.quoted(self.namespace)}.{self.quoted(f'_mainstem_stage_{name}')}"

    def _stage(self, table: StagedTable, name: str) -> None:
        columns = ", ".join(self.quoted(column) for column in table.columns)
        self._create_temporary_as(name, f"SELECT {columns} FROM {self.place(table.table)} WHERE 1 = 0")
        self._put_rows(name, table, ())

    def _create_temporary_as(self, name: str, select: str) -> None:
        self._drop_stage(name)  # one of a load that failed: a rollback leaves it
        self._run(f"CREATE TEMPORARY TABLE {name} ENGINE = InnoDB AS {select}")

    def _drop_stage(self, stage: str) -> None:
        self._run(f"DROP TEMPORARY TABLE IF EXISTS {stage}")

    def _put_rows(self, place: str, table: StagedTable, clocks: Sequence[str]) -> None:
        if not table.columns:
            return
        if self._sends_files:
            try:
                self._send(place, table, clocks)
            except MysqlError as error:
                if error.code not in _NO_LOCAL_FILES:
                    raise
                self._sends_files = False
            else:
                return
        self._insert_rows(place, table, clocks)

    def _send(self, place: str, table: StagedTable, clocks: Sequence[str]) -> None:
        columns = ", ".join(self.quoted(name) for name in table.columns)
        filled = ", ".join(f"{self.quoted(name)} = {self.now_sql}" for name in clocks)
        self._connection.rows_to_send = tsv_blocks(table.path, table.columns)
        try:
            _, warnings = self._execute(
                f"LOAD DATA LOCAL INFILE 'mainstem' INTO TABLE {place} CHARACTER SET utf8mb4"
                r" FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n'"
                f" ({columns}){f' SET {filled}' if filled else ''}"
            )
        finally:
            self._connection.rows_to_send = None
        if warnings:
            _, code, text = self._run("SHOW WARNINGS LIMIT 1")[0]
            raise MysqlError(_VALUE.sub(r"\1…", str(text)), int(code))

    def _insert_rows(self, place: str, table: StagedTable, clocks: Sequence[str]) -> None:
        names = ", ".join(self.quoted(name).replace("%", "%%") for name in [*table.columns, *clocks])
        values = ", ".join([*("%s" for _ in table.columns), *(self.now_sql for _ in clocks)])
        sql = f"INSERT INTO {place.replace('%', '%%')} ({names}) VALUES ({values})"
        for batch in small_batches(table.path, list(table.columns)):
            columns = [_naive(array).to_pylist() for array in batch.columns]
            try:
                with self._connection.cursor() as cursor:
                    cursor.executemany(sql, list(zip(*columns, strict=True)))
            except (pymysql.MySQLError, OSError, ValueError) as error:
                raise _error(error) from error

    def _epoch_ms(self, column: str) -> str:
        return f"TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', {column}) DIV 1000"

    def close(self) -> None:
        if self._connection.open:
            try:
                self._connection.close()
            except (pymysql.MySQLError, OSError):
                return


def _naive(array: Any) -> Any:
    return array.cast(pa.timestamp("us")) if pa.types.is_timestamp(array.type) else array


def tsv_blocks(path: Path, columns: Columns) -> Iterator[bytes]:
    r"""Yield a Parquet file's rows as LOAD DATA takes them, a few megabytes at a time: tabs between, `\N` for null."""
    for batch in small_batches(path, list(columns)):
        arrays = [pc.fill_null(_texts(array), "\\N") for array in batch.columns]
        lines = arrays[0] if len(arrays) == 1 else pc.binary_join_element_wise(*arrays, "\t")
        yield ("\n".join(lines.to_pylist()) + "\n").encode()


def _texts(array: Any) -> Any:
    if pa.types.is_boolean(array.type):
        return array.cast(pa.int8()).cast(pa.string())
    if not pa.types.is_string(array.type):
        return _naive(array).cast(pa.string())
    # The backslash first: the others bring some.
    for letter, escape in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\0", "\\0")):
        if pc.any(pc.match_substring(array, letter)).as_py():
            array = pc.replace_substring(array, letter, escape)
    return array


def marked(sql: str) -> str:
    """Return SQL in PyMySQL's way: `%s` for question marks outside of quotes, percent signs doubled."""

    def replace(found: re.Match[str]) -> str:
        text = found[0]
        return "%s" if text == "?" else text.replace("%", "%%")

    return _PLACE.sub(replace, sql)


def _error(error: Exception) -> MysqlError:
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[-1] if error.args else type(error).__name__)[:500]
    return MysqlError(_VALUE.sub(r"\1…", text), code)


def _advice(code: int) -> str:
    match code:
        case 1142 | 1143:
            return "GRANT ALL on the database to the user"
        case 1146 | 1054:
            return "somebody dropped it: the next load makes it again"
        case 1005 | 1117 | 1118:
            return "keep what makes the many columns as JSON: `jsonPaths`"
        case 1059 | 1103 | 1166 | 1300:
            return (
                "the name can't be one here: rename it with a transformation, or keep it as JSON: `jsonPaths`"
            )
        case 1205:
            return "a session holds the table for long: see SHOW PROCESSLIST, and end it"
        case _:
            return "the column was made with a type that does not take this: ALTER TABLE … MODIFY …"


def _connect_words(error: MysqlError, config: Config) -> str:
    place = f"{config.host}:{config.port}"
    match error.code:
        case 1045 | 1698:
            return f"{place}: {error}; see that `user` and `password` are right, and allowed from here"
        case 1040 | 1203:
            return f"{place}: {error}; raise max_connections"
        case _:
            return f"{place}: {error}; see that `host` and `port` are right, that it can be reached, and `sslMode`"


def open_loader(config: Config, namespace: str, _data_dir: Path) -> MysqlLoader:
    """Connect."""
    tls: dict[str, Any] = {"ssl_disabled": True}
    if config.ssl_mode != "disable":
        tls = {
            "ssl": client_context(
                config.ssl_mode,
                server_ca=config.server_ca,
                client_certificate=config.client_cert,
                client_key=config.client_key,
            )
        }
    try:
        connection = _Connection(
            host=config.host,
            port=config.port,
            user=config.user,
            password=config.password.reveal(),
            charset="utf8mb4",
            autocommit=True,
            local_infile=True,
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=_ANSWER_TIMEOUT_S,
            write_timeout=_ANSWER_TIMEOUT_S,
            **tls,
        )
    except (pymysql.MySQLError, OSError, ValueError) as error:
        raise MysqlError(_connect_words(_error(error), config)) from error
    return MysqlLoader(connection, namespace)


SPEC: Final = LoaderSpec(
    name="MYSQL",
    title="MySQL and MariaDB",
    config=Config,
    doc_url="https://mariadb.com/kb/en/documentation/",
    capabilities=CAPABILITIES,
    open=open_loader,
    provider="mysql",
    run_against="a real MariaDB 10.11 server, started by the tests; not MySQL",
)
DESTINATION: Final = destination_of(SPEC)

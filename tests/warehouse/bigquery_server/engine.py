"""Datasets, tables, and statements of GoogleSQL, on DuckDB."""

import contextlib
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from tests.warehouse.bigquery_server import script

_TO_API: Final = {
    "VARCHAR": "STRING",
    "BIGINT": "INTEGER",
    "HUGEINT": "INTEGER",
    "INTEGER": "INTEGER",
    "DOUBLE": "FLOAT",
    "BOOLEAN": "BOOLEAN",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMP",
    "TIMESTAMP": "DATETIME",
    "DATE": "DATE",
    "JSON": "JSON",
}
_TO_SQL: Final = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL"}
_TO_DUCKDB: Final = {
    "STRING": "VARCHAR",
    "INTEGER": "BIGINT",
    "INT64": "BIGINT",
    "FLOAT": "DOUBLE",
    "FLOAT64": "DOUBLE",
    "BOOLEAN": "BOOLEAN",
    "BOOL": "BOOLEAN",
    "TIMESTAMP": "TIMESTAMPTZ",
    "JSON": "JSON",
}
_LOADABLE: Final = frozenset(_TO_DUCKDB) - {"JSON"}
_NO_COLUMN: Final = re.compile(r"""[!"$()*,./;?@\[\\\]^`{}~]""")
_NO_TABLE: Final = re.compile(r"""[!"$()*,./;?@\[\\\]^`{}~:'&<>=+|#%]""")
_RESERVED: Final = ("_TABLE_", "_FILE_", "_PARTITION", "_ROW_TIMESTAMP", "__ROOT__", "_COLIDENTIFIER")
_MAX_COLUMNS: Final = 10_000
_MAX_QUERY: Final = 1024 * 1024
_DDL: Final = (exp.Create, exp.Alter, exp.Drop)
_MUTATIONS: Final = (exp.Update, exp.Delete, exp.Merge)
_WIDER: Final = {("BIGINT", "DOUBLE"), ("BIGINT", "DECIMAL(38,9)")}
TRIES_OF_DDL: Final = 400


class Refusal(Exception):
    """What BigQuery would answer.

    Attributes:
        reason: its word.
        status: of HTTP.
    """

    def __init__(self, reason: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status


class Result:
    """Rows of a SELECT."""

    def __init__(self, names: Sequence[str], kinds: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self.names = names
        self.kinds = kinds
        self.rows = rows


class Mutations:
    """Which transaction has updated or deleted rows of which table: only one at a time may.

    "If a transaction mutates (update or deletes) rows in a table, then other transactions or DML statements that mutate
    rows in the same table cannot run concurrently. Conflicting transactions are cancelled."
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sequence = 0
        self._changed: dict[str, int] = {}
        self._active: dict[str, object] = {}

    def now(self) -> int:
        with self._lock:
            return self._sequence

    def mutate(self, who: object, table: str, since: int) -> None:
        """Raises Refusal if somebody else does, or did since."""
        with self._lock:
            if self._active.get(table, who) is not who or self._changed.get(table, 0) > since:
                raise conflict(table)
            self._active[table] = who

    def end(self, who: object, *, committed: bool) -> None:
        with self._lock:
            self._sequence += 1
            for table in [table for table, active in self._active.items() if active is who]:
                del self._active[table]
                if committed:
                    self._changed[table] = self._sequence


def conflict(table: str) -> Refusal:
    return Refusal(
        "invalidQuery",
        f"Query error: Transaction is aborted due to concurrent update against table {table}."
        f" Transaction ID: {uuid.uuid4()} at [3:3]",
    )


class Engine:
    """One project's data, in memory."""

    def __init__(self, *, by_table: bool = True) -> None:
        """
        Args:
            by_table: transactions that mutate one table conflict; else only those that mutate one row (DuckDB's own).
        """
        self._database = duckdb.connect(":memory:")
        self._database.execute("SET TimeZone = 'UTC'")
        self._lock = threading.RLock()
        self._projects: set[str] = set()
        self._mutations = Mutations()
        self._loading: dict[str, threading.Lock] = {}
        self.by_table = by_table
        self.datasets: dict[tuple[str, str], dict[str, Any]] = {}
        self.tables: dict[tuple[str, str, str], dict[str, Any]] = {}
        """What tables were made with through the API."""
        self.statements: list[str] = []
        """Every statement that was run, as it was sent: scripts in parts."""
        self.before: Callable[[str], None] = lambda _: None
        """Called before each statement of a script; raises to break it there."""

    # ------------------------------------------------------------ datasets and tables

    def cursor(self, project: str) -> duckdb.DuckDBPyConnection:
        """Return a connection of its own."""
        with self._lock:
            if project not in self._projects:
                self._database.execute(f"ATTACH ':memory:' AS {_quoted(project)}")
                self._database.execute(f"CREATE TABLE {_quoted(project)}.main.snapshot (x INTEGER)")
                self._projects.add(project)
            made = self._database.cursor()
            made.execute("SET TimeZone = 'UTC'")
            return made

    def make_dataset(self, project: str, dataset: str, resource: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            if (project, dataset) in self.datasets:
                raise Refusal("duplicate", f"Already Exists: Dataset {project}:{dataset}", 409)
            if not re.fullmatch(r"[A-Za-z0-9_]{1,1024}", dataset):
                raise Refusal("invalid", f'Invalid dataset ID "{dataset}".')
            self.cursor(project).execute(f"CREATE SCHEMA {_quoted(project)}.{_quoted(dataset)}")
            made = {**resource, "location": resource.get("location") or "US"}
            self.datasets[project, dataset] = made
            return made

    def dataset(self, project: str, dataset: str) -> dict[str, Any]:
        try:
            return self.datasets[project, dataset]
        except KeyError:
            raise Refusal("notFound", f"Not found: Dataset {project}:{dataset}", 404) from None

    def schema(self, project: str, dataset: str, table: str) -> list[dict[str, str]]:
        """Return the fields of a table in the API's words; Refusal if there is none."""
        self.dataset(project, dataset)
        rows = (
            self.cursor(project)
            .execute(
                "SELECT column_name, data_type FROM duckdb_columns()"
                " WHERE database_name = ? AND schema_name = ? AND table_name = ? ORDER BY column_index",
                [project, dataset, table],
            )
            .fetchall()
        )
        if not rows:
            raise Refusal("notFound", f"Not found: Table {project}:{dataset}.{table}", 404)
        return [
            {"name": name, "type": api_type(kind), "mode": "REPEATED" if kind.endswith("[]") else "NULLABLE"}
            for name, kind in rows
        ]

    def count(self, project: str, dataset: str, table: str) -> int:
        found = self.cursor(project).execute(f"SELECT count(*) FROM {_place(project, dataset, table)}")
        [(rows,)] = found.fetchall()
        return int(rows)

    def make_table(self, project: str, dataset: str, table: str, resource: dict[str, Any]) -> None:
        self.dataset(project, dataset)
        fields = resource.get("schema", {}).get("fields", [])
        check_table(table)
        check_columns([field["name"] for field in fields])
        columns = ", ".join(f"{_quoted(field['name'])} {_TO_DUCKDB[field['type']]}" for field in fields)
        try:
            self.cursor(project).execute(f"CREATE TABLE {_place(project, dataset, table)} ({columns})")
        except (duckdb.CatalogException, duckdb.TransactionException):
            raise Refusal("duplicate", f"Already Exists: Table {project}:{dataset}.{table}", 409) from None
        self.tables[project, dataset, table] = resource

    def drop_table(self, project: str, dataset: str, table: str) -> None:
        self.schema(project, dataset, table)
        with self._cursor(project) as cursor:
            self._again(lambda: cursor.execute(f"DROP TABLE IF EXISTS {_place(project, dataset, table)}"))

    @contextlib.contextmanager
    def _cursor(self, project: str) -> Iterator[duckdb.DuckDBPyConnection]:
        cursor = self.cursor(project)
        try:
            yield cursor
        finally:
            cursor.close()

    def _again(self, work: Callable[[], Any]) -> Any:
        """DuckDB has DDL conflict with what goes on; BigQuery has it wait."""
        pause = threading.Event()
        for _ in range(TRIES_OF_DDL):
            try:
                return work()
            except duckdb.TransactionException:
                pause.wait(0.01)
        return work()

    # ------------------------------------------------------------ load jobs

    def load(self, project: str, config: Mapping[str, Any], file: Path) -> int:
        """Put a Parquet file into a table, by the configuration of a load job; return the rows."""
        target = config["destinationTable"]
        dataset, table = target["datasetId"], target["tableId"]
        place = _place(project, dataset, table)
        there = self.schema(project, dataset, table)
        if config.get("sourceFormat") != "PARQUET":
            raise Refusal("invalid", "only Parquet is taken here")
        fields = config["schema"]["fields"]
        if odd := [field for field in fields if field["type"] not in _LOADABLE]:
            raise Refusal("invalid", f"Unsupported field type: {odd[0]['type']}")
        if config.get("columnNameCharacterMap") != "V2" and any(
            re.search(r"[^A-Za-z0-9_]", field["name"]) for field in fields
        ):
            raise Refusal("invalid", "Invalid field name in the file")
        if [(one["name"], _TO_SQL.get(one["type"], one["type"])) for one in there] != [
            (one["name"], _TO_SQL.get(one["type"], one["type"])) for one in fields
        ]:
            raise Refusal("invalid", f"Provided Schema does not match Table {project}:{dataset}.{table}.")
        with self._lock:
            loading = self._loading.setdefault(place, threading.Lock())
        with loading, self._cursor(project) as cursor:
            if config.get("writeDisposition") == "WRITE_EMPTY" and self.count(project, dataset, table):
                raise Refusal("duplicate", f"Already Exists: Table {project}:{dataset}.{table}", 409)
            columns = ", ".join(_quoted(field["name"]) for field in fields)
            try:
                cursor.execute(
                    f"INSERT INTO {place} ({columns}) SELECT {columns} FROM read_parquet(?)", [str(file)]
                )
                [(rows,)] = cursor.fetchall()
            except duckdb.Error as error:
                raise Refusal("invalid", f"Error while reading data: {error}") from error
        return int(rows)

    # ------------------------------------------------------------ queries

    def run(self, project: str, location: str, sql: str, parameters: Mapping[str, Any]) -> Result | None:
        """Run a statement or script; return the rows of the last SELECT."""
        if len(sql) > _MAX_QUERY:
            raise Refusal("invalid", "The query is too large.")
        try:
            statements = script.parse(sql)
        except script.ScriptError as error:
            raise Refusal("invalidQuery", f"Syntax error: {error}") from error
        with self._cursor(project) as cursor:
            run = _Run(self, project, location, cursor, parameters)
            try:
                run.block(statements)
            except duckdb.TransactionException:
                raise conflict(run.last_table) from None
            except duckdb.Error as error:
                raise Refusal("invalidQuery", str(error).splitlines()[0]) from error
            finally:
                run.end(committed=False)
            return run.result


class _Run:
    """One script that is being run."""

    def __init__(
        self,
        engine: Engine,
        project: str,
        location: str,
        cursor: duckdb.DuckDBPyConnection,
        parameters: Mapping[str, Any],
    ) -> None:
        self.result: Result | None = None
        self.last_table = ""
        self._engine = engine
        self._project = project
        self._location = location
        self._cursor = cursor
        self._parameters = parameters
        self._variables: dict[str, Any] = {}
        self._rows = 0
        self._since: int | None = None

    def block(self, statements: Sequence[script.Statement]) -> None:
        for statement in statements:
            self._engine.before(statement.text or statement.kind)
            match statement.kind:
                case "begin":
                    if self._since is not None:
                        raise Refusal("invalidQuery", "transactions can't be nested")
                    self._cursor.execute("BEGIN")
                    # DuckDB takes its snapshot with the first look at a database.
                    self._cursor.execute(f"SELECT * FROM {_quoted(self._project)}.main.snapshot").fetchall()
                    self._since = self._engine._mutations.now()
                case "commit":
                    self._cursor.execute("COMMIT")
                    self.end(committed=True)
                case "rollback":
                    self.end(committed=False)
                case "declare" | "set":
                    if (statement.kind == "set") != (statement.name in self._variables):
                        raise Refusal(
                            "invalidQuery", f"variable {statement.name}: declared twice, or not at all"
                        )
                    self._variables[statement.name] = self._value(statement.text)
                case "raise":
                    raise Refusal("invalidQuery", str(self._value(statement.text)))
                case "if":
                    if self._value(statement.text):
                        self.block(statement.body)
                case _:
                    self._sql(statement.text)

    def end(self, *, committed: bool) -> None:
        if self._since is None:
            return
        if not committed:
            with contextlib.suppress(duckdb.TransactionException):
                self._cursor.execute("ROLLBACK")  # a COMMIT that failed has done so
        self._since = None
        self._engine._mutations.end(self, committed=committed)

    def _value(self, expression: str) -> Any:
        tree = _parsed(f"SELECT {expression}")
        [(value,)] = self._execute(tree).fetchall()
        return value

    def _sql(self, text: str) -> None:
        self._engine.statements.append(text)
        tree = _parsed(text)
        if isinstance(tree, _DDL):
            if self._since is not None:
                raise Refusal("invalidQuery", "Transactions can't run DDL statements on permanent tables.")
            check_ddl(tree)
            self._ddl(tree)
            return
        cursor = self._execute(tree)
        if isinstance(tree, exp.Query):
            names = [column[0] for column in cursor.description or []]
            kinds = [api_type(str(column[1])) for column in cursor.description or []]
            self.result = Result(names, kinds, cursor.fetchall())
            return
        [(self._rows,)] = cursor.fetchall()
        if isinstance(tree, _MUTATIONS) and self._rows and self._engine.by_table and self._since is not None:
            self._engine._mutations.mutate(self, self.last_table, self._since)

    def _ddl(self, tree: exp.Expression) -> None:
        for table in tree.find_all(exp.Table):
            if table.db and not table.name.upper().startswith("INFORMATION_SCHEMA"):
                self._engine.dataset(table.catalog or self._project, table.db)
        if isinstance(tree, exp.Alter):
            self._check_alter(tree)
        try:
            self._engine._again(lambda: self._at_once(tree))
        except duckdb.CatalogException as error:
            raise _missing(error, tree, self._project) from error

    def _at_once(self, tree: exp.Expression) -> None:
        """DuckDB takes one action a statement."""
        parts: list[exp.Expression] = [tree]
        if isinstance(tree, exp.Alter):
            parts = []
            for action in tree.args["actions"]:
                one = tree.copy()
                one.set("actions", [action.copy()])
                parts.append(one)
        self._cursor.execute("BEGIN")
        try:
            for part in parts:
                self._cursor.execute(self._duckdb(part))
            self._cursor.execute("COMMIT")
        except duckdb.Error:
            with contextlib.suppress(duckdb.TransactionException):
                self._cursor.execute("ROLLBACK")  # a COMMIT that failed has done so
            raise

    def _check_alter(self, tree: exp.Alter) -> None:
        table = tree.this
        there = {
            one["name"]: one["type"]
            for one in self._engine.schema(table.catalog or self._project, table.db, table.name)
        }
        for action in tree.args["actions"]:
            if isinstance(action, exp.AlterColumn):
                before = _TO_DUCKDB[there[action.this.name]]
                after = action.args["dtype"].sql("duckdb")
                if before != after and (before, after) not in _WIDER:
                    raise Refusal(
                        "invalid", f"ALTER TABLE ALTER COLUMN SET DATA TYPE can't make {before} {after}"
                    )
        added = sum(isinstance(action, exp.ColumnDef) for action in tree.args["actions"])
        if len(there) + added > _MAX_COLUMNS:
            raise Refusal("invalid", "Too many columns")

    def _execute(self, tree: exp.Expression) -> duckdb.DuckDBPyConnection:
        target = next(iter(tree.find_all(exp.Table)), None)
        if target is not None and not isinstance(tree, exp.Query):
            self.last_table = f"{target.catalog}:{target.db}.{target.name}"
        used = {node.name for node in tree.find_all(exp.Parameter) if not _is_system(node)}
        if missing := used - set(self._parameters):
            raise Refusal("invalidQuery", f"Query parameter '{missing.pop()}' not found")
        for table in tree.find_all(exp.Table):
            if table.db:
                self._here(table)
        try:
            return self._cursor.execute(
                self._duckdb(tree), {name: self._parameters[name] for name in used} or None
            )
        except duckdb.CatalogException as error:
            raise _missing(error, tree, self._project) from error

    def _here(self, table: exp.Table) -> None:
        found = self._engine.dataset(table.catalog or self._project, table.db)
        if self._location and self._location != found["location"]:
            raise Refusal(
                "notFound",
                f"Not found: Dataset {self._project}:{table.db} was not found in location {self._location}",
                404,
            )

    def _duckdb(self, tree: exp.Expression) -> str:
        """Return a statement as DuckDB takes it."""
        tree = tree.copy()
        for system in [node for node in tree.find_all(exp.Parameter) if isinstance(node.this, exp.Parameter)]:
            if system.this.name.lower() != "row_count":
                raise Refusal("invalidQuery", f"Unrecognized name: @@{system.this.name}")
            system.replace(exp.Literal.number(self._rows))
        for column in list(tree.find_all(exp.Column)):
            if not column.table and column.name in self._variables:
                column.replace(exp.convert(self._variables[column.name]))
        for call in list(tree.find_all(exp.ParseJSON)):
            call.set("expressions", None)
        for table in list(tree.find_all(exp.Table)):
            name = table.name.upper()
            if name.startswith("INFORMATION_SCHEMA."):
                view = _information_schema(name, table.catalog or self._project, table.db)
                found = sqlglot.parse_one(view, read="duckdb")
                assert isinstance(found, exp.Query)
                table.replace(found.subquery(table.alias))
        if isinstance(tree, exp.Create):
            tree.set("properties", None)
            if tree.args.get("expression") is not None and isinstance(tree.this, exp.Schema):
                # DuckDB takes the types from the query.
                tree.set("this", tree.this.this)
        return tree.sql("duckdb")


def _parsed(text: str) -> exp.Expression:
    try:
        trees = sqlglot.parse(text, read="bigquery", error_level=sqlglot.ErrorLevel.RAISE)
    except SqlglotError as error:
        raise Refusal("invalidQuery", f"Syntax error: {str(error).splitlines()[0]}") from error
    if len(trees) != 1 or trees[0] is None or trees[0].find(exp.Command):
        raise Refusal("invalidQuery", f"Syntax error: Unexpected words in {text[:60]!r}")
    assert isinstance(trees[0], exp.Expression)
    return trees[0]


def _is_system(node: exp.Parameter) -> bool:
    """Tell whether it belongs to `@@row_count`, which is parsed as a parameter of a parameter."""
    return isinstance(node.this, exp.Parameter) or isinstance(node.parent, exp.Parameter)


def _missing(error: duckdb.CatalogException, tree: exp.Expression, project: str) -> Refusal:
    words = str(error).splitlines()[0]
    found = re.search(r"Table with name (.+?) does not exist", words)
    if found is None:
        return Refusal("invalidQuery", words)
    dataset = next((table.db for table in tree.find_all(exp.Table) if table.name == found[1]), "")
    return Refusal(
        "notFound", f"Not found: Table {project}:{dataset}.{found[1]} was not found in location US", 404
    )


def _information_schema(view: str, project: str, dataset: str) -> str:
    where = f"database_name = {_literal(project)} AND schema_name = {_literal(dataset)}"
    if view.endswith(".TABLES"):
        return (
            f"SELECT table_name, 'BASE TABLE' AS table_type FROM duckdb_tables() WHERE {where}"
            f" UNION ALL SELECT view_name, 'VIEW' FROM duckdb_views() WHERE {where}"
        )
    if view.endswith(".COLUMNS"):
        kinds = " ".join(
            f"WHEN {_literal(found)} THEN {_literal(_TO_SQL.get(word, word))}"
            for found, word in _TO_API.items()
        )
        return (
            f"SELECT table_name, column_name, column_index AS ordinal_position, 'NO' AS is_hidden, CASE data_type"
            f" {kinds} ELSE CASE WHEN data_type LIKE 'DECIMAL%' THEN 'NUMERIC' WHEN data_type LIKE '%[]'"
            f" THEN 'ARRAY<STRING>' ELSE data_type END END AS data_type FROM duckdb_columns() WHERE {where}"
        )
    raise Refusal("notFound", f"Not found: Table {project}:{dataset}.{view}", 404)


def api_type(kind: str) -> str:
    """Return the API's word for a type of DuckDB's."""
    kind = kind.upper().removesuffix("[]")
    return "NUMERIC" if kind.startswith("DECIMAL") else _TO_API.get(kind, "STRING")


def check_table(name: str) -> None:
    """https://docs.cloud.google.com/bigquery/docs/tables#table_naming"""
    if not name or len(name.encode()) > 1024 or _NO_TABLE.search(name):
        raise Refusal("invalid", f'Invalid table ID "{name}".')


def check_columns(names: Sequence[str]) -> None:
    """https://docs.cloud.google.com/bigquery/docs/schemas#column_names"""
    if len(names) > _MAX_COLUMNS:
        raise Refusal("invalid", "Too many columns")
    lowered = [name.lower() for name in names]
    for name in names:
        if not name or len(name) > 300 or _NO_COLUMN.search(name) or name[0].isdigit():
            raise Refusal("invalid", f'Invalid field name "{name}".')
        if name.upper().startswith(_RESERVED):
            raise Refusal("invalid", f'Invalid field name "{name}". Field name is reserved.')
        if lowered.count(name.lower()) > 1 and len(names) < 500:
            raise Refusal("invalid", f'Duplicate column name "{name}"')


def check_ddl(tree: exp.Expression) -> None:
    """Names, as BigQuery has them."""
    check_columns([column.name for column in tree.find_all(exp.ColumnDef)])
    for table in tree.find_all(exp.Table):
        check_table(table.name)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _place(project: str, dataset: str, table: str) -> str:
    return f"{_quoted(project)}.{_quoted(dataset)}.{_quoted(table)}"

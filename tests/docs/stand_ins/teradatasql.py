"""Stands in for Teradata's driver and what is behind it, for the package of docs/how-to/add-a-warehouse.md.

A statement is parsed as Teradata's (sqlglot); what Teradata's documentation says is refused is refused, with its error;
the rest is executed on DuckDB, in its transactions. What is modelled, and from where (docs.teradata.com, Vantage 17.20,
and https://github.com/Teradata/python-driver, read 2026-11):

* the driver: parameters are texts, numbers and times with a zone; a column of a batch has one type, and one that is
  all null is the null of a text; transactions by `autocommit`, `commit` and `rollback`;
* no IF [NOT] EXISTS, LIMIT, ADD COLUMN, CREATE SCHEMA, TEMPORARY, BEGIN: 3706;
* nothing but a commit after DDL in a transaction: 3722 (ANSI mode);
* ADD of a column that is there changes it, if rows need not be rewritten and it is in no index: else 3558;
* lengths: of names 3737, of a VARCHAR 3798, of a row as it is declared 3933, of a text in its column 3996;
* letters beyond U+FFFF: 6706 without Unicode pass through; never in names;
* `=` pads texts; a table that is written is locked until the transaction ends;
* volatile tables are the session's, and without ON COMMIT PRESERVE ROWS are empty after each commit.
"""

import re
import threading
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Final, NamedTuple, NoReturn

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, ParseError, TokenError

_PARAMETERS: Final = frozenset(
    {"host", "user", "password", "https_port", "dbs_port", "logmech", "sslmode", "tmode"}
)
_ROW_BYTES: Final = 1_000_000
_BOUND_BYTES: Final = 64_000
_LOCK: Final = re.compile(r'LOCKING TABLE ("(?:[^"]|"")+")\.("(?:[^"]|"")+") FOR WRITE;?')
_DATABASE: Final = re.compile(r'CREATE DATABASE ("(?:[^"]|"")+") AS PERMANENT = \d+ BYTES')
_PASS_THROUGH: Final = "SET SESSION CHARACTER SET UNICODE PASS THROUGH ON"


class Error(Exception):
    """The driver's root."""


class DatabaseError(Error):
    """Of the database."""


class OperationalError(DatabaseError):
    """Of its operation: all that the driver raises."""


def _refuse(code: int, text: str) -> NoReturn:
    raise OperationalError(
        f"[Version 20.0.0.72] [Session 1002] [Teradata Database] [Error {code}] {text}\n at gosqldriver/…"
    )


class _Type(NamedTuple):
    code: str
    bytes: int
    duckdb: str


_FIXED: Final = {
    "BYTEINT": _Type("I1", 1, "TINYINT"),
    "BIGINT": _Type("I8", 8, "BIGINT"),
    "FLOAT": _Type("F ", 8, "DOUBLE"),
    "TIMESTAMP": _Type("SZ", 12, "TIMESTAMPTZ"),
}


class _Table:
    def __init__(self, columns: dict[str, _Type], index: frozenset[str], keeps_rows: bool = True) -> None:
        self.columns = columns
        self.index = index
        self.keeps_rows = keeps_rows


class _System:
    """What sessions of one host share."""

    def __init__(self, host: str) -> None:
        self.place = f":memory:{host}"
        self.root = duckdb.connect(self.place)
        self.dictionary = threading.RLock()
        self.tables: dict[tuple[str, str], _Table] = {}
        self.databases: set[str] = set()
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self.root.execute('CREATE SCHEMA "DBC"')
        self.root.execute('CREATE TABLE "DBC"."DatabasesV" (DatabaseName VARCHAR)')
        self.root.execute(
            'CREATE TABLE "DBC"."ColumnsV" (DatabaseName VARCHAR, TableName VARCHAR, ColumnName VARCHAR,'
            " ColumnType VARCHAR, ColumnLength INTEGER, ColumnId INTEGER)"
        )

    def lock_of(self, database: str, table: str) -> threading.Lock:
        with self.dictionary:
            return self._locks.setdefault((database, table), threading.Lock())

    def write_down(self, database: str, table: str) -> None:
        """Note a table's columns in the dictionary."""
        key = [database, table]
        self.root.execute('DELETE FROM "DBC"."ColumnsV" WHERE DatabaseName = ? AND TableName = ?', key)
        columns = self.tables[database, table].columns
        rows = [
            [*key, name, kind.code, kind.bytes, at] for at, (name, kind) in enumerate(columns.items(), 1025)
        ]
        self.root.executemany('INSERT INTO "DBC"."ColumnsV" VALUES (?, ?, ?, ?, ?, ?)', rows)


_SYSTEMS: Final[dict[str, _System]] = {}
_SYSTEMS_LOCK: Final = threading.Lock()


def connect(json: str | None = None, **parameters: str) -> "Connection":
    """Open a session."""
    assert json is None
    for name, value in parameters.items():
        if name not in _PARAMETERS or not isinstance(value, str):
            raise OperationalError(f"[Version 20.0.0.72] [Teradata SQL Driver] {name} is no such text")
    host = parameters["host"]
    if host.endswith(".invalid"):
        raise OperationalError(f"[Version 20.0.0.72] [Error 403] Hostname lookup failed for {host}\n at …")
    assert parameters["tmode"] == "ANSI"
    with _SYSTEMS_LOCK:
        if host not in _SYSTEMS:
            _SYSTEMS[host] = _System(host)
        return Connection(_SYSTEMS[host])


class Connection:
    """A session, in ANSI mode."""

    def __init__(self, system: _System) -> None:
        self._system = system
        self._duckdb = duckdb.connect(system.place)
        self._duckdb.execute("SET TimeZone = 'UTC'")
        self._volatile: dict[str, _Table] = {}
        self._held: list[threading.Lock] = []
        self._autocommit = True
        self._in_transaction = False
        self._after_ddl = False
        self._passes_through = False
        self._closed = False

    @property
    def autocommit(self) -> bool:
        return self._autocommit

    @autocommit.setter
    def autocommit(self, on: bool) -> None:
        assert not self._in_transaction, "a transaction is open"
        self._autocommit = on

    def cursor(self) -> "Cursor":
        return Cursor(self)

    def commit(self) -> None:
        self._end("COMMIT")

    def rollback(self) -> None:
        assert not self._after_ddl, "the stand-in can't take DDL back"
        self._end("ROLLBACK")

    def close(self) -> None:
        if not self._closed:
            if self._in_transaction:
                self._duckdb.execute("ROLLBACK")
            self._closed = True
            self._release()
            self._duckdb.close()

    def _end(self, how: str) -> None:
        if self._closed or self._autocommit:
            raise OperationalError("[Version 20.0.0.72] [Teradata SQL Driver] there is no transaction")
        try:
            if self._in_transaction:
                self._duckdb.execute(how)
        except duckdb.Error as error:
            _refuse(2631, f"Transaction aborted: {error}")
        finally:
            self._in_transaction = self._after_ddl = False
            self._release()
        if how == "COMMIT":
            self._forget_rows()

    def _release(self) -> None:
        while self._held:
            self._held.pop().release()

    def _forget_rows(self) -> None:
        for name, table in self._volatile.items():
            if not table.keeps_rows:
                self._duckdb.execute(f"DELETE FROM {_quoted(name)}")

    def _lock(self, database: str, table: str) -> None:
        if (database, table) not in self._system.tables:
            _refuse(3807, f"Object '{table}' does not exist.")
        lock = self._system.lock_of(database, table)
        if lock in self._held:
            return
        if not lock.acquire(timeout=60):
            _refuse(2631, "Transaction aborted due to deadlock.")
        self._held.append(lock)

    # ------------------------------------------------------------ statements

    def run(self, sql: str, rows: Sequence[Sequence[Any]]) -> "tuple[list[Any], bool]":
        """Run a statement once for each row of parameters; return its rows, and whether it has any to return."""
        if self._closed:
            raise OperationalError("[Version 20.0.0.72] [Teradata SQL Driver] the connection is closed")
        if self._after_ddl:
            _refuse(3722, "Only a COMMIT WORK or null statement is legal after a DDL Statement.")
        try:
            return self._run(sql, rows)
        except duckdb.BinderException as error:
            _refuse(5628, f"Column not found: {error}")
        except duckdb.ConversionException as error:
            _refuse(3535, f"A character string failed conversion: {error}")
        except duckdb.Error as error:
            _refuse(2631, f"Transaction aborted: {error}")
        finally:
            if self._autocommit:
                self._release()
                self._forget_rows()

    def _run(self, sql: str, rows: Sequence[Sequence[Any]]) -> "tuple[list[Any], bool]":
        if sql == _PASS_THROUGH:
            self._passes_through = True
        elif (locked := _LOCK.fullmatch(sql)) is not None:
            self._lock(_unquoted(locked[1]), _unquoted(locked[2]))
        elif (made := _DATABASE.fullmatch(sql)) is not None:
            self._ddl(lambda: self._create_database(_unquoted(made[1])))
        else:
            tree = _parsed(sql)
            match tree:
                case exp.Create():
                    self._ddl(lambda: self._create_table(tree, sql))
                case exp.Alter():
                    self._ddl(lambda: self._alter(tree, sql))
                case exp.Drop():
                    self._ddl(lambda: self._drop(tree))
                case _:
                    return self._dml(tree, rows)
        return [], False

    # ------------------------------------------------------------ DDL

    def _ddl(self, change: Any) -> None:
        with self._system.dictionary:
            change()
        self._after_ddl = not self._autocommit

    def _create_database(self, name: str) -> None:
        _check_name(name)
        if name in self._system.databases:
            _refuse(5612, f"A user, database, role, or zone with the name '{name}' already exists.")
        self._system.databases.add(name)
        self._duckdb.execute(f"CREATE SCHEMA {_quoted(name)}")
        self._system.root.execute('INSERT INTO "DBC"."DatabasesV" VALUES (?)', [name])

    def _create_table(self, tree: exp.Create, sql: str) -> None:
        if tree.kind != "TABLE" or tree.find(exp.TemporaryProperty) is not None:
            _refuse(3706, "Syntax error: expected something else after CREATE.")
        place = tree.this.this
        columns = _columns(tree.this.expressions, sql)
        index = frozenset(
            name.name for one in tree.args.get("indexes") or () for name in one.find_all(exp.Column)
        )
        if not index <= columns.keys():
            _refuse(3810, "Column/Parameter of the index does not exist.")
        _check_row(columns)
        volatile = "VOLATILE" in sql.partition("(")[0].split()
        database, name = place.db, place.name
        _check_name(name)
        if volatile:
            if database or name in self._volatile:
                _refuse(3803, f"Table '{name}' already exists.")
            on_commit = tree.find(exp.OnCommitProperty)
            keeps = on_commit is not None and not on_commit.args.get("delete")
            self._volatile[name] = _Table(columns, index, keeps)
        elif database not in self._system.databases:
            _refuse(3802, f"Database '{database}' does not exist.")
        elif (database, name) in self._system.tables:
            _refuse(3803, f"Table '{name}' already exists.")
        else:
            self._system.tables[database, name] = _Table(columns, index)
        place = _quoted(name) if volatile else f"{_quoted(database)}.{_quoted(name)}"
        definitions = ", ".join(f"{_quoted(column)} {kind.duckdb}" for column, kind in columns.items())
        self._duckdb.execute(f"CREATE {'TEMPORARY ' if volatile else ''}TABLE {place} ({definitions})")
        if not volatile:
            self._system.write_down(database, name)

    def _alter(self, tree: exp.Alter, sql: str) -> None:
        database, name = tree.this.db, tree.this.name
        table = self._system.tables.get((database, name))
        if table is None:
            _refuse(3807, f"Object '{name}' does not exist.")
        actions = tree.args["actions"]
        if not all(isinstance(action, exp.ColumnDef) for action in actions):
            _refuse(3706, "Syntax error: expected ADD.")
        after = dict(table.columns)
        for column, kind in _columns(actions, sql).items():
            before = table.columns.get(column)
            longer = before is not None and before.code == kind.code == "CV" and kind.bytes >= before.bytes
            if before is not None and before != kind and (not longer or column in table.index):
                _refuse(3558, f"Cannot alter the specified attribute(s) for '{column}'.")
            after[column] = kind
        _check_row(after)
        for column, kind in after.items():
            if column not in table.columns:
                place = f"{_quoted(database)}.{_quoted(name)}"
                self._duckdb.execute(f"ALTER TABLE {place} ADD COLUMN {_quoted(column)} {kind.duckdb}")
        table.columns = after
        self._system.write_down(database, name)

    def _drop(self, tree: exp.Drop) -> None:
        [place] = tree.args["tables"]
        name = place.name
        if place.db or name not in self._volatile:
            _refuse(3807, f"Object '{name}' does not exist.")
        del self._volatile[name]
        self._duckdb.execute(f"DROP TABLE {_quoted(name)}")

    # ------------------------------------------------------------ DML

    def _dml(self, tree: exp.Expr, rows: Sequence[Sequence[Any]]) -> "tuple[list[Any], bool]":
        if isinstance(tree, exp.LockingStatement):
            assert tree.this.args["kind"] == "ROW"
            tree = tree.expression
        if not isinstance(tree, exp.Select | exp.Insert | exp.Update | exp.Delete):
            _refuse(3706, "Syntax error: expected a statement.")
        target = _target(tree)
        for table in tree.find_all(exp.Table):
            self._check_there(table)
        if isinstance(tree, exp.Insert) and isinstance(tree.expression, exp.Values):
            self._check_parameters(tree, rows)
        elif target is not None and target.db:
            self._lock(target.db, target.name)
        if not self._autocommit and not self._in_transaction:
            self._duckdb.execute("BEGIN")
            self._in_transaction = True
        text = _as_duckdb(tree)
        if len(rows) > 1:
            self._duckdb.executemany(text, [list(row) for row in rows])
            return [], False
        found = self._duckdb.execute(text, list(rows[0]) if rows else None)
        return [list(row) for row in found.fetchall()], isinstance(tree, exp.Select)

    def _check_there(self, table: exp.Table) -> None:
        name, database = table.name, table.db
        if database.upper() == "DBC" and name in ("ColumnsV", "DatabasesV"):
            return
        there = (database, name) in self._system.tables if database else name in self._volatile
        if not there:
            _refuse(3807, f"Object '{name}' does not exist.")

    def _check_parameters(self, tree: exp.Insert, rows: Sequence[Sequence[Any]]) -> None:
        place = tree.this.this
        table = self._system.tables[place.db, place.name] if place.db else self._volatile[place.name]
        [values] = tree.expression.expressions
        names = [column.name for column in tree.this.expressions]
        marked = [
            name
            for name, value in zip(names, values.expressions, strict=True)
            if isinstance(value, exp.Placeholder)
        ]
        for name, items in zip(marked, zip(*rows, strict=True), strict=True):
            kind = table.columns.get(name)
            if kind is None:
                _refuse(5628, f"Column {name} not found in {place.name}.")
            self._check_column(name, kind, items)

    def _check_column(self, name: str, kind: _Type, items: Sequence[Any]) -> None:
        given = {type(item) for item in items if item is not None}
        if not given and kind.code != "CV":
            _refuse(3532, f"Conversion of a null text to the type of {name} is illegal.")
        if len(given) > 1 or not given <= {str, int, float, datetime}:
            raise OperationalError(f"[Version 20.0.0.72] [Teradata SQL Driver] values of {name}: {given}")
        for item in items:
            if isinstance(item, datetime):
                assert item.tzinfo is not None, "a time without a zone would be one of the session's"
            if isinstance(item, str):
                if not self._passes_through and any(letter > "\uffff" for letter in item):
                    _refuse(6706, "The string contains an untranslatable character.")
                if len(item.encode()) > _BOUND_BYTES:
                    _refuse(3798, "A column or character expression is larger than the max size.")
                if kind.code == "CV" and len(item.encode("utf-16-le")) > kind.bytes:
                    _refuse(3996, "Right truncation of string data.")


class Cursor:
    """Runs statements, one after the other."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None

    def __enter__(self) -> "Cursor":
        return self

    def __exit__(self, *_: object) -> None:
        self._rows = []

    def execute(self, sql: str, parameters: Sequence[Any] | None = None) -> "Cursor":
        self._rows, returns = self._connection.run(sql, [parameters] if parameters else [])
        self.description = [()] if returns else None
        return self

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> "Cursor":
        self._rows, _ = self._connection.run(sql, rows)
        self.description = None
        return self

    def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows


# ---------------------------------------------------------------- SQL


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"')


def _check_name(name: str) -> None:
    if len(unicodedata.normalize("NFD", name)) > 128:
        _refuse(3737, f"Name '{name[:20]}…' is longer than 128 characters.")
    if any(letter > "\uffff" for letter in name):
        _refuse(3707, "Syntax error: a pass through character in a name.")


def _parsed(sql: str) -> exp.Expr:
    try:
        tokens = sqlglot.tokenize(sql, read="teradata")
        tree = sqlglot.parse_one(sql, read="teradata")
    except (ParseError, TokenError) as error:
        _refuse(3706, f"Syntax error: {error}")
    # What sqlglot takes for Teradata's, and is not.
    words = [
        token.text.upper() if token.token_type != sqlglot.TokenType.IDENTIFIER else "" for token in tokens
    ]
    pairs = set(pairwise(words))
    if isinstance(tree, exp.Command | exp.Transaction) or "LIMIT" in words or ("ADD", "COLUMN") in pairs:
        _refuse(3706, "Syntax error: expected something else.")
    if any(node.args.get("exists") for node in tree.walk() if isinstance(node, exp.Create | exp.Drop)):
        _refuse(3706, "Syntax error: expected something between 'TABLE' and the name: IF.")
    return tree


def _columns(definitions: Sequence[exp.Expr], sql: str) -> dict[str, _Type]:
    # sqlglot makes SMALLINT of BYTEINT.
    tokens = sqlglot.tokenize(sql, read="teradata")
    types = {"VARCHAR", *_FIXED}
    word = {one.text: two.text.upper() for one, two in pairwise(tokens) if two.text.upper() in types}
    found: dict[str, _Type] = {}
    for definition in definitions:
        assert isinstance(definition, exp.ColumnDef)
        name = definition.name
        _check_name(name)
        if name.lower() in (other.lower() for other in found):
            _refuse(3515, f"Duplication of column {name} in a table.")
        kind = word.get(name, "")
        if kind == "VARCHAR":
            unicode = "CHARACTER SET UNICODE" in definition.sql("teradata")
            length = int(definition.args["kind"].expressions[0].name)
            if length > (32_000 if unicode else 64_000):
                _refuse(3798, "A column or character expression is larger than the max size.")
            found[name] = _Type("CV", length * (2 if unicode else 1), "VARCHAR")
        elif kind in _FIXED:
            found[name] = _FIXED[kind]
        else:
            _refuse(3706, f"Syntax error: no data type that is known here for {name}.")
    return found


def _check_row(columns: dict[str, _Type]) -> None:
    if sum(kind.bytes for kind in columns.values()) > _ROW_BYTES:
        _refuse(3933, "The available data bytes in the table's perm row has exceeded the byte limit.")


def _target(tree: exp.Expr) -> exp.Table | None:
    """Return the table that is written; a joined one is found behind its alias, and put where DuckDB has it."""
    if isinstance(tree, exp.Insert):
        place = tree.this.this
        assert isinstance(place, exp.Table)
        return place
    if isinstance(tree, exp.Update):
        source = tree.args["from_"].this
        named, first, others = tree.this.name, source, [join.this for join in source.args.get("joins") or ()]
    elif isinstance(tree, exp.Delete) and tree.args.get("tables"):
        first = tree.this
        named, others = tree.args["tables"][0].name, [join.this for join in first.args.get("joins") or ()]
    else:
        return tree.this if isinstance(tree, exp.Delete) else None
    first.set("joins", None)
    listed = [first, *others]
    if named not in [table.alias_or_name for table in listed]:
        _refuse(3707, f"Syntax error: {named} is not in the FROM clause.")
    [target] = [table for table in listed if table.alias_or_name == named]
    rest = [table for table in listed if table is not target]
    tree.set("this", target)
    if isinstance(tree, exp.Update):
        tree.set("from_", exp.From(this=rest[0]))
    else:
        tree.set("tables", None)
        tree.set("using", rest)
    assert isinstance(target, exp.Table)
    return target


def _as_duckdb(tree: exp.Expr) -> str:
    for equal in list(tree.find_all(exp.EQ)):
        assigns = isinstance(equal.parent, exp.Update) and equal.arg_key == "expressions"
        if not assigns and not isinstance(equal.this, exp.Length):
            for side in ("this", "expression"):
                padded = exp.Anonymous(this="RTRIM", expressions=[equal.args[side], exp.Literal.string(" ")])
                equal.set(side, padded)
    return tree.sql("duckdb", unsupported_level=ErrorLevel.RAISE)

"""What a Databricks SQL warehouse does with the statements of our loader, on DuckDB: for `databricks_server`.

A statement is parsed as Databricks' SQL (sqlglot) and run as DuckDB's. Each is one transaction, never several together.
What is Databricks' own is done here, after its documentation (read 2026-11):

- Commits are optimistic
  (https://docs.databricks.com/aws/en/optimizations/isolation/row-level-concurrency): a MERGE that read a table before
  another MERGE into it was committed fails, unless the table has deletion vectors: then only changed rows conflict,
  and the same row may come in twice. Appends conflict with none. A change of the schema fails all that began before.
- `COPY INTO` keeps which files are in, in the commit of the rows, and skips those; the same file twice at once is a
  conflict (https://docs.databricks.com/aws/en/sql/language-manual/delta-copy-into).
- Names of Unity Catalog's objects, column mapping, `information_schema`, Parquet's times before 1900.
"""

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import sqlglot
from sqlglot import exp

CATALOG = "lakehouse"
_COMMIT_S = 0.01
"""A commit takes a while: two that are at work at the same time meet."""
_ODD_NAME = re.compile(r"[. /\x00-\x1f\x7f]")
_ODD_COLUMN = re.compile(r"[ ,;{}()\n\t=]")
_VOLUME = re.compile(r"CREATE VOLUME IF NOT EXISTS `([^`]+)`\.`([^`]+)`\.`([^`]+)`")
_VIEWS = """
CREATE SCHEMA uc;
CREATE TABLE uc.volumes (volume_schema VARCHAR, volume_name VARCHAR);
CREATE VIEW uc.schemata AS SELECT schema_name FROM duckdb_schemas()
  WHERE database_name = '{catalog}' AND schema_name NOT IN ('uc', 'main', 'information_schema', 'pg_catalog');
CREATE VIEW uc.tables AS SELECT schema_name AS table_schema, table_name FROM duckdb_tables()
  WHERE database_name = '{catalog}' AND schema_name <> 'uc';
CREATE VIEW uc.columns AS SELECT schema_name AS table_schema, table_name, column_name,
  column_index - 1 AS ordinal_position, comment,
  CASE data_type WHEN 'VARCHAR' THEN 'STRING' WHEN 'BIGINT' THEN 'LONG' WHEN 'TIMESTAMP WITH TIME ZONE'
    THEN 'TIMESTAMP' ELSE data_type END AS data_type,
  CASE data_type WHEN 'VARCHAR' THEN 'string' WHEN 'TIMESTAMP WITH TIME ZONE' THEN 'timestamp'
    ELSE lower(data_type) END AS full_data_type
  FROM duckdb_columns() WHERE database_name = '{catalog}' AND schema_name <> 'uc';
"""


class SqlError(Exception):
    """A statement failed, in Databricks' words."""

    def __init__(self, condition: str, sqlstate: str, text: str) -> None:
        super().__init__(f"[{condition}] {text} SQLSTATE: {sqlstate}")
        self.sqlstate = sqlstate


class _Table:
    """What Delta's log has of a table."""

    def __init__(self, properties: Mapping[str, str], location: str) -> None:
        self.properties = properties
        self.location = location
        self.changes = 0
        """Commits that changed rows after reading the table."""
        self.schemas = 0
        self.files: set[str] = set()
        """What COPY INTO has brought in."""


class Engine:
    """A SQL warehouse with one catalog and the files of its volumes."""

    def __init__(self, volumes: Path, *, default_catalog: str = CATALOG) -> None:
        self.volumes = volumes
        self.tables: dict[str, _Table] = {}
        self._default_catalog = default_catalog
        self._commit = threading.RLock()
        self._db = duckdb.connect(":memory:")
        self._db.execute(f"SET GLOBAL TimeZone = 'UTC'; ATTACH ':memory:' AS {CATALOG}; USE {CATALOG};")
        self._db.execute(_VIEWS.format(catalog=CATALOG))

    def run(self, sql: str, parameters: Mapping[str, Any]) -> "pa.Table":
        """Run a statement and commit it.

        Raises:
            SqlError: nothing of it is in.
        """
        try:
            volume = _VOLUME.fullmatch(sql)
            if volume is not None:
                return self._create_volume(volume[2], volume[3])
            try:
                tree = sqlglot.parse_one(sql, dialect="databricks")
            except sqlglot.ParseError as error:
                raise SqlError("PARSE_SYNTAX_ERROR", "42601", str(error)) from error
            tree = tree.transform(self._bound, parameters)
            match tree:
                case exp.Merge():
                    return self._merge(tree)
                case exp.Copy():
                    return self._copy(tree)
                case exp.Create():
                    return self._create(tree)
                case exp.Alter():
                    return self._alter(tree)
                case exp.Query():
                    return self._select(tree)
            raise SqlError("PARSE_SYNTAX_ERROR", "42601", f"this warehouse does not know {sql[:40]!r}")
        except duckdb.TransactionException as error:
            raise SqlError("DELTA_CONCURRENT_WRITE", "2D521", str(error)) from error
        except duckdb.Error as error:
            raise SqlError("INTERNAL_ERROR", "XX000", f"{error} for {sql[:2000]}") from error

    def adopt(self, schema: str, table: str, columns: str) -> None:
        """Have a table that somebody else made: its columns in DuckDB's words."""
        name = f"{CATALOG}.{_quoted(schema)}.{_quoted(table)}"
        with self._cursor() as cursor:
            cursor.execute(f"CREATE TABLE {name} ({columns})")
        self.tables[name] = _Table({}, "")

    # ------------------------------------------------------------ statements

    def _select(self, tree: exp.Query) -> "pa.Table":
        with self._cursor() as cursor:
            found: pa.Table = cursor.sql(self._translated(tree)).to_arrow_table()
            return found

    def _merge(self, tree: exp.Merge) -> "pa.Table":
        name, table = self._target(tree.this)
        changes, schemas = table.changes, table.schemas
        by_row = table.properties.get("delta.enableDeletionVectors") != "false"
        with self._cursor() as cursor:
            cursor.begin()
            actions = [
                row[0]
                for row in cursor.execute(f"{self._translated(tree)} RETURNING merge_action").fetchall()
            ]
            time.sleep(_COMMIT_S)
            with self._commit:
                self._unchanged(name, table, schemas)
                if table.changes != changes and not by_row:
                    raise SqlError(
                        "DELTA_CONCURRENT_APPEND.WHOLE_TABLE_READ",
                        "2D521",
                        f"Transaction conflict detected. A concurrent MERGE added data to table {name}.",
                    )
                cursor.commit()
                table.changes += 1
        updated, inserted = actions.count("UPDATE"), actions.count("INSERT")
        return _row(
            num_affected_rows=len(actions),
            num_updated_rows=updated,
            num_deleted_rows=0,
            num_inserted_rows=inserted,
        )

    def _copy(self, tree: exp.Copy) -> "pa.Table":
        name, table = self._target(tree.this)
        schemas = table.schemas
        select = tree.args["files"][0].this
        options = {str(one.this): one for one in tree.args["params"]}
        assert str(options["FILEFORMAT"].expression) == "PARQUET"
        [file] = [one.name for one in options["FILES"].find_all(exp.Literal)]
        reading = {one.this.name: one.args["value"].name for one in options["FORMAT_OPTIONS"].expressions}
        path = f"{select.args['from_'].this.name.rstrip('/')}/{file}"
        if path in table.files:
            return _row(num_affected_rows=0, num_inserted_rows=0, num_skipped_corrupt_files=0)
        source = self._file(path)
        _ancient(source, reading)
        select.set("from_", None)
        values = f"{select.sql(dialect='duckdb')} FROM read_parquet({_literal(str(source))})"
        with self._cursor() as cursor:
            cursor.begin()
            given = {row[0].lower(): row[1] for row in cursor.execute(f"DESCRIBE {values}").fetchall()}
            there = {row[0].lower(): row[1] for row in cursor.execute(f"DESCRIBE {name}").fetchall()}
            for column, kind in given.items():
                if there.get(column) != kind:
                    raise SqlError("DELTA_FAILED_TO_MERGE_FIELDS", "22005", f"column {column} is no {kind}")
            [(count,)] = cursor.execute(f"INSERT INTO {name} BY NAME {values}").fetchall()
            time.sleep(_COMMIT_S)
            with self._commit:
                self._unchanged(name, table, schemas)
                if path in table.files:
                    raise SqlError(
                        "DELTA_CONCURRENT_TRANSACTION",
                        "2D521",
                        "the same file was loaded by another COPY INTO",
                    )
                cursor.commit()
                table.files.add(path)
        return _row(num_affected_rows=count, num_inserted_rows=count, num_skipped_corrupt_files=0)

    def _create(self, tree: exp.Create) -> "pa.Table":
        if tree.kind == "SCHEMA":
            self._in_catalog(tree.this.catalog)
            schema = tree.this.db
            _object_name(schema)
            with self._commit, self._cursor() as cursor:
                cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {CATALOG}.{_quoted(schema.lower())}")
            return _row()
        properties: dict[str, str] = {}
        location = ""
        for one in tree.args["properties"].expressions:
            if isinstance(one, exp.LocationProperty):
                location = one.this.name
            elif isinstance(one, exp.FileFormatProperty):
                assert one.this.name == "DELTA"
            else:
                properties[one.this.name] = one.args["value"].name
        target = tree.this.this
        self._in_catalog(target.catalog)
        _object_name(target.name)
        columns = tree.this.expressions
        if properties.get("delta.columnMapping.mode") != "name":
            for column in columns:
                if _ODD_COLUMN.search(column.name):
                    raise SqlError("DELTA_INVALID_CHARACTERS_IN_COLUMN_NAMES", "42K05", column.name)
        name = self._place(target)
        with self._commit, self._cursor() as cursor:
            if name in self.tables:
                return _row()
            self._schema_there(cursor, target.db)
            cursor.begin()
            cursor.execute(f"CREATE TABLE {name} ({', '.join(_definition(column) for column in columns)})")
            for column in columns:
                _commented(cursor, name, column)
            cursor.commit()
            self.tables[name] = _Table(properties, location)
        return _row()

    def _alter(self, tree: exp.Alter) -> "pa.Table":
        name, table = self._target(tree.this)
        [added] = tree.args["actions"]
        with self._commit, self._cursor() as cursor:
            there = {row[0].lower() for row in cursor.execute(f"DESCRIBE {name}").fetchall()}
            cursor.begin()
            for column in added.expressions:
                if column.name.lower() in there:
                    raise SqlError(
                        "FIELD_ALREADY_EXISTS", "42710", f"Cannot add column, because `{column.name}` exists."
                    )
                cursor.execute(f"ALTER TABLE {name} ADD COLUMN {_definition(column)}")
                _commented(cursor, name, column)
            cursor.commit()
            table.schemas += 1
        return _row()

    def _create_volume(self, schema: str, volume: str) -> "pa.Table":
        _object_name(volume)
        with self._commit, self._cursor() as cursor:
            self._schema_there(cursor, schema)
            cursor.execute(
                "INSERT INTO uc.volumes SELECT $1, $2 WHERE NOT EXISTS"
                " (FROM uc.volumes WHERE volume_schema = $1 AND volume_name = $2)",
                [schema.lower(), volume.lower()],
            )
            (self.volumes / CATALOG / schema.lower() / volume.lower()).mkdir(parents=True, exist_ok=True)
        return _row()

    # ------------------------------------------------------------ parts

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        cursor = self._db.cursor()
        try:
            cursor.execute(f"USE {CATALOG}")
            yield cursor
        finally:
            cursor.close()

    def _unchanged(self, name: str, table: _Table, schemas: int) -> None:
        if table.schemas != schemas:
            raise SqlError("DELTA_METADATA_CHANGED", "2D521", f"The metadata of {name} has been changed.")

    def _bound(self, node: exp.Expression, parameters: Mapping[str, Any]) -> exp.Expression:
        if isinstance(node, exp.CurrentCatalog):
            return exp.Literal.string(self._default_catalog)
        if not isinstance(node, exp.Placeholder):
            return node
        if node.name not in parameters:
            raise SqlError("UNBOUND_SQL_PARAMETER", "42P02", f"Found the unbound parameter: {node.name}.")
        value = parameters[node.name]
        return exp.Literal.number(value) if isinstance(value, int) else exp.Literal.string(value)

    def _translated(self, tree: Any) -> str:
        return str(tree.transform(self._placed).sql(dialect="duckdb"))

    def _placed(self, node: exp.Expression) -> exp.Expression:
        if not isinstance(node, exp.Table):
            return node
        if isinstance(node.this, exp.Anonymous):
            return self._read_files(node.this, node.alias)
        if not node.catalog:
            return node
        self._in_catalog(node.catalog)
        if node.db == "information_schema":
            return exp.to_table(f"uc.{node.name}")
        if self._place(node) not in self.tables:
            raise SqlError(
                "TABLE_OR_VIEW_NOT_FOUND",
                "42P01",
                f"The table or view {node.db}.{node.name} cannot be found.",
            )
        return node

    def _read_files(self, call: exp.Anonymous, alias: str) -> exp.Expression:
        assert call.name.lower() == "read_files"
        path, *rest = call.expressions
        options = {str(one.this): one.expression.name for one in rest}
        assert options.pop("format") == "parquet"
        wanted = options.pop("schema")
        source = self._file(path.name)
        _ancient(source, options)
        there = {name.lower(): name for name in pq.read_schema(str(source)).names}
        columns = []
        for column in sqlglot.parse_one(f"CREATE TABLE x ({wanted})", dialect="databricks").this.expressions:
            found = there.get(column.name.lower())
            value = "NULL" if found is None else _quoted(found)
            columns.append(f"CAST({value} AS {column.kind.sql(dialect='duckdb')}) AS {_quoted(column.name)}")
        select = f"(SELECT {', '.join(columns)} FROM read_parquet({_literal(str(source))}))"
        whole = sqlglot.parse_one(f"SELECT * FROM {select} AS {alias or 'files'}", dialect="duckdb")
        placed: exp.Expression = whole.args["from_"].this
        return placed

    def _file(self, path: str) -> Path:
        file = self.volumes / path.removeprefix("/Volumes/")
        if not file.is_file():
            raise SqlError("PATH_NOT_FOUND", "42K03", f"Path does not exist: {path}.")
        return file

    def _target(self, node: exp.Expression) -> tuple[str, _Table]:
        self._placed(node)
        name = self._place(node)
        return name, self.tables[name]

    def _place(self, node: Any) -> str:
        return f"{CATALOG}.{_quoted(node.db.lower())}.{_quoted(node.name.lower())}"

    def _in_catalog(self, catalog: str) -> None:
        if catalog != CATALOG:
            raise SqlError("NO_SUCH_CATALOG_EXCEPTION", "42704", f"Catalog '{catalog}' was not found.")

    def _schema_there(self, cursor: Any, schema: str) -> None:
        if not cursor.execute("FROM uc.schemata WHERE schema_name = ?", [schema.lower()]).fetchall():
            raise SqlError("SCHEMA_NOT_FOUND", "42704", f"The schema `{schema}` cannot be found.")


def _definition(column: exp.ColumnDef) -> str:
    assert column.kind is not None
    return f"{_quoted(column.name)} {column.kind.sql(dialect='duckdb')}"


def _commented(cursor: Any, name: str, column: exp.ColumnDef) -> None:
    for one in column.find_all(exp.CommentColumnConstraint):
        cursor.execute(f"COMMENT ON COLUMN {name}.{_quoted(column.name)} IS {_literal(one.this.name)}")


def _object_name(name: str) -> None:
    if not name or len(name) > 255 or _ODD_NAME.search(name):
        raise SqlError("INVALID_PARAMETER_VALUE", "22023", f"{name!r} is no name of an object")


def _ancient(source: Path, options: Mapping[str, str]) -> None:
    """By default Spark does not read such times: it can't know which calendar they are of."""
    if options.get("datetimeRebaseMode") == "CORRECTED":
        return
    first = datetime(1900, 1, 1, tzinfo=UTC)
    for column in pq.read_table(str(source)).columns:
        if pa.types.is_timestamp(column.type) and any(
            value is not None and value < first for value in column.to_pylist()
        ):
            raise SqlError(
                "INCONSISTENT_BEHAVIOR_CROSS_VERSION.READ_ANCIENT_DATETIME", "42K0B", str(source.name)
            )


def _row(**values: int) -> "pa.Table":
    return pa.table({name: pa.array([value], pa.int64()) for name, value in values.items()})


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


TYPES: Sequence[tuple[Any, str]] = (
    (pa.types.is_boolean, "BOOLEAN"),
    (pa.types.is_int32, "INT"),
    (pa.types.is_integer, "LONG"),
    (pa.types.is_floating, "DOUBLE"),
    (pa.types.is_timestamp, "TIMESTAMP"),
)
"""The names of types in a result's manifest; others are STRING."""


def type_name(kind: Any) -> str:
    """The name of an Arrow type in a result's manifest."""
    return next((name for fits, name in TYPES if fits(kind)), "STRING")


def as_text(value: Any) -> str | None:
    """A value in a result in JSON: times have milliseconds there."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03d}Z"
    return str(value)

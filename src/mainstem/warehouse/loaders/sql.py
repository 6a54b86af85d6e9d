"""What engines that speak SQL share: the statements of a load, in one transaction, from words each engine gives.

A load of a table:

    begin
      is (load, table) in _mainstem_loads?           -> nothing to do
      put the file's rows into a table of their own  (`_stage`: the engine's bulk load)
      rows with the same id go, the new ones come    (by the table's mode)
      (load, table) into _mainstem_loads
    commit

Engines differ in quoting, types, and bulk loading; those are the abstract methods. Nothing of an event is ever put into
SQL text but names of tables and columns, and those are quoted.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

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
from mainstem.warehouse.loaders.changes import Changes, rounded_sql
from mainstem.warehouse.schema import (
    LOADS,
    LOADS_COLUMNS,
    Columns,
    ColumnType,
    Schema,
    SchemaChange,
)

_CLOCK_COLUMNS: Final = ("uuid_ts", "loaded_at")


class SqlLoader(Changes):
    """See `loader.Loader`."""

    now_sql: str = "CURRENT_TIMESTAMP"
    """The engine's clock, for `uuid_ts`."""
    float_is_exact: bool = False
    """Whether the type for floats holds every integer of 64 bits too (a decimal)."""

    def __init__(self, namespace: str, capabilities: Capabilities) -> None:
        self.namespace = namespace
        self._capabilities = capabilities

    # ------------------------------------------------------------ what an engine gives

    @abstractmethod
    def _run(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[Sequence[Any]]:
        """Run a statement, `?` for parameters, and return its rows, if any. Raises WarehouseError."""

    @abstractmethod
    def _stage(self, table: StagedTable, name: str) -> None:
        """Put a file's rows into the new temporary table `name` (quoted already), in the file's columns."""

    @abstractmethod
    def fetch_schema(self) -> Schema: ...

    @abstractmethod
    def close(self) -> None: ...

    def _advice_of(self, error: WarehouseError) -> str | None:
        """Return what to do ("" if nobody knows) where an error says something of one table, not of the server; else
        None. For `_of`."""
        return None

    # ------------------------------------------------------------ words

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def named(self, name: str) -> str:
        """Return one of our own names as the engine spells it."""
        return name.upper() if self._capabilities.upper_case else name

    def quoted(self, name: str) -> str:
        """Return a name in the engine's quotes."""
        return '"' + name.replace('"', '""') + '"'

    def place(self, table: str) -> str:
        """Return a table with its namespace, quoted."""
        return f"{self.quoted(self.namespace)}.{self.quoted(table)}"

    def type_of(self, kind: ColumnType) -> str:
        """Return the engine's type."""
        return self._capabilities.types[kind]

    def _definitions(self, columns: Columns) -> str:
        return ", ".join(f"{self.quoted(name)} {self.type_of(kind)}" for name, kind in columns.items())

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing."""
        self._run("BEGIN")
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        try:
            self._run("ROLLBACK")
        except WarehouseError:
            # The connection is gone, and the transaction with it: what failed first is what is told.
            return

    # ------------------------------------------------------------ the loader

    def check(self) -> None:
        self._make_namespace()
        self._make_loads()

    def _make_namespace(self) -> None:
        self._run(f"CREATE SCHEMA IF NOT EXISTS {self.quoted(self.namespace)}")

    def _make_loads(self) -> None:
        columns = {self.named(name): kind for name, kind in LOADS_COLUMNS.items()}
        self._run(self._create_sql(self.named(LOADS), columns))

    def _create_sql(self, table: str, columns: Columns) -> str:
        return f"CREATE TABLE IF NOT EXISTS {self.place(table)} ({self._definitions(columns)})"

    def evolve(self, changes: Sequence[SchemaChange]) -> None:
        self.check()
        for change in changes:
            try:
                self._change(change)
            except TableFailed:
                raise
            except WarehouseError as error:
                raise TableFailed(change.table, str(error), "see what the engine says") from error

    def _create(self, table: str, columns: Columns) -> None:
        self._run(self._create_sql(table, columns))
        self._add(table, columns)

    def _add(self, table: str, columns: Columns) -> None:
        there = self.columns_of(table)
        for name, kind in columns.items():
            if name not in there:
                self._add_column(table, name, kind)

    def _add_column(self, table: str, name: str, kind: ColumnType) -> None:
        definition = f"{self.quoted(name)} {self.type_of(kind)}"
        self._run(f"ALTER TABLE {self.place(table)} ADD COLUMN IF NOT EXISTS {definition}")

    def _widen(self, table: str, column: str, after: ColumnType) -> None:
        before = self.columns_of(table).get(column)
        if before != after and not self._rounds(table, column, after):
            self._alter_type(table, column, after)

    def _rounds(self, table: str, column: str, after: ColumnType) -> bool:
        """Tell whether a column of integers has some that it may not keep as floats."""
        if after != "float" or self.float_is_exact:
            return False
        return bool(self._run(rounded_sql(self.place(table), self.quoted(column))))

    def _alter_type(self, table: str, column: str, after: ColumnType) -> None:
        target = f"{self.quoted(column)} TYPE {self.type_of(after)}"
        self._run(f"ALTER TABLE {self.place(table)} ALTER COLUMN {target}")

    @contextmanager
    def _of(self, table: str) -> Iterator[None]:
        """What goes wrong here for reasons of this table is told so."""
        try:
            yield
        except TableFailed:
            raise
        except WarehouseError as error:
            advice = self._advice_of(error)
            if advice is None:
                raise
            raise TableFailed(table, str(error), advice) from error

    def load(self, load: Load, table: StagedTable) -> Done:
        with self.transaction():
            if self._is_in(load, table.table):
                return Done(0, already=True)
            self._see_integers(table)
            stage = self._stage_name(table.table)
            self._stage(table, stage)
            self._put(table, stage)
            self._drop_stage(stage)
            self._note(load, table)
        return Done(table.rows)

    def _see_integers(self, table: StagedTable) -> None:
        """See that the integers of a file come into columns that keep them: the engine would round them silently if
        another worker has widened a column since the file was made. To be asked where no widening comes in between.

        Raises:
            WarehouseError: one has been widened; the file is made anew for it.
        """
        large = () if self.float_is_exact else integers_beyond_floats(table)
        if large:
            there = self.columns_of(table.table)
            see_integers(table, [name for name in large if there.get(name) == "float"])

    def _stage_name(self, table: str) -> str:
        return self.quoted(self.named(f"_mainstem_stage_{table}"[: self._capabilities.max_name]))

    def _drop_stage(self, stage: str) -> None:
        self._run(f"DROP TABLE IF EXISTS {stage}")

    def _is_in(self, load: Load, table: str) -> bool:
        columns = [self.quoted(self.named(name)) for name in ("load_id", "table_name")]
        return bool(
            self._run(
                f"SELECT 1 FROM {self.place(self.named(LOADS))} WHERE {columns[0]} = ? AND {columns[1]} = ?",
                (load.id, table),
            )
        )

    def _note(self, load: Load, table: StagedTable) -> None:
        names = [self.quoted(self.named(name)) for name in LOADS_COLUMNS]
        self._run(
            f"INSERT INTO {self.place(self.named(LOADS))} ({', '.join(names)})"
            f" VALUES (?, ?, ?, ?, ?, ?, {self.now_sql})",
            (load.id, table.table, load.cursor, load.sequence, table.rows, load.positions),
        )

    def _put(self, table: StagedTable, stage: str) -> None:
        if not table.columns:
            return
        names = list(table.columns)
        id_column = self.named("id")
        match table.mode:
            case "append":
                self._insert(table.table, names, stage)
            case "replace by id":
                if id_column in table.columns:
                    self._delete_replaced(table.table, id_column, stage)
                self._insert(table.table, names, stage)
            case "latest by id":
                self._put_latest(table, names, id_column, stage)

    def _delete_replaced(self, table: str, id_column: str, stage: str) -> None:
        name = self.quoted(id_column)
        self._run(f"DELETE FROM {self.place(table)} WHERE {name} IN (SELECT {name} FROM {stage})")

    def _insert(self, table: str, names: Sequence[str], source: str) -> None:
        clocks = [name for name in self._clocks(table) if name not in names]
        targets = ", ".join(self.quoted(name) for name in [*names, *clocks])
        values = ", ".join([*(self.quoted(name) for name in names), *(self.now_sql for _ in clocks)])
        self._run(f"INSERT INTO {self.place(table)} ({targets}) SELECT {values} FROM {source}")

    def _clocks(self, table: str) -> Sequence[str]:
        """Return the columns of a table that are filled with the engine's clock."""
        there = self.columns_of(table)
        return [name for column in _CLOCK_COLUMNS if (name := self.named(column)) in there]

    def columns_of(self, table: str) -> Columns:
        """Return a table's columns as they are now."""
        return self.fetch_schema().get(table, {})

    def _put_latest(self, table: StagedTable, names: Sequence[str], id_column: str, stage: str) -> None:
        """Merge users: column by column the later value that is not null; columns not in the file stay."""
        there = [name for name in self.columns_of(table.table) if name not in names]
        clocks = set(self._clocks(table.table))
        kept = [name for name in there if name not in clocks]
        time, key = self.quoted(self.named("received_at")), self.quoted(id_column)
        newer = f"(o.{time} IS NULL OR n.{time} >= o.{time})"
        merged = [f"n.{key} AS {key}"]
        for name in names:
            if name == id_column:
                continue
            one = self.quoted(name)
            merged.append(
                f"CASE WHEN {newer} THEN COALESCE(n.{one}, o.{one}) ELSE COALESCE(o.{one}, n.{one}) END AS {one}"
            )
        merged += [f"o.{self.quoted(name)} AS {self.quoted(name)}" for name in kept]
        whole = self._stage_name(f"{table.table}_merged")
        self._create_temporary_as(
            whole,
            f"SELECT {', '.join(merged)} FROM {stage} n LEFT JOIN {self.place(table.table)} o ON o.{key} = n.{key}",
        )
        self._delete_replaced(table.table, id_column, stage)
        self._insert(table.table, [id_column, *(name for name in names if name != id_column), *kept], whole)
        self._drop_stage(whole)

    def _create_temporary_as(self, name: str, select: str) -> None:
        self._run(f"CREATE TEMPORARY TABLE {name} AS {select}")

    def loads(self, cursor: str, *, limit: int = 100) -> Sequence[LoaderRow]:
        if self.named(LOADS) not in self.fetch_schema():
            return []
        column = {name: self.quoted(self.named(name)) for name in LOADS_COLUMNS}
        order = ", ".join(column[name] for name in ("load_id", "table_name", "cursor_name", "load_sequence"))
        rows = self._run(
            f"SELECT {order}, {column['row_count']}, {column['positions']}, {self._epoch_ms(column['loaded_at'])}"
            f" FROM {self.place(self.named(LOADS))} WHERE {column['cursor_name']} = ?"
            f" ORDER BY {column['load_sequence']} DESC, {column['table_name']} LIMIT {int(limit)}",
            (cursor,),
        )
        return [
            LoaderRow(
                load_id=str(row[0]),
                table=str(row[1]),
                cursor=str(row[2]),
                sequence=int(row[3]),
                rows=int(row[4]),
                positions=str(row[5]),
                loaded_at_ms=int(row[6]),
            )
            for row in rows
        ]

    def _epoch_ms(self, column: str) -> str:
        """Return SQL for a time as milliseconds since the epoch."""
        return f"CAST(EXTRACT(EPOCH FROM {column}) * 1000 AS BIGINT)"

    def query(self, sql: str) -> Sequence[Sequence[Any]]:
        return self._run(sql)


def column_types(words: Mapping[str, ColumnType], found: str) -> ColumnType:
    """Return our type for an engine's, by the words its name begins with; `string` for one we have no word for."""
    lowered = found.lower()
    for word, kind in words.items():
        if lowered.startswith(word):
            return kind
    return "string"

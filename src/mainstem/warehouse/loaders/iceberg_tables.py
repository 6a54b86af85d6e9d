"""The loader of Iceberg tables, by pyiceberg. What it promises and how is in `loaders.iceberg`."""

import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar, cast

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import (
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.expressions import AlwaysTrue, BooleanExpression, GreaterThanOrEqual, In, IsNull, Or
from pyiceberg.io.pyarrow import ArrowScan, _dataframe_to_data_files
from pyiceberg.manifest import DataFile
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionField, PartitionSpec
from pyiceberg.schema import Schema as IcebergSchema
from pyiceberg.table import Table
from pyiceberg.transforms import DayTransform
from pyiceberg.typedef import Identifier
from pyiceberg.types import (
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    LongType,
    NestedField,
    StringType,
    TimestampType,
    TimestamptzType,
)

from mainstem.iceberg.catalog import make_namespace, mapped, place_of
from mainstem.iceberg.commits import CONFLICTS, ID, again, fixed, is_in, remember
from mainstem.iceberg.upkeep import Compacted, Wanted, compact, expire
from mainstem.warehouse import lake_tables
from mainstem.warehouse.loader import (
    Capabilities,
    Done,
    Load,
    LoaderRow,
    StagedTable,
    TableFailed,
    WarehouseError,
)
from mainstem.warehouse.loaders.iceberg import CAPABILITIES
from mainstem.warehouse.schema import (
    LOADS,
    LOADS_COLUMNS,
    USERS,
    AddColumns,
    Columns,
    ColumnType,
    CreateTable,
    Schema,
    SchemaChange,
    WidenColumn,
)
from mainstem.warehouse.values import ARROW

_Result = TypeVar("_Result")
# Their arguments are not in their types (pydantic makes them).
_one_of: Callable[[str, Sequence[Any]], BooleanExpression] = cast("Any", In)
_from: Callable[[str, Any], BooleanExpression] = cast("Any", GreaterThanOrEqual)
_null: Callable[[str], BooleanExpression] = cast("Any", IsNull)

_DAY: Final = "mainstem_received_day"
_MOST_NOTES: Final = 100
"""Snapshots of `_mainstem_loads`, which has a row for each table of a load: they are not left to the hourly upkeep."""
_NOTES_KEEP: Final = timedelta(minutes=1)
"""For those who read it just now."""
_PROPERTIES: Final = {
    "write.parquet.compression-codec": "zstd",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
}
_TYPES: Final[dict[ColumnType, IcebergType]] = {
    "boolean": BooleanType(),
    "int": LongType(),
    "float": DoubleType(),
    "datetime": TimestamptzType(),
    "string": StringType(),
    "text": StringType(),
    "json": StringType(),
}
_WORDS: Final[dict[type[IcebergType], ColumnType]] = {
    BooleanType: "boolean",
    LongType: "int",
    IntegerType: "int",
    DoubleType: "float",
    FloatType: "float",
    DecimalType: "float",
    TimestamptzType: "datetime",
    TimestampType: "datetime",
    DateType: "datetime",
}


class IcebergLoader:
    """See `loader.Loader`."""

    def __init__(self, catalog: Catalog, namespace: str, *, location: str = "", dedupe_days: int = 0) -> None:
        self.namespace = namespace
        self._catalog = catalog
        self._location = location
        self._dedupe_days = dedupe_days
        self._columns: dict[str, Columns] = {}

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def close(self) -> None:
        self._catalog.close()

    # ------------------------------------------------------------ schema

    def check(self) -> None:
        with _mapped(f"namespace {self.namespace}"):
            make_namespace(self._catalog, self.namespace)
            if not self._catalog.table_exists(self._name(LOADS)):
                self._create(LOADS, LOADS_COLUMNS)

    def fetch_schema(self) -> Schema:
        with _mapped(f"namespace {self.namespace}"):
            try:
                names = [name[-1] for name in self._catalog.list_tables((self.namespace,))]
            except NoSuchNamespaceError:
                return {}
            for name in names:
                if name not in self._columns:
                    self._columns[name] = _columns_of(self._catalog.load_table(self._name(name)))
            return {name: self._columns[name] for name in names}

    def evolve(self, changes: Sequence[SchemaChange]) -> None:
        self.check()
        for change in changes:
            try:
                self._again(change.table, partial(self._change, change))
            except TableFailed:
                raise
            except WarehouseError as error:
                raise TableFailed(change.table, str(error), "see what the catalog says") from error
            finally:
                self._columns.pop(change.table, None)

    def _change(self, change: SchemaChange) -> None:
        match change:
            case CreateTable(table=table, columns=columns):
                if not self._catalog.table_exists(self._name(table)):
                    self._create(table, columns)
                else:
                    self._add(table, columns)
            case AddColumns(table=table, columns=columns):
                self._add(table, columns)
            case WidenColumn(table=table, column=column, before=before, after=after):
                raise TableFailed(table, f"column {column}: Iceberg can't make {after} of {before}")

    def _create(self, table: str, columns: Columns) -> None:
        fields = [
            NestedField(index, name, _TYPES[kind], required=False, doc=_doc(kind))
            for index, (name, kind) in enumerate(columns.items(), 1)
        ]
        schema = IcebergSchema(*fields)
        spec = UNPARTITIONED_PARTITION_SPEC
        if table != USERS and columns.get("received_at") == "datetime":
            source = schema.find_field("received_at").field_id
            spec = PartitionSpec(PartitionField(source, 1000, DayTransform(), _DAY))
        try:
            self._catalog.create_table(
                self._name(table),
                schema,
                location=place_of(self._location, self.namespace, table),
                partition_spec=spec,
                properties=_PROPERTIES,
            )
        except TableAlreadyExistsError:
            if table != LOADS:
                self._add(table, columns)

    def _add(self, table: str, columns: Columns) -> None:
        found = self._load_table(table)
        there = _columns_of(found)
        missing = {name: kind for name, kind in columns.items() if name not in there}
        if missing:
            with fixed(found).transaction() as transaction, transaction.update_schema() as update:
                for name, kind in missing.items():
                    update.add_column((name,), _TYPES[kind], doc=_doc(kind))

    # ------------------------------------------------------------ loads

    def load(self, load: Load, table: StagedTable) -> Done:
        done = self._again(table.table, lambda: self._put(load, table))
        self._again(LOADS, lambda: self._note(load, table, repeated=done.already))
        return done

    def _put(self, load: Load, table: StagedTable) -> Done:
        found = self._load_table(table.table)
        if is_in(found, load.id):
            return Done(0, already=True)
        columns = _columns_of(found)
        rows = lake_tables.rows_of(table, columns, lake_tables.now())
        summary = {
            ID: load.id,
            "mainstem.cursor": load.cursor,
            "mainstem.sequence": str(load.sequence),
            "mainstem.rows": str(table.rows),
            "mainstem.positions": load.positions,
        }
        replaced: list[DataFile] = []
        written: list[DataFile] = []
        if table.mode != "append" and "id" in rows.column_names:
            rows = self._replace(found, rows, table, replaced, written)
        if "received_at" in columns and "received_at" not in rows.column_names:
            # What the day is taken of has to be there.
            nothing = pa.nulls(rows.num_rows, ARROW["datetime"])
            rows = rows.append_column(pa.field("received_at", ARROW["datetime"]), nothing)
        written += _dataframe_to_data_files(found.metadata, rows, found.io) if rows.num_rows else ()
        try:
            with fixed(found).transaction() as transaction:
                update = transaction.update_snapshot(snapshot_properties=summary)
                with update.overwrite() if replaced else update.fast_append() as put:
                    for file in replaced:
                        put.delete_data_file(file)
                    for file in written:
                        put.append_data_file(file)
                remember(transaction, load.id)
        except CONFLICTS:
            # These are sure: it did not land. Nobody else knows of the files.
            for file in written:
                found.io.delete(file.file_path)
            raise
        return Done(table.rows)

    def _replace(
        self,
        found: Table,
        rows: "pa.Table",
        table: StagedTable,
        replaced: list[DataFile],
        written: list[DataFile],
    ) -> "pa.Table":
        """Write files anew that hold rows which are replaced, without those; return the rows to append."""
        ids = rows["id"].combine_chunks().drop_null()
        within = self._within(rows) if table.mode == "replace by id" else AlwaysTrue()
        metadata, schema = found.metadata, found.schema()
        only_id = ArrowScan(metadata, found.io, schema.select("id"), AlwaysTrue())
        whole = ArrowScan(metadata, found.io, schema, AlwaysTrue())
        old = []
        for task in found.scan(row_filter=within).plan_files():
            there: Any = only_id.to_table([task])["id"]
            if not pc.any(pc.is_in(there.cast(pa.string()), value_set=ids)).as_py():
                continue
            file: Any = whole.to_table([task])
            matching = pc.is_in(file["id"].cast(pa.string()), value_set=ids)
            if table.mode == "latest by id":
                old.append(file.filter(matching))
            kept = file.filter(pc.invert(matching))
            replaced.append(task.file)
            written += _dataframe_to_data_files(metadata, kept, found.io) if kept.num_rows else ()
        # Files from before a column was there are read with a shorter string type for it than those from after.
        return (
            lake_tables.latest_of(pa.concat_tables(old, promote_options="permissive"), rows) if old else rows
        )

    def _within(self, rows: "pa.Table") -> BooleanExpression:
        if not self._dedupe_days or "received_at" not in rows.column_names:
            return AlwaysTrue()
        times = [time for time in rows["received_at"].to_pylist() if time is not None]
        if not times:
            return AlwaysTrue()
        from_day = min(times) - timedelta(days=self._dedupe_days)
        return Or(_from("received_at", from_day.isoformat()), _null("received_at"))

    def _note(self, load: Load, table: StagedTable, *, repeated: bool) -> None:
        found = self._load_table(LOADS)
        key = json.dumps([load.id, table.table], ensure_ascii=False)
        if is_in(found, key) or (repeated and _is_noted(found, load, table)):
            return
        with fixed(found).transaction() as transaction:
            transaction.append(
                lake_tables.loads_row(load, table, lake_tables.now()), snapshot_properties={ID: key}
            )
            remember(transaction, key)
        if len(found.snapshots()) >= _MOST_NOTES:
            expire(lambda: self._load_table(LOADS), Wanted(keep=_NOTES_KEEP))

    def loads(self, cursor: str, *, limit: int = 100) -> Sequence[LoaderRow]:
        with _mapped(LOADS):
            try:
                found = self._catalog.load_table(self._name(LOADS))
            except (NoSuchTableError, NoSuchNamespaceError):
                return []
            rows = found.scan(row_filter=_one_of("cursor_name", [cursor])).to_arrow()
        return lake_tables.loader_rows(rows, cursor, limit)

    # ------------------------------------------------------------ upkeep

    def compact(
        self,
        table: str,
        *,
        small_bytes: int = 32 * 1024 * 1024,
        at_least: int = 4,
        keep: timedelta = timedelta(days=7),
    ) -> Compacted:
        """Join the small files of each day, and let go of old snapshots with the files that only they had.

        Loads may go on meanwhile: a day whose files were changed by one is left for the next time.

        Args:
            small_bytes: files below this size are joined …
            at_least: … where a day has so many of them.
            keep: snapshots younger than this stay, so that readers may look back.

        Raises:
            TableFailed: there is no such table.
            WarehouseError: it failed; what was joined stays so.
        """
        wanted = Wanted(small_bytes=small_bytes, at_least=at_least, keep=keep)
        with _mapped(f"table {table}"):
            return compact(lambda: self._load_table(table), wanted)

    # ------------------------------------------------------------ queries

    def query(self, sql: str) -> Sequence[Sequence[Any]]:
        with _mapped("query"):
            names = [name[-1] for name in self._catalog.list_tables((self.namespace,))]
            return lake_tables.query(
                sql,
                self.namespace,
                names,
                lambda name: self._catalog.load_table(self._name(name)).scan().to_arrow(),
            )

    def quoted(self, name: str) -> str:
        """Return a name in SQL's quotes, for `query`."""
        return lake_tables.quoted(name)

    def place(self, table: str) -> str:
        """Return a table with its namespace, for `query`."""
        return f"{self.quoted(self.namespace)}.{self.quoted(table)}"

    # ------------------------------------------------------------ parts

    def _name(self, table: str) -> Identifier:
        return (self.namespace, table)

    def _load_table(self, table: str) -> Table:
        try:
            return self._catalog.load_table(self._name(table))
        except (NoSuchTableError, NoSuchNamespaceError) as error:
            raise TableFailed(table, "there is no such table", "it is made by the next load") from error

    def _again(self, table: str, work: Callable[[], _Result]) -> _Result:
        return again(f"table {table}", WarehouseError, work)


_mapped = partial(mapped, error=WarehouseError)


def _is_noted(found: Table, load: Load, table: StagedTable) -> bool:
    """Look among the rows: a load may have more tables than ids are remembered."""
    rows = found.scan(row_filter=_one_of("load_id", [load.id]), selected_fields=("table_name",)).to_arrow()
    return table.table in rows["table_name"].to_pylist()


def _doc(kind: ColumnType) -> str | None:
    return kind if kind in ("json", "text") else None


def _columns_of(found: Table) -> Columns:
    columns: dict[str, ColumnType] = {}
    for field in found.schema().fields:
        kind = _WORDS.get(type(field.field_type), "string")
        if kind == "string" and field.doc in ("json", "text"):
            kind = cast("ColumnType", field.doc)
        columns[field.name] = kind
    return columns

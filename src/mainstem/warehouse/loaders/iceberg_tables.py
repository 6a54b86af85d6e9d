"""The loader of Iceberg tables, by pyiceberg. What it promises and how is in `loaders.iceberg`."""

import io
import json
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
    ValidationException,
)
from pyiceberg.expressions import AlwaysTrue, BooleanExpression, GreaterThanOrEqual, In, IsNull, Or
from pyiceberg.io.pyarrow import ArrowScan, PyArrowFile, PyArrowFileIO, _dataframe_to_data_files
from pyiceberg.manifest import DataFile
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionField, PartitionSpec
from pyiceberg.schema import Schema as IcebergSchema
from pyiceberg.table import FileScanTask, Table, Transaction
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.transforms import DayTransform
from pyiceberg.typedef import EMPTY_DICT, Identifier, Properties, Record
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
from sqlalchemy.exc import SQLAlchemyError

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
from mainstem.warehouse.loaders.iceberg import CAPABILITIES, Config
from mainstem.warehouse.place import folder_name, local_folder, make_folder, sync_folder
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

_ATTEMPTS: Final = 12
_REMEMBERED: Final = 500
"""Ids of loads in a table's property. A load is made again only while it is its cursor's open plan, or the first that a
table owes: far fewer than this ago."""
_ID: Final = "mainstem.load-id"
_IDS: Final = "mainstem.loads"
_DAY: Final = "mainstem_received_day"
_PROPERTIES: Final = {
    "write.parquet.compression-codec": "zstd",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
}
_NO_RETRIES: Final = {"commit.retry.num-retries": "0"}
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


class DurableFileIO(PyArrowFileIO):
    """pyiceberg's files; those in local folders survive a power cut (it never calls fsync itself)."""

    def __init__(self, properties: Properties = EMPTY_DICT) -> None:
        super().__init__(properties)

    def new_output(self, location: str) -> PyArrowFile:
        scheme, netloc, path = self.parse_location(location, self.properties)
        if scheme != "file":
            return super().new_output(location)
        return _DurableFile(location, path, self.fs_by_scheme(scheme, netloc))


class _DurableFile(PyArrowFile):
    def create(self, overwrite: bool = False) -> Any:
        return _Synced(Path(self._path), overwrite)


class _Synced(io.BufferedWriter):
    """A file that is on disk, and its name too, once it is closed."""

    def __init__(self, path: Path, overwrite: bool) -> None:
        make_folder(path.parent)
        self._path = path
        super().__init__(io.FileIO(path, "w" if overwrite else "x"), 256 * 1024)

    def close(self) -> None:
        if not self.closed:
            self.flush()
            os.fsync(self.fileno())
            super().close()
            sync_folder(self._path.parent)


def open_catalog(config: Config, data_dir: Path) -> tuple[Catalog, str]:
    """Return the catalog that settings name, and the location below which tables are made ("" = the catalog's own).

    Raises:
        WarehouseError: it can't be reached.
    """
    properties = {
        "s3.endpoint": config.endpoint,
        "s3.region": config.region,
        "s3.access-key-id": config.access_key_id.reveal(),
        "s3.secret-access-key": config.secret_access_key.reveal(),
        "s3.session-token": config.session_token.reveal(),
        "s3.role-arn": config.role_arn,
        "s3.server-side-encryption": config.server_side_encryption,
        "s3.force-virtual-addressing": "" if config.path_style else "true",
        "s3.connect-timeout": "10",
        "s3.request-timeout": "120",
        "adls.account-name": config.account_name,
        "adls.account-key": config.account_key.reveal(),
        "adls.sas-token": config.sas_token.reveal(),
        "py-io-impl": f"{DurableFileIO.__module__}.{DurableFileIO.__name__}",
    }
    uri = config.catalog_uri.reveal()
    with _mapped("the catalog", secret=uri):
        if config.catalog == "rest":
            properties |= {
                "uri": uri,
                "warehouse": config.url,
                "credential": config.catalog_credential.reveal(),
                "token": config.catalog_token.reveal(),
                "oauth2-server-uri": config.oauth2_server_uri,
                "scope": config.oauth2_scope,
            }
            if config.sigv4:
                properties |= {
                    "rest.sigv4-enabled": "true",
                    "rest.signing-region": config.region,
                    "rest.signing-name": config.sigv4_service,
                }
            return RestCatalog(config.catalog_name, **_given(properties)), ""
        folder = local_folder(config.url, data_dir)
        location = folder.as_uri() if folder is not None else config.url.rstrip("/")
        if not uri:
            beside = folder if folder is not None else data_dir
            make_folder(beside)
            uri = f"sqlite:///{beside.resolve() / 'catalog.db'}?timeout=60"
        properties |= {"uri": uri, "warehouse": location}
        try:
            return SqlCatalog(config.catalog_name, **_given(properties)), location
        except SQLAlchemyError:
            # Two made the catalog's tables at the same time: now they are there.
            return SqlCatalog(config.catalog_name, **_given(properties)), location


def _given(properties: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in properties.items() if text}


@contextmanager
def _mapped(what: str, *, secret: str = "") -> Iterator[None]:
    """Tell what failed in our words; conflicts pass, they are tried again."""
    try:
        yield
    except (CommitFailedException, ValidationException, WarehouseError):
        raise
    except Exception as error:
        words = str(error).splitlines()[0][:400] if str(error) else ""
        if secret:
            words = words.replace(secret, "***")
        raise WarehouseError(f"{what}: {type(error).__name__}: {words}") from error


class Compacted(msgspec.Struct, frozen=True):
    """What `compact` did."""

    files_before: int
    files_after: int
    snapshots_expired: int
    files_removed: int


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
            try:
                self._catalog.create_namespace_if_not_exists((self.namespace,))
            except (SQLAlchemyError, NamespaceAlreadyExistsError):
                # Two made it at the same time.
                if not self._catalog.namespace_exists((self.namespace,)):
                    raise
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
        place = f"{self._location}/{folder_name(self.namespace)}/{folder_name(table)}"
        try:
            self._catalog.create_table(
                self._name(table),
                schema,
                location=place if self._location else None,
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
            with self._transaction(found) as transaction, transaction.update_schema() as update:
                for name, kind in missing.items():
                    update.add_column((name,), _TYPES[kind], doc=_doc(kind))

    # ------------------------------------------------------------ loads

    def load(self, load: Load, table: StagedTable) -> Done:
        done = self._again(table.table, lambda: self._put(load, table))
        self._again(LOADS, lambda: self._note(load, table))
        return done

    def _put(self, load: Load, table: StagedTable) -> Done:
        found = self._load_table(table.table)
        if _is_in(found, load.id):
            return Done(0, already=True)
        columns = _columns_of(found)
        rows = lake_tables.rows_of(table, columns, lake_tables.now())
        summary = {
            _ID: load.id,
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
            with self._transaction(found) as transaction:
                update = transaction.update_snapshot(snapshot_properties=summary)
                with update.overwrite() if replaced else update.fast_append() as put:
                    for file in replaced:
                        put.delete_data_file(file)
                    for file in written:
                        put.append_data_file(file)
                _remember(transaction, load.id)
        except (CommitFailedException, ValidationException):
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

    def _note(self, load: Load, table: StagedTable) -> None:
        found = self._load_table(LOADS)
        key = json.dumps([load.id, table.table], ensure_ascii=False)
        if _is_in(found, key):
            return
        with self._transaction(found) as transaction:
            transaction.append(
                lake_tables.loads_row(load, table, lake_tables.now()), snapshot_properties={_ID: key}
            )
            _remember(transaction, key)

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
        with _mapped(f"table {table}"):
            before = len(list(self._load_table(table).scan().plan_files()))
            for group in self._small_files(table, small_bytes, at_least):
                try:
                    self._join(table, group)
                except (CommitFailedException, ValidationException):
                    continue
            expired, removed = self._again(table, lambda: self._expire(table, keep))
            after = len(list(self._load_table(table).scan().plan_files()))
        return Compacted(before, after, expired, removed)

    def _small_files(self, table: str, small_bytes: int, at_least: int) -> list[list[FileScanTask]]:
        groups: dict[tuple[Any, ...], list[FileScanTask]] = defaultdict(list)
        found = self._load_table(table)
        for task in found.scan().plan_files():
            if task.file.file_size_in_bytes < small_bytes and task.file.spec_id == found.spec().spec_id:
                groups[_values(task.file.partition)].append(task)
        return [group for group in groups.values() if len(group) >= at_least]

    def _join(self, table: str, group: Sequence[FileScanTask]) -> None:
        found = self._load_table(table)
        metadata = found.metadata
        there = {task.file.file_path for task in found.scan().plan_files()}
        if not {task.file.file_path for task in group} <= there:
            return
        rows = ArrowScan(metadata, found.io, found.schema(), AlwaysTrue()).to_table(tasks=group)
        with (
            self._transaction(found) as transaction,
            transaction.update_snapshot(
                snapshot_properties={"mainstem.compacted": "true"}
            ).overwrite() as put,
        ):
            for task in group:
                put.delete_data_file(task.file)
            for made in _dataframe_to_data_files(metadata, rows, found.io, write_uuid=put.commit_uuid):
                put.append_data_file(made)

    def _expire(self, table: str, keep: timedelta) -> tuple[int, int]:
        found = self._load_table(table)
        current = found.metadata.current_snapshot_id
        until = (datetime.now(UTC) - keep).timestamp() * 1000
        old = [
            snapshot
            for snapshot in found.snapshots()
            if snapshot.timestamp_ms < until and snapshot.snapshot_id != current
        ]
        if not old:
            return 0, 0
        expiry = _fixed(found).maintenance.expire_snapshots()
        expiry.by_ids([snapshot.snapshot_id for snapshot in old]).commit()
        kept = self._load_table(table)
        needed = {path for snapshot in kept.snapshots() for path in _files_of(snapshot, kept)}
        gone = {path for snapshot in old for path in _files_of(snapshot, kept)} - needed
        for path in gone:
            kept.io.delete(path)
        return len(old), len(gone)

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

    @contextmanager
    def _transaction(self, found: Table) -> Iterator[Transaction]:
        with _fixed(found).transaction() as transaction:
            yield transaction

    def _again(self, table: str, work: Callable[[], _Result]) -> _Result:
        """Do what ends in a commit, and again if somebody else's commit came first."""
        for attempt in range(_ATTEMPTS):
            with _mapped(f"table {table}"):
                try:
                    return work()
                except (CommitFailedException, ValidationException):
                    time.sleep(random.uniform(0, min(0.05 * 2**attempt, 3)))  # noqa: S311 - to part two writers
        raise WarehouseError(f"table {table}: others change it all the time; it is tried again later")


def _fixed(found: Table) -> Table:
    """Return a table whose commits pyiceberg does not rebase by itself: what was decided about it was read before.

    Only in memory: other writers' retries are theirs.
    """
    metadata = found.metadata.model_copy(update={"properties": {**found.properties, **_NO_RETRIES}})
    return Table(found.name(), metadata, found.metadata_location, found.io, found.catalog)


def _is_in(found: Table, load_id: str) -> bool:
    if load_id in _remembered(found.properties):
        return True
    return any(
        snapshot.summary is not None and snapshot.summary.additional_properties.get(_ID) == load_id
        for snapshot in found.snapshots()
    )


def _remembered(properties: Properties) -> list[str]:
    return cast("list[str]", json.loads(properties.get(_IDS, "[]")))


def _remember(transaction: Transaction, load_id: str) -> None:
    ids = [*_remembered(transaction.table_metadata.properties), load_id]
    transaction.set_properties({_IDS: json.dumps(ids[-_REMEMBERED:], ensure_ascii=False)})


def _values(record: Record) -> tuple[Any, ...]:
    return tuple(record[position] for position in range(len(record)))


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


def _files_of(snapshot: Snapshot, found: Table) -> Iterator[str]:
    yield snapshot.manifest_list
    for manifest in snapshot.manifests(found.io):
        yield manifest.manifest_path
        for entry in manifest.fetch_manifest_entry(found.io, discard_deleted=True):
            yield entry.data_file.file_path

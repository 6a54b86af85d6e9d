"""The loader of Delta tables, by delta-rs. What it promises and how is in `loaders.delta`."""

import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Field, Transaction, write_deltalake
from deltalake import Schema as DeltaSchema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.schema import PrimitiveType

from mainstem.bulk.folders import folder_name, sync_folder
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
from mainstem.warehouse.loaders.changes import Changes
from mainstem.warehouse.loaders.delta import CAPABILITIES
from mainstem.warehouse.place import Place, PlaceSettings
from mainstem.warehouse.schema import (
    LOADS,
    LOADS_COLUMNS,
    Columns,
    ColumnType,
    Schema,
    SchemaChange,
)
from mainstem.warehouse.values import ARROW

_Result = TypeVar("_Result")

_ATTEMPTS: Final = 12
_TABLES: Final = "_mainstem_tables"
_KIND: Final = "mainstem.type"
_PROPERTIES: Final = {
    "delta.setTransactionRetentionDuration": "interval 30 days",
    "delta.logRetentionDuration": "interval 7 days",
    "delta.deletedFileRetentionDuration": "interval 7 days",
}
_BRANCH: Final = re.compile(r"\s*\x1b\[\d+m↳\x1b\[0m\s*")
_WORDS: Final[dict[str, ColumnType]] = {
    "boolean": "boolean",
    "long": "int",
    "integer": "int",
    "short": "int",
    "byte": "int",
    "double": "float",
    "float": "float",
    "decimal": "float",
    "timestamp": "datetime",
    "date": "datetime",
}


def storage_options(settings: PlaceSettings, url: str) -> dict[str, str]:
    """Return what delta-rs has to know of a bucket."""
    options = {
        "aws_endpoint_url": settings.endpoint if url.startswith("s3") else "",
        "aws_region": settings.region,
        "aws_access_key_id": settings.access_key_id.reveal(),
        "aws_secret_access_key": settings.secret_access_key.reveal(),
        "aws_session_token": settings.session_token.reveal(),
        "aws_virtual_hosted_style_request": "false" if settings.path_style else "true",
        "aws_server_side_encryption": settings.server_side_encryption,
        "aws_conditional_put": "etag",
        "allow_http": "true" if settings.endpoint.startswith("http://") else "",
        "google_service_account_key": settings.credentials.reveal(),
        "azure_storage_account_name": settings.account_name,
        "azure_storage_account_key": settings.account_key.reveal(),
        "azure_storage_sas_key": settings.sas_token.reveal(),
    }
    return {name: text for name, text in options.items() if text}


class Compacted(msgspec.Struct, frozen=True):
    """What `compact` did."""

    files_before: int
    files_after: int
    files_removed: int


class DeltaLoader(Changes):
    """See `loader.Loader`."""

    def __init__(
        self,
        place: Place,
        uri: str,
        namespace: str,
        *,
        options: dict[str, str],
        folder: Path | None = None,
    ) -> None:
        """
        Args:
            uri: of the place, as delta-rs wants it.
            options: how delta-rs gets there.
            folder: the place, where it is a local one.
        """
        self.namespace = namespace
        self._place = place
        self._root = folder_name(namespace)
        self._uri = uri
        self._options = options
        self._folder = folder
        self._names: dict[str, str] = {}
        """Tables by the name of their file in `_mainstem_tables`: those never change."""
        self._columns: dict[str, Columns] = {}

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def close(self) -> None:
        return

    # ------------------------------------------------------------ schema

    def check(self) -> None:
        if LOADS not in self._tables():
            with _mapped(f"namespace {self.namespace}"):
                self._make(LOADS, LOADS_COLUMNS)

    def fetch_schema(self) -> Schema:
        names = self._tables()
        for name in names:
            if name not in self._columns:
                with _mapped(f"table {name}"):
                    self._columns[name] = _columns_of(self._open(name))
        return {name: self._columns[name] for name in names}

    def _tables(self) -> list[str]:
        names = []
        for file in self._place.list(f"{self._root}/{_TABLES}"):
            if file not in self._names:
                try:
                    self._names[file] = json.loads(self._place.get(file) or b"")["table"]
                except (ValueError, KeyError) as error:
                    raise WarehouseError(f"{file} is damaged: {error}") from error
            names.append(self._names[file])
        return names

    def evolve(self, changes: Sequence[SchemaChange]) -> None:
        self.check()
        for change in changes:
            try:
                self._again(change.table, partial(self._change, change))
            except TableFailed:
                raise
            except WarehouseError as error:
                raise TableFailed(change.table, str(error), "see what the place says") from error
            finally:
                self._columns.pop(change.table, None)

    def _create(self, table: str, columns: Columns) -> None:
        self._make(table, columns)
        self._add(table, columns)

    def _make(self, table: str, columns: Columns) -> None:
        place = self._place_of(table)
        if not DeltaTable.is_deltatable(place, self._options or None):
            try:
                DeltaTable.create(
                    place,
                    DeltaSchema([_field(name, kind) for name, kind in columns.items()]),
                    mode="error",
                    configuration=dict(_PROPERTIES),
                    storage_options=self._options or None,
                )
            except DeltaError:
                if not DeltaTable.is_deltatable(place, self._options or None):
                    raise
        self._sync(table)
        content = json.dumps({"table": table}, ensure_ascii=False).encode()
        self._place.create(f"{self._root}/{_TABLES}/{folder_name(table)}.json", content)

    def _add(self, table: str, columns: Columns) -> None:
        found = self._open(table)
        there = _columns_of(found)
        missing = [_field(name, kind) for name, kind in columns.items() if name not in there]
        if missing:
            found.alter.add_columns(missing)
            self._sync(table)

    # ------------------------------------------------------------ loads

    def load(self, load: Load, table: StagedTable) -> Done:
        done = self._again(table.table, lambda: self._put(load, table))
        self._again(LOADS, lambda: self._note(load, table))
        return done

    def _put(self, load: Load, table: StagedTable) -> Done:
        found = self._open(table.table)
        application = f"mainstem/{load.id}"
        if found.transaction_version(application) is not None:
            return Done(0, already=True)
        columns = _columns_of(found)
        rows = lake_tables.rows_of(table, columns, lake_tables.now())
        commit = _commit(application, load)
        if table.mode == "append" or "id" not in rows.column_names:
            write_deltalake(found, rows, mode="append", commit_properties=commit)
        else:
            if table.mode == "latest by id":
                rows = self._merged(found, rows, columns)
            for name, kind in columns.items():
                if name not in rows.column_names:
                    nothing = pa.nulls(rows.num_rows, ARROW[kind])
                    rows = rows.append_column(pa.field(name, ARROW[kind]), nothing)
            merger = found.merge(
                rows,
                predicate="there.id = came.id",
                source_alias="came",
                target_alias="there",
                commit_properties=commit,
            )
            merger.when_matched_update_all().when_not_matched_insert_all().execute()
        self._sync(table.table)
        return Done(table.rows)

    def _merged(self, found: DeltaTable, rows: "pa.Table", columns: Columns) -> "pa.Table":
        schema = lake_tables.arrow_schema(columns)
        ids: Any = rows["id"].combine_chunks()
        parts = [schema.empty_table()]
        # Not by a filter of the dataset: it compares texts with statistics that are views of texts, which Arrow can't.
        for batch in _dataset(found).to_batches(columns=list(columns)):
            matching = batch.filter(pc.is_in(batch["id"].cast(pa.string()), value_set=ids))
            if matching.num_rows:
                parts.append(pa.Table.from_batches([matching]).cast(schema))
        return lake_tables.latest_of(pa.concat_tables(parts), rows)

    def _note(self, load: Load, table: StagedTable) -> None:
        found = self._open(LOADS)
        application = f"mainstem/{load.id}/{table.table}"
        if found.transaction_version(application) is not None:
            return
        row = lake_tables.loads_row(load, table, lake_tables.now())
        write_deltalake(found, row, mode="append", commit_properties=_commit(application, load))
        self._sync(LOADS)

    def loads(self, cursor: str, *, limit: int = 100) -> Sequence[LoaderRow]:
        if LOADS not in self._tables():
            return []
        with _mapped(LOADS):
            rows = _dataset(self._open(LOADS)).to_table()
        return lake_tables.loader_rows(rows, cursor, limit)

    # ------------------------------------------------------------ upkeep

    def compact(self, table: str, *, keep: timedelta = timedelta(days=7)) -> Compacted:
        """Join small files; remove those that no version of the time to `keep` needs; write a checkpoint of the log.

        Raises:
            TableFailed: there is no such table.
            WarehouseError: it failed; what was joined stays so.
        """

        def work() -> Compacted:
            found = self._open(table)
            before = len(found.file_uris())
            found.optimize.compact()
            found.update_incremental()
            removed = found.vacuum(
                retention_hours=keep // timedelta(hours=1), dry_run=False, enforce_retention_duration=False
            )
            found.create_checkpoint()
            self._sync(table)
            return Compacted(before, len(found.file_uris()), len(removed))

        return self._again(table, work)

    # ------------------------------------------------------------ queries

    def query(self, sql: str) -> Sequence[Sequence[Any]]:
        return lake_tables.query(
            sql, self.namespace, self._tables(), lambda name: self._open(name).to_pyarrow_table()
        )

    def quoted(self, name: str) -> str:
        """Return a name in SQL's quotes, for `query`."""
        return lake_tables.quoted(name)

    def place(self, table: str) -> str:
        """Return a table with its namespace, for `query`."""
        return f"{self.quoted(self.namespace)}.{self.quoted(table)}"

    # ------------------------------------------------------------ parts

    def _place_of(self, table: str) -> str:
        return f"{self._uri}/{self._root}/{folder_name(table)}"

    def _open(self, table: str) -> DeltaTable:
        try:
            return DeltaTable(self._place_of(table), storage_options=self._options or None)
        except TableNotFoundError as error:
            raise TableFailed(table, "there is no such table", "it is made by the next load") from error

    def _sync(self, table: str) -> None:
        """Make a local table's newest files durable: delta-rs does not."""
        if self._folder is None:
            return
        root = self._folder / self._root / folder_name(table)
        since = time.time_ns() - 3_600 * 10**9
        for folder, _, files in os.walk(root):
            recent = [path for name in files if _changed_ns(path := Path(folder, name)) > since]
            for path in recent:
                # What is gone is a file that another writer has just renamed.
                with suppress(FileNotFoundError), path.open("rb") as file:
                    os.fsync(file.fileno())
            if recent:
                sync_folder(Path(folder))

    def _again(self, table: str, work: Callable[[], _Result]) -> _Result:
        """Do what ends in a commit, and again if somebody else's commit came first."""
        for attempt in range(_ATTEMPTS):
            with _mapped(f"table {table}"):
                try:
                    return work()
                except CommitFailedError:
                    time.sleep(random.uniform(0, min(0.05 * 2**attempt, 3)))  # noqa: S311 - to part two writers
        raise WarehouseError(f"table {table}: others change it all the time; it is tried again later")


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


@contextmanager
def _mapped(what: str) -> Iterator[None]:
    try:
        yield
    except (CommitFailedError, WarehouseError):
        raise
    except (DeltaError, OSError, ValueError, pa.ArrowException) as error:
        # delta-rs tells the cause as a tree, a branch a line.
        words = " ".join(_BRANCH.sub(": ", str(error)).split())[:400]
        raise WarehouseError(f"{what}: {type(error).__name__}: {words}") from error


def _dataset(found: DeltaTable) -> Any:
    return found.to_pyarrow_dataset()


def _commit(application: str, load: Load) -> CommitProperties:
    return CommitProperties(
        custom_metadata={"mainstem.load-id": load.id, "mainstem.cursor": load.cursor},
        app_transactions=[Transaction(application, load.sequence)],
        # None of its own: they would not look whether the load is in meanwhile.
        max_commit_retries=0,
    )


def _field(name: str, kind: ColumnType) -> Field:
    return Field(
        name,
        PrimitiveType(CAPABILITIES.types[kind]),
        metadata={_KIND: kind} if kind in ("json", "text") else {},
    )


def _columns_of(found: DeltaTable) -> Columns:
    columns: dict[str, ColumnType] = {}
    for field in found.schema().fields:
        kind = cast("ColumnType", field.metadata.get(_KIND) or "string")
        name = str(getattr(field.type, "type", ""))
        for word, ours in _WORDS.items():
            if name.startswith(word):
                kind = ours
        columns[field.name] = kind
    return columns

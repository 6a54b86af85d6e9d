"""The table of an archive in Iceberg: what is in a row, commits of plans, scans that read no more than they have to.

iceberg writer -> **table** -> iceberg reader. Columns are those of the archive's Parquet files (`columns.py`), and what
there is in the name or the order of lines: the plan that brought the row, its sequence, and which of the events that a
record became it is. So the rows of one plan, source and hour are what a file of the archive is, and are named as one,
however engines rewrite the table's own files: their rows are the same ones.

Partitions are by source and by day of receivedAt. A plan is one commit, once (`iceberg.commits`). Blocking.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog import Catalog
from pyiceberg.conversions import from_bytes
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError, TableAlreadyExistsError
from pyiceberg.expressions import And, BooleanExpression, EqualTo, GreaterThanOrEqual, In, LessThan
from pyiceberg.io.pyarrow import ArrowScan, _dataframe_to_data_files
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import FileScanTask, Table
from pyiceberg.transforms import DayTransform, IdentityTransform
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    IcebergType,
    IntegerType,
    LongType,
    NestedField,
    StringType,
    TimestamptzType,
)

from mainstem.bulk.plan import Plan
from mainstem.destinations.iceberg_archive import Config
from mainstem.iceberg.catalog import make_namespace, mapped, open_catalog, place_of
from mainstem.iceberg.commits import CONFLICTS, ID, again, fixed, is_in, remember
from mainstem.iceberg.upkeep import Compacted, Wanted, compact
from mainstem.lake.columns import SCHEMA
from mainstem.lake.errors import ArchiveDamaged, StoreUnavailable
from mainstem.lake.layout import FOREVER_MS, HOUR_MS

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile

_Result = TypeVar("_Result")
# Their arguments are not in their types (pydantic makes them).
_equal: Callable[[str, Any], BooleanExpression] = cast("Any", EqualTo)
_from: Callable[[str, Any], BooleanExpression] = cast("Any", GreaterThanOrEqual)
_before: Callable[[str, Any], BooleanExpression] = cast("Any", LessThan)
_one_of: Callable[[str, Collection[Any]], BooleanExpression] = cast("Any", In)
_all: Callable[..., BooleanExpression] = cast("Any", And)

_MORE: "Final[list[pa.Field[Any]]]" = [
    pa.field("plan", pa.string(), nullable=False),
    pa.field("plan_sequence", pa.int64(), nullable=False),
    pa.field("part", pa.int32(), nullable=False),
]
ROW_SCHEMA: Final = pa.schema([*SCHEMA, *_MORE])
"""Of rows that are to be written."""
_STORED: Final = ROW_SCHEMA.set(
    ROW_SCHEMA.get_field_index("received_at"),
    pa.field("received_at", pa.timestamp("us", tz="UTC"), nullable=False),
)
"""Iceberg counts microseconds."""
ORDER: Final = ("plan_sequence", "plan", "partition", "offset", "part")
"""The order of the rows of one source and hour."""
_TYPES: Final[dict[Any, IcebergType]] = {
    pa.string(): StringType(),
    pa.binary(): BinaryType(),
    pa.bool_(): BooleanType(),
    pa.int32(): IntegerType(),
    pa.int64(): LongType(),
    pa.timestamp("ms", tz="UTC"): TimestamptzType(),
}
_UPKEPT: Final = "mainstem.upkept-at-ms"
"""Property: when somebody last began to join small files, so that of several workers one does it."""
_PROPERTIES: Final = {
    "write.parquet.compression-codec": "zstd",
    # What is read of one source and hour should not take the whole of a joined file.
    "write.parquet.row-group-limit": "20000",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    # Bounds of bodies prune nothing, and would put pieces of them into metadata.
    **{
        f"write.metadata.metrics.column.{name}": "none"
        for name in ("raw", "raw_bytes", "batch_context", "batch_integrations")
    },
}
_SMALL_BYTES: Final = 8 * 1024 * 1024
_JOINED_BYTES: Final = 16 * 1024 * 1024
"""As much is in memory at once while it is joined, five to ten times as big."""
_TURN_BYTES: Final = 256 * 1024 * 1024
"""As much is joined in one turn: the archive stands still meanwhile."""


class Key(msgspec.Struct, frozen=True, order=True):
    """The rows of a plan of one hour and source; in the order in which they are read."""

    hour: int
    source_id: str
    sequence: int
    plan_id: str


class ArchiveTable:
    """An archive's table, open."""

    def __init__(self, catalog: Catalog, location: str, namespace: str, table: str) -> None:
        """
        Args:
            location: below which it is made; "" = where the catalog says.
        """
        self._catalog = catalog
        self._location = location
        self._namespace = namespace
        self._table = table
        self._what = f"table {namespace}.{table}"
        self.upkept_ms: int | None = None
        """When its upkeep last began, as of when it was last looked at; None = it was not."""

    @classmethod
    def open(cls, config: Config, data_dir: Path) -> "ArchiveTable":
        """Connect to the catalog.

        Raises:
            StoreUnavailable: it can't be reached.
        """
        catalog, location = open_catalog(config, data_dir, StoreUnavailable)
        return cls(catalog, location, config.namespace, config.table)

    def close(self) -> None:
        self._catalog.close()

    # ------------------------------------------------------------ making it

    def check(self, now_ms: int) -> None:
        """See that it is there, or make it.

        Raises:
            StoreUnavailable: it can't be made, or is something else than an archive's.
        """
        with mapped(self._what, StoreUnavailable):
            found = self._find()
            if found is None:
                self._make(now_ms)
                found = self._catalog.load_table((self._namespace, self._table))
            missing = [name for name in ROW_SCHEMA.names if name not in found.schema().column_names]
            if missing:
                raise StoreUnavailable(
                    f"{self._what} is not an archive's: it has no column {', '.join(missing)}; name another"
                )

    def _make(self, now_ms: int) -> None:
        make_namespace(self._catalog, self._namespace)
        schema = Schema(
            *(
                NestedField(number, field.name, _TYPES[field.type], required=not field.nullable)
                for number, field in enumerate(ROW_SCHEMA, 1)
            )
        )
        source, received = schema.find_field("source_id"), schema.find_field("received_at")
        spec = PartitionSpec(
            PartitionField(source.field_id, 1000, IdentityTransform(), "source_id"),
            PartitionField(received.field_id, 1001, DayTransform(), "received_day"),
        )
        try:
            self._catalog.create_table(
                (self._namespace, self._table),
                schema,
                location=place_of(self._location, self._namespace, self._table),
                partition_spec=spec,
                properties={**_PROPERTIES, _UPKEPT: str(now_ms)},
            )
        except TableAlreadyExistsError:
            return  # somebody was faster

    def _find(self) -> Table | None:
        try:
            found = self._catalog.load_table((self._namespace, self._table))
        except (NoSuchTableError, NoSuchNamespaceError):
            return None
        self.upkept_ms = int(found.properties.get(_UPKEPT, "0"))
        return found

    def _load(self) -> Table:
        found = self._find()
        if found is None:
            raise StoreUnavailable(f"{self._what} is gone")
        return found

    # ------------------------------------------------------------ writing

    def put(self, plan: Plan, tables: Callable[[], Iterator["pa.Table"]]) -> int:
        """Add a plan's rows, once, whoever does so how often; return how many files they are (0: they were there).

        Args:
            tables: gives the rows, in pieces that fit in memory.

        Raises:
            StoreUnavailable: it failed, or is not known to have succeeded: put them again.
        """
        written = _Written()
        try:
            return again(self._what, StoreUnavailable, lambda: self._put(plan, tables, written))
        except StoreUnavailable:
            if not written.maybe_in:
                with mapped(self._what, StoreUnavailable):
                    written.remove()
            raise

    def _put(self, plan: Plan, tables: Callable[[], Iterator["pa.Table"]], written: "_Written") -> int:
        found = self._load()
        if is_in(found, plan.id):
            written.remove()
            return 0
        written.write(found, tables)
        summary = {
            ID: plan.id,
            "mainstem.sequence": str(plan.sequence),
            "mainstem.positions": json.dumps({str(item.partition): item.to_offset for item in plan.ranges}),
        }
        written.maybe_in = True
        try:
            with fixed(found).transaction() as transaction:
                with transaction.update_snapshot(snapshot_properties=summary).merge_append() as put:
                    for file in written.files:
                        put.append_data_file(file)
                remember(transaction, plan.id)
        except CONFLICTS:
            # Sure: it did not land. The files are as good for the next try.
            written.maybe_in = False
            raise
        return len(written.files)

    # ------------------------------------------------------------ upkeep

    def upkeep(self, *, every_ms: int, keep: timedelta, now_ms: int) -> Compacted | None:
        """Join small files and let go of old snapshots, if that is due and no other worker does it.

        Raises:
            StoreUnavailable: it failed; what was joined stays so.
        """
        if not again(self._what, StoreUnavailable, lambda: self._claim(every_ms, now_ms)):
            return None
        wanted = Wanted(
            small_bytes=_SMALL_BYTES,
            most_bytes=_JOINED_BYTES,
            all_bytes=_TURN_BYTES,
            sort_by=ORDER,
            keep=keep,
        )
        with mapped(self._what, StoreUnavailable):
            done = compact(self._load, wanted)
        if done.more:
            # The next turn is due at once.
            again(self._what, StoreUnavailable, lambda: self._mark(self._load(), 0))
        return done

    def _claim(self, every_ms: int, now_ms: int) -> bool:
        found = self._load()
        if self.upkept_ms is not None and now_ms < self.upkept_ms + every_ms:
            return False
        self._mark(found, now_ms)
        return True

    def _mark(self, found: Table, at_ms: int) -> None:
        with fixed(found).transaction() as transaction:
            transaction.set_properties({_UPKEPT: str(at_ms)})
        self.upkept_ms = at_ms

    # ------------------------------------------------------------ reading

    def sources(self, *, rejected: bool) -> Sequence[str]:
        """Return the ids of the sources that have rows, sorted."""

        def read(found: Table) -> set[str]:
            rows = found.scan(_kind(rejected), selected_fields=("source_id",)).to_arrow()
            return set(cast("list[str]", rows["source_id"].unique().to_pylist()))

        return sorted(self._read(read, set[str]()))

    def days(self, from_ms: int, to_ms: int, sources: Collection[str]) -> Sequence[date]:
        """Return the days in a time that may have rows, in order."""

        def read(found: Table) -> set[date]:
            days: set[date] = set()
            for task in found.scan(_within(from_ms, to_ms, sources)).plan_files():
                first, last = _bounds(found, task)
                days |= {first + timedelta(days=more) for more in range((last - first).days + 1)}
            return days

        low, high = _day(from_ms * 1000), _day(to_ms * 1000 - 1)
        return sorted(day for day in self._read(read, set[date]()) if low <= day <= high)

    def keys(
        self, from_ms: int, to_ms: int, sources: Collection[str], *, rejected: bool
    ) -> Sequence[tuple[Key, int]]:
        """Return what is there in a time, by plan, source and hour, in order, with the numbers of rows."""

        def read(found: Table) -> Counter[Key]:
            counts: Counter[Key] = Counter()
            scan = found.scan(
                _all(_within(from_ms, to_ms, sources), _kind(rejected)),
                selected_fields=("received_at", "source_id", "plan_sequence", "plan"),
            )
            for batch in scan.to_arrow_batch_reader():
                rows = pa.table(batch)
                hours = _hours(rows)
                names = ("source_id", "plan_sequence", "plan")
                grouped = (
                    pa.table([hours, *(rows[name] for name in names)], names=["hour", *names])
                    .group_by(["hour", *names])
                    .aggregate([([], "count_all")])
                )
                for row in grouped.to_pylist():
                    key = Key(row["hour"], row["source_id"], row["plan_sequence"], row["plan"])
                    counts[key] += row["count_all"]
            return counts

        return sorted(self._read(read, Counter[Key]()).items())

    def rows(self, keys: Sequence[Key], *, rejected: bool) -> "pa.Table | None":
        """Return the rows of some plans of one hour and source, in order; None if there is no table.

        Args:
            keys: of the same hour and source, in order.

        Raises:
            ArchiveDamaged: a file of the table is not what was written.
            StoreUnavailable: they can't be read.
        """
        hour, source_id = keys[0].hour, keys[0].source_id
        wanted = _all(
            _within(hour * HOUR_MS, (hour + 1) * HOUR_MS, (source_id,)),
            _kind(rejected),
            # Of a joined file the row groups with these.
            _from("plan_sequence", keys[0].sequence),
            _before("plan_sequence", keys[-1].sequence + 1),
            _one_of("plan", [key.plan_id for key in keys]),
        )

        def read(found: Table) -> "pa.Table":
            return found.scan(wanted, selected_fields=tuple(ROW_SCHEMA.names)).to_arrow()

        rows = self._read(read, None)
        return None if rows is None else rows.sort_by([(name, "ascending") for name in ORDER])

    def _read(self, work: Callable[[Table], _Result], nothing: _Result | None) -> _Result:
        with mapped(self._what, StoreUnavailable):
            for last in (False, True):
                found = self._find()
                if found is None:
                    return cast("_Result", nothing)
                try:
                    return work(found)
                except pa.ArrowInvalid as error:
                    raise ArchiveDamaged(self._what, str(error)) from error
                except FileNotFoundError:
                    # Joined and removed since the table was looked at.
                    if last:
                        raise
        raise AssertionError("the last time returns or raises")


class _Written:
    """Files of a plan's rows that no commit holds yet."""

    def __init__(self) -> None:
        self.files: list[DataFile] = []
        self.maybe_in = False
        """A commit may hold them after all: its answer was lost."""
        self._fits: tuple[int, int] | None = None
        self._remove: Callable[[str], None] = lambda _: None

    def write(self, found: Table, tables: Callable[[], Iterator["pa.Table"]]) -> None:
        """Write them, unless they are written and still fit the table."""
        fits = (found.spec().spec_id, found.schema().schema_id)
        if self._fits == fits:
            return
        self.remove()
        self._remove = found.io.delete
        for table in tables():
            self.files += _dataframe_to_data_files(found.metadata, table.cast(_STORED), found.io)
        self._fits = fits

    def remove(self) -> None:
        """Nobody else knows of them."""
        self._fits = None
        while self.files:
            self._remove(self.files.pop().file_path)


def _kind(rejected: bool) -> BooleanExpression:
    return _equal("kind", "rejected" if rejected else "event")


def _within(from_ms: int, to_ms: int, sources: Collection[str]) -> BooleanExpression:
    time = _from("received_at", _iso(from_ms))
    if to_ms < FOREVER_MS:
        time = _all(time, _before("received_at", _iso(to_ms)))
    return _all(time, _one_of("source_id", sources)) if sources else time


def _iso(at_ms: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).isoformat()


def _bounds(found: Table, task: FileScanTask) -> tuple[date, date]:
    """Return the first and the last day of a file's rows."""
    received = found.schema().find_field("received_at").field_id
    low, high = (task.file.lower_bounds or {}).get(received), (task.file.upper_bounds or {}).get(received)
    if low is not None and high is not None:
        first, last = from_bytes(TimestamptzType(), low), from_bytes(TimestamptzType(), high)
        return _day(cast("int", first)), _day(cast("int", last))
    # Somebody else's writer that keeps no statistics.
    scan = ArrowScan(found.metadata, found.io, found.schema().select("received_at"), task.residual)
    times = sorted(cast("list[int]", _hours(scan.to_table([task])).unique().to_pylist()))
    return _day(times[0] * HOUR_MS * 1000), _day(times[-1] * HOUR_MS * 1000)


def _day(at_us: int) -> date:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)).date()


def _hours(rows: "pa.Table") -> Any:
    """Return the hour of receivedAt of each row, since the Unix epoch."""
    times = rows["received_at"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    return pc.divide(times, HOUR_MS * 1000)

"""What an engine is to the rest: a loader, and a record of what it can do.

warehouse writer -> **loader** -> DuckDB, Postgres, Snowflake … One module per engine in `loaders/`, with a `SPEC`; one
line in `loaders/catalog.py`, or an entry point in the group `mainstem.loaders` from a package of one's own.

Exactly once
------------
A load is a plan (`bulk.plan`): it may be carried out again at any time, by anyone. So `load` is idempotent: it commits
a table's rows **together with** a row in `_mainstem_loads` that names the load and the table, and does nothing when
that row is there already. Where an engine has no transaction over both, its module says how it comes to the same
result. What every engine must do is `mainstem.testing.warehouse`, as tests; `tests/warehouse/contract/` runs it on
ours, and kills them in between.

Drivers are blocking: every method here is, and runs in one thread at a time.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from mainstem.bulk.errors import BulkError
from mainstem.warehouse.schema import Columns, ColumnType, Schema, SchemaChange


class WarehouseError(BulkError):
    """The engine failed or can't be reached; nothing half-loaded counts. It is tried again."""


class TableFailed(WarehouseError):
    """One table can't be loaded, whatever happens to the others: no right to alter it, too many columns.

    Attributes:
        table: which.
        advice: what to do, for people.
    """

    def __init__(self, table: str, why: str, advice: str = "") -> None:
        super().__init__(f"table {table}: {why}" + (f"; {advice}" if advice else ""))
        self.table = table
        self.advice = advice


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine can do and how it is to be spoken to: differences are data."""

    types: Mapping[ColumnType, str]
    """The engine's own type for each of ours, in its SQL (lakes: a name for people)."""
    max_name: int
    """Characters of a table's or column's name; longer ones are cut, and kept apart (`naming`)."""
    upper_case: bool = False
    """Names are upper case unless quoted (Snowflake): ours are made so."""
    max_columns: int = 1600
    max_text: int = 0
    """How long a text can be, in ASCII characters (others may take more room); of a longer one as much is loaded as
    fits. 0: longer than events are."""
    widenings: frozenset[tuple[ColumnType, ColumnType]] = frozenset({("int", "float"), ("string", "text")})
    """Columns that can be altered, every value kept: (before, after)."""
    merges: bool = True
    """Rows can be replaced by id; without, repeated ids are seen by readers (`FINAL`, views)."""
    shortest_sync_s: float = 1.0
    """How often a sync makes sense."""
    parallel_loads: int = 1
    """Tables that are best loaded at a time, each over a connection of its own: more than one where most of a load is
    waiting for the engine's answers."""
    one_process: bool = False
    """Only one process at a time can have it open (DuckDB's file)."""


Mode = Literal["append", "replace by id", "latest by id"]
"""How rows meet those that are there. append: beside them. replace by id: a row with an id that is there takes its
place (a replayed event is not doubled). latest by id: the `users` table; column by column, the value with the later
`received_at` that is not null stays."""


class StagedTable(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one table in a load: a Parquet file that fits the table as it is now.

    Within the file an id occurs once. `uuid_ts` (and `loaded_at`) are not in it: the engine fills them with its clock.
    """

    table: str
    columns: Columns
    """In the file, in order."""
    path: Path
    rows: int
    mode: Mode


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Which load it is."""

    id: str
    """The plan's: the same rows, always."""
    cursor: str
    sequence: int
    positions: str
    """JSON: the offsets that it ends at, by partition. For people, and to compare with the ledger."""


class Done(msgspec.Struct, frozen=True):
    """A table of a load is in."""

    rows: int
    already: bool = False
    """It was before: this time nothing was done."""


class LoaderRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `_mainstem_loads`."""

    load_id: str
    table: str
    cursor: str
    sequence: int
    rows: int
    positions: str
    loaded_at_ms: int


class Loader(Protocol):
    """One engine, connected, in one namespace (schema, dataset, database). Blocking."""

    @property
    def capabilities(self) -> Capabilities: ...

    def check(self) -> None:
        """See that it can be reached and that what is needed is allowed (namespace, tables).

        Raises:
            WarehouseError: says what is missing and what to do.
        """
        ...

    def fetch_schema(self) -> Schema:
        """Return the tables of the namespace with their columns in our types; {} if there is no namespace yet. An
        engine's type that we have no word for is `string`.

        Raises:
            WarehouseError: it failed.
        """
        ...

    def evolve(self, changes: Sequence[SchemaChange]) -> None:
        """Make the namespace and changes in this order; what is done already (by another worker) is no error.

        A column of integers is widened only if every number in it survives: where the engine's floats would round one
        (beyond ±2^53), it stays what it is, and that is no error either. What comes for it then is fitted to it.

        Raises:
            TableFailed: one table can't be changed; changes before it may be in.
            WarehouseError: it failed.
        """
        ...

    def load(self, load: Load, table: StagedTable) -> Done:
        """Load one table's rows, exactly once by load id and table (see the module's text). Integers are not rounded
        because a column has been widened since the file was made: then it fails.

        Raises:
            TableFailed: this table can't be loaded; others may.
            WarehouseError: it failed; nothing of it counts.
        """
        ...

    def loads(self, cursor: str, *, limit: int = 100) -> Sequence[LoaderRow]:
        """Return the newest rows of `_mainstem_loads` of a cursor, newest first; none if the table is not there."""
        ...

    def query(self, sql: str) -> Sequence[Sequence[Any]]:
        """Return the rows of a query: for tests, `status`, and people's checks."""
        ...

    def close(self) -> None: ...


class Joined(Protocol):
    """What joining a table's small files did."""

    @property
    def files_before(self) -> int: ...

    @property
    def files_after(self) -> int: ...


@runtime_checkable
class Compacting(Protocol):
    """A loader whose loads leave small files behind, and which can join them while loads go on. Blocking."""

    def compact(self, table: str, *, keep: timedelta) -> Joined:
        """Join a table's small files.

        Args:
            keep: what was joined stays so long, for those who still read it.

        Raises:
            TableFailed: there is no such table.
            WarehouseError: it failed; what was joined stays so.
        """
        ...


class Upkeep(msgspec.Struct, frozen=True):
    """How often `Compacting.compact` is called for each table."""

    every_s: float
    """0: never."""
    keep: timedelta


class LoaderSpec(msgspec.Struct, frozen=True, kw_only=True):
    """An engine, as the catalog knows it."""

    name: str
    """RudderStack's destination name, upper case: POSTGRES, RS, BQ, SNOWFLAKE; ours where it has none: DUCKDB."""
    title: str
    config: type[msgspec.Struct]
    """Connection settings, under RudderStack's names; with the fields of `settings.WarehouseSettings` beside them."""
    doc_url: str
    capabilities: Capabilities
    open: Callable[[Any, str, Path], Loader]
    """(settings, namespace, data folder) -> a connected loader. Raises WarehouseError."""
    provider: str
    """Whose naming and typing rules of RudderStack's hold (`rows`, in its vectors' words): postgres, snowflake, bq …"""
    upkeep: Callable[[Any], Upkeep] | None = None
    """Of settings; None: its loads leave nothing to be joined."""
    run_against: str
    """What this engine's module has been run against, plainly: a real server, an emulator, only parsed SQL."""

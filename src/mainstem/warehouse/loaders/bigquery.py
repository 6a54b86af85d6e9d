"""Google BigQuery: a load job of the file, then one script that is a transaction.

Follows https://docs.cloud.google.com/bigquery/docs (read 2026-11) by Google's own driver, google-cloud-bigquery 3.47.
Needs it installed: `pip install 'mainstem[bigquery]'`. Settings and types are those of RudderStack's destination
(https://www.rudderstack.com/docs/destinations/warehouse-destinations/bigquery/).

**Exactly once.** A table's rows come in two steps:

1. A load job puts the Parquet file into a table of its own, `_mainstem_stage_…`, which expires after a day. The
   table's name and the job's id follow from load, table and content: BigQuery refuses a job whose id it knows, so a
   step that was cut short is found again, not made twice.
2. One script, a multi-statement transaction (https://docs.cloud.google.com/bigquery/docs/transactions): if load and
   table are in `_mainstem_loads` it does nothing, else it deletes the rows that are replaced, inserts those of the
   stage, and adds its row to `_mainstem_loads`.

INSERTs never conflict with one another there, nor does a DELETE that finds nothing: two workers with the same load
would both come to see it absent, and double its rows. So the script begins with an UPDATE of a row of
`_mainstem_locks` that the table's name chooses. Two transactions that update the same row conflict: BigQuery ends one
of them, which is made again once the other is through. The lock table is partitioned by row, as DML conflicts by
partition; should transactions conflict by table, loads of one dataset take turns.

**Rows** are replaced in place, so that a table holds each event once; RudderStack adds rows and lays a view
`<table>_view` over them. Mainstem makes no views (`skipViews` changes nothing); views that are there go on working.
Looking for replaced rows reads the `id` column of the whole table, which is billed: `dedupeDays` bounds it to the
newest partitions, `dedupe: none` reads nothing.

**Tables** are partitioned by the day of `received_at` and clustered by `id`, so that a row's place does not change
when it is replaced or replayed; `partitionColumn: _PARTITIONTIME` is RudderStack's default. `users` is clustered only.
Tables that are there keep what they have. JSON columns that somebody made take JSON texts; our own JSON is a STRING, as
in RudderStack. An integer column becomes `FLOAT64` only if every number in it survives (none is beyond 2^53); else
decimals go to the discards. A load that brings decimals for an integer column reads that column to know, which is
billed; a column that you make `BIGNUMERIC` takes both. Changes of a table take no lock: integers beyond 2^53 that
another worker loads within the moment of such a change are rounded.

Limits: 10,000 columns a table; 300 characters a column's name, of letters, digits, underscores and a few signs; a
script of 1 MB, which is some 5,000 columns of usual names; 4,000 partitions in one load (11 years of days, 5 months of
hours). Changes of one table's columns are one statement, because BigQuery takes 5 in 10 seconds. DML needs billing:
the sandbox has none. Rights: `roles/bigquery.jobUser` on the project, `roles/bigquery.dataEditor` on the dataset (on
the project, if Mainstem is to make it).

Run against: a server of the tests that speaks BigQuery's REST API, by Google's driver; it parses every statement as
GoogleSQL with sqlglot and runs it on DuckDB. **Never against BigQuery itself**, nor an emulator of somebody else's.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from mainstem.secret import NO_SECRET, Secret
from mainstem.warehouse.destination import destination_of
from mainstem.warehouse.loader import Capabilities, Loader, LoaderSpec, WarehouseError
from mainstem.warehouse.settings import WarehouseSettings

PartitionColumn = Literal[
    "", "received_at", "_PARTITIONTIME", "loaded_at", "sent_at", "timestamp", "original_timestamp"
]
PartitionType = Literal["", "hour", "day", "month", "year"]


class Config(WarehouseSettings, frozen=True, kw_only=True, rename="camel"):
    """Settings of BigQuery."""

    project: str
    """The project's id: where the datasets are, and who pays."""
    location: str = ""
    """Where datasets are made: `US`, `EU`, `europe-west1` …; empty = `US`. A dataset that is there keeps its own."""
    credentials: Secret = NO_SECRET
    """A service account's key, the JSON itself; empty = what the machine has (environment, metadata server)."""
    partition_column: PartitionColumn = "received_at"
    """What new tables are partitioned by; `_PARTITIONTIME` (RudderStack's default) is the time of the load. A table
    without the column has no partitions. Empty = `received_at`."""
    partition_type: PartitionType = "day"
    """How long a partition is. Empty = a day."""
    skip_views: bool = False
    """RudderStack's: leave out the views that hide repeated rows. Mainstem makes none: it replaces rows in place."""
    dedupe_days: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Look for the same id only in rows received up to so many days before the load's own; 0 = in the whole table.
    With partitions by `received_at` it bounds what BigQuery bills for each load."""
    endpoint: str = ""
    """URL of the API, for Private Service Connect or an emulator (`http://…`, which is shown no credentials); empty =
    Google's."""


CAPABILITIES: Final = Capabilities(
    types={
        "boolean": "BOOL",
        "int": "INT64",
        "float": "FLOAT64",
        "datetime": "TIMESTAMP",
        "string": "STRING",
        "text": "STRING",
        "json": "JSON",
    },
    max_name=300,
    max_columns=10_000,
    widenings=frozenset({("int", "float")}),
    shortest_sync_s=60.0,
    parallel_loads=4,
)


def open_loader(config: Config, namespace: str, _data_dir: Path) -> Loader:
    """Return a loader; nothing is asked of BigQuery yet."""
    try:
        from mainstem.warehouse.loaders.bigquery_jobs import connect
        from mainstem.warehouse.loaders.bigquery_tables import BigqueryLoader
    except ImportError as error:
        raise WarehouseError(
            f"BigQuery needs google-cloud-bigquery ({error.name} is missing): pip install 'mainstem[bigquery]'"
        ) from error
    return BigqueryLoader(
        connect(config),
        namespace,
        location=config.location,
        partition_column=config.partition_column or "received_at",
        partition_type=config.partition_type or "day",
        dedupe_days=config.dedupe_days,
    )


SPEC: Final = LoaderSpec(
    name="BQ",
    title="Google BigQuery",
    config=Config,
    doc_url="https://www.rudderstack.com/docs/destinations/warehouse-destinations/bigquery/",
    capabilities=CAPABILITIES,
    open=open_loader,
    provider="bq",
    run_against=(
        "a server of the tests that speaks BigQuery's REST API over DuckDB, by Google's driver; never BigQuery itself"
    ),
)
DESTINATION: Final = destination_of(SPEC)

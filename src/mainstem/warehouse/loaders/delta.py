"""Delta Lake: tables of Parquet files with a log, in a folder or a bucket; Databricks reads them from there.

Follows https://github.com/delta-io/delta/blob/master/PROTOCOL.md and delta-rs (deltalake 1.6,
https://delta-io.github.io/delta-rs/, read 2026-11). Needs it installed: `pip install 'mainstem[deltalake]'`.

**Exactly once.** A load's rows of a table are one commit of its log, and in the same commit is a transaction of
the application `mainstem/LOAD` with the load's sequence as its version, as the protocol has it for this
purpose. A load whose application is in the log is in. Commits are optimistic (`If-None-Match` on the log's next
file): if somebody else was faster, the table is read again, the application looked for again, and the commit
made anew. `_mainstem_loads` is a Delta table for people, written after the rows by the same rule: a load that
finds its rows in also sees that its row of `_mainstem_loads` is there. Applications are forgotten after 30 days
(`delta.setTransactionRetentionDuration`).

**Rows** are replaced by id with MERGE (copy on write): it reads the ids of the whole table, which `dedupe:
none` avoids. An int column does not become a float one: 1.5 goes to the discards. JSON is a string whose field
has the metadata `mainstem.type`. `compact()` joins small files and removes what no version of the last week
needs.

**Databricks**: this writes the files itself and needs no SQL warehouse of Databricks, so `host`, `port`, `path`
and `token` of RudderStack's settings are not used, and databricks-sql-connector is not among the dependencies
(it brings pandas and more). With `enableExternalLocation` and `externalLocation`, RudderStack's tables lie in a
bucket too; once for each table:

    CREATE TABLE shop.tracks USING DELTA LOCATION 's3://bucket/folder/shop/tracks'

Readers: Databricks and Spark as above; DuckDB `SELECT * FROM delta_scan('…/shop/tracks')` (extension `delta`);
Trino's and Athena's Delta connectors; Polars, deltalake.

Limits: none of columns; a load's rows of one table have to fit in memory. In local folders files are synced
after the commit, so a power cut at that moment may leave a version whose files are not whole (kill -9 can't):
buckets have no such moment. Run against: delta-rs itself, in folders and on an S3 server of the tests. Not
against Databricks, Spark, GCS or Azure.
"""

from pathlib import Path
from typing import Final

from mainstem.destinations.archive import NO_SECRET
from mainstem.secret import Secret
from mainstem.warehouse.destination import destination_of
from mainstem.warehouse.loader import Capabilities, Loader, LoaderSpec, WarehouseError
from mainstem.warehouse.place import PlaceSettings, local_folder, open_place


class Config(PlaceSettings, frozen=True, kw_only=True, rename="camel"):
    """Settings of Delta tables."""

    url: str = ""
    """Where: a folder (a path, `file:///path`; a relative path lies in the data directory), `s3://bucket/folder`,
    `gs://bucket/folder` or `az://container/folder`; empty = `externalLocation`, else the folder `delta`."""
    enable_external_location: bool = False
    """RudderStack's: tables lie in `externalLocation`."""
    external_location: str = ""
    """RudderStack's: a bucket, as `url`."""
    host: str = ""
    """RudderStack's, of a Databricks SQL warehouse. Not used: name a bucket (`url`), and create the tables over it."""
    port: str = ""
    """RudderStack's, not used."""
    path: str = ""
    """RudderStack's, not used."""
    token: Secret = NO_SECRET
    """RudderStack's, not used."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.host and not (self.url or self.external_location):
            raise ValueError(
                "`url` is missing: Mainstem writes Delta tables to a bucket that Databricks reads, it does not load"
                " through a SQL warehouse; name the bucket here or in `externalLocation`"
            )

    def location(self) -> str:
        """Return where tables lie."""
        external = self.external_location.replace("s3a://", "s3://", 1) if self.external_location else ""
        return self.url or external or "delta"


CAPABILITIES: Final = Capabilities(
    types={
        "boolean": "boolean",
        "int": "long",
        "float": "double",
        "datetime": "timestamp",
        "string": "string",
        "text": "string",
        "json": "string",
    },
    max_name=127,
    max_columns=5_000,
    widenings=frozenset(),
    shortest_sync_s=10.0,
)


def open_loader(config: Config, namespace: str, data_dir: Path) -> Loader:
    """Open the place."""
    try:
        from mainstem.warehouse.loaders.delta_tables import DeltaLoader, storage_options
    except ImportError as error:
        raise WarehouseError(
            f"Delta Lake needs deltalake ({error.name} is missing): pip install 'mainstem[deltalake]'"
        ) from error
    url = config.location()
    folder = local_folder(url, data_dir)
    return DeltaLoader(
        open_place(config, data_dir, url),
        str(folder) if folder is not None else url.rstrip("/"),
        namespace,
        options={} if folder is not None else storage_options(config, url),
        folder=folder,
    )


SPEC: Final = LoaderSpec(
    name="DELTALAKE",
    title="Delta Lake",
    config=Config,
    doc_url="https://www.rudderstack.com/docs/destinations/warehouse-destinations/delta-lake/",
    capabilities=CAPABILITIES,
    open=open_loader,
    provider="deltalake",
    run_against="delta-rs, in folders and on an S3 server of the tests; not Databricks",
)
DESTINATION: Final = destination_of(SPEC)

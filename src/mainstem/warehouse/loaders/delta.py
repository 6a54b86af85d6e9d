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
has the metadata `mainstem.type`. Every hour, a table at a time between loads, small files are joined and what no
version of the last week needs is removed.

**Databricks**: with a `host`, as RudderStack's settings have it, loads go through that workspace's SQL warehouse, and
everything on [the page of `DATABRICKS`](databricks.md) holds instead of what is said here. Without one, or with a
`url`, this writes the files itself and needs no SQL warehouse; Databricks reads them where they are, once for each
table:

    CREATE TABLE shop.tracks USING DELTA LOCATION 's3://bucket/folder/shop/tracks'

Readers: Databricks and Spark as above; DuckDB `SELECT * FROM delta_scan('…/shop/tracks')` (extension `delta`);
Trino's and Athena's Delta connectors; Polars, deltalake.

Limits: none of columns; a load's rows of one table have to fit in memory. In local folders files are synced
after the commit, so a power cut at that moment may leave a version whose files are not whole (kill -9 can't):
buckets have no such moment. Run against: delta-rs itself, in folders and on an S3 server of the tests. Not
against Databricks, Spark, GCS or Azure.
"""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import msgspec

from mainstem.bulk.folders import local_folder
from mainstem.secret import NO_SECRET, Secret
from mainstem.warehouse.destination import destination_of
from mainstem.warehouse.loader import Capabilities, Loader, LoaderSpec, Upkeep, WarehouseError
from mainstem.warehouse.loaders import databricks
from mainstem.warehouse.place import PlaceSettings, open_place


class Config(PlaceSettings, frozen=True, kw_only=True, rename="camel"):
    """Settings of Delta tables."""

    url: str = ""
    """Where: a folder (a path, `file:///path`; a relative path lies in the data directory), `s3://bucket/folder`,
    `gs://bucket/folder` or `az://container/folder`; empty = `externalLocation`, else the folder `delta`. With it no
    SQL warehouse is used."""
    enable_external_location: bool = False
    """RudderStack's: tables lie in `externalLocation`."""
    external_location: str = ""
    """RudderStack's: a bucket, as `url`."""
    host: str = ""
    """RudderStack's: the workspace's server hostname; loads go through its SQL warehouse."""
    port: int = 443
    """Its port."""
    path: str = ""
    """The HTTP path of a SQL warehouse: `/sql/1.0/warehouses/…`."""
    token: Secret = NO_SECRET
    """A personal access token …"""
    oauth_client_id: str = ""
    """… or a service principal's client id …"""
    oauth_client_secret: Secret = NO_SECRET
    """… and its OAuth secret."""
    catalog: str = ""
    """The SQL warehouse's catalog in Unity Catalog; empty = the workspace's default one."""
    volume: str = ""
    """The volume that files go through; empty = `_mainstem_files`, which is made."""

    compact_every_s: Annotated[float, msgspec.Meta(ge=0)] = 3600.0
    """How often small files are joined and old versions let go of, of tables that are written here; 0 = never: other
    tools do it."""
    keep_versions_h: Annotated[float, msgspec.Meta(ge=0)] = 168.0
    """How long, in hours, files that were joined stay for readers that look back."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.databricks()

    def databricks(self) -> databricks.Config | None:
        """Return the settings of the SQL warehouse to load through, None if files are written here.

        Raises:
            ValueError: they don't do; the text says how to go on.
        """
        if not self.host or self.url:
            return None
        try:
            return databricks.Config(
                host=self.host,
                port=self.port,
                path=self.path,
                token=self.token,
                oauth_client_id=self.oauth_client_id,
                oauth_client_secret=self.oauth_client_secret,
                catalog=self.catalog,
                volume=self.volume,
                enable_external_location=self.enable_external_location,
                external_location=self.external_location,
            )
        except ValueError as error:
            raise ValueError(
                f"{error}. Or name a bucket in `url`: then files are written there, without a SQL warehouse"
            ) from None

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
    """Open the place, or connect to the SQL warehouse."""
    if (warehouse := config.databricks()) is not None:
        return databricks.open_loader(warehouse, namespace, data_dir)
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
    upkeep=lambda config: Upkeep(config.compact_every_s, timedelta(hours=config.keep_versions_h)),
    run_against=f"delta-rs, in folders and on an S3 server of the tests; with `host`: {databricks.SPEC.run_against}",
)
DESTINATION: Final = destination_of(SPEC)

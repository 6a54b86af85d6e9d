"""Apache Iceberg: tables of Parquet files in a folder or a bucket, behind a catalog.

Follows https://iceberg.apache.org/spec/ (format 2) by pyiceberg 0.12 (https://py.iceberg.apache.org/, read
2026-11). Needs it installed: `pip install 'mainstem[iceberg]'`. The catalog is a SQL database, by default one
SQLite file beside the tables, which is enough for one machine; or any REST catalog (Polaris, Lakekeeper,
Nessie, Unity, AWS Glue and S3 Tables by their REST endpoints). Raw events in Iceberg, for replays and backfills, are
kept by [ICEBERG_ARCHIVE](iceberg_archive.md), in the same catalog if you like.

**Exactly once.** A table's rows are one commit of it, and in the same commit go the load's id into the
snapshot's summary (`mainstem.load-id`) and into a property of the table with the last 500 ids
(`mainstem.loads`: snapshots may be expired by other tools). A load whose id is there is in. Commits are
optimistic: if somebody else was faster, the table is read again, the ids looked at again, and the commit made
anew; pyiceberg's own retries, which would not look at the ids, are off. `_mainstem_loads` is a table for
people, written after the rows by the same rule: a load that finds its rows in also sees that its row of
`_mainstem_loads` is there.

**Rows.** Tables with `received_at` are partitioned by its day; `users` is not. Replacing by id rewrites the
files that hold the id (copy on write): first the `id` column of the table is read (of the last `dedupeDays`
days if that is set), and usually nothing matches and rows are only added. `dedupe: none` reads nothing.

**Columns** are added by the API of Iceberg. An int column can't become a float (the format allows only int to
long, float to double, and wider decimals), so 1.5 for a column of integers goes to the discards; JSON is a
string with the field's doc `json`.

**Upkeep**: each load adds small files; every hour those of a day are joined, a table at a time between loads, and
snapshots older than a week go, with their files. Of snapshots older than an hour those go whose rows are all in the
next one: all are written again with each commit. Those of `_mainstem_loads`
go whenever there are a hundred.

**Readers.** DuckDB: `SELECT * FROM iceberg_scan('TABLE_FOLDER/metadata/NEWEST.metadata.json')`, or `ATTACH` of
a REST catalog (extension `iceberg`). Spark: `spark.sql.catalog.lake=org.apache.iceberg.spark.SparkCatalog` with
`type=rest` and the `uri`, or `catalog-impl=org.apache.iceberg.jdbc.JdbcCatalog` on the same SQL database
(Postgres; catalog name `mainstem`). Trino: `connector.name=iceberg` with `iceberg.catalog.type=rest` or `jdbc`.
Python: pyiceberg, Polars.

Limits: none of columns; Google Cloud Storage takes the machine's own credentials (`credentials` is not used
here); Azure is written `abfss://container@account.dfs.core.windows.net/folder`. Files are written by this
process: a load's rows of one table have to fit in memory. Run against: pyiceberg itself with a SQLite catalog,
in folders and on an S3 server that speaks S3's API; the REST client against a small REST catalog of the tests.
Not against a vendor's REST catalog, Postgres as catalog, GCS, Azure, Spark or Trino.
"""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from mainstem.secret import NO_SECRET, Secret
from mainstem.warehouse.destination import destination_of
from mainstem.warehouse.loader import Capabilities, Loader, LoaderSpec, Upkeep, WarehouseError
from mainstem.warehouse.place import PlaceSettings


class Config(PlaceSettings, frozen=True, kw_only=True, rename="camel"):
    """Settings of Iceberg tables."""

    url: str = "iceberg"
    """Where tables are made: a folder (a relative path lies in the data directory), `s3://bucket/folder`,
    `gs://bucket/folder`, `abfss://container@account.dfs.core.windows.net/folder`; with a REST catalog, what the
    catalog calls its warehouse."""
    catalog: Literal["sql", "rest"] = "sql"
    """What kind of catalog."""
    catalog_name: str = "mainstem"
    """The catalog's name: other readers of a SQL catalog have to use the same."""
    catalog_uri: Secret = NO_SECRET
    """sql: `sqlite:////path/file.db` or `postgresql+psycopg://user:password@host/database`; empty = a SQLite file
    `catalog.db`, in the folder of the tables or, for buckets, in the data directory. rest: the catalog's URL."""
    catalog_credential: Secret = NO_SECRET
    """rest: `client-id:client-secret` for OAuth."""
    catalog_token: Secret = NO_SECRET
    """rest: a bearer token, instead."""
    oauth2_server_uri: str = ""
    """rest: where the token is asked for, if it is not the catalog itself."""
    oauth2_scope: str = ""
    """rest: the scope to ask for, e.g. `PRINCIPAL_ROLE:ALL` for Polaris."""
    sigv4: bool = False
    """rest: sign requests as AWS does (Glue, S3 Tables); needs boto3."""
    sigv4_service: str = "glue"
    """rest: the name of the AWS service: `glue` or `s3tables`."""
    dedupe_days: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Look for the same id only in rows received up to so many days before the load's own; 0 = in the whole table."""
    compact_every_s: Annotated[float, msgspec.Meta(ge=0)] = 3600.0
    """How often small files are joined and old snapshots let go of; 0 = never: other tools do it."""
    keep_snapshots_h: Annotated[float, msgspec.Meta(ge=0)] = 168.0
    """How long, in hours, files that were joined stay for readers that look back."""


CAPABILITIES: Final = Capabilities(
    types={
        "boolean": "boolean",
        "int": "long",
        "float": "double",
        "datetime": "timestamptz",
        "string": "string",
        "text": "string",
        "json": "string",
    },
    max_name=128,
    max_columns=5_000,
    widenings=frozenset(),
    shortest_sync_s=10.0,
)


def open_loader(config: Config, namespace: str, data_dir: Path) -> Loader:
    """Open the catalog."""
    try:
        from mainstem.iceberg.catalog import open_catalog
        from mainstem.warehouse.loaders.iceberg_tables import IcebergLoader
    except ImportError as error:
        raise WarehouseError(
            f"Iceberg needs pyiceberg ({error.name} is missing): pip install 'mainstem[iceberg]'"
        ) from error
    catalog, location = open_catalog(config, data_dir, WarehouseError)
    return IcebergLoader(catalog, namespace, location=location, dedupe_days=config.dedupe_days)


SPEC: Final = LoaderSpec(
    name="ICEBERG",
    title="Apache Iceberg",
    config=Config,
    doc_url="https://iceberg.apache.org/spec/",
    capabilities=CAPABILITIES,
    open=open_loader,
    provider="iceberg",
    upkeep=lambda config: Upkeep(config.compact_every_s, timedelta(hours=config.keep_snapshots_h)),
    run_against="pyiceberg: a SQLite catalog, folders, an S3 server of the tests, a REST catalog of the tests",
)
DESTINATION: Final = destination_of(SPEC)

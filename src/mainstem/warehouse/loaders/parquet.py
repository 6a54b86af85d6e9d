"""Parquet lake: plain files in a folder or a bucket, partitioned as Hive does, no engine at all.

Follows https://parquet.apache.org/docs/ and Hive's layout of partitions, which DuckDB, Spark, Trino, Athena and
BigQuery read (read 2026-11). A place (`url`) holds, for each namespace:

    NAMESPACE/TABLE/date=2026-11-28/000000000042-LOAD.parquet   rows, by the day of received_at in UTC
    NAMESPACE/_mainstem_loads/cursor=CURSOR/…                   which loads are in, a file of one row each
    NAMESPACE/_schema/TABLE/00000003.json                       columns, a version a change; the highest holds

**Exactly once.** A load's files are named by its sequence and its id. Made again, it writes the same rows under
the same names: what had been written is replaced by itself. Its file of `_mainstem_loads` is written when all
others are there; a load that finds it does nothing. So rows are there once, whoever is killed when. Between the
first file and the last, readers may see a part of a load: those who must not, join with `_mainstem_loads` by
the file's name.

**Rows are only added**: a message sent twice is there twice unless both are in one load, and `users` has a row
for every change. Readers take the newest:

    SELECT * FROM read_parquet('lake/shop/users/*/*.parquet', hive_partitioning = true, union_by_name = true)
    QUALIFY row_number() OVER (PARTITION BY id ORDER BY received_at DESC) = 1

**Columns** come and stay; files from before a column have no such column (readers say null: DuckDB
`union_by_name`, Spark `mergeSchema`). A column of integers does not become one of floats, because Spark and
Trino read a column by one type: 1.5 goes to the discards. A schema's version is created, never replaced, so two
that add columns at the same time both succeed. A table whose name is not plain (letters, digits, _ and -) has a
folder of its own with a digest.

RudderStack's S3_DATALAKE, GCS_DATALAKE and AZURE_DATALAKE are this with the settings they have there; the layout
is ours, not `rudder-datalake/`, and no Glue catalog is written (a crawler, or partition projection on `date`,
reads it). On GCS and Azure the partitions are called `received_date`, because events may have a column `date`
there.

Limits: none of columns; a load's rows of one table have to fit in memory. Run against: folders, and an S3
server of the tests; read by DuckDB. GCS and Azure are reached through the same library (obstore), not run
against.
"""

import io
import json
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mainstem.bulk.folders import folder_name, local_folder
from mainstem.secret import NO_SECRET, Secret
from mainstem.warehouse import lake_tables
from mainstem.warehouse.destination import destination_of
from mainstem.warehouse.loader import (
    Capabilities,
    Done,
    Load,
    LoaderRow,
    LoaderSpec,
    StagedTable,
    TableFailed,
    WarehouseError,
)
from mainstem.warehouse.place import Place, PlaceSettings, open_place
from mainstem.warehouse.schema import (
    LOADS,
    LOADS_COLUMNS,
    AddColumns,
    CreateTable,
    Schema,
    SchemaChange,
    WidenColumn,
)
from mainstem.warehouse.settings import WarehouseSettings

_ATTEMPTS: Final = 20
_SCHEMA: Final = "_schema"
_NO_DAY: Final = "__HIVE_DEFAULT_PARTITION__"
"""Hive's word for rows that have no value for a partition."""


class Config(PlaceSettings, frozen=True, kw_only=True, rename="camel"):
    """Settings of a Parquet lake."""

    def lake(self) -> PlaceSettings:
        """Return them as settings of a place."""
        return self


class S3Config(WarehouseSettings, frozen=True, kw_only=True, rename="camel"):
    """RudderStack's S3_DATALAKE settings."""

    bucket_name: str
    """The bucket."""
    prefix: str = ""
    """Folder in it."""
    region: str = ""
    """The bucket's region; empty = from the environment, else us-east-1."""
    role_based_auth: bool = True
    """Use the role instead of keys."""
    iam_role_arn: str = msgspec.field(default="", name="iamRoleARN")
    """The role to assume."""
    access_key_id: Secret = msgspec.field(default=NO_SECRET, name="accessKeyID")
    """Access key id; empty = what the machine has (environment, instance role)."""
    access_key: Secret = NO_SECRET
    """Secret access key."""
    enable_sse: bool = msgspec.field(default=False, name="enableSSE")
    """Ask for encryption at rest explicitly."""
    end_point: str = ""
    """Not one of RudderStack's: URL of an S3-compatible server."""

    def lake(self) -> PlaceSettings:
        """Return them as settings of a place."""
        keys = bool(self.access_key_id) and not (self.role_based_auth and self.iam_role_arn)
        return PlaceSettings(
            url=f"s3://{self.bucket_name}/{self.prefix.strip('/')}",
            endpoint=self.end_point,
            region=self.region,
            path_style=bool(self.end_point),
            server_side_encryption="AES256" if self.enable_sse else "",
            role_arn=self.iam_role_arn if self.role_based_auth else "",
            access_key_id=self.access_key_id if keys else NO_SECRET,
            secret_access_key=self.access_key if keys else NO_SECRET,
        )


class GcsConfig(WarehouseSettings, frozen=True, kw_only=True, rename="camel"):
    """RudderStack's GCS_DATALAKE settings."""

    bucket_name: str
    """The bucket."""
    prefix: str = ""
    """Folder in it."""
    credentials: Secret = NO_SECRET
    """Service account key, the JSON itself; empty = what the machine has."""

    def lake(self) -> PlaceSettings:
        """Return them as settings of a place."""
        return PlaceSettings(
            url=f"gs://{self.bucket_name}/{self.prefix.strip('/')}", credentials=self.credentials
        )


class AzureConfig(WarehouseSettings, frozen=True, kw_only=True, rename="camel"):
    """RudderStack's AZURE_DATALAKE settings."""

    container_name: str
    """The container."""
    account_name: str
    """The storage account."""
    prefix: str = ""
    """Folder in it."""
    account_key: Secret = NO_SECRET
    """The account's key."""
    use_sas_tokens: bool = msgspec.field(default=False, name="useSASTokens")
    """Use a shared access signature instead."""
    sas_token: Secret = NO_SECRET
    """The shared access signature."""

    def lake(self) -> PlaceSettings:
        """Return them as settings of a place."""
        return PlaceSettings(
            url=f"az://{self.container_name}/{self.prefix.strip('/')}",
            account_name=self.account_name,
            account_key=NO_SECRET if self.use_sas_tokens else self.account_key,
            sas_token=self.sas_token if self.use_sas_tokens else NO_SECRET,
        )


CAPABILITIES: Final = Capabilities(
    types={
        "boolean": "BOOLEAN",
        "int": "INT64",
        "float": "DOUBLE",
        "datetime": "TIMESTAMP(MICROS, UTC)",
        "string": "STRING",
        "text": "STRING",
        "json": "STRING",
    },
    max_name=128,
    max_columns=5_000,
    widenings=frozenset(),
    merges=False,
    shortest_sync_s=5.0,
)


class _TableSchema(msgspec.Struct, frozen=True):
    """A file of `_schema`."""

    table: str
    columns: dict[str, Any]


class ParquetLoader:
    """See `loader.Loader`."""

    def __init__(
        self, place: Place, namespace: str, folder: Path | None = None, *, day: str = "date"
    ) -> None:
        """
        Args:
            folder: the place, where it is a local one: queries read files there by themselves.
            day: name of the partitions. Readers would not see a column of this name.
        """
        self.namespace = namespace
        self._place = place
        self._folder = folder
        self._day = day
        self._root = folder_name(namespace)
        self._read: dict[str, _TableSchema] = {}
        """Schemas by the name of their file: those never change."""

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def close(self) -> None:
        return

    # ------------------------------------------------------------ schema

    def check(self) -> None:
        if LOADS not in self.fetch_schema():
            self._change(CreateTable(LOADS, LOADS_COLUMNS))

    def fetch_schema(self) -> Schema:
        return {found.table: found.columns for found in self._schemas().values()}

    def _schemas(self) -> dict[str, _TableSchema]:
        """Return the newest schema of each table, by its file."""
        newest: dict[str, str] = {}
        for name in self._place.list(f"{self._root}/{_SCHEMA}"):
            newest[name.rsplit("/", 1)[0]] = name
        return {name: self._schema(name) for name in newest.values()}

    def _schema(self, name: str) -> _TableSchema:
        found = self._read.get(name)
        if found is None:
            content = self._place.get(name)
            try:
                found = msgspec.json.decode(content or b"", type=_TableSchema)
            except msgspec.DecodeError as error:
                raise WarehouseError(f"{name} is damaged: {error}") from error
            self._read[name] = found
        return found

    def evolve(self, changes: Sequence[SchemaChange]) -> None:
        self.check()
        for change in changes:
            try:
                self._change(change)
            except TableFailed:
                raise
            except WarehouseError as error:
                raise TableFailed(change.table, str(error), "see what the place says") from error

    def _change(self, change: SchemaChange) -> None:
        folder = f"{self._root}/{_SCHEMA}/{folder_name(change.table)}"
        for _ in range(_ATTEMPTS):
            versions = self._place.list(folder)
            there = self._schema(versions[-1]).columns if versions else {}
            match change:
                case CreateTable(columns=columns):
                    wanted = {**columns, **there}
                case AddColumns(columns=columns):
                    if not versions:
                        raise TableFailed(
                            change.table, "there is no such table", "it is made by the next load"
                        )
                    wanted = {**there, **{name: columns[name] for name in columns if name not in there}}
                case WidenColumn(column=column, before=before, after=after):
                    raise TableFailed(
                        change.table, f"column {column}: files can't be made {after} of {before}"
                    )
            if versions and wanted == there:
                return
            number = int(versions[-1].rsplit("/", 1)[1].partition(".")[0]) + 1 if versions else 1
            content = {"table": change.table, "columns": wanted}
            if self._place.create(
                f"{folder}/{number:08d}.json", json.dumps(content, ensure_ascii=False, indent=1).encode()
            ):
                return
        raise WarehouseError(f"table {change.table}: others change it all the time; it is tried again later")

    # ------------------------------------------------------------ loads

    def load(self, load: Load, table: StagedTable) -> Done:
        noted = self._loads_file(load, table.table)
        if self._place.exists(noted):
            return Done(0, already=True)
        versions = self._place.list(f"{self._root}/{_SCHEMA}/{folder_name(table.table)}")
        if not versions:
            raise TableFailed(table.table, "there is no such table", "it is made by the next load")
        now = lake_tables.now()
        rows = lake_tables.rows_of(table, self._schema(versions[-1]).columns, now)
        name = f"{load.sequence:012d}-{quote(load.id, safe='')}.parquet"
        for day, part in _by_day(rows):
            self._put(f"{self._root}/{folder_name(table.table)}/{self._day}={day}/{name}", part)
        content = io.BytesIO()
        pq.write_table(lake_tables.loads_row(load, table, now), content)
        if not self._place.create(noted, content.getvalue()):
            # Somebody else carried out the same load meanwhile, and wrote the same.
            return Done(0, already=True)
        return Done(table.rows)

    def _put(self, name: str, rows: "pa.Table") -> None:
        with tempfile.NamedTemporaryFile(suffix=".parquet") as made:
            pq.write_table(rows, made.name, compression="zstd")
            self._place.put(name, Path(made.name))

    def _loads_folder(self, cursor: str) -> str:
        return f"{self._root}/{LOADS}/cursor={quote(cursor, safe='')}"

    def _loads_file(self, load: Load, table: str) -> str:
        name = f"{load.sequence:012d}-{quote(load.id, safe='')}-{folder_name(table)}.parquet"
        return f"{self._loads_folder(load.cursor)}/{name}"

    def loads(self, cursor: str, *, limit: int = 100) -> Sequence[LoaderRow]:
        names = self._place.list(self._loads_folder(cursor))[-limit:]
        rows = [pq.read_table(io.BytesIO(content)) for name in names if (content := self._place.get(name))]
        if not rows:
            return []
        return lake_tables.loader_rows(pa.concat_tables(rows), cursor, limit)

    # ------------------------------------------------------------ queries

    def query(self, sql: str) -> Sequence[Sequence[Any]]:
        return lake_tables.query(sql, self.namespace, list(self.fetch_schema()), self._source())

    def _source(self) -> Callable[[str], Any]:
        schema = self.fetch_schema()

        def read(table: str) -> Any:
            folder = f"{self._root}/{folder_name(table)}"
            files = self._place.list(folder)
            empty = lake_tables.arrow_schema(schema[table]).empty_table()
            if not files:
                return empty
            if self._folder is not None:
                pattern = lake_tables.literal(self._folder / folder / "*" / "*.parquet")
                return (
                    f"SELECT * FROM read_parquet({pattern}, hive_partitioning = true, union_by_name = true)"
                )
            parts = [pq.read_table(io.BytesIO(self._place.get(name) or b"")) for name in files]
            return pa.concat_tables([*parts, empty], promote_options="default")

        return read

    def quoted(self, name: str) -> str:
        """Return a name in SQL's quotes, for `query`."""
        return lake_tables.quoted(name)

    def place(self, table: str) -> str:
        """Return a table with its namespace, for `query`."""
        return f"{self.quoted(self.namespace)}.{self.quoted(table)}"


def _by_day(rows: "pa.Table") -> Sequence[tuple[str, "pa.Table"]]:
    """Return rows parted by the UTC day of received_at."""
    if not rows.num_rows:
        return []
    if "received_at" not in rows.column_names:
        return [(_NO_DAY, rows)]
    days: Any = pc.cast(pc.floor_temporal(rows["received_at"], unit="day"), pa.int64())
    found = []
    for day in pc.unique(days).to_pylist():
        mask: Any = pc.is_null(days) if day is None else pc.fill_null(pc.equal(days, day), False)
        found.append((_NO_DAY if day is None else _day(day), rows.filter(mask)))
    return found


def _day(since_epoch_us: int) -> str:
    return date.fromordinal(_EPOCH.toordinal() + since_epoch_us // 86_400_000_000).isoformat()


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def open_loader(
    config: Config | S3Config | GcsConfig | AzureConfig, namespace: str, data_dir: Path
) -> ParquetLoader:
    """Open the place."""
    lake = config.lake()
    # The rules for names on BigQuery and SQL Server do not reserve `date`, those of Hive do: events may have it.
    day = "received_date" if isinstance(config, GcsConfig | AzureConfig) else "date"
    return ParquetLoader(open_place(lake, data_dir), namespace, local_folder(lake.url, data_dir), day=day)


def _spec(
    name: str, title: str, config: type[WarehouseSettings], doc_url: str, run_against: str
) -> LoaderSpec:
    return LoaderSpec(
        name=name,
        title=title,
        config=config,
        doc_url=doc_url,
        capabilities=CAPABILITIES,
        open=open_loader,
        provider="parquet" if name == "PARQUET" else name.lower(),
        run_against=run_against,
    )


_RUDDER_DOCS: Final = "https://www.rudderstack.com/docs/destinations/data-lakes"
SPEC: Final = _spec(
    "PARQUET",
    "Parquet lake",
    Config,
    "https://duckdb.org/docs/stable/data/partitioning/hive_partitioning",
    "folders and an S3 server of the tests, read by DuckDB",
)
S3_SPEC: Final = _spec(
    "S3_DATALAKE", "S3 data lake", S3Config, f"{_RUDDER_DOCS}/amazon-s3/", "an S3 server of the tests"
)
GCS_SPEC: Final = _spec(
    "GCS_DATALAKE",
    "GCS data lake",
    GcsConfig,
    f"{_RUDDER_DOCS}/google-cloud-storage/",
    "nothing of Google's: the same code on folders and S3",
)
AZURE_SPEC: Final = _spec(
    "AZURE_DATALAKE",
    "Azure data lake",
    AzureConfig,
    f"{_RUDDER_DOCS}/azure/",
    "nothing of Azure's: the same code on folders and S3",
)
DESTINATION: Final = destination_of(SPEC)
S3: Final = destination_of(S3_SPEC)
GCS: Final = destination_of(GCS_SPEC)
AZURE: Final = destination_of(AZURE_SPEC)

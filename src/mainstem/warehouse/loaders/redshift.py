"""Amazon Redshift: the staged Parquet file to S3, and COPY; without a bucket, many-row INSERTs.

Follows https://docs.aws.amazon.com/redshift/latest/dg/copy-usage_notes-copy-from-columnar.html and
https://docs.aws.amazon.com/redshift/latest/dg/r_LOCK.html (read 2026-11); settings and types are those of RudderStack's
destination (https://www.rudderstack.com/docs/destinations/warehouse-destinations/redshift/). Through asyncpg, which
knows Redshift; Amazon's own client can't be installed beside ours (it wants older libraries).

A load of a table is one transaction. Redshift enforces no keys, so the first thing in it is the lock of
`_mainstem_loads`: other loads into this namespace wait there, before they have seen anything, and then see what came.
Readers of other tables do not wait.

* Texts and JSON are cut to the 65,535 bytes of a VARCHAR, whole characters; JSON that long becomes a JSON text. NUL
  characters are taken out. JSON is `SUPER`, times are `TIMESTAMP` in UTC, decimals `DOUBLE PRECISION`.
* An integer column is widened to `DOUBLE PRECISION` by a new column, and only if every number survives (none is beyond
  2^53); else decimals go to the discards. A column that you make `NUMERIC(38, 10)` takes both.
* The file in the bucket has the load's name, is replaced when a load is done again, and deleted after it.
* Without a bucket a load of 100,000 rows takes minutes. IAM users for the database are not offered: user and password.

Limits: 127 bytes a name; 1,600 columns a table. **No Redshift has been reached with this.** Run against: its SQL is
parsed as Redshift's (sqlglot), and the same class runs the contract suite on PostgreSQL 18 in place of Redshift, with
Redshift's functions made there; COPY from S3 is only parsed, its file is on a real S3 server.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import obstore
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from obstore.exceptions import BaseError
from obstore.store import S3Store

from mainstem.secret import Secret
from mainstem.warehouse.destination import destination_of
from mainstem.warehouse.loader import (
    Capabilities,
    Done,
    Load,
    LoaderSpec,
    StagedTable,
    WarehouseError,
)
from mainstem.warehouse.loaders.batches import small_batches
from mainstem.warehouse.loaders.pg_wire import PgError, PgWire, clean_texts
from mainstem.warehouse.loaders.sql import SqlLoader, column_types
from mainstem.warehouse.loaders.tls import client_context
from mainstem.warehouse.schema import (
    LOADS,
    Columns,
    ColumnType,
    Schema,
    SchemaChange,
)
from mainstem.warehouse.settings import WarehouseSettings

_MOST_BYTES: Final = 65_535
_MOST_PARAMETERS: Final = 32_000
_TRIES: Final = 5
_WORDS: Final[dict[str, ColumnType]] = {
    "bool": "boolean",
    "bigint": "int",
    "integer": "int",
    "smallint": "int",
    "double": "float",
    "real": "float",
    "numeric": "float",
    "timestamp": "datetime",
    "date": "datetime",
    "super": "json",
    "json": "json",
}
_OF_ONE_TABLE: Final = ("0A", "22", "23", "2B", "42", "54")
_MEANWHILE: Final = ("23505", "42P06", "42P07", "42701", "40001")
"""Somebody else made it at the same time: look again."""


class Config(WarehouseSettings, frozen=True, kw_only=True, rename="camel"):
    """Settings of a Redshift cluster or workgroup."""

    host: str
    """The cluster's or workgroup's endpoint, without port."""
    database: str
    """The database; it has to be there."""
    user: str
    """Who loads: needs `CREATE` and `TEMPORARY` on the database."""
    password: Secret
    """The user's password."""
    port: int = 5439
    """The endpoint's port."""
    ssl_mode: Literal["disable", "require", "verify-ca", "verify-full"] = "require"
    """disable: no encryption. require: encrypted, whoever the server is. verify-ca: its certificate is checked.
    verify-full: its name too."""
    server_ca: str = msgspec.field(name="serverCA", default="")
    """PEM: whose certificates of servers are trusted; empty = those the machine trusts."""
    bucket_name: str = ""
    """S3 bucket through which rows go, in the cluster's region; empty = none: INSERTs, for small loads only."""
    prefix: str = ""
    """Folder in the bucket."""
    region: str = ""
    """The bucket's region; empty = from the environment, else us-east-1."""
    endpoint: str = ""
    """URL of another S3-compatible server, for tests; empty = Amazon's."""
    access_key_id: Secret = msgspec.field(name="accessKeyID", default=Secret(""))
    """Access key id for the bucket, for us and (without `iamRoleARN`) for Redshift; empty = what the machine has."""
    access_key: Secret = Secret("")
    """Secret access key."""
    iam_role_arn: str = msgspec.field(name="iamRoleARN", default="")
    """Role with which Redshift reads the bucket: better than keys."""
    role_based_auth: bool = False
    """RudderStack's switch between the two; here a role is used where there is one."""
    enable_sse: bool = msgspec.field(name="enableSSE", default=False)
    """Not needed: buckets encrypt by default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bucket_name and not self.iam_role_arn and not (self.access_key_id and self.access_key):
            raise ValueError(
                "`bucketName` needs `iamRoleARN`, or `accessKeyID` and `accessKey`, for Redshift to read it"
            )


CAPABILITIES: Final = Capabilities(
    types={
        "boolean": "BOOLEAN",
        "int": "BIGINT",
        "float": "DOUBLE PRECISION",
        "datetime": "TIMESTAMP",
        "string": f"VARCHAR({_MOST_BYTES})",
        "text": f"VARCHAR({_MOST_BYTES})",
        "json": "SUPER",
    },
    max_name=127,
    max_columns=1600,
    max_text=_MOST_BYTES,
    widenings=frozenset({("int", "float")}),
    shortest_sync_s=60.0,
)


class Bucket:
    """Where files wait for COPY."""

    def __init__(self, config: Config) -> None:
        keys: dict[str, Any] = {}
        if config.access_key_id:
            keys = {
                "access_key_id": config.access_key_id.reveal(),
                "secret_access_key": config.access_key.reveal(),
            }
        if config.endpoint:
            keys |= {"endpoint": config.endpoint, "client_options": {"allow_http": True}}
        self._store = S3Store(
            config.bucket_name,
            region=config.region or "us-east-1",
            prefix=config.prefix or None,
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=20)},
            **keys,
        )
        self._config = config

    def put(self, name: str, path: Path) -> str:
        """Return its URL."""
        try:
            obstore.put(self._store, name, path)
        except (BaseError, OSError) as error:
            raise WarehouseError(f"bucket {self._config.bucket_name}: {error}") from error
        folder = self._config.prefix.strip("/")
        return f"s3://{self._config.bucket_name}/{f'{folder}/' if folder else ''}{name}"

    def delete(self, name: str) -> None:
        """Forget it; if that fails it is replaced or deleted later."""
        with suppress(BaseError, OSError):
            obstore.delete(self._store, name)

    def authorization(self) -> str:
        """Return COPY's words for how Redshift reads it."""
        if self._config.iam_role_arn:
            return f"IAM_ROLE {literal(self._config.iam_role_arn)}"
        key, secret = self._config.access_key_id.reveal(), self._config.access_key.reveal()
        return f"ACCESS_KEY_ID {literal(key)} SECRET_ACCESS_KEY {literal(secret)}"


class RedshiftLoader(SqlLoader):
    """See `loader.Loader`."""

    now_sql = "GETDATE()"
    keys_sql = ' DISTSTYLE KEY DISTKEY("id") SORTKEY("received_at")'
    """How a table with both is spread and sorted, as RudderStack does."""

    def __init__(
        self,
        wire: PgWire,
        namespace: str,
        bucket: Bucket | None = None,
        capabilities: Capabilities = CAPABILITIES,
    ) -> None:
        super().__init__(namespace, capabilities)
        self._wire = wire
        self._bucket = bucket

    def _run(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[Sequence[Any]]:
        return self._wire.run(sql, parameters)

    def quoted(self, name: str) -> str:
        if len(name.encode()) > self._capabilities.max_name:
            raise PgError(f"the name {name!r} is longer than {self._capabilities.max_name} bytes", "42622")
        return super().quoted(name)

    # ------------------------------------------------------------ schema

    def check(self) -> None:
        for left in reversed(range(_TRIES)):
            try:
                # Asked first: who may not create may still use what is there.
                if not self._run("SELECT 1 FROM pg_namespace WHERE nspname = ?", (self.namespace,)):
                    self._make_namespace()
                if LOADS not in self._columns(LOADS):
                    self._make_loads()
            except PgError as error:
                if error.sqlstate in _MEANWHILE and left:
                    continue
                raise PgError(f"schema {self.namespace}: {error}{_advice(error)}", error.sqlstate) from error
            return

    def fetch_schema(self) -> Schema:
        return self._columns("")

    def columns_of(self, table: str) -> Columns:
        return self._columns(table).get(table, {})

    def _columns(self, table: str) -> dict[str, dict[str, ColumnType]]:
        found: dict[str, dict[str, ColumnType]] = {}
        rows = self._run(
            "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = ?"
            f"{' AND table_name = ?' if table else ''} ORDER BY table_name, ordinal_position",
            (self.namespace, table) if table else (self.namespace,),
        )
        for name, column, kind in rows:
            found.setdefault(str(name), {})[str(column)] = column_types(_WORDS, str(kind))
        return found

    def _create_sql(self, table: str, columns: Columns) -> str:
        keys = self.keys_sql if "id" in columns and "received_at" in columns else ""
        return f"{super()._create_sql(table, columns)}{keys}"

    def evolve(self, changes: Sequence[SchemaChange]) -> None:
        self.check()
        for change in changes:
            with self._of(change.table), self._alone():
                self._change(change)

    def _add_column(self, table: str, name: str, kind: ColumnType) -> None:
        # It has no IF NOT EXISTS.
        self._run(f"ALTER TABLE {self.place(table)} ADD COLUMN {self.quoted(name)} {self.type_of(kind)}")

    def _alter_type(self, table: str, column: str, after: ColumnType) -> None:
        place, old, new = self.place(table), self.quoted(column), self.quoted("_mainstem_wider")
        self._run(f"ALTER TABLE {place} ADD COLUMN {new} {self.type_of(after)}")
        self._run(f"UPDATE {place} SET {new} = {old}")
        self._run(f"ALTER TABLE {place} DROP COLUMN {old}")
        self._run(f"ALTER TABLE {place} RENAME COLUMN {new} TO {old}")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """A transaction before which, and while which, no other of ours in this namespace sees anything."""
        with self.transaction():
            self._run(f"LOCK TABLE {self.place(LOADS)}")
            yield

    def _advice_of(self, error: WarehouseError) -> str | None:
        if not isinstance(error, PgError) or error.sqlstate[:2] not in _OF_ONE_TABLE:
            return None
        return _advice(error).removeprefix("; ")

    # ------------------------------------------------------------ rows

    def load(self, load: Load, table: StagedTable) -> Done:
        name = f"{self.namespace}/{table.table}/{load.id.replace('/', '-')}.parquet"
        with self._of(table.table), self._alone():
            if self._is_in(load, table.table):
                return Done(0, already=True)
            self._see_integers(table)
            if table.columns:
                stage = self._stage_name(table.table)
                self._bring(table, stage, name)
                self._put(table, stage)
                self._drop_stage(stage)
            self._note(load, table)
        if self._bucket is not None:
            self._bucket.delete(name)
        return Done(table.rows)

    def _stage_name(self, table: str) -> str:
        # Temporary tables are the session's own: any name will do.
        return super()._stage_name("merged" if table.endswith("_merged") else "rows")

    def _stage(self, table: StagedTable, name: str) -> None:
        self._bring(table, name, f"{self.namespace}/{table.table}/{table.path.name}")

    def _bring(self, table: StagedTable, stage: str, name: str) -> None:
        """Put a file's rows into a new temporary table, JSON parsed."""
        is_json = "json" in table.columns.values()
        raw = super()._stage_name("raw") if is_json else stage
        kinds: Mapping[str, ColumnType] = {
            column: "text" if kind == "json" else kind for column, kind in table.columns.items()
        }
        self._run(f"CREATE TEMPORARY TABLE {raw} ({self._definitions(kinds)})")
        if self._bucket is not None:
            self._copy(raw, table, name)
        else:
            self._insert_rows(raw, table)
        if is_json:
            values = ", ".join(
                f"JSON_PARSE({one}) AS {one}" if kind == "json" else one
                for column, kind in table.columns.items()
                for one in [self.quoted(column)]
            )
            self._create_temporary_as(stage, f"SELECT {values} FROM {raw}")
            self._drop_stage(raw)

    def _copy(self, target: str, table: StagedTable, name: str) -> None:
        assert self._bucket is not None  # noqa: S101 - asked before
        fitting = table.path.with_suffix(".redshift.parquet")
        schema = pq.read_schema(str(table.path))
        try:
            with pq.ParquetWriter(str(fitting), schema, compression="zstd") as writer:
                for batch in fitting_batches(table.path, table.columns):
                    writer.write_batch(batch.cast(schema))
            url = self._bucket.put(name, fitting)
        finally:
            fitting.unlink(missing_ok=True)
        self._copy_from(target, url)

    def _copy_from(self, target: str, url: str) -> None:
        assert self._bucket is not None  # noqa: S101 - asked before
        self._run(f"COPY {target} FROM {literal(url)} {self._bucket.authorization()} FORMAT AS PARQUET")

    def _insert_rows(self, target: str, table: StagedTable) -> None:
        names = ", ".join(self.quoted(column) for column in table.columns)
        one = f"({', '.join('?' for _ in table.columns)})"
        step = max(1, _MOST_PARAMETERS // len(table.columns))
        for batch in fitting_batches(table.path, table.columns):
            columns = [_naive(array).to_pylist() for array in batch.columns]
            rows = list(zip(*columns, strict=True))
            for start in range(0, len(rows), step):
                some = rows[start : start + step]
                values = [value for row in some for value in row]
                self._run(f"INSERT INTO {target} ({names}) VALUES {', '.join([one] * len(some))}", values)

    def close(self) -> None:
        self._wire.close()


def literal(text: str) -> str:
    """Return a text in SQL's quotes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def fitting_batches(path: Path, columns: Columns) -> Iterator[Any]:
    """Yield a file's rows with texts that a VARCHAR holds."""
    for batch in small_batches(path, list(columns)):
        arrays = [
            _short(clean_texts(array, kind == "json"), kind == "json")
            if pa.types.is_string(array.type)
            else array
            for kind, array in zip(columns.values(), batch.columns, strict=True)
        ]
        yield pa.record_batch(arrays, names=list(columns))


def _short(array: Any, is_json: bool) -> Any:
    longest = pc.max(pc.binary_length(array)).as_py()
    if longest is None or longest <= _MOST_BYTES:
        return array
    return pa.array(
        [None if value is None else _cut(value, is_json) for value in array.to_pylist()], pa.string()
    )


def _cut(text: str, is_json: bool) -> str:
    data = text.encode()
    if len(data) <= _MOST_BYTES:
        return text
    if not is_json:
        return data[:_MOST_BYTES].decode("utf-8", "ignore")
    # A piece of JSON is none: kept as a text, as much as there is room for after escaping.
    room = _MOST_BYTES
    while (
        len(made := json.dumps(data[:room].decode("utf-8", "ignore"), ensure_ascii=False).encode())
        > _MOST_BYTES
    ):
        room -= len(made) - _MOST_BYTES
    return made.decode()


def _naive(array: Any) -> Any:
    return array.cast(pa.timestamp("us")) if pa.types.is_timestamp(array.type) else array


def _advice(error: PgError) -> str:
    match error.sqlstate:
        case "42501":
            return "; GRANT CREATE, TEMPORARY ON DATABASE … to the user, or make it own the table"
        case "42P01" | "42703":
            return "; somebody dropped it: the next load makes it again"
        case "2BP01":
            return "; a view uses the column: drop the view, let it load, create it again"
        case "54011" | "54000":
            return "; keep what makes the many columns as JSON: `jsonPaths`"
        case state if state[:2] in ("22", "42"):
            return "; the column was made with a type that does not take this"
        case _:
            return ""


def open_loader(config: Config, namespace: str, _data_dir: Path) -> RedshiftLoader:
    """Connect."""
    tls: Any = "disable"
    if config.ssl_mode != "disable":
        tls = client_context(config.ssl_mode, server_ca=config.server_ca)
    bucket = Bucket(config) if config.bucket_name else None
    wire = PgWire(
        host=config.host,
        port=config.port,
        database=config.database,
        user=config.user,
        password=config.password,
        tls=tls,
    )
    return RedshiftLoader(wire, namespace, bucket)


SPEC: Final = LoaderSpec(
    name="RS",
    title="Amazon Redshift",
    config=Config,
    doc_url="https://www.rudderstack.com/docs/destinations/warehouse-destinations/redshift/",
    capabilities=CAPABILITIES,
    open=open_loader,
    provider="rs",
    run_against="no Redshift: its SQL is parsed, and run on PostgreSQL 18 where the two agree",
)
DESTINATION: Final = destination_of(SPEC)

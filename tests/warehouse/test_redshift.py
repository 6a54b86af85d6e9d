"""The Redshift loader: its SQL as Redshift's parser's model reads it, its file on a real S3 server, what it cuts.

No Redshift is reached here. The contract suite runs the same class on PostgreSQL.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlglot
from obstore.store import S3Store
from sqlglot import exp

from mainstem.secret import Secret
from mainstem.warehouse.loader import Mode
from mainstem.warehouse.loaders.redshift import Bucket, Config, RedshiftLoader, fitting_batches, literal
from mainstem.warehouse.schema import ColumnType
from tests.components.postgres import PostgresServer
from tests.components.s3 import S3Server
from tests.warehouse.contract.databases import RedshiftOnPostgres, redshift_wire
from tests.warehouse.contract.rows import EVENT, create, event, evolve, load_of, staged, values

COLUMNS: dict[str, ColumnType] = {**EVENT, "cart": "json"}


class Recorded(RedshiftOnPostgres):
    """Keeps what it says, and reads the bucket as COPY would."""

    store: S3Store | None = None

    def _run(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[Sequence[Any]]:
        said.append(sql)
        return super()._run(sql, parameters)

    def _copy_from(self, target: str, url: str) -> None:
        assert self._bucket is not None
        said.append(f"COPY {target} FROM {literal(url)} {self._bucket.authorization()} FORMAT AS PARQUET")
        assert self.store is not None
        _, _, name = url.removeprefix("s3://").partition("/")
        there = obstore.get(self.store, name).bytes()
        table = pq.read_table(pa.BufferReader(bytes(there)))
        for row in table.to_pylist():
            given = [
                value.replace(tzinfo=None) if hasattr(value, "tzinfo") else value for value in row.values()
            ]
            super()._run(f"INSERT INTO {target} VALUES ({', '.join('?' for _ in given)})", given)


said: list[str] = []


@pytest.fixture(name="bucket")
def _bucket(s3_server: S3Server) -> Config:
    name = f"rs-{uuid4().hex[:10]}"
    s3_server.create_bucket(name)
    return Config(
        host="h",
        database="d",
        user="u",
        password=Secret("p"),
        bucket_name=name,
        prefix="to/redshift",
        endpoint=s3_server.endpoint,
        access_key_id=Secret(s3_server.access_key),
        access_key=Secret(s3_server.secret_key),
    )


@pytest.fixture(name="loader")
def _loader(postgres_server: PostgresServer, bucket: Config) -> Iterator[Recorded]:
    said.clear()
    loader = Recorded(redshift_wire(postgres_server.port), f"r_{uuid4().hex[:12]}", Bucket(bucket))
    loader.store = S3Store(
        bucket.bucket_name,
        endpoint=bucket.endpoint,
        region="us-east-1",
        access_key_id=bucket.access_key_id.reveal(),
        secret_access_key=bucket.access_key.reveal(),
        client_options={"allow_http": True},
    )
    loader.check()
    yield loader
    loader.close()


def test_rows_go_through_the_bucket_and_nothing_stays_there(
    loader: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[str] = []  # the tests' S3 server has no DeleteObjects
    monkeypatch.setattr(Bucket, "delete", lambda _, name: deleted.append(name))
    create(loader, "orders", COLUMNS)
    rows = [
        event("1", name="it's a \\ text", total=0.1, count=2**63 - 1, vip=True, cart={"a": ["b", 1]}),
        event("2", name="y" * 70_000 + "ü", cart={"long": "z" * 70_000}),
    ]
    loader.load(load_of(1), staged(loader, tmp_path, "orders", COLUMNS, rows))
    assert values(loader, "orders", "1", "name", "total", "count", "vip") == [
        rows[0]["name"],
        0.1,
        2**63 - 1,
        True,
    ]
    assert json.loads(values(loader, "orders", "1", "cart")[0]) == {"a": ["b", 1]}
    assert values(loader, "orders", "2", "name") == ["y" * 65_535]
    assert json.loads(values(loader, "orders", "2", "cart")[0]).startswith('{"long":"zzz')
    [copy] = [sql for sql in said if sql.startswith("COPY")]
    assert f"/to/redshift/{loader.namespace}/orders/plan00000001.parquet' ACCESS_KEY_ID" in copy
    assert deleted == [f"{loader.namespace}/orders/plan00000001.parquet"]
    assert list(tmp_path.glob("*.redshift.parquet")) == []


@pytest.mark.parametrize("mode", ["append", "replace by id", "latest by id"])
def test_every_statement_is_redshifts(loader: Recorded, tmp_path: Path, mode: Mode) -> None:
    create(loader, "users", COLUMNS)
    rows = [event("1", count=1, cart=[1])]
    loader.load(load_of(1), staged(loader, tmp_path, "users", COLUMNS, rows, mode=mode))
    narrow: dict[str, ColumnType] = {**COLUMNS, "count": "float", "more": "string"}
    evolve(loader, "users", narrow)
    loader.loads("shop")
    whole = RedshiftLoader.keys_sql
    said.append(f"{loader._create_sql('users', {**COLUMNS, 'uuid_ts': 'datetime'})}{whole}")
    for sql in said:
        [parsed] = sqlglot.parse(sql, read="redshift")
        if isinstance(parsed, exp.Command):
            assert sql.startswith(("LOCK TABLE", "BEGIN", "COMMIT")), sql
        if sql.startswith("CREATE TABLE"):
            assert "IF NOT EXISTS" in sql
        # What Redshift has not, of what Postgres has.
        for word in (
            " ON CONFLICT",
            "JSONB",
            "ADD COLUMN IF NOT EXISTS",
            "ON COMMIT",
            "RETURNING",
            "ADVISORY",
        ):
            assert word not in sql.upper(), sql
    made = sqlglot.parse_one(said[-1], read="redshift")
    assert made.find(exp.DistKeyProperty) is not None
    assert made.find(exp.SortKeyProperty) is not None
    locks = [index for index, sql in enumerate(said) if sql.startswith("LOCK TABLE")]
    assert all(said[index - 1] == "BEGIN" for index in locks), "nothing is seen before the lock"


def test_how_redshift_reads_the_bucket(bucket: Config) -> None:
    with pytest.raises(ValueError, match="iamRoleARN"):
        Config(host="h", database="d", user="u", password=Secret("p"), bucket_name="b")
    role = msgspec.structs.replace(bucket, iam_role_arn="arn:aws:iam::1:role/it's")
    assert Bucket(role).authorization() == "IAM_ROLE 'arn:aws:iam::1:role/it''s'"
    assert bucket.access_key.reveal() not in repr(bucket)


def test_what_a_varchar_does_not_hold_is_cut_at_a_character(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    given = ["ü" * 40_000, "a\0b", None, "short"]
    jsons = [json.dumps(['ü\\"' * 30_000], ensure_ascii=False), '"\\u0000"', None, "{}"]
    pq.write_table(pa.table({"t": given, "j": jsons}), str(path))
    [batch] = fitting_batches(path, {"t": "string", "j": "json"})
    texts, parsed = batch.column(0).to_pylist(), batch.column(1).to_pylist()
    assert texts == ["ü" * 32_767, "ab", None, "short"]
    assert 30_000 < len(parsed[0].encode()) <= 65_535
    assert jsons[0] is not None
    assert jsons[0].startswith(json.loads(parsed[0]))
    assert parsed[1:] == ['""', None, "{}"]

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyiceberg.catalog.sql import SqlCatalog

from mainstem.destinations import iceberg_archive
from mainstem.destinations.archive import Config
from mainstem.lake.store import Store, open_store
from mainstem.secret import Secret
from tests.components.s3 import S3Server
from tests.lake.rig import IcebergPlace, Place, local
from tests.warehouse.iceberg_rest import TOKEN, rest_catalog


def s3_config(server: S3Server, bucket: str) -> Config:
    return Config(
        url=f"s3://{bucket}",
        endpoint=server.endpoint,
        region=server.region,
        access_key_id=Secret(server.access_key),
        secret_access_key=Secret(server.secret_key),
    )


@pytest.fixture
def s3_store(s3_server: S3Server, tmp_path: Path) -> Store:
    bucket = f"archive-{uuid.uuid4().hex[:12]}"
    s3_server.create_bucket(bucket)
    return open_store(s3_config(s3_server, bucket), tmp_path)


@pytest.fixture(params=["local", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each kind of store."""
    if request.param == "s3":
        found: Store = request.getfixturevalue("s3_store")
        return found
    return open_store(
        Config(url="memory:" if request.param == "memory" else str(tmp_path / "files")), tmp_path
    )


@pytest.fixture
def iceberg_s3(s3_server: S3Server, tmp_path: Path) -> IcebergPlace:
    """A SQLite catalog in a folder, the table in a bucket."""
    bucket = f"archive-{uuid.uuid4().hex[:12]}"
    s3_server.create_bucket(bucket)
    return IcebergPlace(
        tmp_path,
        iceberg_archive.Config(
            url=f"s3://{bucket}/lake",
            endpoint=s3_server.endpoint,
            region=s3_server.region,
            access_key_id=Secret(s3_server.access_key),
            secret_access_key=Secret(s3_server.secret_key),
        ),
    )


@pytest.fixture
def iceberg_rest(tmp_path: Path) -> Iterator[IcebergPlace]:
    """A REST catalog, the table where it says."""
    behind = SqlCatalog(
        "behind", uri=f"sqlite:///{tmp_path / 'rest.db'}", warehouse=(tmp_path / "tables").as_uri()
    )
    with rest_catalog(behind) as uri:
        settings = iceberg_archive.Config(
            catalog="rest", catalog_uri=Secret(uri), catalog_token=Secret(TOKEN)
        )
        yield IcebergPlace(tmp_path, settings)
    behind.close()


@pytest.fixture(params=["local", "memory", "s3", "iceberg", "iceberg_s3", "iceberg_rest"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each kind of place that an archive can be in."""
    if request.param in ("iceberg_s3", "iceberg_rest"):
        table: IcebergPlace = request.getfixturevalue(request.param)
        return table
    if request.param == "s3":
        store: Store = request.getfixturevalue("s3_store")
        return store
    if request.param == "iceberg":
        return IcebergPlace(tmp_path)
    return open_store(
        Config(url="memory:" if request.param == "memory" else str(tmp_path / "files")), tmp_path
    )


@pytest.fixture(params=["files", "iceberg"])
def near(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place on this machine: files, and a table."""
    return IcebergPlace(tmp_path) if request.param == "iceberg" else local(tmp_path)

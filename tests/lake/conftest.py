import uuid
from pathlib import Path

import pytest

from mainstem.destinations.archive import Config
from mainstem.lake.store import Store, open_store
from mainstem.secret import Secret
from tests.components.s3 import S3Server


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

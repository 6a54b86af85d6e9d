import asyncio
import fcntl
import io
import os
from pathlib import Path

import pytest

from mainstem.destinations.archive import Config, MinioConfig
from mainstem.lake.errors import StoreUnavailable
from mainstem.lake.store import LocalStore, Store, open_store
from tests.components.s3 import S3Server
from tests.lake.conftest import s3_config

LARGE = os.urandom(1 << 20) * 20


async def test_put_replaces_and_get_returns(store: Store) -> None:
    await store.put("a/b=1/c.gz", io.BytesIO(b"old"))
    content = io.BytesIO(b"new content")
    content.seek(3)
    await store.put("a/b=1/c.gz", content)
    assert await store.get("a/b=1/c.gz") == b"new content"
    assert [(found.name, found.size_bytes) async for found in store.list("a")] == [("a/b=1/c.gz", 11)]


async def test_large_files_come_whole(store: Store) -> None:
    await store.put("large", io.BytesIO(LARGE))
    assert await store.get("large") == LARGE


async def test_list_is_by_folder_at_any_depth(store: Store) -> None:
    for name in ("x/source=a%2Fb/1", "x/source=a%2Fb/d/2", "x/source=ab/3", "y/4"):
        await store.put(name, io.BytesIO(b"."))
    assert sorted([found.name async for found in store.list("x/source=a%2Fb")]) == [
        "x/source=a%2Fb/1",
        "x/source=a%2Fb/d/2",
    ]
    assert len([found async for found in store.list("")]) == 4
    assert await store.folders("x") == ["source=a%2Fb", "source=ab"]
    assert await store.folders("") == ["x", "y"]
    assert await store.folders("nothing") == []
    assert [found async for found in store.list("nothing")] == []


async def test_what_is_missing_is_an_error(store: Store) -> None:
    with pytest.raises(StoreUnavailable, match="get nothing"):
        await store.get("nothing")
    await store.check()


async def test_a_file_that_cannot_be_read_leaves_nothing(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(28, "No space left on device")

    store = LocalStore(tmp_path)
    with pytest.raises(StoreUnavailable, match="No space left"):
        await store.put("a/b", Broken(b"x"))
    assert [found async for found in store.list("")] == []
    assert list((tmp_path / ".tmp").iterdir()) == []


async def test_a_partial_file_is_never_visible(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    seen: list[list[str]] = []

    class Watching(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            seen.append([path.name for path in (tmp_path / "a").iterdir()])
            return super().read(size)

    await store.put("a/b", Watching(LARGE))
    assert seen
    assert not any(seen)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o644


async def test_check_removes_what_dead_writers_left(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    await store.check()
    (tmp_path / ".tmp" / "left").write_bytes(b"partial")
    with (tmp_path / ".tmp" / "in-use").open("wb") as used:
        fcntl.flock(used, fcntl.LOCK_SH)
        await store.check()
        assert [path.name for path in (tmp_path / ".tmp").iterdir()] == ["in-use"]


async def test_a_folder_removed_under_us_is_made_again(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    await store.put("a/b", io.BytesIO(b"1"))
    (tmp_path / "a" / "b").unlink()
    (tmp_path / "a").rmdir()
    await store.put("a/b", io.BytesIO(b"2"))
    assert await store.get("a/b") == b"2"


async def test_a_server_that_is_down_is_unavailable_and_secrets_stay_out_of_the_error(
    s3_server: S3Server, tmp_path: Path
) -> None:
    store = open_store(s3_config(s3_server, "no-such-bucket"), tmp_path)
    with pytest.raises(StoreUnavailable) as caught:
        await store.put("a", io.BytesIO(b"1"))
    assert s3_server.secret_key not in str(caught.value)
    assert s3_server.secret_key not in store.location
    with pytest.raises(StoreUnavailable):
        await store.check()


def test_urls_name_stores(tmp_path: Path) -> None:
    relative = open_store(Config(url="archive"), tmp_path)
    assert relative.location == (tmp_path / "archive").as_uri()
    assert open_store(Config(url="file:///var/archive"), tmp_path).location == "file:///var/archive"
    assert open_store(Config(url="/var/archive"), tmp_path).location == "file:///var/archive"
    assert "s3://bucket/deep" in open_store(Config(url="s3://bucket/deep"), tmp_path).location
    azure = Config(url="az://container", account_name="account")
    assert "az://container" in open_store(azure, tmp_path).location
    assert "gs://bucket" in open_store(Config(url="gs://bucket"), tmp_path).location
    minio = MinioConfig(end_point="minio:9000", bucket_name="bucket", use_ssl=False)
    assert open_store(minio, tmp_path).location == "http://minio:9000|s3://bucket"
    with pytest.raises(StoreUnavailable, match="unknown scheme 'ftp'"):
        open_store(Config(url="ftp://host"), tmp_path)


async def test_two_writers_of_one_name_leave_one_whole_file(store: Store) -> None:
    contents = [bytes([number]) * 3_000_000 for number in range(4)]
    await asyncio.gather(*(store.put("same", io.BytesIO(content)) for content in contents))
    assert await store.get("same") in contents

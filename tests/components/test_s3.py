"""The S3 server that the other tests trust."""

import pytest
from obstore.exceptions import AlreadyExistsError
from obstore.store import S3Store

from tests.components.s3 import S3Server


@pytest.fixture(name="store")
def _store(s3_server: S3Server, request: pytest.FixtureRequest) -> S3Store:
    bucket = f"test-{abs(hash(request.node.nodeid))}"
    s3_server.create_bucket(bucket)
    return S3Store(
        bucket,
        endpoint=s3_server.endpoint,
        access_key_id=s3_server.access_key,
        secret_access_key=s3_server.secret_key,
        region=s3_server.region,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )


async def test_what_was_put_is_got_and_listed(store: S3Store) -> None:
    await store.put_async("source/2026/events.jsonl.gz", b"one event")
    got = await store.get_async("source/2026/events.jsonl.gz")
    assert bytes(await got.bytes_async()) == b"one event"
    assert [entry["path"] for page in store.list() for entry in page] == ["source/2026/events.jsonl.gz"]


async def test_conditional_create_lets_only_the_first_writer_in(store: S3Store) -> None:
    await store.put_async("manifest-1", b"first", mode="create")
    with pytest.raises(AlreadyExistsError):
        await store.put_async("manifest-1", b"second", mode="create")
    assert bytes(await (await store.get_async("manifest-1")).bytes_async()) == b"first"

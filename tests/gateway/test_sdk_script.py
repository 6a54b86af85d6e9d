"""The SDK's script: its bytes in each coding, how long it is kept, and what is answered when it has not changed."""

import gzip
from pathlib import Path

import brotli
import pytest

import mainstem.gateway
from tests.gateway.client import Client, Response
from tests.gateway.conftest import Running

SCRIPT = (Path(mainstem.gateway.__file__).parent / "sdk" / "mainstem.js").read_bytes()
PATH = "/sdk/mainstem.js"


async def _get(gateway: Running, headers: dict[str, str], method: str = "GET") -> Response:
    client = await Client.connect(gateway.port)
    try:
        return await client.request(method, PATH, headers)
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, deflate, br, zstd", "br"),
        ("gzip", "gzip"),
        ("GZIP;q=0.5", "gzip"),
        ("br;q=0, gzip", "gzip"),
        ("br;q=0.000, gzip; q=0", ""),
        ("identity", ""),
        ("", ""),
    ],
)
async def test_the_script_in_each_coding(gateway: Running, accepted: str, coding: str) -> None:
    answer = await _get(gateway, {"Accept-Encoding": accepted} if accepted else {})
    unpack = {"br": brotli.decompress, "gzip": gzip.decompress, "": bytes}[coding]
    assert answer.status == 200
    assert unpack(answer.body) == SCRIPT
    assert answer.headers.get("content-encoding", "") == coding
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.headers["cache-control"] == "public, max-age=3600, stale-while-revalidate=86400"
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"


@pytest.mark.parametrize("accepted", ["br", "gzip", ""])
@pytest.mark.parametrize("spelling", ["{}", "W/{}", '"other", {}', "*"])
async def test_what_has_not_changed_is_not_sent_again(gateway: Running, accepted: str, spelling: str) -> None:
    headers = {"Accept-Encoding": accepted}
    etag = (await _get(gateway, headers)).headers["etag"]
    answer = await _get(gateway, {**headers, "If-None-Match": spelling.format(etag)})
    assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", etag)
    assert "content-length" not in answer.headers
    assert "content-encoding" not in answer.headers


async def test_each_coding_has_its_own_tag(gateway: Running) -> None:
    tags = {(await _get(gateway, {"Accept-Encoding": it})).headers["etag"] for it in ("br", "gzip", "")}
    assert len(tags) == 3
    other = next(tag for tag in tags if "gzip" in tag)
    assert (await _get(gateway, {"Accept-Encoding": "br", "If-None-Match": other})).status == 200


async def test_head_and_other_origins(gateway: Running) -> None:
    head = await _get(gateway, {}, "HEAD")
    assert (head.status, head.headers["content-length"]) == (200, str(len(SCRIPT)))
    answer = await _get(gateway, {"Origin": "https://shop.example"})
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert (await _get(gateway, {}, "DELETE")).status == 405

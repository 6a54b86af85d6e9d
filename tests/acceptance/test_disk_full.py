"""A disk that fills up: 503 while it is full, nothing acknowledged is lost, and all goes on when there is room.

The data folder is a small file system of its own (tmpfs), so that the kernel says ENOSPC and nobody else's
disk is touched. Mounting one needs root.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from mainstem.testing.sink import Sink, always
from tests.acceptance.evidence import (
    accepted,
    archived,
    assert_exactly_once,
    assert_in_order,
    ids,
    number_of,
    user_of,
)
from tests.acceptance.serving import WRITE_KEY, Serving, serving, track, until
from tests.components.install import absent

MIB = 1024 * 1024
DISK_BYTES = 48 * MIB
PADDING = "x" * 8_000

WORKSPACE = """
workspace: {{id: t, name: T}}
sources:
  - {{id: web, name: Web, write_key: {key}, type: http}}
destinations:
  - id: hook
    name: Hook
    type: webhook
    config: {{webhookUrl: "{sink}/in"}}
    delivery: {{backoff_base_s: 0.05, backoff_max_s: 0.3, breaker_open_s: 0.2}}
  - {{id: archive, name: Archive, type: archive, config: {{url: archive, maxAgeS: 0.5}}}}
connections:
  - {{from: web, to: [hook, archive]}}
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of `DISK_BYTES`."""
    if os.geteuid() != 0:
        absent("root: mounting a small tmpfs needs root; run the tests as root.")
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        absent(f"tmpfs: {mounted.stderr.strip()}; allow mounting (CAP_SYS_ADMIN).")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


class Sender:
    """Sends one event after the other, and remembers which were acknowledged."""

    def __init__(self, product: Serving) -> None:
        self._product = product
        self._number = 0
        self.acknowledged: list[str] = []
        self.refused = 0

    async def send(self) -> int:
        """Send the next event; an event that was not acknowledged is sent again before the one after it."""
        event = track(f"user-{self._number % 5}", self._number, padding=PADDING)
        answered = await self._product.post("/v1/track", event)
        if answered.status == 200:
            self.acknowledged.append(str(event["messageId"]))
            self._number += 1
        else:
            assert answered.status == 503, answered
            assert int(answered.headers["retry-after"]) >= 1
            assert {"code", "message"} <= answered.body.keys()
            self.refused += 1
        return answered.status


@pytest.mark.parametrize("reserve", ["0", str(8 * MIB)], ids=["until ENOSPC", "with a reserve"])
async def test_a_full_disk_loses_nothing_that_was_acknowledged(
    reserve: str, small_disk: Path, tmp_path: Path
) -> None:
    """The log fills the disk while the destination is down; then somebody makes room, and it goes on."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * (24 * MIB))
    async with Sink() as sink:
        sink.script = always(503)
        workspace = WORKSPACE.format(key=WRITE_KEY, sink=sink.url)
        settings = {"stream_min_free_bytes": reserve, "stream_segment_bytes": 4 * MIB}
        data = small_disk / "data"
        async with serving(tmp_path / "run", workspace, data_dir=data, settings=settings) as product:
            gateway = product.children()["gateway-0"]
            sender = Sender(product)

            async def full() -> bool:
                return await sender.send() == 503

            await until("the disk is full", full, timeout_s=60.0, poll_s=0.0)
            assert sender.acknowledged
            # It stays full, and says so.
            for _ in range(10):
                assert await sender.send() == 503
            health = await product.ask("/health")
            assert any("free" in problem or "full" in problem for problem in health["problems"]), health

            ballast.unlink()
            before = len(sender.acknowledged)

            async def accepting() -> bool:
                return await sender.send() == 200

            await until("events are accepted again", accepting)
            for _ in range(20):
                await until("an event is accepted", accepting)
            sink.script = None
            books = await product.settled()
            assert product.children()["gateway-0"] == gateway, "the gateway did not live through it"
            assert len(sender.acknowledged) > before
            for name in ("hook", "archive"):
                assert books[name]["delivered"] == len(sender.acknowledged), books[name]
            lines = archived(product.data_dir / "archive")
            assert (await product.cli("books")).returncode == 0
    assert_exactly_once(sender.acknowledged, ids(accepted(sink.requests)), "webhook")
    assert_in_order(accepted(sink.requests), user=user_of, number=number_of, where="webhook")
    assert_exactly_once(sender.acknowledged, ids(lines), "archive")


async def test_a_disk_that_is_full_when_the_product_starts(small_disk: Path, tmp_path: Path) -> None:
    """What was acknowledged before a stop is delivered after a start, although there is no room for more."""
    async with Sink() as sink:
        sink.script = always(503)
        workspace = WORKSPACE.format(key=WRITE_KEY, sink=sink.url)
        settings = {"stream_min_free_bytes": str(16 * MIB)}
        data = small_disk / "data"
        async with serving(tmp_path / "run", workspace, data_dir=data, settings=settings) as product:
            sender = Sender(product)
            for _ in range(50):
                assert await sender.send() == 200
            await product.stop()
            free = os.statvfs(small_disk)
            (small_disk / "ballast").write_bytes(b"\0" * (free.f_bavail * free.f_frsize - 6 * MIB))
            await product.start(wait=False)

            async def told() -> bool:
                try:
                    return (await product.ask("/ready"))["ready"] is False
                except aiohttp.ClientError:
                    return False

            await until("it runs, and says that it takes no events", told)
            assert await sender.send() == 503
            sink.script = None
            books = await product.settled()
            assert books["hook"]["delivered"] == books["archive"]["delivered"] == 50
    assert_exactly_once(sender.acknowledged, ids(accepted(sink.requests)), "webhook")

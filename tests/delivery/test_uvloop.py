"""The sender on the event loop that it has in production."""

import structlog
import uvloop
from tests.delivery.kit import Shop, begin, item, sender, settled

from mainstem.delivery.sender import Item
from mainstem.destinations.base import Delivered, Delivery, Retry
from mainstem.ledger.memory import MemoryLedger


def test_lanes_that_wait_less_than_a_millisecond() -> None:
    """uvloop's handle for such a timer is another one, without a time."""
    failed: set[str] = set()

    def fail_once(one: Item) -> Delivery:
        if one.event.message_id in failed:
            return Delivered()
        failed.add(one.event.message_id)
        return Retry("http 500", after_s=0.0001)

    async def run() -> None:
        shop, ledger = Shop(fail_once), MemoryLedger()
        one = sender(shop, ledger)
        await begin(one, ledger)
        for offset in range(200):
            one.offer(item(offset, f"u{offset % 20}"))
        await settled(one, ledger, 200)
        assert all(shop.of(f"u{user}") == list(range(user, 200, 20)) for user in range(20))
        await one.drain(5)

    with structlog.testing.capture_logs() as logs:
        uvloop.run(run())
    assert not [entry for entry in logs if entry["log_level"] == "error"]

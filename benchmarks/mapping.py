"""What mapping alone costs: from canonical event to requests, and to their bytes, by destination, on one core.

Run: python -m benchmarks mapping. Events are of about 1 KiB, as browsers and servers send them: tracks with products,
pages, identifies. The baseline of the same run is the bare JSON encoding of the same events.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from mainstem.destinations.base import Call, MapContext
from mainstem.destinations.catalog import check_config, find_spec
from mainstem.destinations.kit.call import encode
from mainstem.events.canonical import Event
from mainstem.pipeline.mapping import CompiledMapping

ROUNDS = 5
EVENTS = 2_000
NOW_MS = 1_790_000_000_123
CONFIGS: dict[str, dict[str, Any]] = {
    "GA4": {"apiSecret": "secret", "measurementId": "G-123456", "typesOfClient": "gtag"},
    "AM": {"apiKey": "0123456789abcdef"},
    "BRAZE": {"restApiKey": "key-key-key", "dataCenter": "EU-01"},
}
LIMIT = 20_000
"""Events a second that each is meant to reach."""


def messages() -> list[dict[str, Any]]:
    """Return the mix."""
    made: list[dict[str, Any]] = []
    for index in range(EVENTS):
        base: dict[str, Any] = {
            "messageId": f"message-{index}",
            "anonymousId": f"anonymous-{index}",
            "userId": f"user-{index}",
            "channel": "web",
            "originalTimestamp": "2026-09-21T14:13:20.123Z",
            "timestamp": "2026-09-21T14:13:20.123Z",
            "receivedAt": "2026-09-21T14:13:21.000Z",
            "sentAt": "2026-09-21T14:13:20.500Z",
            "context": {
                "ip": "203.0.113.7",
                "locale": "en-GB",
                "userAgent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36",
                "page": {
                    "url": "https://shop.example/p/1",
                    "path": "/p/1",
                    "title": "Product",
                    "referrer": "",
                },
                "library": {"name": "RudderLabs JavaScript SDK", "version": "3.1.0"},
                "traits": {"email": f"user{index}@example.com", "firstName": "Ann", "plan": "pro"},
                "campaign": {"source": "newsletter", "medium": "email", "name": "autumn"},
            },
            "integrations": {"All": True},
        }
        kind = ("track", "track", "page", "identify")[index % 4]
        if kind == "track":
            products = [
                {"product_id": f"p{n}", "sku": f"s{n}", "name": f"Product {n}", "price": 9.5, "quantity": 2}
                for n in range(2)
            ]
            made.append(
                base
                | {
                    "type": "track",
                    "event": "Order Completed",
                    "properties": {
                        "order_id": f"o-{index}",
                        "revenue": 38,
                        "currency": "EUR",
                        "coupon": "AUTUMN",
                        "products": products,
                    },
                }
            )
        elif kind == "page":
            page = {"url": "https://shop.example/", "path": "/", "title": "Home"}
            made.append(base | {"type": "page", "name": "Home", "properties": page})
        else:
            made.append(base | {"type": "identify", "traits": {"city": "Berlin", "age": 33, "vip": True}})
    return made


def event_of(message: dict[str, Any]) -> Event:
    """Return the canonical event."""
    return Event(
        message=message,
        source_id="site",
        message_id=message["messageId"],
        type=message["type"],
        name=message.get("event") or message.get("name") or "",
        user_id=message["userId"],
        anonymous_id=message["anonymousId"],
        received_at_ms=NOW_MS,
        raw=b"",
    )


def best_s(run: Callable[[], object]) -> float:
    """Return the shortest of some rounds: what the machine can do when nobody disturbs it."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(name: str, events: Sequence[Event]) -> tuple[float, float, int]:
    """Return seconds to map, seconds to map and encode, and how many of the events have a request."""
    spec = find_spec(name)
    assert spec is not None
    checked = check_config(name, CONFIGS[name], to_send=False)
    assert not checked.errors, checked.errors
    mapping = CompiledMapping(spec, checked.config, CONFIGS[name])
    context = MapContext(NOW_MS, "d1")
    wanted = [event for event in events if event.type in spec.message_types]

    def mapped() -> int:
        return sum(isinstance(mapping(event, context), tuple) for event in wanted)

    def encoded() -> None:
        for event in wanted:
            result = mapping(event, context)
            for call in result if isinstance(result, tuple) else ():
                if isinstance(call, Call):
                    encode(call)

    sent = mapped()
    assert sent > len(wanted) / 2, f"{name}: only {sent} of {len(wanted)} events have a request"
    return best_s(mapped) / len(wanted), best_s(encoded) / len(wanted), sent


def main() -> None:
    """Measure, and print."""
    events = [event_of(message) for message in messages()]
    bare_s = best_s(lambda: [msgspec.json.encode(event.message) for event in events]) / len(events)
    print(f"  bare encoding of the event        {bare_s * 1e6:6.1f} µs")
    for name in CONFIGS:
        map_s, both_s, _ = measure(name, events)
        print(
            f"  {name:8} mapping {map_s * 1e6:6.1f} µs = {1 / map_s:8,.0f} events/s (limit {LIMIT:,}); "
            f"with encoding {both_s * 1e6:6.1f} µs; {map_s / bare_s:5.1f} x bare"
        )


if __name__ == "__main__":
    main()

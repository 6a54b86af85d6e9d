"""What the pure core costs per event: decode and canonical form, evaluation, expressions, enrichment.

Run: python -m benchmarks.pipeline. The baseline of the same run is the bare JSON decoding of the same bytes.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from mainstem.destinations.base import DestinationSpec, MapContext, Mapped, Mapper, Request
from mainstem.events.canonical import Event
from mainstem.events.stored import StoredEvent, encode_stored
from mainstem.pipeline.decode import Decoder
from mainstem.pipeline.plan import compile_plan
from mainstem.workspace.model import Connection, Destination, Filter, Source, Workspace

ROUNDS = 5
EVENTS = 5_000
RECEIVED_MS = 1_790_000_000_123


class _Config(msgspec.Struct):
    url: str = "http://127.0.0.1/"


def _mapper(_config: object) -> Mapper:
    request = Request("POST", "http://127.0.0.1/")

    def to_request(event: Event, context: MapContext) -> Mapped:
        return (request,)

    return to_request


SPEC = DestinationSpec(
    name="BENCH",
    title="Bench",
    kind="http",
    config=_Config,
    message_types=frozenset(("identify", "track", "page", "screen", "group", "alias")),
    doc_url="http://127.0.0.1/",
    mapper=_mapper,
)


def message(index: int) -> bytes:
    """Return a track of about 800 bytes as rudder-node sends it."""
    return msgspec.json.encode(
        {
            "userId": f"user-{index}",
            "anonymousId": f"anonymous-{index}",
            "event": "Order Completed",
            "properties": {
                "order_id": f"o-{index}",
                "total": 99.5,
                "currency": "EUR",
                "products": [
                    {"sku": f"s-{n}", "price": 9.95, "quantity": n, "name": "A thing"} for n in range(3)
                ],
            },
            "context": {
                "library": {"name": "analytics-node", "version": "3.0.13"},
                "traits": {"email": f"user-{index}@example.com", "plan": "pro"},
                "page": {
                    "path": "/checkout",
                    "url": "https://shop.example.com/checkout",
                    "title": "Checkout",
                },
                "locale": "de-DE",
            },
            "integrations": {"All": True},
            "type": "track",
            "channel": "server",
            "messageId": f"0190-{index}",
            "originalTimestamp": "2026-09-21T13:33:20.100Z",
            "sentAt": "2026-09-21T13:33:20.110Z",
        }
    )


def workspace(rule: Filter | None) -> Workspace:
    """Return one source and one destination, joined with at most one filter."""
    return Workspace(
        id="w",
        version="1",
        sources=(Source(id="source", name="Shop", write_keys=("key",)),),
        destinations=(Destination(id="d", name="bench", type="BENCH"),),
        connections=(
            Connection(source_id="source", destination_id="d", filters=(rule,) if rule is not None else ()),
        ),
    )


def best_us(run: Callable[[Any], object], items: Sequence[Any]) -> float:
    """Return the best of some rounds of `run` over the items, in µs of CPU per item. Results are let go at once."""
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.process_time()
        deque(map(run, items), maxlen=0)
        best = min(best, time.process_time() - begun)
    return best / len(items) * 1e6


def main() -> None:
    raws = [message(index) for index in range(EVENTS)]
    values = [
        encode_stored(
            StoredEvent("source", f"0190-{index}", "track", RECEIVED_MS + index, raw, request_ip="192.0.2.1")
        )
        for index, raw in enumerate(raws)
    ]
    bare = msgspec.json.Decoder(dict).decode
    baseline = best_us(bare, raws)
    decoder = Decoder(workspace(None).sources)
    print(f"event size                          {len(raws[0]):8d} bytes")
    print(f"JSON decode alone (baseline)        {baseline:8.2f} µs/event")
    decoded = best_us(partial(decoder.decode, 0, 0, 0), values)
    print(f"stored + canonical + event          {decoded:8.2f} µs/event   {decoded / baseline:5.2f}x")
    events = [decoder.decode(0, 0, 0, value)[1] for value in values]
    rules = {
        "evaluate, no filter": None,
        "evaluate, one filter (types, names)": Filter(
            name="orders", types=("track",), allow=("Order *", "Checkout Started"), deny=("Test",)
        ),
        "evaluate, sample 50 %": Filter(name="half", sample_percent=50.0),
        "evaluate, CEL on two fields": Filter(
            name="big", where="event.properties.total > 50 && event.properties.currency == 'EUR'"
        ),
        "evaluate, CEL regex": Filter(name="shop", where="event.context.page.path.matches('^/check')"),
    }
    for title, rule in rules.items():
        snapshot = workspace(rule)
        evaluate = compile_plan(snapshot, snapshot.destinations[0], SPEC).evaluate
        spent = best_us(evaluate, events)
        print(f"{title:35s} {spent:8.2f} µs/event   {spent / baseline:5.2f}x")


if __name__ == "__main__":
    main()

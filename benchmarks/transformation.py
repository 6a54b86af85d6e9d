"""What user code costs: a 20-line transformation of 1 KiB events in the sandbox, JavaScript and Python.

Run: python -m benchmarks.transformation. One sandbox process a language, batches of 100. Told are events a second of
one core of the sandbox process (its CPU time), of both processes together, start and memory. The baseline of the same
run is JSON decoding and encoding of the same events.
"""

import asyncio
import time
from typing import Any

import msgspec

from mainstem.transformations.base import Given, Kept
from mainstem.transformations.sandbox.runtime import SandboxLimits, SandboxRuntime
from mainstem.workspace.model import Transformation

BATCH = 100
BATCHES = 300
ROUNDS = 3
WARM_UP = 50

JAVASCRIPT = """\
const PRIVATE = ["email", "phone", "ssn"];

function masked(value) {
  const text = String(value);
  return text.slice(0, 2) + "*".repeat(Math.max(0, text.length - 2));
}

export function transformEvent(event, metadata) {
  if (event.event === "Test") return;
  const traits = event.context && event.context.traits;
  if (traits) {
    for (const key of PRIVATE) {
      if (traits[key] !== undefined) traits[key] = masked(traits[key]);
    }
  }
  const { products = [] } = event.properties;
  event.properties.revenue = products.reduce((sum, each) => sum + each.price * each.quantity, 0);
  event.properties.source = metadata(event).sourceName;
  event.event = event.event.toLowerCase().replace(/ /g, "_");
  return event;
}
"""

PYTHON = """\
PRIVATE = ("email", "phone", "ssn")


def masked(value):
    text = str(value)
    return text[:2] + "*" * max(0, len(text) - 2)


def transformEvent(event, metadata):
    if event["event"] == "Test":
        return None
    traits = event.get("context", {}).get("traits")
    if traits:
        for key in PRIVATE:
            if key in traits:
                traits[key] = masked(traits[key])
    properties = event["properties"]
    properties["revenue"] = sum(each["price"] * each["quantity"] for each in properties.get("products", ()))
    properties["source"] = metadata(event)["sourceName"]
    event["event"] = event["event"].lower().replace(" ", "_")
    return event
"""


def message(index: int) -> dict[str, Any]:
    """Return a canonical track of about 1 KiB."""
    return {
        "messageId": f"01930000-0000-7000-8000-{index:012d}",
        "type": "track",
        "event": "Order Completed",
        "userId": f"user-{index}",
        "anonymousId": f"anonymous-{index}",
        "properties": {
            "order_id": f"o-{index}",
            "total": 99.5,
            "currency": "EUR",
            "coupon": None,
            "products": [
                {"sku": f"s-{n}", "price": 9.95, "quantity": n, "name": "A thing of some sort"}
                for n in range(3)
            ],
        },
        "context": {
            "library": {"name": "analytics-node", "version": "3.0.13"},
            "traits": {"email": f"user-{index}@example.com", "plan": "pro", "phone": "+49 30 1234567"},
            "page": {
                "path": "/checkout",
                "url": "https://shop.example.com/checkout?step=3",
                "title": "Checkout",
                "referrer": "https://shop.example.com/cart",
            },
            "userAgent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0",
            "locale": "de-DE",
            "ip": "192.0.2.1",
        },
        "integrations": {"All": True},
        "channel": "server",
        "originalTimestamp": "2026-09-21T13:33:20.100Z",
        "sentAt": "2026-09-21T13:33:20.110Z",
        "receivedAt": "2026-09-21T13:33:20.123Z",
        "timestamp": "2026-09-21T13:33:20.113Z",
    }


def given(index: int) -> Given:
    """Return the event as the pipeline hands it over."""
    made = message(index)
    return Given(
        message=made,
        metadata={
            "sourceId": "source",
            "sourceName": "Shop",
            "sourceType": "http",
            "workspaceId": "w",
            "destinationId": "d",
            "destinationName": "hook",
            "destinationType": "WEBHOOK",
            "messageId": made["messageId"],
            "eventName": made["event"],
            "eventType": "track",
            "receivedAt": made["receivedAt"],
        },
        seed=made["messageId"],
        now_ms=1_790_000_000_123,
    )


def baseline_us(batch: list[Given]) -> float:
    """Return the CPU time of decoding and encoding one event's JSON, in µs."""
    text = msgspec.json.encode([each.message for each in batch])
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(BATCHES):
            msgspec.json.encode(msgspec.json.decode(text))
        best = min(best, time.process_time() - begun)
    return best / BATCHES / len(batch) * 1e6


async def measure(kind: str, code: str, batch: list[Given], baseline: float) -> None:
    """Run the batches and tell what they cost."""
    transformation = Transformation(id=f"{kind}@1", name=kind, version="1", kind=kind, code=code)  # type: ignore[arg-type]
    runtime = SandboxRuntime(limits=SandboxLimits(processes=1, processes_per_version=1))
    begun = time.perf_counter()
    await runtime.prepare(transformation)
    start_s = time.perf_counter() - begun
    (process,) = runtime.processes()
    empty = process.memory_bytes()
    for _ in range(WARM_UP):
        run = await runtime.run(transformation, batch)
    assert all(isinstance(result, Kept) for result in run.results)
    child_us = total_us = float("inf")
    events = BATCHES * len(batch)
    for _ in range(ROUNDS):
        child, parent = process.cpu_s(), time.process_time()
        for _ in range(BATCHES):
            await runtime.run(transformation, batch)
        child, parent = process.cpu_s() - child, time.process_time() - parent
        child_us = min(child_us, child / events * 1e6)
        total_us = min(total_us, (child + parent) / events * 1e6)
    print(
        f"{kind:10s}  sandbox {child_us:6.1f} µs/event = {1e6 / child_us:8,.0f} events/s per core"
        f"   with the parent {total_us:6.1f} µs = {1e6 / total_us:8,.0f} events/s"
        f"   {total_us / baseline:5.1f}x"
    )
    print(
        f"{'':10s}  start {start_s * 1000:.0f} ms, memory {empty / 1024**2:.0f} MiB,"
        f" after {(WARM_UP + ROUNDS * BATCHES) * len(batch):,} events {process.memory_bytes() / 1024**2:.0f} MiB"
    )
    await runtime.close()


async def main() -> None:
    batch = [given(index) for index in range(BATCH)]
    size = len(msgspec.json.encode(batch[0].message))
    baseline = baseline_us(batch)
    print(f"event size {size} bytes; JSON decode and encode (baseline) {baseline:.2f} µs/event")
    await measure("javascript", JAVASCRIPT, batch, baseline)
    await measure("python", PYTHON, batch, baseline)


if __name__ == "__main__":
    asyncio.run(main())

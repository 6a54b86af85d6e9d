"""Our Python SDK in a flood, beside segment-analytics-python and rudder-sdk-python in the same run.

    python -m benchmarks.sdk_python [EVENTS]

As many calls as the language allows, one after the other, on one thread: what a call costs the caller (median, p99,
largest), the most memory that the process had beyond what it had before, what calls refused, and what arrived at a
collector that answers at once. Then the same with a collector that is away during the flood and for two seconds after
it. "Arrived" is what the collector got until the library's flush returned, or for at most a minute.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from tests.components import python_sdks
from tests.components.install import REPOSITORY, ComponentMissing
from tests.sdks.python.collector import Collector

_EVENTS = 100_000
_AWAY_EVENTS = 30_000
_CALL_EVENTS = 2_000
_AWAY_S = 2.0
_FLUSH_S = 60.0
# Run by each library's own interpreter: nothing but the standard library, and the library.
_PROGRAM = r"""
import json, resource, sys, threading, time
library, url, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
settings, flush_s = json.loads(sys.argv[4]), float(sys.argv[5])
import logging
logging.disable(logging.CRITICAL)
if library == "ours":
    from mainstem_analytics import Client
elif library == "segment":
    from segment.analytics.client import Client
else:
    from rudderstack.analytics.client import Client
given_up = 0
def on_error(error, items):
    global given_up
    given_up += len(items)
client = Client("bench", host=url, on_error=on_error, **settings)
client.track("user-0", "Warm-up", {"n": -1})
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
before, peak, done = rss(), 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, rss())
        time.sleep(0.02)
threading.Thread(target=watch, daemon=True).start()
clock, costs, refused = time.perf_counter_ns, [], 0
began = clock()
for n in range(count):
    properties = {"n": n, "total": 9.95, "currency": "EUR", "items": ["a", "b"], "coupon": None}
    at = clock()
    taken, _ = client.track("user-%d" % (n % 1000), "Order Completed", properties)
    costs.append(clock() - at)
    refused += not taken
took = clock() - began
print("flooded", flush=True)
sys.stdin.readline()
flusher = threading.Thread(target=client.flush, args=(flush_s,) if library == "ours" else (), daemon=True)
flusher.start()
flusher.join(flush_s)
done = True
costs.sort()
result = {
    "took_s": took / 1e9, "median_us": costs[len(costs) // 2] / 1e3, "p99_us": costs[len(costs) * 99 // 100] / 1e3,
    "max_ms": costs[-1] / 1e6, "memory_mb": (peak - before) / 2**20, "refused": refused, "given_up": given_up,
    "flushed": not flusher.is_alive(),
}
if library == "ours":
    result["dropped"] = client.status().dropped
print(json.dumps(result), flush=True)
import os
os._exit(0)
"""


def _flood(
    python: Path | str, library: str, count: int, settings: dict[str, Any], *, away: bool
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as store:
        if library == "ours":
            settings = {**settings, "store_dir": store}
        collector = Collector()
        if not away:
            collector.start()
        process = subprocess.Popen(
            [python, "-c", _PROGRAM, library, collector.url, str(count), json.dumps(settings), str(_FLUSH_S)],
            env={**os.environ, "PYTHONPATH": f"{REPOSITORY}/sdks/python/src"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdin is not None
            if process.stdout.readline() != "flooded\n":
                raise SystemExit(f"{library} failed")
            if away:
                threading.Event().wait(_AWAY_S)
                collector.start()
            process.stdin.write("\n")
            process.stdin.flush()
            result: dict[str, Any] = json.loads(process.stdout.readline())
        finally:
            process.kill()
            process.wait()
        collector.stop()
        arrived = {event["properties"]["n"] for event in collector.arrived} - {-1}
        return {**result, "arrived": len(arrived)}


def _print(name: str, count: int, found: dict[str, Any]) -> None:
    missing = count - found["arrived"]
    end = "" if found["flushed"] else " (flush still runs)"
    print(
        f"  {name:<38} {count / found['took_s']:9,.0f}/s  median {found['median_us']:7.1f} us  "
        f"p99 {found['p99_us']:8.1f} us  max {found['max_ms']:6.1f} ms  {found['memory_mb']:+7.1f} MB  "
        f"refused {found['refused']:6,}  arrived {found['arrived']:7,}  missing {missing:6,}{end}"
    )


def main() -> None:
    """Measure and print."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else _EVENTS
    try:
        theirs = python_sdks.install()
    except ComponentMissing as missing:
        raise SystemExit(str(missing)) from None
    large = {"max_queue_size": 10 * events}
    for away, count in ((False, events), (True, min(events, _AWAY_EVENTS))):
        print(f"{count:,} events, the collector {'is away, and comes back' if away else 'answers at once'}:")
        for name, python, library, settings in (
            ("ours", sys.executable, "ours", {}),
            ("segment-analytics-python", theirs.segment, "segment", {}),
            ("segment, queue as large as ours", theirs.segment, "segment", large),
            ("rudder-sdk-python", theirs.rudder, "rudder", {}),
        ):
            _print(name, count, _flood(python, library, count, settings, away=away))
    print(f"{_CALL_EVENTS:,} events, each on the disk before its call returns:")
    found = _flood(sys.executable, "ours", _CALL_EVENTS, {"durability": "call"}, away=False)
    _print('ours, durability="call"', _CALL_EVENTS, found)


if __name__ == "__main__":
    main()

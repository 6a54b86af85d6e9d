"""A flood in a browser: 100,000 events as fast as JavaScript allows, our SDK and two others in the same run.

    python -m benchmarks.sdk_javascript [EVENTS]

In Chromium, on a page that is isolated from others (only then its clock has steps of 5 µs), `track` is called 1,000
times a task, task after task. The server answers every request at once. Told are: the time of one call on the caller's
thread (median, p99), the longest time for which nothing else could run, the memory of the page's process at its
highest, and after a pause: how many of the events the server has. Calls that take longer than 30 s in all are cut off.

The second line is our SDK with a queue of a tenth: what is over the bound is dropped, and counted.
"""

import asyncio
import functools
import gzip
import json
import os
import subprocess
import sys
import tempfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from playwright.async_api import async_playwright
from tests.components import chromium, javascript_sdk, node_sdks
from tests.components.chromium import FLAGS
from tests.components.install import REPOSITORY

from mainstem.testing.sink import Answer, Received, Sink

EVENTS = 100_000
LIMIT_S = 30.0
"""How long the calls may take; what is not called by then is not called."""
WAIT_S = 25.0
"""What each SDK has, after the flood, to deliver: less, once nothing came for a while."""
QUIET_S = 6

_OURS = """
import { Analytics } from "%(sources)s/browser";
let analytics;
window.start = async (host, events) => {
  analytics = new Analytics({ writeKey: "bench", host, maxQueueEvents: events, maxQueueBytes: 1e9 });
};
window.track = (n) => analytics.track("Step", { n, level: "castle", score: 12.5, items: ["sword", "shield"] });
window.told = () => analytics.stats;
"""
_SEGMENT = """
import { AnalyticsBrowser } from "@segment/analytics-next";
let analytics;
window.start = async (host) => {
  [analytics] = await AnalyticsBrowser.load({ writeKey: "bench", cdnURL: host });
};
window.track = (n) => { analytics.track("Step", { n, level: "castle", score: 12.5, items: ["sword", "shield"] }); };
window.told = () => ({});
"""
_RUDDER = """
import { RudderAnalytics } from "@rudderstack/analytics-js/bundled";
const analytics = new RudderAnalytics();
window.start = (host) => new Promise((resolve) => {
  analytics.load("bench", host, { configUrl: host, logLevel: "NONE" });
  analytics.ready(resolve);
});
window.track = (n) => analytics.track("Step", { n, level: "castle", score: 12.5, items: ["sword", "shield"] });
window.told = () => ({});
"""
_FLOOD = """
async ([wanted, limitMs]) => {
  const all = new Float64Array(wanted);
  const channel = new MessageChannel();
  const next = () => new Promise((resolve) => { channel.port1.onmessage = resolve; channel.port2.postMessage(0); });
  let longest = 0;
  const started = performance.now();
  let last = started;
  let events = 0;
  while (events < wanted && performance.now() - started < limitMs) {
    for (let at = 0; at < 1000 && events < wanted; at++, events++) {
      const before = performance.now();
      window.track(events);
      all[events] = performance.now() - before;
    }
    await next();
    const now = performance.now();
    longest = Math.max(longest, now - last);
    last = now;
  }
  const took = performance.now() - started;
  const times = all.slice(0, events);
  const sorted = times.toSorted();
  return { events, took, longest, p50: sorted[events >> 1], p99: sorted[Math.floor(events * 0.99)],
           mean: times.reduce((sum, it) => sum + it, 0) / events, isolated: crossOriginIsolated };
}
"""
_PAGE = '<!doctype html><meta charset="utf-8"><title>Flood</title><script src="bundle.js"></script>'


class _Isolated(SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        """Say nothing."""


def _answer(host: str, request: Received) -> Answer:
    headers = [
        ("access-control-allow-origin", request.headers.get("origin", "*")),
        ("access-control-allow-headers", request.headers.get("access-control-request-headers", "x-none")),
        ("access-control-max-age", "7200"),
        ("content-type", "application/json"),
    ]
    body: dict[str, Any] = {"success": True, "ok": True}
    if request.path.startswith("/sourceConfig"):
        body = {"source": {"id": "bench", "config": {}, "destinations": []}}
    elif "/projects/" in request.path:
        segment = {"apiKey": "bench", "apiHost": f"{host.removeprefix('http://')}/v1", "protocol": "http"}
        body = {"integrations": {"Segment.io": segment}, "metrics": {"sampleRate": 0}}
    return Answer(200, tuple(headers), json.dumps(body).encode())


def _message_ids(requests: list[Received]) -> set[str]:
    found: set[str] = set()
    for request in requests:
        if request.method == "POST" and request.body:
            packed = request.headers.get("content-encoding") == "gzip"
            document = json.loads(gzip.decompress(request.body) if packed else request.body)
            found |= {
                event["messageId"] for event in document.get("batch", [document]) if "messageId" in event
            }
    return found


async def _measure(name: str, bundle: Path, events: int, bound: int, browser_path: Path) -> None:
    async with Sink() as sink:
        sink.script = functools.partial(_answer, sink.url)
        handler = functools.partial(_Isolated, directory=bundle.parent)
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as pages:
            Thread(target=pages.serve_forever, daemon=True).start()
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(executable_path=browser_path, args=list(FLAGS))
                page = await browser.new_page()
                await page.goto(f"http://localhost:{pages.server_port}/index.html")
                await page.evaluate("([host, bound]) => window.start(host, bound)", [sink.url, bound])
                session = await browser.new_browser_cdp_session()
                found = await asyncio.wait_for(page.evaluate(_FLOOD, [events, LIMIT_S * 1000]), 4 * LIMIT_S)
                deadline = asyncio.get_running_loop().time() + WAIT_S
                quiet_s = 0
                while quiet_s < QUIET_S and asyncio.get_running_loop().time() < deadline:
                    before = sink.count
                    await asyncio.sleep(1)
                    quiet_s = quiet_s + 1 if sink.count == before else 0
                processes = (await session.send("SystemInfo.getProcessInfo"))["processInfo"]
                peak = max(_peak_bytes(one["id"]) for one in processes if one["type"] == "renderer")
                told: dict[str, Any] = {}
                try:
                    told = await asyncio.wait_for(page.evaluate("window.told()"), 10)
                except TimeoutError:
                    told = {"page": "does not answer any more"}
                requests = sum(request.method == "POST" for request in sink.requests)
                await browser.close()
            pages.shutdown()
        arrived = len(_message_ids(sink.requests))
    assert found["isolated"]
    print(
        f"  {name:34} {found['p50'] * 1000:5.0f} us median, {found['p99'] * 1000:6.0f} us p99,"
        f" {found['mean'] * 1000:5.0f} us mean; longest task {found['longest']:6.0f} ms; all calls"
        f" {found['took'] / 1000:5.1f} s; memory {peak / 2**20:5.0f} MiB; {requests:6} requests;"
        f" arrived {arrived:6} of {found['events']} called"
        + (
            f"; told: {json.dumps({key: told[key] for key in told if key in ('dropped', 'page')})}"
            if told
            else ""
        )
    )


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _bundle(source: str, folder: Path, sdks: node_sdks.NodeSdks) -> Path:
    folder.mkdir()
    (folder / "entry.ts").write_text(source % {"sources": REPOSITORY / "sdks" / "javascript" / "src"})
    (folder / "index.html").write_text(_PAGE)
    subprocess.run(
        [sdks.home / "node_modules" / ".bin" / "esbuild", folder / "entry.ts", "--bundle", "--minify",
         "--define:VERSION=\"0\"", "--format=iife", "--target=es2022", "--log-level=error",
         f"--outfile={folder / 'bundle.js'}"],
        check=True, env={**os.environ, "NODE_PATH": str(sdks.home / "node_modules")},
    )  # fmt: skip
    return folder / "bundle.js"


async def _run(events: int) -> None:
    sdks, browser_path = node_sdks.install(), chromium.install()
    javascript_sdk.install()
    with tempfile.TemporaryDirectory() as directory:
        for name, source, bound in (
            ("@mainstem/analytics", _OURS, events),
            ("@mainstem/analytics, queue of 1/10", _OURS, events // 10),
            ("@rudderstack/analytics-js", _RUDDER, 0),
            ("@segment/analytics-next", _SEGMENT, 0),
        ):
            bundle = _bundle(source, Path(directory, name.replace("/", "_").replace(" ", "_")), sdks)
            try:
                await _measure(name, bundle, events, bound, browser_path)
            except TimeoutError:
                print(f"  {name:34} hung: its page answers nothing any more")


def main() -> None:
    """Measure and print."""
    asyncio.run(_run(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS))


if __name__ == "__main__":
    main()

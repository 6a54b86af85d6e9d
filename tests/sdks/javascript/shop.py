"""A shop on the web: pages with the snippet, in Chromium, before a real Mainstem behind a proxy that misbehaves.

The pages are on `localhost`, the proxy is on `127.0.0.1`: every request is cross-origin.
"""

import asyncio
import functools
import json
import os
import secrets
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final

from playwright.async_api import Browser, BrowserContext, Page

from mainstem.testing.sink import Sink
from tests.acceptance.evidence import accepted, assert_exactly_once, ids
from tests.acceptance.serving import WRITE_KEY, Serving, until
from tests.components.chromium import FLAGS
from tests.components.javascript_sdk import JavascriptSdk
from tests.sdks.javascript.proxy import Proxy

BROWSER_FLAGS: Final = (
    *FLAGS,
    # No renderers in store: once all are killed, Chromium may offer a dead one to the next page, which waits for good.
    "--disable-features=SpareRendererForSitePerProcess,PreloadTopChromeWebUI",
    # Hosts of one site, below suffixes that are public and not.
    "--host-resolver-rules=MAP *.shop.test 127.0.0.1, MAP *.shop.co.uk 127.0.0.1",
)
QUICK: Final = {"flushIntervalMs": 200, "retryBaseMs": 20, "retryCapMs": 200}
"""Options for quick tests."""

WORKSPACE: Final = """
workspace: {{id: shop, name: Shop}}
sources:
  - {{id: web, name: Web, write_key: {key}, type: http}}
destinations:
  - {{id: hook, name: Hook, type: webhook, config: {{webhookUrl: "{sink}/in"}}}}
connections:
  - {{from: web, to: [hook]}}
"""

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Shop</title>
<script>
window.send = (from, to, more) => {{ for (let n = from; n < to; n++) analytics.track("Step", {{ n, ...more }}); }}
</script>
{snippet}
{script}
</head><body>A page that sends events.</body></html>
"""


class Shop:
    """The pages, and what became of what they sent."""

    def __init__(
        self,
        product: Serving,
        sink: Sink,
        proxy: Proxy,
        origin: str,
        folder: Path,
        sdk: JavascriptSdk,
        built: Path,
    ) -> None:
        self.product = product
        self.sink = sink
        self.proxy = proxy
        self.origin = origin
        self.folder = folder
        self._sdk = sdk
        self._built = built
        self._pages = 0
        self.run = secrets.token_hex(4)
        """In the context of every event of these pages: the Mainstem is shared with other tests."""

    def write(self, script: str = "", **options: object) -> str:
        """Write a page with the snippet and a script behind it; return its address."""
        arguments = json.dumps(
            [WRITE_KEY, self.proxy.url, {**QUICK, "context": {"run": self.run}, **options}]
        )
        source = (
            f"import {{ snippet }} from '{self._built}/snippet.mjs'; console.log(snippet(...{arguments}))"
        )
        done = subprocess.run(
            [self._sdk.node, "--input-type=module", "-e", source], capture_output=True, text=True, check=True
        )
        self._pages += 1
        name = f"page{self._pages}.html"
        script = f"<script>{script}</script>" if script else ""
        (self.folder / name).write_text(_PAGE.format(snippet=done.stdout.strip(), script=script))
        return f"{self.origin}/{name}"

    async def open(self, context: BrowserContext, url: str, *, loaded: bool = True) -> Page:
        """Open a page; returns (unless told not to wait) when the SDK is there."""
        page = await context.new_page()
        await page.goto(url)
        if loaded:
            await page.wait_for_function("!Array.isArray(window.analytics)")
        return page

    def arrived(self, event: str = "Step") -> list[Mapping[str, Any]]:
        """What reached the destination, in order."""
        return [one for one in self.events() if one.get("event") == event]

    def of_type(self, kind: str) -> list[Mapping[str, Any]]:
        """The events of a type that reached the destination."""
        return [one for one in self.events() if one["type"] == kind]

    def events(self) -> list[Mapping[str, Any]]:
        """All events of this run that reached the destination, in order."""
        return [one for one in accepted(self.sink.requests) if one["context"].get("run") == self.run]

    async def expect(
        self,
        numbers: Sequence[int],
        *,
        tab: str | None = None,
        user: str | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """Wait until the destination has these, then see that each came once, and in order.

        Args:
            tab, user: of one only. Between users there is no order.
        """

        def found() -> list[Mapping[str, Any]]:
            return [
                one
                for one in self.arrived()
                if tab in (None, one["properties"].get("tab")) and user in (None, one.get("userId"))
            ]

        try:
            await until(
                "the events arrived",
                lambda: {one["properties"]["n"] for one in found()} >= set(numbers),
                timeout_s=timeout_s,
            )
        except AssertionError:
            missing = sorted(set(numbers) - {one["properties"]["n"] for one in found()})
            raise AssertionError(f"{len(missing)} of {len(numbers)} are missing: {missing[:20]}") from None
        await self.product.settled("hook")
        assert [one["properties"]["n"] for one in found()] == list(numbers)
        every = ids(self.events())
        assert_exactly_once(every, every, "hook")


async def kill_renderers(browser: Browser) -> int:
    """SIGKILL every tab's process, as a crash or the operating system would; returns how many there were."""
    session = await browser.new_browser_cdp_session()
    processes = (await session.send("SystemInfo.getProcessInfo"))["processInfo"]
    renderers = [process["id"] for process in processes if process["type"] == "renderer"]
    for pid in renderers:
        os.kill(pid, signal.SIGKILL)
    return len(renderers)


def kill_browser(profile: Path) -> None:
    """SIGKILL the browser that runs on a profile, and with it everything of it."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if f"--user-data-dir={profile}" in words and not any(word.startswith("--type=") for word in words):
            os.kill(int(entry.name), signal.SIGKILL)


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        """Say nothing: the browser's requests for the page are no news."""


@asynccontextmanager
async def static_server(directory: Path) -> AsyncIterator[str]:
    """Serve a folder on localhost; yields the origin."""
    handler = functools.partial(_QuietHandler, directory=directory)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}"
        finally:
            await asyncio.to_thread(server.shutdown)
            thread.join()

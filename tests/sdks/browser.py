"""Runs the browser SDKs in headless Chromium, on a page of another origin than the gateway.

The page comes from a small static server on `localhost`, the gateway is on `127.0.0.1`, so every call is
cross-origin and preflights are real. Requests are only watched: Playwright's interception would
answer preflights itself.
"""

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final

from playwright.async_api import Page, Response, async_playwright

from tests.components.chromium import FLAGS
from tests.components.node_sdks import NodeSdks
from tests.sdks.plan import CALLS, Mark, Plan, Sent

ENTRIES: Final = {
    "analytics-next": "browser/segment_next.mjs",
    "rudder-js": "browser/rudder_js.mjs",
}
"""Bundle entry by SDK."""

CALLS_OF: Final = {
    "analytics-next": CALLS,
    "rudder-js": tuple(call for call in CALLS if call != "screen"),
}
"""Which calls the SDK has in a browser, in the order in which they are made."""

_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Shop</title><script src="bundle.js"></script></head>
<body>A page that sends events.</body></html>
"""
_ANSWER_TIMEOUT_MS = 30_000


async def send(sdk: str, plan: Plan, *, sdks: NodeSdks, chromium: Path, directory: Path) -> list[Sent]:
    """Make every call of the plan in one page, each answered 200 before the next is made.

    The browser SDKs send one request per call on parallel connections, so waiting for each answer is
    the only way in which the order of arrival is defined at all.

    Args:
        sdk: A key of `ENTRIES`.
        plan: What to send; the SDK reads its settings from the endpoint too.
        sdks: The installed npm project.
        chromium: The browser.
        directory: An empty folder for the page's files.

    Returns:
        What went over the wire, read from the requests themselves.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "index.html").write_text(_HTML)
    await asyncio.to_thread(sdks.bundle, ENTRIES[sdk], directory / "bundle.js")
    async with _static_server(directory) as origin, _page(chromium) as page:
        await page.goto(f"{origin}/index.html")
        target = {"endpoint": plan.endpoint, "writeKey": plan.write_key}
        await page.evaluate("target => window.start(target)", target)
        return await _make_calls(page, CALLS_OF[sdk], plan)


async def _make_calls(page: Page, calls: tuple[str, ...], plan: Plan) -> list[Sent]:
    sent: list[Sent] = []
    for _ in range(plan.rounds):
        for number in range(plan.users):
            anonymous_id = f"{plan.run}-anon-{number}"
            await page.evaluate("user => window.become(user)", {"anonymousId": anonymous_id})
            for call in calls:
                mark = Mark(run=plan.run, seq=len(sent))
                arguments = {
                    "type": call,
                    "userId": f"{plan.run}-user-{number}",
                    "anonymousId": anonymous_id,
                    "groupId": f"{plan.run}-group",
                    "fields": {"seq": mark.seq, "run": mark.run},
                    "context": {"mark": {"run": mark.run, "seq": mark.seq}},
                }
                delivered = functools.partial(_delivers, mark)
                async with page.expect_response(delivered, timeout=_ANSWER_TIMEOUT_MS) as answer:
                    await page.evaluate("call => window.call(call)", arguments)
                event = _event_in(await answer.value)
                if event is None:
                    raise AssertionError("a response that matched has no event")
                sent.append(
                    Sent(
                        type=event["type"],
                        seq=mark.seq,
                        message_id=event["messageId"],
                        user_id=event.get("userId") or None,
                        anonymous_id=event.get("anonymousId") or None,
                    )
                )
    return sent


def _delivers(mark: Mark, response: Response) -> bool:
    event = _event_in(response)
    return response.ok and event is not None and Mark.of(event) == mark


def _event_in(response: Response) -> Mapping[str, Any] | None:
    """The event that the answered request carried; None for preflights, settings and metrics."""
    body = response.request.post_data
    if response.request.method != "POST" or body is None:
        return None
    event = json.loads(body)
    return event if isinstance(event, dict) and "messageId" in event else None


@asynccontextmanager
async def _page(chromium: Path) -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        try:
            page = await browser.new_page()
            yield page
        finally:
            await browser.close()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        """Say nothing: the browser's requests for the page are no news."""


@asynccontextmanager
async def _static_server(directory: Path) -> AsyncIterator[str]:
    handler = functools.partial(_QuietHandler, directory=directory)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}"
        finally:
            await asyncio.to_thread(server.shutdown)
            thread.join()

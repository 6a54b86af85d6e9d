"""The SDK in real Chromium, against a real Mainstem, through what goes wrong: exactly once, in order."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from mainstem.testing.sink import Sink
from tests.acceptance.evidence import number_of
from tests.acceptance.serving import WRITE_KEY, Serving, serving, until
from tests.components.javascript_sdk import JavascriptSdk
from tests.sdks.javascript.proxy import Behaviour, Cut, Held, Lost, Proxy
from tests.sdks.javascript.shop import (
    BROWSER_FLAGS,
    WORKSPACE,
    Shop,
    kill_browser,
    kill_renderers,
    static_server,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEFINE = "Object.defineProperty(%s, '%s', {get: () => %s, configurable: true})"


@dataclass
class Backend:
    """One Mainstem and one browser for all tests here; each test has its own run, proxy and browser context."""

    product: Serving
    sink: Sink


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Backend]:
    async with Sink() as sink:
        workspace = WORKSPACE.format(key=WRITE_KEY, sink=sink.url)
        async with serving(tmp_path_factory.mktemp("serve"), workspace) as product:
            yield Backend(product, sink)


@pytest_asyncio.fixture(loop_scope="module")
async def shop(
    backend: Backend, javascript_sdk_tools: JavascriptSdk, built: Path, tmp_path: Path
) -> AsyncIterator[Shop]:
    pages = tmp_path / "pages"
    pages.mkdir()
    async with Proxy(backend.product.url) as proxy, static_server(pages) as origin:
        yield Shop(backend.product, backend.sink, proxy, origin, pages, javascript_sdk_tools, built)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(chromium_path: Path) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path, args=list(BROWSER_FLAGS))
        try:
            yield browser
        finally:
            await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    context = await browser.new_context()
    yield context
    await context.close()


@pytest_asyncio.fixture(loop_scope="module")
async def caching_context(chromium_path: Path) -> AsyncIterator[BrowserContext]:
    """Of a browser with a back/forward cache, which Playwright turns off."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium_path,
            args=list(BROWSER_FLAGS),
            ignore_default_args=["--disable-back-forward-cache"],
        )
        try:
            yield await browser.new_context()
        finally:
            await browser.close()


async def test_the_snippet_and_everything_automatic(shop: Shop, context: BrowserContext) -> None:
    url = shop.write(
        "analytics.identify('u1', {plan: 'pro'}); analytics.group('g1'); analytics.track('Step', {n: 0})"
    )
    page = await shop.open(context, f"{url}?utm_source=news&utm_campaign=spring#part")
    await shop.expect([0])
    first = shop.of_type("page")[0]
    assert first["properties"]["path"] == "/page1.html"
    assert first["properties"]["url"] == f"{url}?utm_source=news&utm_campaign=spring"
    step = shop.arrived()[0]
    assert step["userId"] == "u1"
    assert step["anonymousId"] == first["anonymousId"]
    found = step["context"]
    assert found["page"]["title"] == "Shop"
    assert found["page"]["search"] == "?utm_source=news&utm_campaign=spring"
    assert found["campaign"] == {"source": "news", "name": "spring"}
    assert found["library"] == {"name": "@mainstem/analytics", "version": "0.1.0"}
    assert "Chrome" in found["userAgent"]
    assert {"brands", "mobile", "platform"} <= found["userAgentData"].keys()
    assert {"width", "height", "density"} <= found["screen"].keys()
    assert found["locale"]
    assert found["timezone"]
    assert (first["context"]["sessionStart"], "sessionStart" in found) == (True, False)
    assert found["sessionId"] == first["context"]["sessionId"]
    assert shop.of_type("identify")[0]["traits"] == {"plan": "pro"}
    assert shop.of_type("group")[0]["groupId"] == "g1"
    assert shop.proxy.preflights == []
    assert await page.evaluate("analytics.user().id()") == "u1"


async def test_one_tag_without_a_stub(shop: Shop, context: BrowserContext) -> None:
    (shop.folder / "tag.html").write_text(
        "<!doctype html><title>Tag</title>"
        f'<script src="{shop.proxy.url}/sdk/mainstem.js" data-write-key="{WRITE_KEY}" data-name="stem"></script>'
    )
    page = await context.new_page()
    await page.goto(f"{shop.origin}/tag.html")
    more = f"{{context: {{run: '{shop.run}'}}}}"
    assert await page.evaluate(f"stem.track('Step', {{n: 0}}, {more})")
    assert await page.evaluate("stem.flush()") is True
    await shop.expect([0])


async def test_ids_live_in_cookies_and_are_one_in_all_tabs(shop: Shop, context: BrowserContext) -> None:
    url = shop.write()
    one, two = await shop.open(context, url), await shop.open(context, url)
    await one.evaluate("analytics.identify('u1', {plan: 'pro'})")
    await two.wait_for_function("analytics.user().id() === 'u1'")
    anonymous = await one.evaluate("analytics.user().anonymousId()")
    assert await two.evaluate("[analytics.user().anonymousId(), analytics.user().traits().plan]") == [
        anonymous,
        "pro",
    ]
    cookies = {cookie["name"]: cookie for cookie in await context.cookies()}
    assert cookies["mainstem_anonymous_id"]["value"] == anonymous
    assert cookies["mainstem_anonymous_id"]["sameSite"] == "Lax"
    assert "mainstem_traits" not in cookies
    await two.evaluate("analytics.reset()")
    await one.wait_for_function("analytics.user().id() === undefined")
    assert await two.evaluate("analytics.user().anonymousId()") != anonymous
    # localStorage gone: the cookie is enough.
    await two.evaluate("localStorage.clear()")
    kept = await two.evaluate("analytics.user().anonymousId()")
    three = await shop.open(context, url)
    assert await three.evaluate("analytics.user().anonymousId()") == kept


@pytest.mark.parametrize("site", ["shop.test", "shop.co.uk"])
async def test_the_hosts_of_a_site_share_the_ids_or_not(
    shop: Shop, context: BrowserContext, site: str
) -> None:
    """These pages have no TLS: neither Web Locks nor `randomUUID`."""

    async def anonymous_id(host: str, url: str) -> str:
        page = await shop.open(context, url.replace("localhost", host))
        assert await page.evaluate("isSecureContext") is False
        return str(await page.evaluate("analytics.user().anonymousId()"))

    own, shared = shop.write(cookieDomain=""), shop.write()
    alone = [await anonymous_id(f"{name}.{site}", own) for name in ("one", "two")]
    assert alone[0] != alone[1]
    await context.clear_cookies()
    ids = [await anonymous_id(f"{name}.{site}", shared) for name in ("three", "four", "three.deep")]
    assert len(set(ids)) == 1
    found = {cookie["domain"] for cookie in await context.cookies() if cookie["name"].startswith("mainstem_")}
    assert found == {f".{site}"}


async def test_ids_without_cookies(shop: Shop, context: BrowserContext) -> None:
    async def anonymous_id(url: str) -> str:
        page = await shop.open(context, url)
        found = await page.evaluate("analytics.user().anonymousId()")
        await page.close()
        return str(found)

    in_memory = shop.write(ids="memory")
    assert await anonymous_id(in_memory) != await anonymous_id(in_memory)
    in_storage = shop.write(ids="storage")
    assert await anonymous_id(in_storage) == await anonymous_id(in_storage)
    assert await context.cookies() == []


async def test_client_hints_that_are_asked_for(shop: Shop, context: BrowserContext) -> None:
    page = await shop.open(context, shop.write(clientHints=["platformVersion", "architecture"]))
    hints = await page.evaluate(
        "navigator.userAgentData.getHighEntropyValues(['platformVersion', 'architecture'])"
    )
    await page.evaluate("send(0, 1)")
    await shop.expect([0])
    found = shop.arrived()[0]["context"]["userAgentData"]
    assert found == hints
    assert {"platformVersion", "architecture", "brands"} <= found.keys()


async def test_every_answer_that_a_server_can_give(shop: Shop, context: BrowserContext) -> None:
    chosen = random.Random(20_261)
    kinds: list[Behaviour | None] = [500, 503, 429, Cut(), Lost(), Lost(), 502, 408, None]
    shop.proxy.script = iter([it for _ in range(25) if (it := chosen.choice(kinds)) is not None])
    page = await shop.open(context, shop.write(batchEvents=20))
    for start in range(0, 300, 50):
        await page.evaluate(f"send({start}, {start + 50})")
        await page.wait_for_timeout(50)
    await shop.expect(range(300), timeout_s=90)
    assert shop.proxy.most_flying == 1
    assert {0, 200, 500} <= {seen.status for seen in shop.proxy.seen}


async def test_a_killed_tab_loses_nothing_that_a_task_handed_over(
    shop: Shop, browser: Browser, context: BrowserContext
) -> None:
    release = asyncio.Event()
    shop.proxy.script = iter([503, 503, Held(release)])
    url = shop.write()
    page = await shop.open(context, url)
    for start in range(0, 500, 10):
        await page.evaluate(f"send({start}, {start + 10})")
    # Nothing lies between the last call's task and the end of its process.
    assert await kill_renderers(browser) >= 1
    release.set()
    await shop.open(context, url)
    await shop.expect(range(500))


async def test_a_tab_killed_before_its_database_was_open(
    shop: Shop, browser: Browser, context: BrowserContext
) -> None:
    await context.add_init_script("if (location.hash) IDBFactory.prototype.open = () => ({})")
    shop.proxy.script = iter([503] * 1_000)
    url = shop.write()
    page = await shop.open(context, f"{url}#slow")
    await page.evaluate("send(0, 40)")
    assert await kill_renderers(browser) >= 1
    shop.proxy.script = iter(())
    await shop.open(context, url)
    await shop.expect(range(40))


async def test_a_killed_browser(shop: Shop, chromium_path: Path, tmp_path: Path) -> None:
    shop.proxy.script = iter([503] * 1_000)
    url = shop.write()
    profile = tmp_path / "profile"
    async with async_playwright() as playwright:
        launch = playwright.chromium.launch_persistent_context
        context = await launch(profile, executable_path=chromium_path, args=list(BROWSER_FLAGS))
        page = await shop.open(context, url)
        closed = asyncio.Event()
        context.on("close", lambda _: closed.set())
        await page.evaluate("send(0, 200)")
        await page.wait_for_function("analytics.stats.retries > 0")
        kill_browser(profile)
        await asyncio.wait_for(closed.wait(), 30)
        shop.proxy.script = iter(())
        context = await launch(profile, executable_path=chromium_path, args=list(BROWSER_FLAGS))
        await shop.open(context, url)
        await shop.expect(range(200))
        await context.close()


async def test_offline_and_back(shop: Shop, context: BrowserContext) -> None:
    page = await shop.open(context, shop.write())
    await page.evaluate("send(0, 10)")
    await shop.expect(range(10))
    await context.set_offline(True)
    before = len(shop.proxy.seen)
    # A minute, scaled as the intervals are: thirty of them.
    for start in range(10, 310, 10):
        await page.evaluate(f"send({start}, {start + 10})")
        await page.wait_for_timeout(200)
    assert len(shop.proxy.seen) == before
    await context.set_offline(False)
    await shop.expect(range(310))


async def test_a_network_that_drops_everything_for_a_while(shop: Shop, context: BrowserContext) -> None:
    """The browser thinks that it is online."""
    page = await shop.open(context, shop.write())
    dead = [Cut()] * 30
    shop.proxy.script = iter(dead)
    await page.evaluate("send(0, 250)")
    await shop.expect(range(250), timeout_s=90)


@pytest.mark.parametrize("locks", [True, False], ids=["web locks", "lease"])
async def test_two_tabs_share_one_queue(shop: Shop, context: BrowserContext, locks: bool) -> None:
    if not locks:
        await context.add_init_script(DEFINE % ("Navigator.prototype", "locks", "undefined"))
    shop.proxy.script = iter([500, Lost(), 503, Cut()])
    url = shop.write(batchEvents=10)
    tabs = {name: await shop.open(context, url) for name in ("one", "two")}
    for start in range(0, 100, 5):
        for name, tab in tabs.items():
            await tab.evaluate(f"send({start}, {start + 5}, {{tab: '{name}'}})")
    for name in tabs:
        await shop.expect(range(100), tab=name)
    if locks:
        assert shop.proxy.most_flying == 1


async def test_the_other_tab_sends_what_a_closed_one_left(shop: Shop, context: BrowserContext) -> None:
    shop.proxy.script = iter([503] * 5)
    url = shop.write()
    one, two = await shop.open(context, url), await shop.open(context, url)
    await two.evaluate("send(0, 150)")
    await two.close()
    await shop.expect(range(150))
    await one.close()


async def test_a_page_that_ends_while_a_batch_is_under_way(shop: Shop, context: BrowserContext) -> None:
    """The batch's answer never comes back to the page; what followed it is handed over with it, in order."""
    release = asyncio.Event()
    page = await shop.open(context, shop.write())
    await until("the page event is through", lambda: len(shop.of_type("page")) == 1)
    shop.proxy.script = iter([Held(release)])
    await page.evaluate("send(0, 20)")
    await until("the batch is under way", lambda: shop.proxy.flying == 1)
    await page.evaluate("send(20, 40)")
    await page.goto(shop.write())
    release.set()
    await shop.expect(range(40))
    beacons = [seen for seen in shop.proxy.seen if seen.path == "/beacon/v1/batch"]
    assert beacons[0].numbers == list(range(40))


@pytest.mark.parametrize("keepalive", [True, False], ids=["keepalive", "sendBeacon"])
async def test_the_last_page_of_all_is_closed(shop: Shop, context: BrowserContext, keepalive: bool) -> None:
    if not keepalive:
        await context.add_init_script("delete Request.prototype.keepalive")
    page = await shop.open(context, shop.write(flushIntervalMs=60_000))
    await page.evaluate("send(0, 30)")
    await page.close(run_before_unload=True)
    await shop.expect(range(30))
    # They were not acknowledged to anybody: the next page sends them again, and they are recognised.
    await shop.open(context, shop.write())
    await until("they are sent again", lambda: sum(len(seen.numbers) >= 30 for seen in shop.proxy.seen) >= 2)
    await shop.expect(range(30))


async def test_more_than_a_browser_lets_go_at_the_end(shop: Shop, context: BrowserContext) -> None:
    page = await shop.open(context, shop.write(flushIntervalMs=60_000, batchEvents=10_000))
    await page.evaluate("send(0, 400)")
    await page.goto(shop.write())
    await shop.expect(range(400))
    beacons = [seen for seen in shop.proxy.seen if seen.path == "/beacon/v1/batch"]
    assert all(
        seen.numbers in ([-1], list(range(len(seen.numbers)))) or seen.numbers[0] == -1 for seen in beacons
    )


async def test_a_hidden_tab_sends_at_once(shop: Shop, context: BrowserContext) -> None:
    page = await shop.open(context, shop.write(flushIntervalMs=60_000))
    await page.evaluate("send(0, 3)")
    await page.evaluate(DEFINE % ("document", "visibilityState", "'hidden'"))
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await shop.expect(range(3))


async def test_the_quota_is_used_up(shop: Shop, browser: Browser, context: BrowserContext) -> None:
    shop.proxy.script = iter([503] * 5)
    page = await context.new_page()
    session = await context.new_cdp_session(page)
    await session.send("Storage.overrideQuotaForOrigin", {"origin": shop.origin, "quotaSize": 40_000})
    await page.goto(shop.write())
    await page.wait_for_function("!Array.isArray(window.analytics)")
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    for start in range(0, 1_000, 100):
        await page.evaluate(f"send({start}, {start + 100}, {{text: 'x'.repeat(2000)}})")
    await shop.expect(range(1_000))
    assert await page.evaluate("analytics.stats.dropped") == {}


async def test_a_private_window_without_any_storage(shop: Shop, context: BrowserContext) -> None:
    await context.add_init_script(DEFINE % ("window", "indexedDB", "undefined"))
    await context.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError') }})"
    )
    shop.proxy.script = iter([503, Lost()])
    page = await shop.open(context, shop.write())
    await page.evaluate("send(0, 120)")
    await shop.expect(range(120))


async def test_only_local_storage(shop: Shop, browser: Browser, context: BrowserContext) -> None:
    await context.add_init_script(
        "IDBFactory.prototype.open = () => { throw new DOMException('no', 'SecurityError') }"
    )
    shop.proxy.script = iter([503] * 1_000)
    url = shop.write()
    page = await shop.open(context, url)
    await page.evaluate("send(0, 300, {text: 'x'.repeat(500)})")
    await page.wait_for_function("analytics.stats.retries > 0")
    assert await kill_renderers(browser) >= 1
    shop.proxy.script = iter(())
    await shop.open(context, url)
    await shop.expect(range(300))


async def test_nothing_is_on_the_device_before_consent(shop: Shop, context: BrowserContext) -> None:
    page = await shop.open(context, shop.write(consent={"required": ["analytics"]}))
    await page.evaluate("analytics.identify('u1'); send(0, 5)")
    await page.wait_for_timeout(500)
    on_device = (
        "(async () => [document.cookie, Object.keys(localStorage), (await indexedDB.databases()).length])()"
    )
    assert await page.evaluate(on_device) == ["", [], 0]
    assert shop.proxy.seen == []
    await page.evaluate("analytics.setConsent({analytics: true, ads: false})")
    await shop.expect(range(5))
    assert shop.arrived()[0]["context"]["consent"] == {
        "categoryPreferences": {"analytics": True, "ads": False}
    }
    assert {cookie["name"] for cookie in await context.cookies()} >= {
        "mainstem_anonymous_id",
        "mainstem_user_id",
    }
    await page.evaluate("analytics.setConsent({analytics: false}); send(5, 9)")
    assert await context.cookies() == []
    assert await page.evaluate("Object.keys(localStorage)") == []
    assert await page.evaluate("analytics.stats.dropped.consent") == 4


async def test_sessions_end_after_a_pause_and_are_shared_by_tabs(shop: Shop, context: BrowserContext) -> None:
    url = shop.write()
    one, two = await shop.open(context, url), await shop.open(context, url)
    await one.evaluate("send(0, 1)")
    await two.evaluate("send(1, 2)")
    half_an_hour = "const now = Date.now; Date.now = () => now() + 1_801_000;"
    await one.evaluate(f"{half_an_hour} send(2, 4)")
    await shop.expect(range(4))
    sessions = [
        (event["context"]["sessionId"], event["context"].get("sessionStart")) for event in shop.arrived()
    ]
    assert sessions[0] == sessions[1]
    assert sessions[2] == (sessions[3][0], True)
    assert sessions[3][1] is None
    assert sessions[2][0] > sessions[0][0]


async def test_pages_of_a_single_page_application(shop: Shop, context: BrowserContext) -> None:
    page = await shop.open(context, shop.write(pages="spa"))
    await page.evaluate("history.pushState({}, '', '/cart?a=1'); document.title = 'Cart'")
    await page.evaluate("location.hash = 'below'")
    await page.evaluate("history.replaceState({}, '', '/paid')")
    await page.go_back()
    await until("the pages arrived", lambda: len(shop.of_type("page")) >= 5)
    await shop.product.settled("hook")
    seen = [(event["properties"]["path"], event["properties"]["title"]) for event in shop.of_type("page")]
    # The first by the setting, the second by the snippet's own call.
    assert seen[:4] == [
        ("/page1.html", "Shop"),
        ("/page1.html", "Shop"),
        ("/cart", "Cart"),
        ("/paid", "Cart"),
    ]
    assert shop.of_type("page")[2]["properties"]["referrer"].endswith("/page1.html")


WATCH_RETURNS = "window.returns = []; addEventListener('pageshow', (event) => returns.push(event.persisted))"


async def travel(page: Page, direction: str) -> None:
    """Go back or forward to a page that must come out of the back/forward cache."""
    await (page.go_back(wait_until="commit") if direction == "back" else page.go_forward(wait_until="commit"))
    why_not = "performance.getEntriesByType('navigation')[0].notRestoredReasons"
    returns, reasons = await page.evaluate(f"[returns, {why_not}]")
    assert reasons is None, reasons
    assert returns[-1] is True, "the page was loaded anew"


@pytest.mark.parametrize("locks", [True, False], ids=["web locks", "lease"])
async def test_a_page_that_is_frozen_in_the_middle_of_a_batch_and_comes_back(
    shop: Shop, caching_context: BrowserContext, locks: bool
) -> None:
    """It holds up nobody meanwhile, and the browser keeps it: a lock or a request of its own would cost it that."""
    if not locks:
        await caching_context.add_init_script(DEFINE % ("Navigator.prototype", "locks", "undefined"))
    release = asyncio.Event()
    page = await shop.open(caching_context, shop.write(WATCH_RETURNS))
    await page.evaluate("send(0, 10)")
    await shop.expect(range(10))
    shop.proxy.script = iter([Held(release)])
    await page.evaluate("send(10, 30)")
    await until("the batch is under way", lambda: shop.proxy.flying == 1)
    await page.evaluate("send(30, 40)")
    await page.goto(shop.write(WATCH_RETURNS))
    await page.wait_for_function("!Array.isArray(window.analytics)")
    await page.evaluate("send(40, 60)")
    # The first page's request has still not been let through.
    await shop.expect(range(60))
    assert await page.evaluate("analytics.flush()")
    assert shop.proxy.flying == 1
    release.set()
    await travel(page, "back")
    await page.evaluate("send(60, 80)")
    await shop.expect(range(80))
    await travel(page, "forward")
    await page.evaluate("send(80, 90)")
    await shop.expect(range(90))
    await travel(page, "back")
    await page.evaluate("send(90, 95)")
    assert await page.evaluate("analytics.flush()")
    await shop.expect(range(95))
    assert await page.evaluate("analytics.stats.dropped") == {}


async def test_a_page_that_waits_for_its_turn_comes_back(shop: Shop, caching_context: BrowserContext) -> None:
    """Another tab has the lock the whole time."""
    release = asyncio.Event()
    url = shop.write(WATCH_RETURNS)
    page, other = await shop.open(caching_context, url), await shop.open(caching_context, url)
    await until("the page events are through", lambda: len(shop.of_type("page")) == 2)
    shop.proxy.script = iter([Held(release)])
    await other.evaluate("send(0, 10)")
    await until("the other tab sends", lambda: shop.proxy.flying == 1)
    await page.evaluate("send(10, 20)")
    await page.evaluate("void analytics.flush()")
    await page.goto(shop.write())
    await page.wait_for_function("!Array.isArray(window.analytics)")
    release.set()
    await shop.expect(range(20))
    await travel(page, "back")
    await page.evaluate("send(20, 30)")
    await shop.expect(range(30))


async def test_what_happened_elsewhere_while_a_page_was_frozen(
    shop: Shop, caching_context: BrowserContext
) -> None:
    page = await shop.open(caching_context, shop.write(WATCH_RETURNS, pages="load"))
    await page.evaluate("analytics.identify('u1'); send(0, 1)")
    await page.goto(shop.write(WATCH_RETURNS, pages="load"))
    await page.wait_for_function("!Array.isArray(window.analytics)")
    await page.evaluate("send(1, 2); analytics.reset(); analytics.identify('u2'); send(2, 3)")
    await travel(page, "back")
    await page.evaluate("send(3, 4)")
    for user, numbers in (("u1", [0, 1]), ("u2", [2, 3])):
        await shop.expect(numbers, user=user)
    steps = sorted(shop.arrived(), key=number_of)
    anonymous, sessions = (
        [step["anonymousId"] for step in steps],
        [step["context"]["sessionId"] for step in steps],
    )
    for ids_of in (anonymous, sessions):
        assert ids_of[0] == ids_of[1] != ids_of[2] == ids_of[3]
    starts = [one for one in shop.events() if one["context"].get("sessionStart")]
    assert len(starts) == 2
    # Each page counts by the setting and by the snippet's own call, and the first once more when it is seen again.
    assert sorted((one["properties"]["path"], one.get("userId", "")) for one in shop.of_type("page")) == [
        *(("/page1.html", ""), ("/page1.html", ""), ("/page1.html", "u2")),
        *(("/page2.html", "u1"), ("/page2.html", "u1")),
    ]


async def test_a_service_worker(shop: Shop, context: BrowserContext) -> None:
    (shop.folder / "worker.js").write_text(
        f"importScripts('{shop.proxy.url}/sdk/mainstem.js');"
        f"const analytics = new Mainstem.Analytics({{writeKey: '{WRITE_KEY}', host: '{shop.proxy.url}',"
        f"context: {{run: '{shop.run}'}},"
        "anonymousId: 'worker', flushIntervalMs: 100, retryBaseMs: 20, retryCapMs: 100});"
        "self.addEventListener('message', (event) => {"
        "  for (let n = 0; n < 150; n++) analytics.track('Step', { n });"
        "  event.waitUntil(analytics.flush());"
        "});"
    )
    (shop.folder / "plain.html").write_text("<!doctype html><title>Plain</title>")
    shop.proxy.script = iter([503, Lost()])
    page: Page = await context.new_page()
    await page.goto(f"{shop.origin}/plain.html")
    await page.evaluate(
        "navigator.serviceWorker.register('/worker.js').then(() => navigator.serviceWorker.ready)"
        ".then((it) => it.active.postMessage('go'))"
    )
    await shop.expect(range(150))
    assert shop.arrived()[0]["anonymousId"] == "worker"


async def test_a_flood_loses_nothing(shop: Shop, context: BrowserContext) -> None:
    page = await shop.open(context, shop.write())
    shop.proxy.script = iter([500, Lost(), Cut()])
    await page.evaluate("send(0, 10000)")
    # At the gateway: one user's events go on to the webhook one by one, and that is not what is tested.
    await page.wait_for_function("analytics.stats.delivered >= 10001", timeout=100_000)
    taken = [number for seen in shop.proxy.seen if seen.status == 200 for number in seen.numbers]
    assert [number for number in taken if number >= 0] == list(range(10_000))
    assert await page.evaluate("analytics.stats.dropped") == {}

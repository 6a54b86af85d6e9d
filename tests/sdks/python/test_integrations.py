"""Requests lend their context to the events that are called while they are served: Starlette, Django, Flask."""

import asyncio
import http.client
import json
import os
import subprocess
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from mainstem_analytics import bound
from mainstem_analytics.integrations.asgi import AnalyticsMiddleware
from mainstem_analytics.integrations.request import request_context
from tests.components.install import REPOSITORY
from tests.components.process import free_port
from tests.components.python_sdks import PythonSdks
from tests.sdks.python.collector import Collector
from tests.sdks.python.conftest import MakeClient

HEADERS = {
    "host": "shop.example.com",
    "user-agent": "Mozilla/5.0",
    "accept-language": "de-DE,de;q=0.9",
    "referer": "https://example.com/from",
    "x-forwarded-for": "9.9.9.9, 10.0.0.1",
}
CONTEXT = {
    "ip": "1.2.3.4",
    "userAgent": "Mozilla/5.0",
    "locale": "de-DE",
    "page": {
        "path": "/buy",
        "url": "http://shop.example.com/buy?a=1",
        "search": "?a=1",
        "referrer": "https://example.com/from",
    },
}


def lent(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event's context without what is always there."""
    return {name: value for name, value in event["context"].items() if name != "library"}


async def ask(app: Any, path: str, **scope: Any) -> None:
    """One HTTP request, as an ASGI server hands it over."""
    name, _, query = path.partition("?")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: Any) -> None:
        """Nobody reads the answer."""

    await app(
        {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": name,
            "raw_path": name.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(key.encode(), value.encode()) for key, value in HEADERS.items()],
            "client": ("1.2.3.4", 5),
            "server": ("shop.example.com", 80),
            **scope,
        },
        receive,
        send,
    )


@pytest.mark.parametrize(("trust", "address"), [(False, "1.2.3.4"), (True, "9.9.9.9")])
def test_starlette(trust: bool, address: str, make_client: MakeClient, collector: Collector) -> None:
    client = make_client()

    async def buy(request: HttpRequest) -> PlainTextResponse:
        await asyncio.sleep(0)
        client.track("u", "Bought", context={"page": {"title": "Own"}, "locale": "fr"})
        await asyncio.to_thread(client.track, "u", f"In a thread {request.url.path}")
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/buy", buy), Route("/other", buy)])
    app.add_middleware(AnalyticsMiddleware, trust_forwarded=trust)

    async def both() -> None:
        await asyncio.gather(ask(app, "/buy?a=1"), ask(app, "/other"))

    asyncio.run(both())
    client.track("u", "Outside")
    assert client.flush()
    named = {event["event"]: lent(event) for event in collector.arrived}
    assert named["In a thread /buy"] == {**CONTEXT, "ip": address}
    assert named["In a thread /other"]["page"]["path"] == "/other"
    bought = next(lent(e) for e in collector.arrived if e["context"].get("page", {}).get("search"))
    assert bought["locale"] == "fr", "what the call says comes first"
    assert bought["page"] == {**CONTEXT["page"], "title": "Own"}  # type: ignore[dict-item]
    assert named["Outside"] == {}


def test_asgi_lets_what_is_no_request_pass(make_client: MakeClient) -> None:
    seen = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(ask(AnalyticsMiddleware(app), "/", type="lifespan"))
    asyncio.run(ask(AnalyticsMiddleware(app), "/", type="websocket"))
    assert seen == ["lifespan", "websocket"]


def test_bound_blocks_nest_and_lend_ids(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(context={"app": {"name": "shop"}})
    with bound({"page": {"path": "/a"}}, user_id="outer", anonymous_id="anon"):
        with bound({"page": {"title": "A"}}, user_id=7):
            client.track(event="Inner")
        client.track(event="Outer")
        client.track("own", "Own")
    with pytest.raises(AssertionError, match="user_id or anonymous_id"):
        client.track(event="Nobody")
    assert client.flush()
    inner, outer, own = collector.arrived
    assert (inner["userId"], inner["anonymousId"]) == ("7", "anon")
    assert lent(inner) == {"app": {"name": "shop"}, "page": {"path": "/a", "title": "A"}}
    assert (outer["userId"], outer["anonymousId"]) == ("outer", "anon")
    assert (own["userId"], own.get("anonymousId")) == ("own", None)


def test_a_request_that_says_nothing() -> None:
    assert request_context({}, address="", url="http://a", trust_forwarded=True) == {
        "page": {"path": "/", "url": "http://a"}
    }


DJANGO = """
import asyncio, os, sys
from django.conf import settings
settings.configure(
    ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="x",
    MIDDLEWARE=[__name__ + ".login", "mainstem_analytics.integrations.django.AnalyticsMiddleware"],
)
import django
django.setup()
from django.http import HttpResponse
from django.test import AsyncClient as AsyncBrowser, Client as Browser
from django.urls import path
from django.utils.decorators import sync_and_async_middleware
from asgiref.sync import iscoroutinefunction
import mainstem_analytics as analytics
analytics.write_key, analytics.host, analytics.store_dir = "key", sys.argv[1], sys.argv[2]

class User:
    pk, is_authenticated = 17, True

@sync_and_async_middleware
def login(get_response):
    async def auser(): return User
    if iscoroutinefunction(get_response):
        async def serve(request):
            request.user, request.auser = User, auser
            return await get_response(request)
        return serve
    def serve_sync(request):
        request.user, request.auser = User, auser
        return get_response(request)
    return serve_sync

def buy(request):
    analytics.track(event="sync")
    return HttpResponse("ok")

async def async_buy(request):
    await asyncio.sleep(0)
    analytics.track(event="async")
    return HttpResponse("ok")

urlpatterns = [path("buy", buy), path("async/buy", async_buy)]
headers = {
    "host": "shop.example.com", "user-agent": "Mozilla/5.0", "accept-language": "de-DE,de;q=0.9",
    "referer": "https://example.com/from", "x-forwarded-for": "9.9.9.9",
}
Browser(headers=headers).get("/buy?a=1", REMOTE_ADDR="1.2.3.4")
async def both():
    others = {name: value for name, value in headers.items() if name != "host"}
    await AsyncBrowser().get("/async/buy?a=1", headers=others)
asyncio.run(both())
try:
    analytics.track(event="outside")
except analytics.InvalidCall:
    analytics.track("nobody", "outside")
analytics.shutdown()
"""

FLASK = """
import sys
from flask import Flask
import mainstem_analytics as analytics
from mainstem_analytics.integrations.flask import init_app
analytics.write_key, analytics.host, analytics.store_dir = "key", sys.argv[1], sys.argv[2]
app = Flask(__name__)
init_app(app)

@app.get("/buy")
def buy():
    analytics.track("u", "sync")
    return "ok"

@app.get("/fails")
def fails():
    raise RuntimeError

headers = {
    "Host": "shop.example.com", "User-Agent": "Mozilla/5.0", "Accept-Language": "de-DE,de;q=0.9",
    "Referer": "https://example.com/from", "X-Forwarded-For": "9.9.9.9",
}
browser = app.test_client()
browser.get("/buy?a=1", headers=headers, environ_overrides={"REMOTE_ADDR": "1.2.3.4"})
app.testing = False
assert browser.get("/fails", headers=headers).status_code == 500
analytics.track("nobody", "outside")
analytics.shutdown()
"""


def serve(python: Path, program: str, collector: Collector, directory: Path) -> dict[str, Mapping[str, Any]]:
    """Run a program that uses a framework; returns its events by name."""
    file = directory / "shop.py"
    file.write_text(textwrap.dedent(program))
    done = subprocess.run(
        [
            python,
            "-c",
            "import sys; sys.argv[0:1] = []; import shop",
            "shop",
            collector.url,
            str(directory / "store"),
        ],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}/sdks/python/src:{directory}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {event["event"]: event for event in collector.arrived}


def test_django(python_sdks: PythonSdks, collector: Collector, tmp_path: Path) -> None:
    named = serve(python_sdks.frameworks, DJANGO, collector, tmp_path)
    assert lent(named["sync"]) == CONTEXT
    assert named["sync"]["userId"] == named["async"]["userId"] == "17"
    assert lent(named["async"])["userAgent"] == "Mozilla/5.0"
    assert json.dumps(lent(named["async"])["page"]).count("/async/buy") == 2
    assert lent(named["outside"]) == {}


def test_flask(python_sdks: PythonSdks, collector: Collector, tmp_path: Path) -> None:
    named = serve(python_sdks.frameworks, FLASK, collector, tmp_path)
    assert lent(named["sync"]) == CONTEXT
    assert lent(named["outside"]) == {}


def test_gunicorn_that_forks_after_the_first_call(
    python_sdks: PythonSdks, collector: Collector, tmp_path: Path
) -> None:
    """`--preload`: the application, its client and its thread are there before the workers are forked."""
    program = FLASK[: FLASK.index("headers = {")].replace(
        "init_app(app)",
        'init_app(app)\nanalytics.upload_interval = 3600\nanalytics.track("master", "preloaded")',
    )
    program = program.replace(
        "sys.argv[1], sys.argv[2]", repr((collector.url, str(tmp_path / "store")))[1:-1]
    )
    (tmp_path / "shop.py").write_text(program)
    port = free_port()
    server = subprocess.Popen(
        [
            *(
                python_sdks.frameworks,
                "-m",
                "gunicorn",
                "--preload",
                "--workers",
                "2",
                "--log-level",
                "warning",
            ),
            *("--bind", f"127.0.0.1:{port}", "--graceful-timeout", "30", "shop:app"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}/sdks/python/src:{tmp_path}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for number in range(40):
            buy(port, number)
    finally:
        server.terminate()
        _, errors = server.communicate(timeout=60)
    assert "Traceback" not in errors, errors
    assert [event["event"] for event in collector.arrived].count("preloaded") == 1
    searches = sorted(
        event["context"]["page"]["search"] for event in collector.arrived if event["event"] == "sync"
    )
    assert searches == sorted(f"?{number}" for number in range(40))


def buy(port: int, number: int) -> None:
    """One request; waits for the server to be there."""
    deadline = time.monotonic() + 30
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", f"/buy?{number}")
            assert connection.getresponse().status == 200
            return
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        finally:
            connection.close()

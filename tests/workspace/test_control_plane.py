"""The control-plane client against a real HTTP server that misbehaves on request."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import structlog
import trustme

from mainstem.clock import SystemClock
from mainstem.secret import Secret
from mainstem.telemetry.metrics import REGISTRY
from mainstem.workspace.control_plane import ControlPlane
from mainstem.workspace.errors import WorkspaceInvalid, WorkspaceUnavailable
from mainstem.workspace.fetch import fetch
from mainstem.workspace.last_good import LastGood
from mainstem.workspace.model import Workspace
from tests.workspace.support import CHECKS, document
from tests.workspace.test_rudder_config import config, hook


class Server:
    """Serves one document; what it does instead is set from outside."""

    def __init__(self) -> None:
        self.body = b""
        self.status = 200
        self.raw: bytes | None = None
        self.headers = ""
        self.chunked = False
        self.use_etags = True
        self.seen: list[dict[str, str]] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/workspaceConfig?fetchAll=true"

    def serve(self, text: str | bytes) -> None:
        self.body, self.status, self.raw = text.encode() if isinstance(text, str) else text, 200, None

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            asked = dict(line.lower().split(": ", 1) for line in head[1:] if line) | {"line": head[0]}
            asked["authorization"] = next(line for line in head if line.startswith("Authorization"))
            self.seen.append(asked)
            writer.write(self.answer(asked))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def answer(self, asked: dict[str, str]) -> bytes:
        if self.raw is not None:
            return self.raw
        etag = f'"{hash(self.body)}"'
        if self.status == 200 and self.use_etags and asked.get("if-none-match") == etag:
            return b"HTTP/1.1 304 Not Modified\r\n\r\n"
        head = f"HTTP/1.1 {self.status} X\r\n{self.headers}" + (f"ETag: {etag}\r\n" if self.use_etags else "")
        if self.chunked:
            middle = len(self.body) // 2
            parts = b"".join(
                b"%x\r\n%s\r\n" % (len(part), part) for part in (self.body[:middle], self.body[middle:], b"")
            )
            return head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + parts
        return head.encode() + b"Content-Length: %d\r\n\r\n" % len(self.body) + self.body


@asynccontextmanager
async def running(server: Server, port: int = 0) -> AsyncIterator[None]:
    listening = await asyncio.start_server(server.handle, "127.0.0.1", port)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield
    finally:
        listening.close()
        await listening.wait_closed()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    server.serve(document())
    async with running(server):
        yield server


def control_plane(server: Server, state: Path, *, max_bytes: int = 100_000, **env: str) -> ControlPlane:
    return ControlPlane(
        server.url,
        token=Secret("s3cret-token"),
        env=env,
        checks=CHECKS,
        clock=SystemClock(),
        last_good=LastGood(state, server.url),
        poll_interval_s=0.01,
        max_bytes=max_bytes,
        uniform=lambda low, high: min(high, 0.01),
    )


def count(result: str) -> float:
    return REGISTRY.get_sample_value("mainstem_workspace_reloads_total", {"result": result}) or 0.0


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def following(changes: AsyncIterator[Workspace]) -> Workspace:
    async with asyncio.timeout(20):
        return await anext(changes)


async def test_the_document_is_fetched_with_the_token(server: Server, tmp_path: Path) -> None:
    assert (await control_plane(server, tmp_path).current()).id == "acme"
    (asked,) = server.seen
    assert asked["line"] == "GET /workspaceConfig?fetchAll=true HTTP/1.1"
    assert asked["authorization"] == "Authorization: Basic " + base64.b64encode(b"s3cret-token:").decode()
    assert asked["host"] == f"127.0.0.1:{server.port}"
    (copy,) = tmp_path.iterdir()
    assert copy.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_rudderstack_document_is_recognised(server: Server, tmp_path: Path, chunked: bool) -> None:
    server.chunked = chunked
    server.serve(msgspec.json.encode(config(hook())))
    assert (await control_plane(server, tmp_path).current()).id == "ws1"


async def test_changes_come_and_304_is_none(server: Server, tmp_path: Path) -> None:
    plane = control_plane(server, tmp_path)
    await plane.current()
    changes = plane.changes()
    waiting = asyncio.ensure_future(following(changes))
    await until(lambda: len(server.seen) >= 4)
    assert not waiting.done()
    assert all("if-none-match" in asked and asked["prefer"] == "wait=30" for asked in server.seen[1:])
    server.serve(document("second"))
    assert (await waiting).id == "second"
    server.use_etags = False
    before = len(server.seen)
    waiting = asyncio.ensure_future(following(changes))
    await until(lambda: len(server.seen) >= before + 3)
    assert not waiting.done()
    server.serve(document("third"))
    assert (await waiting).id == "third"
    await plane.close()


async def test_it_starts_and_goes_on_from_the_copy_when_the_server_is_down(tmp_path: Path) -> None:
    server = Server()
    server.serve(document())
    async with running(server):
        await control_plane(server, tmp_path).current()
    plane = control_plane(server, tmp_path)
    with structlog.testing.capture_logs() as logs:
        assert (await plane.current()).id == "acme"
    assert any("LAST GOOD COPY" in entry["event"] for entry in logs)
    unavailable = count("unavailable")
    waiting = asyncio.ensure_future(following(plane.changes()))
    await until(lambda: count("unavailable") >= unavailable + 2)
    server.serve(document("second"))
    async with running(server, server.port):
        assert (await waiting).id == "second"


async def test_a_restart_asks_with_the_saved_etag(server: Server, tmp_path: Path) -> None:
    await control_plane(server, tmp_path).current()
    assert (await control_plane(server, tmp_path).current()).id == "acme"
    assert server.seen[1]["if-none-match"] == f'"{hash(server.body)}"'


async def test_without_copy_and_server_it_is_unavailable(tmp_path: Path) -> None:
    server = Server()
    async with running(server):
        pass
    with pytest.raises(WorkspaceUnavailable, match=r"127\.0\.0\.1"):
        await control_plane(server, tmp_path).current()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"HTTP/1.1 401 X\r\nContent-Length: 0\r\n\r\n", "answered 401; check the workspace token"),
        (b"HTTP/1.1 302 X\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n", "answered 302"),
        (b"HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\nabc", "closed before the answer was whole"),
        (b"HTTP/1.1 200 X\r\n\r\n" + b"x" * 300_000, "larger than 100000 bytes"),
        (b"HTTP/1.1 200 X\r\nX: " + b"x" * 300_000, "larger than 100000 bytes|not HTTP"),
        (b"no http at all\r\n\r\n", "not HTTP"),
        (b"", "closed before"),
        (b"HTTP/1.1 304 X\r\n\r\n", "304 to a request without an ETag"),
    ],
)
async def test_an_answer_that_is_none(server: Server, tmp_path: Path, raw: bytes, reason: str) -> None:
    server.raw = raw
    with structlog.testing.capture_logs() as logs, pytest.raises(WorkspaceUnavailable, match=reason):
        await control_plane(server, tmp_path).current()
    assert "s3cret" not in str(logs)


async def test_a_broken_document_is_refused_once_and_the_old_one_stays(
    server: Server, tmp_path: Path
) -> None:
    plane = control_plane(server, tmp_path)
    await plane.current()
    refused = count("refused")
    waiting = asyncio.ensure_future(following(plane.changes()))
    server.serve("workspace: {id: w}\nsurces: 1\n")
    await until(lambda: count("refused") > refused)
    before = len(server.seen)
    await until(lambda: len(server.seen) >= before + 3)
    assert count("refused") == refused + 1
    restarted = control_plane(server, tmp_path)
    assert (await restarted.current()).id == "acme"
    server.serve(document("mended"))
    assert (await waiting).id == "mended"


async def test_a_broken_document_without_a_copy_is_raised(server: Server, tmp_path: Path) -> None:
    server.serve("{")
    with pytest.raises(WorkspaceInvalid):
        await control_plane(server, tmp_path).current()


async def test_a_document_sees_no_other_variables(server: Server, tmp_path: Path) -> None:
    server.serve(document().replace("web-key", "'${MAINSTEM_SECRET_A}'"))
    plane = control_plane(server, tmp_path, MAINSTEM_SECRET_A="a", AWS_KEY="b")
    assert (await plane.current()).sources[0].write_keys == ("a",)
    server.serve(document("v2").replace("web-key", "'${AWS_KEY}'"))
    with pytest.raises(WorkspaceInvalid, match="AWS_KEY is not set"):
        await control_plane(server, tmp_path / "new", AWS_KEY="b").current()


async def test_retry_after_is_honoured(server: Server, tmp_path: Path) -> None:
    slept: list[float] = []
    done = asyncio.Event()

    class Recording(SystemClock):
        async def sleep(self, delay_s: float) -> None:
            slept.append(delay_s)
            if len(slept) == 4:
                done.set()
            await asyncio.sleep(0)

    plane = ControlPlane(
        server.url,
        token=Secret("t"),
        env={},
        checks=CHECKS,
        clock=Recording(),
        last_good=LastGood(tmp_path, server.url),
        uniform=lambda low, high: high,
    )
    await plane.current()
    server.status, server.headers = 503, "Retry-After: 7\r\n"
    waiting = asyncio.ensure_future(following(plane.changes()))
    async with asyncio.timeout(20):
        await done.wait()
    waiting.cancel()
    assert slept[:4] == [5.0, 7.0, 7.0, 8.0]


async def test_a_silent_server_runs_into_the_time_out() -> None:
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        gone.set()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    with pytest.raises(WorkspaceUnavailable, match=r"within 0\.05 s"):
        await fetch(f"http://127.0.0.1:{port}/", {}, timeout_s=0.05, max_bytes=10)
    async with asyncio.timeout(20):
        await gone.wait()  # the connection is given up, too
    listening.close()


async def test_tls_is_verified(server: Server) -> None:
    certificate = trustme.CA().issue_cert("127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0, ssl=context)
    port = listening.sockets[0].getsockname()[1]
    with pytest.raises(WorkspaceUnavailable, match="certificate verify failed"):
        await fetch(f"https://127.0.0.1:{port}/", {"Authorization": "x"}, timeout_s=20, max_bytes=10)
    assert server.seen == []
    listening.close()


@pytest.mark.parametrize(
    "url", ["ftp://x/", "http:///x", "http://user:s3cret@x/", "http://x:99999/", "http://x/a b", "http://[x/"]
)
def test_an_url_that_cannot_be_asked(url: str, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceInvalid) as caught:
        ControlPlane(
            url,
            token=Secret("t"),
            env={},
            checks=CHECKS,
            clock=SystemClock(),
            last_good=LastGood(tmp_path, url),
        )
    assert "s3cret" not in str(caught.value)

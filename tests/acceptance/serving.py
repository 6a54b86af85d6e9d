"""`mainstem serve` as users run it: a process tree on free ports, with a workspace file and a data folder.

    async with serving(tmp_path, workspace) as product:
        await product.send([track("user-1", 0)])
        await product.settled("hook")

Everything is asked from outside: over HTTP, by the command line, and by what the kernel says of the processes.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from tests.components.install import REPOSITORY
from tests.components.process import ServerFailed, free_port

WRITE_KEY: Final = "acceptance-write-key"

_POLL_S = 0.02
_PIECE_BYTES = 64 * 1024
_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 40.0
_LOG_TAIL_LINES = 120
_CLI_TIMEOUT_S = 60.0


async def until(
    what: str,
    condition: Callable[[], Awaitable[Any] | Any],
    *,
    timeout_s: float = 60.0,
    poll_s: float = _POLL_S,
) -> Any:
    """Wait until a condition (plain or async) gives something true, and return that.

    Raises:
        AssertionError: It did not in time; says what was waited for and what the condition gave last.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s} s in vain until {what}; last: {found!r}")
        await asyncio.sleep(poll_s)


class Answered(msgspec.Struct, frozen=True):
    """The gateway's answer to one request."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: Any
    """Parsed; text if it is not JSON."""


class Serving:
    """One installation: `start`, `stop`, `kill9`, and `start` again on the same ports and data."""

    def __init__(
        self,
        directory: Path,
        workspace: str | None,
        *,
        data_dir: Path | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """
        Args:
            directory: for the workspace file, the log, and (unless given) the data folder.
            workspace: the document's text; None = the product makes its own in the data folder.
            settings: by key of `mainstem.settings.Settings`; given in the environment.
        """
        self.data_dir = data_dir or directory / "data"
        self.workspace_file = directory / "workspace.yaml" if workspace is not None else None
        self.log = directory / "serve.log"
        self.port, self.ops_port = free_port(), free_port()
        directory.mkdir(parents=True, exist_ok=True)
        if self.workspace_file is not None and workspace is not None:
            self.workspace_file.write_text(workspace)
        values: dict[str, object] = {
            "data_dir": self.data_dir,
            "host": "127.0.0.1",
            "port": self.port,
            "ops_port": self.ops_port,
            "allow_private_destinations": "true",
            "workspace_poll_s": 0.1,
            "stream_partitions": 4,
            "log_format": "json",
        }
        if self.workspace_file is not None:
            values["workspace"] = self.workspace_file
        values.update(settings or {})
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MAINSTEM_")},
            **{f"MAINSTEM_{key.upper()}": str(value) for key, value in values.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        """The gateway."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ops_url(self) -> str:
        """The operations endpoints."""
        return f"http://127.0.0.1:{self.ops_port}"

    # ---- processes

    @property
    def pid(self) -> int:
        """Process id of `mainstem serve` itself."""
        if self._process is None:
            raise ServerFailed("mainstem serve is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether `mainstem serve` itself is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """How `mainstem serve` itself ended; None while it runs."""
        return None if self._process is None else self._process.poll()

    def children(self) -> dict[str, int]:
        """Process ids by name (`gateway-0`, `worker-0`), as the kernel has them now."""
        return {
            words[4]: pid
            for pid, parent, words in _processes()
            if parent == self.pid and words[2:3] == ["mainstem.roles.child"] and len(words) > 4
        }

    async def child(self, name: str, *, other_than: int = 0) -> int:
        """Wait for a child (a new one, if the old one's id is given) and return its process id."""
        return int(
            await until(
                f"there is a process {name}",
                lambda: (pid := self.children().get(name, 0)) != other_than and pid,
            )
        )

    async def start(self, *, wait: bool = True) -> None:
        """Start it and (unless told not to) return once it accepts events.

        Raises:
            ServerFailed: It ended early, or was not ready in time.
        """
        setpriv = shutil.which("setpriv")
        guarded = [] if setpriv is None else [setpriv, "--pdeathsig", "KILL", "--"]
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [*guarded, sys.executable, "-m", "mainstem", "serve"],
                cwd=REPOSITORY,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if wait:
            await self.ready()

    async def ready(self) -> None:
        """Return once `/ready` answers 200.

        Raises:
            ServerFailed: It ended, or was not ready in time; it is not left running.
        """
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while True:
            if not self.running:
                status = self._process.returncode if self._process is not None else "unknown"
                raise ServerFailed(f"mainstem serve ended with status {status}\n{self.log_tail()}")
            if await self.accepts_events():
                return
            if time.monotonic() > deadline:
                await self.kill9()
                raise ServerFailed(f"mainstem serve was not ready in {_READY_TIMEOUT_S} s\n{self.log_tail()}")
            await asyncio.sleep(_POLL_S)

    async def accepts_events(self) -> bool:
        """Whether `/ready` answers 200."""
        try:
            async with self.session.get(f"{self.ops_url}/ready") as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def stop(self) -> int:
        """Ask it to end (TERM), wait until the whole tree is gone, and return the exit status.

        Raises:
            ServerFailed: It did not end; it is not left running.
        """
        children = list(self.children().values())
        process = self._process
        if process is None:
            raise ServerFailed("mainstem serve is not running")
        process.send_signal(signal.SIGTERM)
        try:
            await until("serve ended", lambda: process.poll() is not None, timeout_s=_STOP_TIMEOUT_S)
            await until("its children ended", lambda: not alive(children), timeout_s=_STOP_TIMEOUT_S)
        except AssertionError as error:
            _kill9(children)
            await self.kill9()
            raise ServerFailed(f"{error}\n{self.log_tail()}") from None
        self._process = None
        return process.returncode

    async def kill9(self) -> None:
        """SIGKILL the whole tree at once, as a power cut would; returns once all are gone."""
        process = self._process
        if process is None:
            return
        children = list(self.children().values())
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        _kill9(children)
        await until("serve is gone", lambda: process.poll() is not None)
        await until("its children are gone", lambda: not alive(children))
        self._process = None

    def log_tail(self) -> str:
        """The last lines of its output, with their place."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        tail = "\n    ".join(lines[-_LOG_TAIL_LINES:])
        return f"{self.log} ends with:\n    {tail}"

    # ---- events in

    @property
    def session(self) -> aiohttp.ClientSession:
        """A client with connections of its own."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20.0))
        return self._session

    async def post(
        self,
        path: str,
        body: object,
        *,
        write_key: str = WRITE_KEY,
        headers: Mapping[str, str] | None = None,
    ) -> Answered:
        """Post a body (bytes as they are, anything else as JSON) and return the answer."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        auth = {"Authorization": aiohttp.encode_basic_auth(write_key, "")} if write_key else {}
        sent = {"Content-Type": "application/json", **auth, **(headers or {})}
        # In pieces, for aiohttp warns of large bytes; with a length, for that is how SDKs send.
        sent["Content-Length"] = str(len(data))
        async with self.session.post(f"{self.url}{path}", data=_pieces(data), headers=sent) as answer:
            text = await answer.read()
            try:
                parsed: Any = msgspec.json.decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError):
                parsed = text.decode(errors="replace")
            named = {name.lower(): value for name, value in answer.headers.items()}
            return Answered(answer.status, named, parsed)

    async def send(self, events: Sequence[Mapping[str, object]], *, write_key: str = WRITE_KEY) -> None:
        """Send a batch that must be accepted: when this returns, every event of it is acknowledged."""
        answered = await self.post("/v1/batch", {"batch": list(events)}, write_key=write_key)
        assert answered.status == 200, answered

    # ---- questions

    async def ask(self, path: str) -> Any:
        """Return an operations endpoint's JSON, whatever the status."""
        async with self.session.get(f"{self.ops_url}{path}") as answer:
            return msgspec.json.decode(await answer.read())

    async def books(self) -> dict[str, Mapping[str, Any]]:
        """The accounts by cursor (a destination's id, `replay:…`)."""
        return {account["cursor"]: account for account in await self.ask("/v1/books")}

    async def account(self, cursor: str) -> Mapping[str, Any]:
        """One cursor's account; empty before it has one."""
        return (await self.books()).get(cursor, {})

    async def settled(self, *cursors: str, timeout_s: float = 60.0) -> dict[str, Mapping[str, Any]]:
        """Wait until nothing is pending at these cursors (all, if none is named), and return the books.

        Raises:
            AssertionError: Something stays pending, or the books do not balance.
        """
        books: dict[str, Mapping[str, Any]] = {}

        async def nothing_pending() -> bool:
            nonlocal books
            books = await self.books()
            wanted = cursors or tuple(books)
            return all(name in books and books[name]["pending"] == 0 for name in wanted)

        try:
            await until(f"nothing is pending at {cursors or 'any'}", nothing_pending, timeout_s=timeout_s)
        except AssertionError as error:
            brief = {name: {**account, "lines": "…"} for name, account in books.items()}
            raise AssertionError(f"{error}\n{brief}\n{self.log_tail()}") from None
        assert all(account["balanced"] for account in books.values()), books
        return books

    async def explain(self, message_id: str) -> Any:
        """What became of an event: a list of sightings, empty if it is not known."""
        return await self.ask(f"/v1/explain/{message_id}")

    async def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `mainstem ARGUMENTS` with this installation's settings; returns whatever its status is."""
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "mainstem", *arguments],
            cwd=REPOSITORY,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_CLI_TIMEOUT_S,
            check=False,
        )

    async def close(self) -> None:
        """Stop it if it runs, whatever state it is in, and close connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        if self.running:
            await self.stop()
        else:
            await self.kill9()


@asynccontextmanager
async def serving(
    directory: Path,
    workspace: str | None,
    *,
    data_dir: Path | None = None,
    settings: Mapping[str, object] | None = None,
) -> AsyncIterator[Serving]:
    """Run `mainstem serve` for the time of a test: see `Serving`."""
    product = Serving(directory, workspace, data_dir=data_dir, settings=settings)
    try:
        await product.start()
        yield product
    finally:
        await product.close()


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    """Not as a file: aiohttp asks those for their end in another thread, and where the answer is faster than that it
    closes a connection that the next request has already."""
    for start in range(0, len(data), _PIECE_BYTES):
        yield data[start : start + _PIECE_BYTES]


def track(user_id: str, number: int, **fields: object) -> dict[str, object]:
    """A track event whose messageId and properties tell the user and the place in the user's order."""
    return {
        "type": "track",
        "messageId": f"{user_id}-{number}",
        "userId": user_id,
        "event": "Order Completed",
        "properties": {"n": number},
        **fields,
    }


def resident_bytes(pid: int, *, peak: bool = False) -> int:
    """A process's resident memory now, or the most it ever was."""
    wanted = "VmHWM:" if peak else "VmRSS:"
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(wanted):
            return int(line.split()[1]) * 1024
    raise ServerFailed(f"process {pid} has no {wanted}")


def _processes() -> list[tuple[int, int, list[str]]]:
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (directory / "stat").read_text().rpartition(") ")[2].split()[:2]
            words = (directory / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "ZX":
            found.append((int(directory.name), int(parent), words))
    return found


def alive(pids: Sequence[int]) -> bool:
    """Whether any of these processes is there; zombies do not count, in a container nobody may ever reap those."""
    return any(pid in pids for pid, _, _ in _processes())


def _kill9(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

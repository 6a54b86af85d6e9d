"""Real server processes for tests: started on a free port, waited for, surely stopped.

A server runs in a process group of its own, so that stopping it takes its children too. It is stopped
when the context ends, when the interpreter exits, and (Linux) when the test process itself is killed.
"""

import atexit
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_POLL_INTERVAL_S = 0.05
_STOP_TIMEOUT_S = 15.0
_LOG_TAIL_LINES = 40
_random = random.SystemRandom()


class ServerFailed(Exception):
    """A server process ended early or did not become ready; the message carries the end of its log."""


def free_port() -> int:
    """A loopback TCP port that nobody listens on.

    Below the range from which Linux takes ports for outgoing connections, so that a server that is
    killed and started again on its port does not find it taken by somebody's client.
    """
    for _ in range(200):
        port = _random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerFailed("no free loopback port between 20000 and 32000")


def accepts_connections(port: int) -> bool:
    """Whether something on 127.0.0.1:`port` accepts a TCP connection."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class ServerProcess:
    """One server: `start`, `stop` (politely), `kill9` (as a crash), and `start` again.

    As a context manager it starts on entry and stops on exit; a failure inside prints nothing by
    itself, `log_tail` gives the end of the log.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        ready: Callable[[], bool],
        log: Path,
        env: Mapping[str, str] | None = None,
        ready_timeout_s: float = 60.0,
    ) -> None:
        self.name = name
        self.log = log
        self._argv = [str(word) for word in argv]
        self._ready = ready
        self._env = None if env is None else {**os.environ, **env}
        self._ready_timeout_s = ready_timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise ServerFailed(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process and return once it is ready.

        Raises:
            ServerFailed: It ended early or was not ready in time; it is not left running.
        """
        if self.running:
            raise ServerFailed(f"{self.name} is running already")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [*_die_with_this_process(), *self._argv],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        atexit.register(self.kill9)
        deadline = time.monotonic() + self._ready_timeout_s
        while True:
            if self._process.poll() is not None:
                status = self._process.returncode
                self.kill9()
                raise ServerFailed(f"{self.name} ended with status {status}\n{self.log_tail()}")
            if self._ready():
                return
            if time.monotonic() > deadline:
                self.kill9()
                raise ServerFailed(
                    f"{self.name} not ready after {self._ready_timeout_s} s\n{self.log_tail()}"
                )
            time.sleep(_POLL_INTERVAL_S)

    def stop(self) -> None:
        """Ask the server to end (SIGTERM), then make it; returns once it is gone."""
        process = self._process
        if process is not None and process.poll() is None:
            self._signal(signal.SIGTERM)
            # kill9 below is the answer to a server that will not end.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_TIMEOUT_S)
        self.kill9()

    def kill9(self) -> None:
        """SIGKILL the server and its children, as a crash would; returns once all are gone.

        Raises:
            ServerFailed: A child did not go.
        """
        process = self._process
        if process is None:
            return
        self._signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while _group_lives(process.pid):
            if time.monotonic() > deadline:
                raise ServerFailed(f"a child of {self.name} survived SIGKILL")
            time.sleep(_POLL_INTERVAL_S)
        self._process = None
        atexit.unregister(self.kill9)

    def log_tail(self) -> str:
        """The last lines of the server's log, with its place."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        tail = "\n    ".join(lines[-_LOG_TAIL_LINES:])
        return f"{self.log} ends with:\n    {tail}"

    def _signal(self, number: signal.Signals) -> None:
        # The group outlives its leader while children run; it is gone when all are.
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return


def _group_lives(group: int) -> bool:
    # Signal 0 would count zombies too, and in a container nobody may ever reap those.
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = stat.read_text().rpartition(") ")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(process_group) == group and state not in "ZX":
            return True
    return False


def _die_with_this_process() -> list[str]:
    # The kernel sends the signal when the *thread* that started the child ends, so only the main
    # thread may ask for it. setpriv then replaces itself by the server: same process id.
    setpriv = shutil.which("setpriv")
    if setpriv is None or threading.current_thread() is not threading.main_thread():
        return []
    return [setpriv, "--pdeathsig", "KILL", "--"]

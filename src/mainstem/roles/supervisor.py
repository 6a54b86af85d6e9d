"""`mainstem serve`: every role in one process tree, and this process holding what must outlive a role.

It binds the gateway's socket once and hands it to gateway processes, so a restart or crash of a gateway
refuses nobody: connections wait in the socket's queue for the instant until the next one accepts. Children
that die are started again at once (with back-off when they keep dying). Those that answer nothing any more are ended,
and are then such.

Signals: TERM and INT stop (gateways drain first, then workers); HUP replaces gateways and workers one by one
without closing the socket, which is how a new version of the code comes into force.
"""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec

from mainstem.clock import Clock
from mainstem.errors import MainstemError, SettingsError
from mainstem.roles.channel import ChildChannel
from mainstem.roles.exposition import Family, families
from mainstem.settings import Settings, settings_to_json
from mainstem.telemetry.log import logger

_log = logger(__name__)

RoleName = Literal["gateway", "worker"]

_READY_TIMEOUT_S: Final = 60.0
_ASK_TIMEOUT_S: Final = 5.0
_KILL_AFTER_S: Final = 10.0
_QUESTIONS: Final = 6
"""So many without an answer, one after the other, and a process counts as silent. Not by the clock alone: a machine
that was asleep for an hour has silent processes for a moment."""
_ENDING_S: Final = 2.0
_TELL_S: Final = 1.0
"""For a silent process to write where its threads stand."""
_RESTART_DELAY_S: Final = 0.1
_STEADY_S: Final = 10.0
"""A process that lived this long is started again at once."""
_BACKLOG: Final = 4096


class ServeFailed(MainstemError):
    """A process that `serve` needs could not be started."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening TCP socket.

    Raises:
        SettingsError: the address can't be had; says what to change.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise SettingsError(
            f"cannot listen on {host}:{port} ({error.strerror}); "
            "choose another with --port (MAINSTEM_PORT) or --ops-port (MAINSTEM_OPS_PORT)"
        ) from None
    sock.listen(_BACKLOG)
    sock.setblocking(False)
    return sock


class Child:
    """One process of one role, kept alive."""

    def __init__(
        self, role: RoleName, index: int, settings: Settings, sock: socket.socket | None, clock: Clock
    ) -> None:
        self.name = f"{role}-{index}"
        self.restarts = 0
        self._role = role
        self._settings = settings
        self._sock = sock
        self._clock = clock
        self._process: asyncio.subprocess.Process | None = None
        self._channel: ChildChannel | None = None
        self._stopping = False
        self._keeper: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.ready_value: Mapping[str, Any] = {}

    @property
    def pid(self) -> int:
        """The process id, 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Start the process and wait until it does its work.

        Raises:
            ServeFailed: it ended or did not become ready.
        """
        task = await self._spawn()
        self._keeper = asyncio.create_task(self._keep(task))
        self._watcher = asyncio.create_task(self._watch())

    async def stop(self, timeout_s: float) -> None:
        """Let it drain, then make sure that it is gone."""
        self._stopping = True
        if self._watcher is not None:
            self._watcher.cancel()
        process = self._process
        if process is None:
            return
        if self._channel is not None:
            self._channel.close()
        try:
            async with asyncio.timeout(timeout_s + _KILL_AFTER_S):
                await process.wait()
        except TimeoutError:
            _log.error("process did not stop in time and is killed", process=self.name, pid=process.pid)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._keeper is not None:
            await self._keeper

    async def ask(self, what: str) -> Any:
        """Ask the process (see `ChildChannel.ask`)."""
        if self._channel is None:
            raise ConnectionError(f"{self.name} is not running")
        return await self._channel.ask(what, timeout_s=_ASK_TIMEOUT_S)

    async def _spawn(self) -> asyncio.Task[None]:
        arguments = [sys.executable, "-m", "mainstem.roles.child", self._role, self.name]
        fds: tuple[int, ...] = ()
        if self._sock is not None:
            arguments.append(str(self._sock.fileno()))
            fds = (self._sock.fileno(),)
        try:
            process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                pass_fds=fds,
                limit=16 * 1024 * 1024,
                # Ctrl-C goes to the whole terminal group; children are stopped by us, in order.
                start_new_session=True,
            )
        except OSError as error:  # no process or memory to be had now
            raise ServeFailed(f"{self.name} can't be started: {error}") from None
        assert process.stdin is not None  # noqa: S101 - PIPE was asked for
        assert process.stdout is not None  # noqa: S101
        channel = ChildChannel(process.stdin, process.stdout)
        self._process, self._channel = process, channel
        try:
            reading = channel.start(settings_to_json(self._settings))
            async with asyncio.timeout(_READY_TIMEOUT_S):
                self.ready_value = await asyncio.shield(channel.ready) or {}
        except (TimeoutError, ConnectionError) as error:
            # One that is ending by itself has a code to tell: a signal in that moment reaps it unseen by asyncio.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ENDING_S):
                    await process.wait()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            code = await process.wait()
            raise ServeFailed(f"{self.name} did not start (exit code {code}): {error}") from None
        return reading

    async def _keep(self, reading: asyncio.Task[None]) -> None:
        """Start it again whenever it ends unasked."""
        delay_s = 0.0
        while True:
            started = self._clock.monotonic()
            await reading
            code = await self._process.wait() if self._process is not None else 0
            if self._stopping:
                return
            self._channel = None
            self.restarts += 1
            lived_s = self._clock.monotonic() - started
            delay_s = 0.0 if lived_s > _STEADY_S else self._longer(delay_s)
            _log.error("process ended and is started again", process=self.name, code=code, delay_s=delay_s)
            while True:
                await self._clock.sleep(delay_s)
                if self._stopping:
                    return
                try:
                    reading = await self._spawn()
                    if self._stopping and self._channel is not None:
                        self._channel.close()  # `stop` saw the process before this one
                    break
                except ServeFailed as error:
                    delay_s = self._longer(delay_s)
                    _log.error(
                        "process can't be started", process=self.name, error=str(error), delay_s=delay_s
                    )

    async def _watch(self) -> None:
        """End the process when it answers no more, as if it had died: its work is safe, and nobody else may do it."""
        pause_s = self._settings.silence_limit_s / _QUESTIONS
        unanswered = 0
        while True:
            if not unanswered:
                await self._clock.sleep(pause_s)
            channel, process = self._channel, self._process
            if channel is None or process is None or not channel.ready.done():
                unanswered = 0  # it is being started, and has its own time for that
                await self._clock.sleep(pause_s)
                continue
            try:
                await channel.ask("alive", timeout_s=pause_s)
            except TimeoutError:
                unanswered += 1
            except ConnectionError:
                unanswered = 0  # it ended: `_keep` sees to that
            else:
                unanswered = 0
            if unanswered == _QUESTIONS:
                unanswered = 0
                await self._end_silent(process)

    async def _end_silent(self, process: asyncio.subprocess.Process) -> None:
        _log.critical(
            "process answers no more and is ended; where its threads stand is on standard error",
            process=self.name,
            pid=process.pid,
            silent_s=self._settings.silence_limit_s,
        )
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGUSR1)
            await self._clock.sleep(_TELL_S)
            process.kill()

    def _longer(self, delay_s: float) -> float:
        return min(self._settings.restart_delay_max_s, max(_RESTART_DELAY_S, delay_s * 2))


class Supervisor:
    """The tree."""

    def __init__(self, settings: Settings, clock: Clock, sock: socket.socket) -> None:
        self._settings = settings
        self._clock = clock
        self._sock = sock
        self._children: list[Child] = []
        self._replacing = asyncio.Lock()
        self._stopping = False

    @property
    def children(self) -> tuple[Child, ...]:
        """The processes."""
        return tuple(self._children)

    async def start(self) -> None:
        """Start all processes; return when every one does its work.

        Raises:
            ServeFailed: a process could not be started; those that were are stopped.
        """
        plan = [("worker", index) for index in range(self._settings.workers)]
        plan += [("gateway", index) for index in range(self._settings.gateways)]
        self._children = [self._child(msgspec.convert(role, RoleName), index) for role, index in plan]
        results = await asyncio.gather(*(child.start() for child in self._children), return_exceptions=True)
        failed = [result for result in results if isinstance(result, BaseException)]
        if failed:
            await self.stop()
            raise failed[0]

    async def stop(self) -> None:
        """Stop gateways first (nothing new comes in), then workers."""
        self._stopping = True
        async with self._replacing:
            await self._stop_all()

    async def _stop_all(self) -> None:
        for role in ("gateway", "worker"):
            children = [child for child in self._children if child.name.startswith(role)]
            await asyncio.gather(*(child.stop(self._settings.drain_timeout_s) for child in children))

    async def replace(self) -> None:
        """Start a fresh process for each child, then stop the old one; the socket stays open throughout."""
        async with self._replacing:
            for position, old in enumerate(self._children):
                if self._stopping:
                    return
                role, index = old.name.rsplit("-", 1)
                new = self._child(msgspec.convert(role, RoleName), int(index))
                try:
                    await new.start()
                except ServeFailed as error:
                    _log.error("replacement can't be started; the old process stays", error=str(error))
                    return
                self._children[position] = new
                await old.stop(self._settings.drain_timeout_s)
            _log.info("processes replaced", count=len(self._children))

    async def metrics(self) -> Mapping[str, list[Family]]:
        """Return what every process has counted; a process that does not answer is left out."""
        answers = await asyncio.gather(
            *(child.ask("metrics") for child in self._children), return_exceptions=True
        )
        by_process = {"serve": families()}
        for child, answer in zip(self._children, answers, strict=True):
            if not isinstance(answer, BaseException):
                by_process[child.name] = msgspec.convert(answer, list[Family])
        return by_process

    async def ask_all(self, what: str) -> Mapping[str, Any]:
        """Return every process's answer, or `{"error": …}` for one that does not answer."""
        answers = await asyncio.gather(*(child.ask(what) for child in self._children), return_exceptions=True)
        return {
            child.name: {"error": str(answer) or type(answer).__name__}
            if isinstance(answer, BaseException)
            else answer
            for child, answer in zip(self._children, answers, strict=True)
        }

    def _child(self, role: RoleName, index: int) -> Child:
        return Child(role, index, self._settings, self._sock if role == "gateway" else None, self._clock)


async def until_signalled(on_hup: Callable[[], Any]) -> str:
    """Wait for TERM or INT and return its name; call `on_hup` for each HUP.

    From then on TERM and HUP change nothing (what sends them twice would else cut the draining short), and a
    second INT, somebody's Ctrl-C, ends the process at once.
    """
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[str] = loop.create_future()

    def stop(name: str) -> None:
        if not stopped.done():
            stopped.set_result(name)

    loop.add_signal_handler(signal.SIGTERM, stop, "TERM")
    loop.add_signal_handler(signal.SIGINT, stop, "INT")
    loop.add_signal_handler(signal.SIGHUP, on_hup)
    try:
        return await stopped
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, _log.info, "stopping already")

"""The producer of a process whose commits are made by a process of its own.

gateway -> **writer process** -> appender. An event loop and a writer thread share one interpreter lock and hand it
over twice a request; two processes share nothing. The loop's side packs a group and sends it; `writing` commits
it, together with all that came in meanwhile, and answers for all of it at once.

On the wire, both ways: frames of a length (u32) and so many bytes. A group is `segment.pack(records)`. An answer
is the seconds the commit took (f64), how many groups it holds (u32), a status (u8) and its text: for `APPENDED` the
indexes of duplicates among all their records (u32 each, none if there were none), for the others what went wrong.

The process ends when its socket is closed, so never before what it was given is stored, however this process ends.
If it dies itself another one is started. What the dead one had been given may be stored or not: it is sent once more,
and deduplication settles it; a group with records that have no deduplication key is answered with an error.
"""

import asyncio
import socket
import struct
import subprocess
import sys
from array import array
from collections import deque
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Final

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from mainstem.clock import Clock
from mainstem.stream.base import NewRecord, StreamClosed, StreamCorrupt, StreamError, StreamFull
from mainstem.stream.embedded.appender import WriterLimits
from mainstem.stream.embedded.segment import pack
from mainstem.stream.embedded.writer import Call, Submissions
from mainstem.telemetry import metrics

_log: FilteringBoundLogger = structlog.get_logger(module=__name__)

LENGTH: Final = struct.Struct("<I")
ANSWER: Final = struct.Struct("<dIB")
APPENDED: Final = 0
FULL: Final = 1
CORRUPT: Final = 2
FAILED: Final = 3
_ERRORS: Final = {FULL: StreamFull, CORRUPT: StreamCorrupt, FAILED: StreamError}

_GROUPS_AHEAD: Final = 4
_BUFFER_BYTES: Final = 4 << 20
_START_TIMEOUT_S: Final = 30.0
_END_TIMEOUT_S: Final = 30.0
_RETRY_FIRST_S: Final = 0.1
_RETRY_MOST_S: Final = 5.0


class WritingOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What the writing process is told on its command line."""

    directory: str
    partitions: int
    limits: WriterLimits
    socket_fd: int


class _Group(msgspec.Struct):
    calls: list[Call]
    packed: bytes
    repeated: bool = False
    """A process died with it before."""

    @property
    def repeatable(self) -> bool:
        """May be sent once more: deduplication tells what the process that died had stored of it."""
        return not self.repeated and all(record.dedup_key for call in self.calls for record in call[0])


class ProcessWriter(Submissions):
    """Commits in a process of its own. Made by `open_process_writer`."""

    def __init__(
        self,
        directory: Path,
        partitions: int,
        limits: WriterLimits,
        clock: Clock,
        may_append: Callable[[], str | None],
    ) -> None:
        super().__init__(limits)
        self._directory = directory
        self._partitions = partitions
        self._clock = clock
        self._may_append = may_append
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._ahead: deque[_Group] = deque()
        self._repeated: list[_Group] = []
        """What a dead process had been given: first for the next one."""
        self._unsent: deque[memoryview] = deque()
        """What the socket had no room for."""
        self._received = bytearray()
        self._sending = False
        self._idle = asyncio.Event()
        """Nothing waits: of use to `close`, which clears it."""
        self._idle.set()
        self._restart: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The writing process, 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Start the process, and wait until it is ready to append.

        Raises:
            StreamError: it can't open the files.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                for end in (ours, theirs):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
                order = WritingOrder(
                    directory=str(self._directory),
                    partitions=self._partitions,
                    limits=self._limits,
                    socket_fd=theirs.fileno(),
                )
                # Some milliseconds, once: a thread for it could outlive a cancellation.
                self._process = _spawn(order)
            async with asyncio.timeout(_START_TIMEOUT_S):
                outcome = await self._first_answer(ours)
            if outcome is not None:
                raise outcome
        except BaseException as error:
            ours.close()
            await self._reap(kill=True)
            if isinstance(error, TimeoutError | OSError):
                raise StreamError(f"the stream's writing process did not start: {error!r}") from error
            raise
        self._socket = ours
        self._loop.add_reader(ours.fileno(), self._readable)
        repeated, self._repeated = self._repeated, []
        for group in repeated:
            self._put(group)
        self._send()

    async def close(self) -> None:
        self._closing = True
        if self._pending or self._ahead or self._repeated:
            self._idle.clear()
        await self._idle.wait()
        if self._restart is not None:
            self._restart.cancel()
            await asyncio.wait([self._restart])
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        await self._reap(kill=False)

    # ------------------------------------------------------------ to the process

    def _more(self) -> None:
        if not self._sending and len(self._ahead) < _GROUPS_AHEAD and self._socket is not None:
            # In the loop's next turn: what this turn still reads goes along.
            self._sending = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._sending = False
        while self._pending and len(self._ahead) < _GROUPS_AHEAD and self._socket is not None:
            calls, records = self._take_group()
            refusal = self._may_append() if records else None
            if refusal is not None:
                self._finish(calls, StreamFull(refusal))
            elif not records:
                self._finish(calls, set())
            else:
                self._put(_Group(calls, pack(records)))
        self._note_idle()

    def _take_group(self) -> tuple[list[Call], list[NewRecord]]:
        """Return the next group and its records: nearly always all that waits, which needs no counting."""
        pending, limits = self._pending, self._limits
        if self.backlog_bytes <= limits.group_bytes:
            records = list(chain.from_iterable([call[0] for call in pending]))
            if len(records) <= limits.group_records:
                calls = list(pending)
                pending.clear()
                return calls, records
        calls = self._take()
        return calls, list(chain.from_iterable([call[0] for call in calls]))

    def _put(self, group: _Group) -> None:
        self._ahead.append(group)
        self._write(LENGTH.pack(len(group.packed)), group.packed)

    def _write(self, *parts: bytes) -> None:
        assert self._socket is not None  # noqa: S101 - the callers looked
        sent = 0
        if not self._unsent:
            try:
                sent = self._socket.sendmsg(parts)
            except BlockingIOError:
                sent = 0
            except OSError:
                return  # it has died: the reading side is told, and answers for all
            if sent == sum(map(len, parts)):
                return
            self._loop.add_writer(self._socket.fileno(), self._writable)
        for part in parts:
            if sent < len(part):
                self._unsent.append(memoryview(part)[sent:])
            sent = max(0, sent - len(part))

    def _writable(self) -> None:
        assert self._socket is not None  # noqa: S101 - it is registered while there is one
        while self._unsent:
            part = self._unsent[0]
            try:
                sent = self._socket.send(part)
            except BlockingIOError:
                return
            except OSError:
                break
            if sent < len(part):
                self._unsent[0] = part[sent:]
                return
            self._unsent.popleft()
        self._loop.remove_writer(self._socket.fileno())

    # ------------------------------------------------------------ from the process

    async def _first_answer(self, end: socket.socket) -> StreamError | None:
        """Return None once the process is ready, or why it can't be."""
        received = b""
        while len(received) < LENGTH.size or len(received) < LENGTH.size + LENGTH.unpack_from(received)[0]:
            piece = await self._loop.sock_recv(end, 65_536)
            if not piece:
                return StreamError("the stream's writing process ended at once; its log says why")
            received += piece
        outcome = _read_answer(received[LENGTH.size :])[2]
        return outcome if isinstance(outcome, StreamError) else None

    def _readable(self) -> None:
        assert self._socket is not None  # noqa: S101 - it is registered while there is one
        try:
            piece = self._socket.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self._died()
            return
        received = self._received
        received += piece
        at = 0
        while len(received) - at >= LENGTH.size:
            size = LENGTH.unpack_from(received, at)[0]
            if len(received) - at < LENGTH.size + size:
                break
            answer = _read_answer(bytes(received[at + LENGTH.size : at + LENGTH.size + size]))
            at += LENGTH.size + size
            self._answered(*answer)
        del received[:at]
        if self._pending:
            self._send()
        else:
            self._note_idle()

    def _answered(self, seconds: float, groups: int, outcome: set[int] | StreamError) -> None:
        calls = self._ahead.popleft().calls
        for _ in range(groups - 1):
            calls += self._ahead.popleft().calls
        if isinstance(outcome, StreamError):
            _log.error("append failed", error=str(outcome), calls=len(calls))
        else:
            metrics.COMMIT_SECONDS.observe(seconds)
            metrics.COMMITS.inc()
        self._finish(calls, outcome)

    def _note_idle(self) -> None:
        if not self._pending and not self._ahead and not self._repeated:
            self._idle.set()

    # ------------------------------------------------------------ its end

    def _died(self) -> None:
        assert self._socket is not None  # noqa: S101 - the caller read from it
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._socket = None
        self._unsent.clear()
        self._received.clear()
        _log.error("the stream's writing process ended; it is started again", groups=len(self._ahead))
        groups, self._ahead = self._ahead, deque()
        error = StreamClosed("the stream's writing process ended while it stored this")
        for group in groups:
            if group.repeatable:
                group.repeated = True
                self._repeated.append(group)
            else:
                self._finish(group.calls, error)
        self._note_idle()
        self._restart = self._loop.create_task(self._start_again())

    async def _start_again(self) -> None:
        retry_s = _RETRY_FIRST_S
        while True:
            await self._reap(kill=True)
            try:
                await self.start()
            except (StreamError, OSError) as error:
                _log.error("the stream's writing process can't be started", error=str(error))
                waiting = [call for group in self._repeated for call in group.calls] + list(self._pending)
                self._repeated.clear()
                self._pending.clear()
                reason = error if isinstance(error, StreamError) else StreamError(str(error))
                self._finish(waiting, reason)
                self._note_idle()
                await self._clock.sleep(retry_s)
                retry_s = min(_RETRY_MOST_S, retry_s * 2)
            else:
                return

    async def _reap(self, *, kill: bool) -> None:
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(_end, process, kill=kill)


def _spawn(order: WritingOrder) -> "subprocess.Popen[bytes]":
    # A group of its own: ctrl-C in a terminal is for the processes that feed it, and it ends with them.
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "mainstem.stream.embedded.writing", msgspec.json.encode(order).decode()],
        pass_fds=(order.socket_fd,),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def _end(process: "subprocess.Popen[bytes]", *, kill: bool) -> None:
    if kill:
        process.kill()
    try:
        process.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _read_answer(frame: bytes) -> tuple[float, int, set[int] | StreamError]:
    seconds, groups, status = ANSWER.unpack_from(frame)
    rest = frame[ANSWER.size :]
    if status == APPENDED:
        return seconds, groups, set(array("I", rest)) if rest else set()
    return seconds, groups, _ERRORS[status](rest.decode())

"""One sandbox process, from the parent's side: start it, hand it batches, answer what it asks, end it.

runtime.py -> **this** <-> `child.py` in its own process. Nothing here blocks the event loop but the start of the
process itself (a few milliseconds). The child may say anything: what is no frame ends it.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Literal

import msgspec

import mainstem
from mainstem.transformations.sandbox.jail import Layers
from mainstem.transformations.sandbox.wire import (
    Answer,
    Ask,
    Done,
    Load,
    Loaded,
    Malformed,
    NotLoaded,
    Overflow,
    Run,
    Stopped,
    ToChild,
    ToParent,
    length_of,
    pack,
    parse_for_parent,
)

Language = Literal["javascript", "python"]
AnswerAsk = Callable[[Ask], Awaitable[Answer]]
"""Answers one question of the code; never raises."""

START_TIMEOUT_S: Final = 60.0
"""Imports and V8 on a machine that is busy with other things."""
_LOAD_GRACE_S: Final = 10.0
_GRACE_S: Final = 0.5
"""A batch may go on for so much longer, and a tenth: then the child, which should have stopped it, is killed."""
_ASKS_AT_ONCE: Final = 16
"""More wait in the child's socket."""
_STANDARD_ERROR_BYTES: Final = 64 * 1024
# Strings hash alike in all processes, so that sets have one order; times have one zone. Nothing of ours is told.
_ENVIRONMENT: Final = {
    "PYTHONHASHSEED": "0",
    "TZ": "UTC",
    "PYTHONPATH": str(Path(mainstem.__file__).parents[1]),
}


class NotStarted(Exception):
    """The process did not come up; the text says why, for people."""

    def __init__(self, reason: str, *, code_is_wrong: bool, for_ever: bool = True) -> None:
        super().__init__(reason)
        self.code_is_wrong = code_is_wrong
        """Every event fails with the reason. False: the machine's trouble."""
        self.for_ever = for_ever
        """The same code will never come up. False: it may have been the machine after all."""


class Died(Exception):
    """The process ended, or was killed, in the middle of a batch; the text says why, for people."""


def _command(module: str) -> list[str]:
    # Not -I, which would have each process hash strings in its own way; the environment is ours anyway.
    return [sys.executable, "-s", "-P", "-m", f"mainstem.transformations.sandbox.{module}"]


class SandboxProcess:
    """One child with one transformation version loaded. One batch at a time."""

    def __init__(self, child: "subprocess.Popen[bytes]", end: socket.socket, load: Load) -> None:
        self._child = child
        self._end = end
        self._timeout_s = load.timeout_s
        self._memory_bytes = load.memory_bytes
        self._loop = asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        self.missing_layers: tuple[str, ...] = ()
        self.batches = 0
        self._running = False
        self._closed = False

    @classmethod
    async def start(cls, language: Language, load: Load) -> "SandboxProcess":
        """Start a process and load the code into it.

        Raises:
            NotStarted: it did not come up, or the code can't be used.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                child = subprocess.Popen(  # noqa: ASYNC220, S603 - a few ms, our own interpreter
                    [*_command(f"{language}.host"), str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    env=_ENVIRONMENT,
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise NotStarted(f"no process can be started: {error}", code_is_wrong=False) from None
        process = cls(child, ours, load)
        try:
            await process._load(load)
        except BaseException:
            await process.close()
            raise
        return process

    async def _load(self, load: Load) -> None:
        try:
            async with asyncio.timeout(START_TIMEOUT_S + _LOAD_GRACE_S + load.timeout_s):
                await self._send(load)
                said = await self._receive()
        except TimeoutError:
            raise NotStarted("it took too long to start", code_is_wrong=False) from None
        except Malformed as error:
            raise NotStarted(str(error), code_is_wrong=True, for_ever=False) from None
        except (EOFError, OSError):
            died = await self._why_died()
            # By a signal: once the jail holds, that is the code's doing. An exit is our own trouble.
            by_signal = (self._child.returncode or 0) < 0
            raise NotStarted(
                f"while it was loaded: {died}", code_is_wrong=by_signal, for_ever=False
            ) from None
        if isinstance(said, NotLoaded):
            raise NotStarted(said.reason[:500], code_is_wrong=said.code_is_wrong)
        if not isinstance(said, Loaded):
            raise NotStarted("it spoke out of turn", code_is_wrong=True, for_ever=False)
        self.missing_layers = said.missing_layers

    async def run(self, run: Run, answer: AnswerAsk) -> Done | Overflow | Stopped:
        """Run one batch. Cancelled or failed, the process is of no more use: close it.

        Raises:
            Died: it ended, said nonsense, or had to be killed for taking too long.
        """
        self.batches += 1
        self._running = True
        questions: set[asyncio.Task[None]] = set()
        try:
            async with asyncio.timeout(self._timeout_s * 1.1 + _GRACE_S):
                await self._send(run)
                return await self._answered(answer, questions)
        except TimeoutError:
            raise Died(f"took longer than {self._timeout_s:g} s") from None
        except Malformed as error:
            raise Died(f"the sandbox ended: {error}") from None
        except (EOFError, OSError):
            raise Died(await self._why_died()) from None
        finally:
            for task in questions:
                task.cancel()
            if questions:
                await asyncio.wait(questions)
            self._running = False
            if self._closed:
                self._end.close()

    async def _answered(
        self, answer: AnswerAsk, questions: set[asyncio.Task[None]]
    ) -> Done | Overflow | Stopped:
        """Read until the batch is done; questions are answered beside."""
        free = asyncio.Semaphore(_ASKS_AT_ONCE)

        async def reply(ask: Ask) -> None:
            try:
                answered = await answer(ask)
                # A child that is gone is noticed by who reads from it.
                with contextlib.suppress(OSError):
                    await self._send(answered)
            finally:
                free.release()

        while True:
            said = await self._receive()
            if isinstance(said, Done | Overflow | Stopped):
                return said
            if not isinstance(said, Ask):
                raise Malformed("it spoke out of turn")
            await free.acquire()
            task = asyncio.create_task(reply(said))
            questions.add(task)
            task.add_done_callback(questions.discard)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._child.pid

    def is_alive(self) -> bool:
        """Whether the process can take another batch."""
        return self._child.poll() is None

    def memory_bytes(self) -> int:
        """Return what it holds in memory now (resident), 0 when it is gone."""
        return self._from_proc("VmRSS:") * 1024

    def cpu_s(self) -> float:
        """Return the CPU time it has used, 0 when it is gone."""
        try:
            fields = Path(f"/proc/{self._child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def close(self) -> None:
        """End the process, now. A batch under way sees it die."""
        self._child.kill()
        self._closed = True
        if not self._running:  # else it reads from there, and would not hear of a socket closed under it
            self._end.close()
        if self._child.stderr is not None:
            self._child.stderr.close()
        await self._wait()

    async def _wait(self) -> None:
        # Killed, it is gone within moments; a thread for that would be more than the wait.
        while self._child.poll() is None:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.001)

    async def _why_died(self) -> str:
        """What is known of a death: standard error, then the signal."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                await self._wait()
        self._child.kill()
        await self._wait()
        code = self._child.returncode
        last_words = self._standard_error()
        if (
            "out of memory" in last_words.lower()
            or "MemoryError" in last_words
            or "Allocation failed" in last_words
        ):
            return f"used more than {self._memory_bytes // 1024**2} MB"
        if code is not None and code < 0:
            if -code in (signal.SIGTRAP, signal.SIGILL):  # how V8 ends when it gets no memory
                return f"the sandbox ended: {signal.Signals(-code).name}, most likely out of memory"
            return f"the sandbox ended: {signal.Signals(-code).name}"
        last_line = last_words.strip().rsplit("\n", 1)[-1][:200]
        return f"the sandbox ended: exit code {code}{': ' if last_line else ''}{last_line}"

    def _standard_error(self) -> str:
        pipe = self._child.stderr
        if pipe is None or pipe.closed:
            return ""
        os.set_blocking(pipe.fileno(), False)
        try:
            return os.read(pipe.fileno(), _STANDARD_ERROR_BYTES).decode("utf-8", "replace")
        except BlockingIOError:
            return ""

    def _from_proc(self, name: str) -> int:
        try:
            lines = Path(f"/proc/{self._child.pid}/status").read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)

    async def _send(self, message: ToChild) -> None:
        frame = pack(message)
        async with self._sending:
            await self._loop.sock_sendall(self._end, frame)

    async def _receive(self) -> ToParent:
        return parse_for_parent(await self._exactly(length_of(await self._exactly(4))))

    async def _exactly(self, length: int) -> bytes:
        part = await self._loop.sock_recv(self._end, length)
        if len(part) == length:
            return part
        # Grows with what has come: an announced length costs nothing.
        read = bytearray(part)
        while len(read) < length:
            if not part:
                raise EOFError
            part = await self._loop.sock_recv(self._end, min(length - len(read), 1 << 20))
            read += part
        return bytes(read)


def probe_layers() -> Layers:
    """Return which layers of the jail hold on this machine, tried in a process of its own. Blocks for a moment.

    Raises:
        NotStarted: no process can be started.
    """
    try:
        tried = subprocess.run(  # noqa: S603 - our own interpreter
            _command("jail"),
            env=_ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
        return msgspec.json.decode(tried.stdout, type=Layers)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotStarted(f"the jail can't be tried: {error}", code_is_wrong=False) from None
    except msgspec.MsgspecError:
        last_words = tried.stderr.decode("utf-8", "replace").strip()[-300:]
        raise NotStarted(f"the jail can't be tried: {last_words}", code_is_wrong=False) from None

"""How `serve` talks to the processes it starts: JSON lines over their standard input and output.

The first line to a child is its settings (so secrets are in no argument list and no environment); then come
questions (`{"id": 1, "ask": "metrics"}`), answered in any order. The end of the child's input means that the
parent is gone, however it died: the child drains and exits, so no orphan keeps delivering.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from mainstem.telemetry.log import logger

_log = logger(__name__)

_LINE_LIMIT_BYTES = 16 * 1024 * 1024


class Question(msgspec.Struct):
    """From the parent."""

    id: int
    ask: str


class Answer(msgspec.Struct):
    """From the child; id 0 is the announcement that it is ready."""

    id: int
    value: Any = None
    error: str = ""


Answerer = Callable[[], Awaitable[Any]]


class ParentChannel:
    """The child's end."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._out = sys.stdout.buffer
        self._answering: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls) -> "ParentChannel":
        """Take over standard input."""
        reader = asyncio.StreamReader(limit=_LINE_LIMIT_BYTES)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        return cls(reader)

    async def settings(self) -> bytes:
        """Return the first line."""
        return await self._reader.readline()

    def ready(self, value: object) -> None:
        """Tell the parent that this process does its work now."""
        self._write(Answer(id=0, value=value))

    async def answer_until_closed(self, answers: Mapping[str, Answerer]) -> None:
        """Answer questions, each as soon as it can be; return when the parent closes the channel or dies."""
        while line := await self._reader.readline():
            try:
                question = msgspec.json.decode(line, type=Question)
            except msgspec.DecodeError as error:
                _log.warning("unreadable question from the parent process", error=str(error))
                continue
            # One that has to wait for a disk does not make the process look dead.
            task = asyncio.create_task(self._answer(question, answers))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        for task in self._answering:
            task.cancel()

    async def _answer(self, question: Question, answers: Mapping[str, Answerer]) -> None:
        answerer = answers.get(question.ask)
        if answerer is None:
            self._write(Answer(id=question.id, error=f"no answer to `{question.ask}`"))
            return
        try:
            self._write(Answer(id=question.id, value=await answerer()))
        except Exception as error:  # noqa: BLE001 - told to the asker; the role goes on
            self._write(Answer(id=question.id, error=f"{type(error).__name__}: {error}"))

    def _write(self, answer: Answer) -> None:
        try:
            self._out.write(msgspec.json.encode(answer) + b"\n")
            self._out.flush()
        except BrokenPipeError:
            _log.debug("the parent process is gone")


class ChildChannel:
    """The parent's end."""

    def __init__(self, writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        self._writer = writer
        self._reader = reader
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._last_id = 0
        self.ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def start(self, settings: bytes) -> asyncio.Task[None]:
        """Send the settings and begin to read answers; the task ends when the child closes its output.

        Raises:
            ConnectionError: the child is gone already.
        """
        self._send(settings)
        return asyncio.create_task(self._read())

    async def ask(self, what: str, *, timeout_s: float) -> Any:
        """Return the child's answer.

        Raises:
            TimeoutError: no answer in time.
            ConnectionError: the child is gone, or answered with an error.
        """
        self._last_id += 1
        question_id = self._last_id
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[question_id] = future
        try:
            self._send(msgspec.json.encode(Question(id=question_id, ask=what)))
            async with asyncio.timeout(timeout_s):
                return await future
        finally:
            self._waiting.pop(question_id, None)

    def _send(self, line: bytes) -> None:
        try:
            self._writer.write(line + b"\n")
        except RuntimeError as error:  # what uvloop says of a pipe whose other end is gone
            raise ConnectionError(str(error)) from None

    def close(self) -> None:
        """Close the child's input: it drains and exits."""
        self._writer.close()

    async def _read(self) -> None:
        while line := await self._reader.readline():
            try:
                answer = msgspec.json.decode(line, type=Answer)
            except msgspec.DecodeError:
                _log.warning("unreadable line from a child process", bytes=len(line))
                continue
            if answer.id == 0:
                if not self.ready.done():
                    self.ready.set_result(answer.value)
                continue
            future = self._waiting.get(answer.id)
            if future is None or future.done():
                continue
            if answer.error:
                future.set_exception(ConnectionError(answer.error))
            else:
                future.set_result(answer.value)
        for future in [self.ready, *self._waiting.values()]:
            if not future.done():
                future.set_exception(ConnectionError("the process ended"))
        # Nobody may be waiting for readiness any more: the exception is then looked at here.
        if self.ready.done() and not self.ready.cancelled():
            self.ready.exception()

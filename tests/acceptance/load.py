"""Clients that never give up: each person sends numbered events one after the other, each until it is acknowledged.

A person has at most one request under way, so the order of the acknowledgements is the order that every
destination has to keep. An unacknowledged event is sent again with the same messageId, as SDKs do. What went
wrong on the way is counted by kind.
"""

import asyncio
import contextlib
from collections import Counter

import httptools
import msgspec

from tests.acceptance.serving import WRITE_KEY

_ANSWER_TIMEOUT_S = 15.0
_RETRY_S = 0.02
_ANONYMOUS_EVENTS = 5
"""Of every ten events of a person who logs in, so many come before the login."""


class Person:
    """Somebody with an app: one keep-alive connection, one event at a time."""

    def __init__(self, load: "Load", name: str, *, logs_in: bool) -> None:
        self.name = name
        self.acknowledged: list[str] = []
        """messageIds, in order."""
        self._load = load
        self._logs_in = logs_in
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def send_until(self, enough: asyncio.Event, pause_s: float) -> None:
        """Send events until told that it is enough; the last one too is acknowledged."""
        number = 0
        try:
            while not enough.is_set():
                await self._send(number)
                number += 1
                if pause_s:
                    await asyncio.sleep(pause_s)
        finally:
            self._hang_up()

    async def _send(self, number: int) -> None:
        message_id = f"{self.name}-{number}"
        visit, step = divmod(number, 2 * _ANONYMOUS_EVENTS) if self._logs_in else (0, 0)
        ids = {"anonymousId": f"{self.name}-visit-{visit}", "userId": self.name}
        if not self._logs_in:
            del ids["anonymousId"]
        elif step < _ANONYMOUS_EVENTS:
            del ids["userId"]
        properties = {
            "n": number,
            "visit": f"{self.name}-visit-{visit}",
            "key": ids.get("userId") or ids["anonymousId"],
        }
        event = {
            "type": "track",
            "messageId": message_id,
            "event": "Step",
            "properties": properties,
            **ids,
        }
        body = msgspec.json.encode(event)
        request = (
            b"POST /v1/track HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\nx-write-key: %b\r\n"
            b"content-length: %d\r\n\r\n%b" % (WRITE_KEY.encode(), len(body), body)
        )
        while True:
            kind = await self._attempt(request)
            if kind == "200":
                self.acknowledged.append(message_id)
                return
            self._load.errors[kind] += 1
            self._hang_up()
            await asyncio.sleep(_RETRY_S)

    async def _attempt(self, request: bytes) -> str:
        """Return the status, or what went wrong."""
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                if self._writer is None or self._reader is None:
                    self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._load.port)
                elif self._reader.at_eof():
                    # Closed while nothing was under way: a client sees that and connects again.
                    self._load.closed_idle += 1
                    self._hang_up()
                    self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._load.port)
                self._writer.write(request)
                return await self._answer(self._reader)
        except ConnectionRefusedError:
            return "refused"
        except ConnectionError:
            return "reset"
        except TimeoutError:
            return "no answer"

    async def _answer(self, reader: asyncio.StreamReader) -> str:
        answer = _Answer()
        parser = httptools.HttpResponseParser(answer)
        while not answer.complete:
            data = await reader.read(65536)
            if not data:
                raise ConnectionResetError
            parser.feed_data(data)
        status = str(parser.get_status_code())
        if not parser.should_keep_alive():
            self._hang_up()
        return status

    def _hang_up(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None


class _Answer:
    complete = False

    def on_message_complete(self) -> None:
        self.complete = True


class Load:
    """Many persons at once: `async with Load(port, persons=16) as load: …`; on leaving, all are acknowledged."""

    def __init__(self, port: int, *, persons: int, pause_s: float = 0.02, logging_in: int = 0) -> None:
        """
        Args:
            pause_s: between a person's events.
            logging_in: how many of the persons are anonymous for half of their events.
        """
        self.port = port
        self.errors: Counter[str] = Counter()
        """Failed attempts: `refused`, `reset`, `no answer`, or a status other than 200."""
        self.closed_idle = 0
        """Connections that were closed between requests."""
        self.persons = [Person(self, f"p{number}", logs_in=number < logging_in) for number in range(persons)]
        self._enough = asyncio.Event()
        self._pause_s = pause_s
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def acknowledged(self) -> list[str]:
        """All acknowledged messageIds."""
        return [message_id for person in self.persons for message_id in person.acknowledged]

    @property
    def count(self) -> int:
        """How many are acknowledged."""
        return sum(len(person.acknowledged) for person in self.persons)

    async def __aenter__(self) -> "Load":
        self._tasks = [
            asyncio.create_task(person.send_until(self._enough, self._pause_s)) for person in self.persons
        ]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._enough.set()
        if kind is not None:
            for task in self._tasks:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*self._tasks, return_exceptions=True)
            return
        await asyncio.gather(*self._tasks)

"""The writing process: `python -m mainstem.stream.embedded.writing ORDER`, started by `writer_process`.

One blocking loop: all groups that are there in, a commit, an answer out. It ends when its socket is closed, and
only then: signals that stop the others (a terminal's ctrl-C, a service manager's TERM to everybody) leave it time
for what it has.
"""

import contextlib
import signal
import socket
import sys
import threading
from pathlib import Path
from time import perf_counter
from typing import Final

import msgspec

from mainstem.clock import SystemClock
from mainstem.stream.base import StreamCorrupt, StreamError, StreamFull
from mainstem.stream.embedded.appender import Appender, WriterLimits
from mainstem.stream.embedded.catalog import Catalog
from mainstem.stream.embedded.heads import Heads
from mainstem.stream.embedded.meta import Meta
from mainstem.stream.embedded.segment import unpack
from mainstem.stream.embedded.twins_feed import TwinsFeed
from mainstem.stream.embedded.writer_process import (
    ANSWER,
    APPENDED,
    CORRUPT,
    FAILED,
    FULL,
    LENGTH,
    WritingOrder,
)

_LOOK_EVERY_S: Final = 2.0
_READ_BYTES: Final = 1 << 20


def main() -> None:
    """Serve the socket named in the order until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    order = msgspec.json.decode(sys.argv[1], type=WritingOrder)
    with socket.socket(fileno=order.socket_fd) as end, contextlib.ExitStack() as stack:
        try:
            appender, bell = _open(order, stack)
        except StreamError as error:
            _answer(end, 0.0, 0, error)
            return
        _answer(end, 0.0, 0, set())
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # nobody waits for the answer any more
            _serve(end, appender, order.limits, bell)


def _open(order: WritingOrder, stack: contextlib.ExitStack) -> tuple[Appender, threading.Event]:
    directory = Path(order.directory)
    meta = Meta(directory / "meta.db", order.partitions)
    stack.callback(meta.close)
    catalog = Catalog(directory, meta)
    catalog.refresh()
    heads = Heads(directory, meta.partitions)
    stack.callback(heads.close)
    heads.claim()
    appender = Appender(directory, catalog, heads, order.limits)
    stack.callback(appender.close)
    appender.prepare()
    bell = threading.Event()
    feed = TwinsFeed(appender, catalog, SystemClock(), order.limits)
    threading.Thread(target=_follow, args=(feed, bell), daemon=True, name="stream-twins").start()
    return appender, bell


def _follow(feed: TwinsFeed, bell: threading.Event) -> None:
    """Hand the appender what segments were indexed since: after commits, and not while nothing happens."""
    pause = threading.Event()
    while True:
        bell.wait()
        bell.clear()
        with contextlib.suppress(StreamError):  # whoever keeps the segments says so
            feed.hand_over()
        pause.wait(_LOOK_EVERY_S)


def _serve(end: socket.socket, appender: Appender, limits: WriterLimits, bell: threading.Event) -> None:
    frames = _Frames(end)
    while groups := frames.take(limits.group_bytes):
        records = unpack(groups[0])
        for group in groups[1:]:
            records += unpack(group)
        began = perf_counter()
        outcome: set[int] | StreamError
        try:
            outcome = appender.append(records, groups[0] if len(groups) == 1 else None)
        except StreamError as error:
            outcome = error
        _answer(end, perf_counter() - began, len(groups), outcome)
        bell.set()


class _Frames:
    """What comes in, frame by frame."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._received = bytearray()

    def take(self, most_bytes: int) -> list[bytes]:
        """Return all whole frames that are there, at least one, and about `most_bytes` of them; none at the end."""
        frames: list[bytes] = []
        size = 0
        while size < most_bytes:
            frame = self._next()
            if frame is not None:
                frames.append(frame)
                size += len(frame)
                continue
            try:
                piece = self._end.recv(_READ_BYTES, socket.MSG_DONTWAIT if frames else 0)
            except BlockingIOError:
                break
            if not piece:
                break
            self._received += piece
        return frames

    def _next(self) -> bytes | None:
        received = self._received
        if len(received) < LENGTH.size:
            return None
        size = LENGTH.unpack_from(received)[0]
        if len(received) < LENGTH.size + size:
            return None
        frame = bytes(memoryview(received)[LENGTH.size : LENGTH.size + size])
        del received[: LENGTH.size + size]
        return frame


def _answer(end: socket.socket, seconds: float, groups: int, outcome: set[int] | StreamError) -> None:
    if isinstance(outcome, StreamError):
        status = {StreamFull: FULL, StreamCorrupt: CORRUPT}.get(type(outcome), FAILED)
        rest = str(outcome).encode()
    else:
        status, rest = APPENDED, b"".join(index.to_bytes(4, sys.byteorder) for index in sorted(outcome))
    frame = ANSWER.pack(seconds, groups, status) + rest
    end.sendall(LENGTH.pack(len(frame)) + frame)


if __name__ == "__main__":
    main()

"""The writing process: `python -m mainstem.stream.embedded.writing ORDER`, started by `writer_process`.

One blocking loop: a group in, a commit, an answer out. It ends when its socket is closed, and only then: signals
that stop the others (a terminal's ctrl-C, a service manager's TERM to everybody) leave it time for what it has.
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
from mainstem.stream.embedded.appender import Appender
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


def main() -> None:
    """Serve the socket named in the order until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    order = msgspec.json.decode(sys.argv[1], type=WritingOrder)
    with socket.socket(fileno=order.socket_fd) as end, contextlib.ExitStack() as stack:
        try:
            appender, bell = _open(order, stack)
        except StreamError as error:
            _answer(end, 0.0, error)
            return
        _answer(end, 0.0, set())
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # nobody waits for the answer any more
            _serve(end, appender, bell)


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


def _serve(end: socket.socket, appender: Appender, bell: threading.Event) -> None:
    while True:
        head = _receive(end, LENGTH.size)
        packed = _receive(end, LENGTH.unpack(head)[0]) if head else b""
        if not packed:
            return
        began = perf_counter()
        outcome: set[int] | StreamError
        try:
            outcome = appender.append(unpack(packed), packed)
        except StreamError as error:
            outcome = error
        _answer(end, perf_counter() - began, outcome)
        bell.set()


def _receive(end: socket.socket, size: int) -> bytes:
    """Return so many bytes; empty when the socket is closed."""
    piece = end.recv(size, socket.MSG_WAITALL)
    if len(piece) == size:
        return piece
    data = bytearray(piece)
    while piece and len(data) < size:
        piece = end.recv(size - len(data), socket.MSG_WAITALL)
        data += piece
    return bytes(data) if len(data) == size else b""


def _answer(end: socket.socket, seconds: float, outcome: set[int] | StreamError) -> None:
    if isinstance(outcome, StreamError):
        status = {StreamFull: FULL, StreamCorrupt: CORRUPT}.get(type(outcome), FAILED)
        rest = str(outcome).encode()
    else:
        status, rest = APPENDED, b"".join(index.to_bytes(4, sys.byteorder) for index in sorted(outcome))
    frame = ANSWER.pack(seconds, status) + rest
    end.sendall(LENGTH.pack(len(frame)) + frame)


if __name__ == "__main__":
    main()

"""The life of a sandbox process, the same for both languages: load, jail, run batches until the parent is gone.

Started by `process.py` as `python -I -m mainstem.transformations.sandbox.LANGUAGE.host FD`. A language brings a
`Host`; this module owns the order in which things happen, so that no user code is touched before the jail holds.

What both languages do alike:
- One result an event, by position (`wire.Done.results`). transformEvent: each event alone; a throw, a result that is
  no object (`returned event from transformEvent(event) is not an object`), or an array with something else than
  objects in it fails that event only. Outputs of one event keep their order.
- transformBatch: outputs belong to inputs by messageId; one without a known messageId belongs to the first input of
  its userId, else of its anonymousId, else to the first input. Inputs without outputs are dropped. When the call throws
  or returns no array (`returned events from transformBatch(event) is not an array`), fresh copies of both halves
  are tried, down to single events, so that only the guilty ones fail.
- Both or none of the two functions: `CodeWrong("Expected one of transformEvent,transformBatch. Found …")`.
- A failed event's text: `ErrorClass: message (line N)`, the line in the user's code, at most 500 characters.
- messageIds of expanded events are the pipeline's business (`pipeline/transform.py`), not the child's.
- `metadata(event)` looks up `event.messageId` among the batch's inputs, unknown: an empty mapping; reading
  (or listing) a field that begins with `destination` sets `Done.saw_destination`.

Where they differ: JavaScript makes module state anew for every batch, and undoes what the code changed in builtins or
gives the process up. Python runs what stands outside of functions once a process, and its globals stay.
"""

import os
import socket
import sys
import traceback
from typing import Any, NoReturn, Protocol

import msgspec

from mainstem.transformations.sandbox import jail
from mainstem.transformations.sandbox.wire import (
    Answer,
    Ask,
    ChildChannel,
    Closed,
    Done,
    Load,
    Loaded,
    NotLoaded,
    Overflow,
    Run,
    Stopped,
)


class CodeWrong(Exception):
    """The user's code can't be used; the text says why, for people."""


class Parent(Protocol):
    """What a running batch may ask for. Only while `Program.run` is on the stack."""

    def ask(self, what: str, argument: Any) -> int:
        """Send a question (`fetch`, `geolocation`) and return its id; the answer comes by `answer`."""
        ...

    def answer(self) -> Answer:
        """Wait for the next answer to any question."""
        ...


class Program(Protocol):
    """Loaded user code."""

    def run(self, run: Run, parent: Parent) -> Done | Overflow | Stopped:
        """Run one batch. Never raises for what the code does; it may end the process (memory)."""
        ...


class Host(Protocol):
    """One language."""

    syscalls: tuple[str, ...]
    """Allowed besides those of `jail.SYSCALLS`."""
    executable_memory: bool
    """Whether it compiles to machine code at run time."""
    spare_bytes: int
    """What it needs of memory besides the code's own data, in the course of time."""

    def warm(self, load: Load) -> None:
        """Before the jail: import what needs files. Must not touch `load.code`."""
        ...

    def start(self, load: Load) -> None:
        """Files are gone: start what needs threads. Must not touch `load.code`. None can be started later."""
        ...

    def load(self, load: Load) -> Program:
        """In the jail: compile.

        Raises:
            CodeWrong: the code can't be used.
        """
        ...


class _Parent:
    def __init__(self, channel: ChildChannel) -> None:
        self._channel = channel
        self._last = 0

    def ask(self, what: str, argument: Any) -> int:
        self._last += 1
        self._channel.send(Ask(self._last, what, msgspec.json.encode(argument)))
        return self._last

    def answer(self) -> Answer:
        message = self._channel.receive()
        if not isinstance(message, Answer):
            raise Closed
        return message


def main(host: Host) -> NoReturn:
    """Serve the parent on the socket whose number is the first argument; ends the process."""
    end = socket.socket(fileno=int(sys.argv[1]))
    end.set_inheritable(False)
    channel = ChildChannel(end)
    try:
        _serve(host, channel)
    except Closed:
        # The parent is gone or has had enough. No tidy exit: V8 may hang in it, and there is nothing to tidy.
        os._exit(0)
    except BaseException:  # noqa: BLE001 - the last stop: the parent reads it from standard error
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _serve(host: Host, channel: ChildChannel) -> None:
    load = channel.receive()
    if not isinstance(load, Load):
        raise Closed
    host.warm(load)
    cell = jail.Jail()
    cell.enter(keep_fds=(channel.fileno(),))
    host.start(load)
    layers = cell.seal(
        jail.Limits(memory_bytes=load.memory_bytes + host.spare_bytes),
        also=host.syscalls,
        executable_memory=host.executable_memory,
    )
    if layers.missing and not load.allow_weak:
        channel.send(NotLoaded(f"this machine lacks {', '.join(layers.missing)}", code_is_wrong=False))
        return
    try:
        program = host.load(load)
    except CodeWrong as error:
        channel.send(NotLoaded(str(error)[:500], code_is_wrong=True))
        return
    channel.send(Loaded(layers.missing))
    parent = _Parent(channel)
    while True:
        message = channel.receive()
        if isinstance(message, Run):
            ended = program.run(message, parent)
            channel.send(ended)
            if isinstance(ended, Stopped):
                return

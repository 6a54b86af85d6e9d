"""What happens to clients when the process forks, ends, or is told to end.

* Fork: no lock, transaction, connection or lease crosses it; a child begins with nothing pending and a thread of its
  own, which its first call starts.
* Exit (`atexit`; in children of `multiprocessing` and of Celery's pools, which end without it, what they have instead)
  and SIGTERM: everything pending goes to the disk, then as much as possible to the server until `exit_timeout_s` is
  over, or at once if the server is known to be away.
* SIGTERM's handler is installed by the first client that the main thread makes; it then does what was to be done
  before: it calls the handler that was there, or ends the process by the signal. A handler that the program installs
  later replaces ours, as usual.

A signal may interrupt the main thread in the middle of a call, while it holds a lock that the flush needs. Then the
handler leaves its work to the end of that call.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
import weakref
from types import FrameType
from typing import Any, Protocol

_log = logging.getLogger("mainstem_analytics")


class Living(Protocol):
    """What a client lets be done with it."""

    def before_fork(self) -> None:
        """See that nothing is in the middle of something."""

    def after_fork_parent(self) -> None:
        """Go on."""

    def after_fork_child(self) -> None:
        """Begin anew."""

    def at_exit(self) -> None:
        """Store, send, within a bound."""


_clients: weakref.WeakSet[Living] = weakref.WeakSet()
_prepared: list[Living] = []
_forking = threading.Lock()
"""One fork at a time: from before it to after it."""
_previous: Any = None
_installed = False
_registered = False
_looked_after = 0
"""The process whose end has been seen to."""


class _MainThread:
    """Whether the main thread is inside a call, and what a signal left to do after it."""

    def __init__(self) -> None:
        self.ident = threading.main_thread().ident
        self.depth = 0
        self.left: list[tuple[int, FrameType | None]] = []


_main = _MainThread()


def enter() -> bool:
    """A call begins that holds locks; returns whether `leave` has to be called."""
    if threading.get_ident() != _main.ident:
        return False
    _main.depth += 1
    return True


def leave() -> None:
    """The call has ended."""
    _main.depth -= 1
    while _main.left and not _main.depth:
        _on_term(*_main.left.pop())


def register(client: Living, *, on_term: bool) -> None:
    """Look after this client."""
    global _registered
    if not _registered:
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=_before_fork, after_in_parent=_after_fork_parent, after_in_child=_after_fork_child
            )
        atexit.register(at_exit)
        _registered = True
    _clients.add(client)
    if on_term:
        _install()


def look_after_child() -> None:
    """In a process that ends without `atexit`: be called at its end. Once a process."""
    global _looked_after
    process = os.getpid()
    if process == _looked_after:
        return
    _looked_after = process
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, at_exit, exitpriority=100)
    # https://docs.celeryq.dev/en/stable/userguide/signals.html#worker-process-shutdown
    celery = sys.modules.get("celery.signals")
    if celery is not None:
        celery.worker_process_shutdown.connect(_pool_process_ends, weak=False)


def _pool_process_ends(**_: Any) -> None:
    at_exit()


def _install() -> None:
    global _previous, _installed
    if _installed or threading.current_thread() is not threading.main_thread():
        return
    previous = signal.getsignal(signal.SIGTERM)
    if previous is None or previous == signal.SIG_IGN:
        # Not Python's, or wanted so: not ours to change.
        return
    _previous, _installed = previous, True
    signal.signal(signal.SIGTERM, _on_term)


def _on_term(number: int, frame: FrameType | None) -> None:
    if _main.depth:
        _main.left.append((number, frame))
        return
    at_exit()
    if callable(_previous):
        _previous(number, frame)
    else:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def at_exit() -> None:
    """The process ends: have all clients store and send, each within its bound."""
    for client in list(_clients):
        try:
            client.at_exit()
        except Exception:  # noqa: BLE001 - the others have to be closed too; logged
            _log.exception("a client could not be closed at the end of the process")


def _before_fork() -> None:
    _forking.acquire()
    _prepared[:] = list(_clients)
    for client in _prepared:
        client.before_fork()


def _after_fork_parent() -> None:
    for client in _prepared:
        client.after_fork_parent()
    _prepared.clear()
    _forking.release()


def _after_fork_child() -> None:
    global _main, _forking
    _main, _forking = _MainThread(), threading.Lock()
    for client in _prepared:
        client.after_fork_child()
    _prepared.clear()

"""A time limit that ends user code from inside: a signal whose handler raises, so that one event fails cleanly.

Python runs signal handlers between bytecodes, and the loops of `re` look for them too. What never comes back to
the interpreter (a huge `pow`), or code that swallows what is raised, is ended by the parent's kill instead.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_AGAIN_S: Final = 0.05
"""How soon it is raised once more: Python drops what is raised in a destructor, and code may swallow it."""


class TookTooLong(BaseException):
    """The code's time is up. No `Exception`, so that `except Exception` doesn't swallow it."""


class Deadline:
    """The only user of SIGALRM in the process; for its main thread."""

    def __init__(self) -> None:
        self._guarded = False
        self.passed = False
        """Whether the time was up since the last `start`."""
        signal.signal(signal.SIGALRM, self._ring)

    def start(self, after_s: float) -> None:
        """Let it be raised in guarded code from `after_s` seconds on, until `stop`."""
        self.passed = False
        signal.setitimer(signal.ITIMER_REAL, after_s, _AGAIN_S)

    def stop(self) -> None:
        """Raise no more."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call user code: in it, `TookTooLong` may be raised at any bytecode.

        Keep this function small. Memory may be used up when its `finally` runs; the interpreter then needs a number
        for the place to go on at, and tries for ever when it can't have one. Up to 256 they are there already.

        Raises:
            TookTooLong: the time is up.
        """
        try:
            self._guarded = True
            if self.passed:
                raise TookTooLong
            return function(*args, **kwargs)
        finally:
            self._guarded = False

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """While the parent is spoken to: a frame is never left half read.

        Raises:
            TookTooLong: at its end, when the time was up meanwhile.
        """
        was, self._guarded = self._guarded, False
        try:
            yield
        finally:
            self._guarded = was
        if was and self.passed:
            raise TookTooLong

    def _ring(self, number: int, frame: FrameType | None) -> None:
        self.passed = True
        if self._guarded:
            raise TookTooLong

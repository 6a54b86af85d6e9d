"""The steps at which a writer can be killed, found by watching it at work.

A step is a line of a function that does several things to disk, ledger or engine, or the beginning or end of a function
that does one (a statement of SQL by its first words). What only computes is no step: to be killed in it is to be killed
at the step before.
"""

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import mainstem

_ROOT: Final = Path(mainstem.__file__).parent
_ROOMS: Final = ("bulk", "iceberg", "lake", "ledger", "warehouse")
_BY_LINE: Final = {
    "gatherer": {"_make_ahead", "_flush", "_carry_out", "_collect", "_done", "_discard"},
    "staged": {"seal"},
    "writer": {"_write_namespace", "_pay_namespace", "load_rows"},
    "arrears": {"add", "paid"},
    "place": {"put", "create", "_written"},
    "sql": {"load"},
    "clickhouse": {"load", "_insert"},
    "parquet": {"load"},
    "delta_tables": {"_create", "load", "_put", "_note", "_sync", "work"},
    "iceberg_table": {"check", "_make", "put", "_put", "write", "upkeep", "_claim", "_mark"},
    "iceberg_writer": {"_write", "_upkeep"},
    "upkeep": {"compact", "join", "_replace", "_expire"},
    "iceberg_tables": {"_create", "load", "_put", "_replace", "_note"},
}
"""Functions whose every line is a step, by module."""
_BY_ENDS: Final = {
    *(
        "assign",
        "_learn",
        "_make",
        "_make_range",
        "begin",
        "ahead",
        "write",
        "settled",
        "settle",
        "_commit",
        "flush",
        "finish",
    ),
    *(
        "_leave_plan",
        "write_parquet",
        "check",
        "fetch_schema",
        "evolve",
        "_change",
        "_add",
        "_alter",
        "_merged",
    ),
    *(
        "_run",
        "_stage",
        "copy",
        "_widen",
        "_select",
        "_command",
        "_load_file",
        "_put",
        "create",
        "close",
        "_sync",
    ),
}
"""Functions whose beginning and end are steps, wherever they are."""

Trace = Callable[[FrameType, str, Any], Any]


class Steps:
    """Watches this process; kills it at a step, if it is told one."""

    def __init__(self, seen: Callable[[str], None], *, fatal: str = "", times: int = 1) -> None:
        """
        Args:
            seen: told each step when it comes for the first time.
            fatal: the step to die at …
            times: … when it comes for the so-many-th time.
        """
        self._seen = seen
        self._fatal = fatal
        self._left = times
        self._known: Counter[str] = Counter()
        self._names: dict[CodeType, str] = {}
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Begin, in this thread and those that start from now on."""
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    def _trace(self, frame: FrameType, event: str, _: Any) -> Trace | None:
        code = frame.f_code
        name = self._names.get(code)
        if name is None:
            name = self._names[code] = _name_of(code)
        if not name:
            return None
        by_line = code.co_name in _BY_LINE.get(name.partition(".")[0], ())
        if not by_line:
            frame.f_trace_lines = False
        if code.co_name == "_run":
            name += " " + " ".join(str(frame.f_locals.get("sql", "")).split()[:2])
        if not by_line:
            self._step(f"{name} enter")

        def inside(frame: FrameType, event: str, _: Any) -> Trace:
            if event == "line" and by_line:
                self._step(f"{name} +{frame.f_lineno - code.co_firstlineno}")
            elif event == "return" and not by_line:
                self._step(f"{name} leave")
            return inside

        return inside

    def _step(self, step: str) -> None:
        with self._lock:
            self._known[step] += 1
            if self._known[step] == 1:
                self._seen(step)
            if step == self._fatal:
                self._left -= 1
                if not self._left:
                    os.kill(os.getpid(), signal.SIGKILL)


def _name_of(code: CodeType) -> str:
    """Return a function's name, "" if it is not watched."""
    try:
        parts = Path(code.co_filename).relative_to(_ROOT).with_suffix("").parts
    except ValueError:
        return ""
    known = code.co_name in _BY_LINE.get(parts[-1], ()) or code.co_name in _BY_ENDS
    return f"{parts[-1]}.{code.co_qualname}" if known and parts[0] in _ROOMS else ""

"""What people read when their Python code fails: where, what class, what text; bounded, and without credentials."""

from collections.abc import Iterable
from types import TracebackType
from typing import Final

MAX_REASON_CHARS: Final = 500
FILENAME: Final = "<transformation>"
"""What the code of the transformation itself is compiled as."""
_LIBRARY: Final = "<library {}>"


def library_filename(name: str) -> str:
    """Return what a library's code is compiled as."""
    return _LIBRARY.format(name)


def describe(error: BaseException, hidden: Iterable[str] = ()) -> str:
    """Return `function, line N: Class: text`, of the deepest line that is the user's.

    Calls the error's `__str__`, which is user code: guard it by the deadline. Never raises for what that does,
    except `TookTooLong`.
    """
    name = class_name(error)
    text = _text(error)
    if isinstance(error, SyntaxError) and error.filename is not None:
        place = _at(error.filename, "", error.lineno or 0) or _place(error.__traceback__)
        text = error.msg or text
    else:
        place = _place(error.__traceback__)
    said = f"{name}: {text}" if text else name
    return bounded(f"{place}: {said}" if place else said, hidden)


def class_name(value: object) -> str:
    """Return the name of its class, without asking a metaclass, which may be the user's."""
    name: str = vars(type)["__name__"].__get__(type(value))
    return name[:100]


def bounded(text: str, hidden: Iterable[str] = ()) -> str:
    """Return the text without the hidden words, at most `MAX_REASON_CHARS` long."""
    for word in hidden:
        if word:
            text = text.replace(word, "***")
    # A lone surrogate can't be written as JSON.
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= MAX_REASON_CHARS else text[: MAX_REASON_CHARS - 1] + "…"


def _text(error: BaseException) -> str:
    try:
        # Cut before anything else touches it: it may be a gigabyte. Twice the bound, so that a credential that
        # begins before the cut is found whole.
        return str(error)[: 2 * MAX_REASON_CHARS]
    except Exception:  # noqa: BLE001 - the class of the error must be told whatever its text does
        return "(its text can't be made)"


def _place(trace: TracebackType | None) -> str:
    place = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if found := _at(code.co_filename, code.co_name, trace.tb_lineno):
            place = found
        trace = trace.tb_next
    return place


def _at(filename: str, function: str, line: int) -> str:
    where = "" if function in ("", "<module>") else function
    if filename.startswith("<library "):
        library = filename[1:-1]
        where = f"{where} in {library}" if where else library
    elif filename != FILENAME:
        return ""
    return f"{where}, line {line}" if where else f"line {line}"

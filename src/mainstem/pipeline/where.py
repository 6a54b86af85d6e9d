"""`where`: a CEL expression over one canonical event, compiled once.

Used by the filters of a connection and by replay. The language is Google's Common Expression Language
(https://cel.dev, spec https://github.com/google/cel-spec) as the Rust crate `cel` implements it; it has no
loops beyond its macros, no I/O, and regexes that run in linear time. `docs/concepts/routing.md` documents
what an expression sees and what happens when it has no answer.

An expression sees one name, `event`: the canonical message. Only the fields that it mentions are handed to
CEL, because converting a whole event costs far more than evaluating an expression.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from mainstem.pipeline.errors import ExpressionInvalid

MAX_CHARACTERS: Final = 8_192
"""A longer expression is refused: far above what a person writes, low enough that the parser stays shallow."""


class Missing(msgspec.Struct, frozen=True):
    """The expression asks for a field (or list item) that the event doesn't have: it is not true of the event."""

    field: str


class Failed(msgspec.Struct, frozen=True):
    """The expression has no answer for this event (types that don't compare, no boolean, overflow …)."""

    reason: str


Verdict = bool | Missing | Failed

_Tree = tuple[tuple[str, "_Tree | None"], ...]
"""Fields to hand over, by name; None = with everything below."""

_FUNCTIONS: Final = frozenset(
    (
        *("size", "contains", "startsWith", "endsWith", "matches"),
        *("string", "bytes", "double", "int", "uint", "timestamp", "duration", "type", "dyn"),
        *("getFullYear", "getMonth", "getDayOfYear", "getDayOfMonth", "getDate", "getDayOfWeek"),
        *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
        *("none", "of", "ofNonZeroValue", "hasValue", "value", "orValue", "or"),
    )
)
"""What the crate defines; another name would fail on every event, so it is refused at compile time."""

_NAMES: Final = frozenset(
    (
        "event",
        "optional",
        "bool",
        "bytes",
        "double",
        "int",
        "list",
        "map",
        "null_type",
        "string",
        "type",
        "uint",
    )
)

_EVENT_PATH: Final = re.compile(
    r"\bevent\b(?P<path>(?:\s*\.\s*[A-Za-z_][A-Za-z0-9_]*)*)(?P<call>\s*\()?", re.ASCII
)
_BOUND: Final = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(\s*([A-Za-z_]\w*)\s*,", re.ASCII)
_PARSE_ERROR: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): (?:Syntax error: )?([^\n]*)")
_TEXT: Final = r"""r?(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
_MATCHES: Final = re.compile(rf"\bmatches\s*\((?:[^()'\"]*,)?\s*({_TEXT})\s*\)")


class Where:
    """A compiled expression. Call it with a canonical message; it never raises and never changes the message."""

    __slots__ = ("_execute", "_tree", "source")

    def __init__(self, source: str) -> None:
        """Compile `source`.

        Raises:
            ExpressionInvalid: it does not parse, or uses a name, function or regex that can't work; says where.
        """
        # Its package pulls in a terminal toolkit: half a second that only a workspace with expressions pays.
        import cel

        if len(source) > MAX_CHARACTERS:
            raise ExpressionInvalid(
                f"{source[:60]}…", 1, MAX_CHARACTERS + 1, f"longer than {MAX_CHARACTERS} characters"
            )
        try:
            program = cel.compile(source)
        except ValueError as error:
            found = _PARSE_ERROR.search(str(error))
            line, column, problem = found.groups() if found else ("1", "1", str(error))
            raise ExpressionInvalid(source, int(line), int(column), problem) from None
        references = program.references()
        for name in references["functions"]:
            if name[0].isalpha() and name not in _FUNCTIONS:
                raise _at_name(source, name, f"there is no function `{name}`")
        bound = set(_BOUND.findall(source))
        for name in references["variables"]:
            if name not in _NAMES and name not in bound and not name.startswith("@"):
                raise _at_name(source, name, f"there is no name `{name}`; an expression sees only `event`")
        for found in _MATCHES.finditer(source):
            try:
                cel.compile(f"''.matches({found.group(1)})").execute({})
            except (RuntimeError, ValueError) as error:
                line, column = _position(source, found.start(1))
                raise ExpressionInvalid(source, line, column, _first_line(error)) from None
        self.source = source
        self._execute = program.execute
        self._tree = _mentioned(source)
        if "event" not in references["variables"] and not isinstance(self({}), bool):
            raise ExpressionInvalid(source, 1, 1, "it does not look at `event` and is not true or false")

    def __call__(self, message: Mapping[str, Any]) -> Verdict:
        """Return whether the expression is true of the message."""
        view = message if self._tree is None else _view(message, self._tree)
        try:
            answer = self._execute({"event": view})
        except (KeyError, IndexError) as error:
            return Missing(str(error.args[0]) if error.args else "")
        except Exception as error:  # noqa: BLE001 - whatever the library makes of one event must not stop the others
            return Failed(f"{type(error).__name__}: {_first_line(error)}")
        if isinstance(answer, bool):
            return answer
        return Failed(f"it gave {type(answer).__name__}, not true or false")


def _mentioned(source: str) -> _Tree | None:
    """Return the fields of `event` that an expression mentions, None when it uses the event as a whole."""
    tree: dict[str, Any] = {}
    for found in _EVENT_PATH.finditer(source):
        path = [part.strip() for part in found.group("path").split(".")[1:]]
        if found.group("call") and path:
            path.pop()  # a method of the value, not a field
        if not path:
            return None
        at = tree
        for name in path[:-1]:
            below = at.setdefault(name, {})
            if below is None:
                break
            at = below
        else:
            at[path[-1]] = None
    return _frozen(tree)


def _frozen(tree: dict[str, Any]) -> _Tree:
    return tuple((name, None if below is None else _frozen(below)) for name, below in tree.items())


def _view(message: Mapping[str, Any], tree: _Tree) -> dict[str, Any]:
    view: dict[str, Any] = {}
    for name, below in tree:
        if name in message:
            value = message[name]
            view[name] = _view(value, below) if below is not None and isinstance(value, dict) else value
    return view


def _at_name(source: str, name: str, problem: str) -> ExpressionInvalid:
    found = re.search(rf"\b{re.escape(name)}\b", source)
    line, column = _position(source, found.start() if found else 0)
    return ExpressionInvalid(source, line, column, problem)


def _position(source: str, index: int) -> tuple[int, int]:
    return source.count("\n", 0, index) + 1, index - source.rfind("\n", 0, index)


def _first_line(error: Exception) -> str:
    # The sentence that says what happened; the library adds advice after it.
    text = str(error).split("\n", 1)[0]
    return text.split(". CEL does not coerce", 1)[0].split(". Check ", 1)[0]

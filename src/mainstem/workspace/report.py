"""Collects everything that is wrong with one document, so that it is told at once and without secrets."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from mainstem.secret import Secret
from mainstem.workspace.errors import Problem, WorkspaceInvalid
from mainstem.workspace.model import Workspace

Path = tuple[str | int, ...]

_MAX_PROBLEMS: Final = 200
"""A document that is wrong everywhere is not told line by line without end."""
_SHORTEST_SECRET: Final = 4
"""Shorter texts are not hidden in messages: `on` or `5` from the environment would black out words."""
_PATH_PART: Final = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


class Parsed(msgspec.Struct, frozen=True):
    """A good snapshot, and what is worth saying about it."""

    workspace: Workspace
    warnings: tuple[Problem, ...] = ()


class Report:
    """The problems of one document."""

    def __init__(self, origin: str, lines: Mapping[Path, int] | None = None) -> None:
        self._origin = origin
        self._lines = {} if lines is None else lines
        self._problems: list[Problem] = []
        self._secrets: set[str] = set()
        self._left_out = 0

    def error(self, path: Path, message: str) -> None:
        """Note what makes the document unusable."""
        self._add(path, message, "error")

    def warning(self, path: Path, message: str) -> None:
        """Note what is worth knowing; the document is used."""
        self._add(path, message, "warning")

    def at_line(self, line: int | None, message: str) -> None:
        """Note an error of the text itself, before it has a structure."""
        self._problems.append(Problem("document" if line is None else f"line {line}", message))

    def hide(self, secret: str) -> None:
        """Never show this text in a message."""
        if len(secret) >= _SHORTEST_SECRET:
            self._secrets.add(secret)

    def hide_all(self, value: Any) -> None:
        """Never show any text inside `value`."""
        if isinstance(value, Secret):
            self.hide(value.reveal())
        elif isinstance(value, str):
            self.hide(value)
        elif isinstance(value, Mapping):
            for item in value.values():
                self.hide_all(item)
        elif isinstance(value, list | tuple):
            for item in value:
                self.hide_all(item)

    def clean(self, text: str) -> str:
        """Return the text with every secret blacked out."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    @property
    def failed(self) -> bool:
        """Whether there is an error among the problems."""
        return any(problem.severity == "error" for problem in self._problems)

    def problems(self) -> tuple[Problem, ...]:
        """Return them, errors and warnings, in the order found, secrets blacked out."""
        found = [
            Problem(self.clean(problem.path), self.clean(problem.message), problem.severity)
            for problem in self._problems
        ]
        if self._left_out:
            found.append(Problem("document", f"and {self._left_out} more problems"))
        return tuple(found)

    def raise_if_failed(self) -> None:
        """Raise what was found, if any of it is an error.

        Raises:
            WorkspaceInvalid: with every problem.
        """
        if self.failed:
            raise WorkspaceInvalid(self._origin, self.problems())

    def parsed(self, workspace: Workspace) -> Parsed:
        """Return the snapshot with the warnings.

        Raises:
            WorkspaceInvalid: there is an error.
        """
        self.raise_if_failed()
        return Parsed(workspace, self.problems())

    def _add(self, path: Path, message: str, severity: str) -> None:
        if len(self._problems) >= _MAX_PROBLEMS and (severity == "warning" or self.failed):
            self._left_out += 1
            return
        self._problems.append(Problem(self._locate(path), message, severity))

    def _locate(self, path: Path) -> str:
        text = written(path)
        for end in range(len(path), -1, -1):
            line = self._lines.get(path[:end])
            if line is not None:
                return f"{text} (line {line})"
        return text


def written(path: Path) -> str:
    """Return `sources[0].write_key` for `("sources", 0, "write_key")`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "document"


def path_of(text: str) -> Path:
    """Return the parts of a written path; the reverse of `written` for names without dots and brackets."""
    return tuple(int(index) if index else name for name, index in _PATH_PART.findall(text))


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` or `; known: a, b` (or nothing, when nothing is known)."""
    names = sorted(known)
    folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(word[:100].casefold(), folded, n=1)
    if close:
        return f"; did you mean {folded[close[0]]!r}?"
    return f"; known: {', '.join(names)}" if names else ""

"""
MainstemError
└── WorkspaceError
    ├── WorkspaceInvalid       the document is understood but wrong; carries every problem found
    ├── WorkspaceUnavailable   the place it comes from can't be read now (the last good copy goes on)
    └── VersionRefused         a published version of a transformation is not as it was published; the loaders
                               make a problem of it
"""

from collections.abc import Sequence

import msgspec

from mainstem.errors import MainstemError


class WorkspaceError(MainstemError):
    """The workspace can't be had."""


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong in a workspace document."""

    path: str
    """Where: `destinations[2].config.url`, with the line when the format has lines: `… (line 14)`."""
    message: str
    """What is wrong and what would be right."""
    severity: str = "error"
    """error: the snapshot is refused; warning: it is used, and the words are shown."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class WorkspaceInvalid(WorkspaceError):
    """The document is wrong; `problems` names each place."""

    def __init__(self, origin: str, problems: Sequence[Problem]) -> None:
        super().__init__(f"{origin}: " + "; ".join(str(problem) for problem in problems))
        self.origin = origin
        self.problems = tuple(problems)


class WorkspaceUnavailable(WorkspaceError):
    """The place the workspace comes from can't be read now."""


class VersionRefused(WorkspaceError):
    """A published version of a transformation can't be used; the text names the file."""

"""Says what became of a snapshot: logs every problem, counts, and dates the one in use."""

from collections.abc import Sequence

from mainstem.clock import Clock
from mainstem.telemetry.log import logger
from mainstem.telemetry.metrics import WORKSPACE_AGE, WORKSPACE_RELOADS
from mainstem.workspace.errors import Problem, WorkspaceInvalid
from mainstem.workspace.report import Parsed

_log = logger(__name__)


def applied(parsed: Parsed, origin: str, clock: Clock) -> None:
    """A snapshot is in use from now."""
    WORKSPACE_RELOADS.labels("applied").inc()
    WORKSPACE_AGE.set(clock.now_ms() / 1000)
    _tell(parsed.warnings, origin)
    workspace = parsed.workspace
    _log.info(
        "workspace applied",
        origin=origin,
        version=workspace.version,
        sources=len(workspace.sources),
        destinations=len(workspace.destinations),
        connections=len(workspace.connections),
        transformations=len(workspace.transformations),
    )


def refused(error: WorkspaceInvalid) -> None:
    """A document is wrong; what was in use stays in use."""
    WORKSPACE_RELOADS.labels("refused").inc()
    _log.error("workspace refused", origin=error.origin, problems=len(error.problems))
    _tell(error.problems, error.origin)


def unavailable(origin: str, reason: str) -> None:
    """The place can't be read now; what was in use stays in use."""
    WORKSPACE_RELOADS.labels("unavailable").inc()
    _log.warning("workspace unavailable", origin=origin, reason=reason)


def fallen_back(origin: str, saved_at: str) -> None:
    """At start: the last good copy is used instead of what the place says."""
    _log.warning(
        "STARTING FROM THE LAST GOOD COPY of the workspace, not from its place",
        origin=origin,
        saved_at=saved_at,
    )


def _tell(problems: Sequence[Problem], origin: str) -> None:
    for problem in problems:
        tell = _log.error if problem.severity == "error" else _log.warning
        tell("workspace problem", origin=origin, path=problem.path, problem=problem.message)

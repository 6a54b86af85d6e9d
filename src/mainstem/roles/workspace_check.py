"""Checking a workspace document as a whole: its form, its destinations' settings, its rules."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from mainstem.destinations.catalog import find_spec
from mainstem.pipeline.errors import PlanInvalid
from mainstem.pipeline.plan import compile_plan
from mainstem.roles.rooms import CHECKS
from mainstem.workspace.beside import FolderBeside
from mainstem.workspace.errors import Problem, WorkspaceInvalid
from mainstem.workspace.model import Workspace
from mainstem.workspace.parse import parse_workspace


class Checked(msgspec.Struct, frozen=True):
    """What was found."""

    workspace: Workspace | None
    """None when there are errors."""
    problems: tuple[Problem, ...]


async def check_workspace(data: bytes, origin: str, env: Mapping[str, str]) -> Checked:
    """Parse a document and compile every destination's rules.

    `origin` is the document's file: what it refers to is looked for beside it.
    """
    beside = FolderBeside(Path(origin).parent)
    try:
        parsed = parse_workspace(data, origin=origin, env=env, checks=CHECKS, beside=beside)
    except WorkspaceInvalid as error:
        return Checked(None, error.problems)
    problems = list(parsed.warnings)
    workspace = parsed.workspace
    for destination in workspace.destinations:
        spec = find_spec(destination.type)
        if spec is None:
            continue
        try:
            compile_plan(workspace, destination, spec)
        except PlanInvalid as error:
            problems.append(Problem(f"destination {destination.id}", str(error)))
    broken = any(problem.severity == "error" for problem in problems)
    return Checked(None if broken else workspace, tuple(problems))

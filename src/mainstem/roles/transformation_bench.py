"""What the command line tries transformations with: a runtime as the workers have, and who uses what."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from mainstem.errors import SettingsError
from mainstem.roles.rooms import CHECKS, open_geo
from mainstem.settings import Settings
from mainstem.transformations.base import Runtime
from mainstem.transformations.cases import Run, runner
from mainstem.transformations.folder import Draft, FolderInvalid, folders_in, open_draft, versions_of
from mainstem.transformations.publish import is_published
from mainstem.transformations.ready.base import Tools
from mainstem.workspace.beside import FolderBeside
from mainstem.workspace.errors import VersionRefused
from mainstem.workspace.model import Workspace
from mainstem.workspace.parse import parse_workspace


def open_run(settings: Settings, stack: AsyncExitStack, draft: Draft) -> Run:
    """Return what runs a draft; what it opens is closed with the stack.

    Raises:
        SettingsError: the geo database can't be read.
    """
    geo = open_geo(settings, stack)
    runtime = None if draft.kind == "ready" else _open_runtime(stack)
    return runner(runtime, Tools(locate=geo.locate if geo is not None else None))


def _open_runtime(stack: AsyncExitStack) -> Runtime:
    # Loads V8: nothing but a test of code needs that.
    from mainstem.transformations.sandbox.runtime import SandboxRuntime

    runtime = SandboxRuntime()
    stack.push_async_callback(runtime.close)
    return runtime


class Owned(msgspec.Struct, kw_only=True):
    """A transformation of one's own, for lists."""

    name: str
    kind: str = ""
    versions: list[str] = []
    draft: str = ""
    """How the draft stands to the versions, or what is wrong with it."""
    used_by: list[str] = []
    """`source -> destination (version)`, and so on."""


async def owned(settings: Settings, root: Path, env: Mapping[str, str], *, asked: bool) -> list[Owned]:
    """Return what lies in the folder and what the workspace has besides, by name.

    Args:
        asked: whether a workspace was named; else it may be missing.

    Raises:
        SettingsError: the workspace that was named can't be read.
        WorkspaceInvalid: it is wrong.
    """
    found = {folder.name: _in_folder(folder) for folder in folders_in(root)}
    workspace = _workspace(settings.workspace_location, env, asked=asked)
    if workspace is not None:
        for transformation in workspace.transformations:
            each = found.setdefault(
                transformation.name, Owned(name=transformation.name, kind=transformation.kind)
            )
            if transformation.version not in each.versions:
                each.versions.append(transformation.version)
            each.used_by += _users(workspace, transformation.id, transformation.version)
    return [found[name] for name in sorted(found)]


def _in_folder(folder: Path) -> Owned:
    versions = versions_of(folder)
    try:
        draft = open_draft(folder)
        kind = draft.document.ready or draft.kind
        same = bool(versions) and is_published(draft, versions[-1])
        told = "published" if same else "changed" if versions else "not published"
    except (FolderInvalid, VersionRefused) as error:
        kind, told = "", str(error)
    return Owned(name=folder.name, kind=kind, versions=[str(version) for version in versions], draft=told)


def _workspace(location: str, env: Mapping[str, str], *, asked: bool) -> Workspace | None:
    file = Path(location)
    try:
        data = file.read_bytes()
    except OSError as error:
        if asked:
            raise SettingsError(f"--workspace {file}: {error.strerror or error}") from None
        return None
    return parse_workspace(
        data, origin=location, env=env, checks=CHECKS, beside=FolderBeside(file.parent)
    ).workspace


def _users(workspace: Workspace, transformation_id: str, version: str) -> list[str]:
    users = [
        f"{item.source_id} -> {item.destination_id}"
        for item in workspace.connections
        if transformation_id in item.transformations
    ]
    users += [item.id for item in workspace.destinations if transformation_id in item.transformations]
    users += [f"the edge of {item.id}" for item in workspace.sources if transformation_id in item.edge]
    return [f"{user} ({version})" for user in users]

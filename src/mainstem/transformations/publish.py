"""Publishing: a draft whose cases pass becomes the next version, which is never changed again.

draft, cases -> **versions/N+1**. The version is written beside its place, synced and renamed, so it is there whole
or not at all; of two that publish at once one is told so. A workspace that refers to the name alone runs it within
seconds.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from mainstem.clock import Clock, iso_from_ms
from mainstem.errors import MainstemError
from mainstem.transformations.cases import Run, Verdict, read_cases, run_cases
from mainstem.transformations.folder import Draft, draft_transformation, versions_of
from mainstem.workspace.beside import FolderBeside
from mainstem.workspace.published import (
    LIBRARIES,
    MANIFEST,
    SUFFIXES,
    VERSIONS,
    PublishedVersion,
    code_file,
    read_published,
    seal,
)


class NotPublished(MainstemError):
    """Nothing was published; the text says why."""


class Publication(msgspec.Struct, frozen=True):
    """What publishing came to."""

    version: int
    new: bool
    """False: the draft is what this version is, so nothing was written."""
    cases: int


async def publish(
    draft: Draft,
    run: Run,
    env: Mapping[str, str],
    clock: Clock,
    on_verdict: Callable[[Verdict], None] = lambda _: None,
) -> Publication:
    """Run the draft's cases and, if all pass, write it as the next version.

    Args:
        on_verdict: is told of each case as it ends.

    Raises:
        NotPublished: it has no cases, one fails, or somebody else published at the same moment.
        FolderInvalid: the draft or its cases can't be used.
        VersionRefused: the latest version is not what was published.
        SandboxUnavailable: code can't be run on this machine.
        OSError: the disk refuses.
    """
    draft_transformation(draft, env)
    latest = max(versions_of(draft.folder), default=0)
    cases = read_cases(draft)
    if latest and is_published(draft, latest):
        return Publication(latest, False, len(cases))
    if not cases:
        raise NotPublished(
            f"{draft.name} has no cases; write at least one into {draft.folder / 'cases'}: what is published runs for "
            "everybody who refers to the name"
        )
    failed = []
    async for verdict in run_cases(draft, cases, run, env):
        on_verdict(verdict)
        if not verdict.passed:
            failed.append(verdict.name)
    if failed:
        raise NotPublished(f"{draft.name}: {len(failed)} of {len(cases)} cases fail, first {failed[0]!r}")
    _write(draft, latest + 1, len(cases), iso_from_ms(clock.now_ms()))
    return Publication(latest + 1, True, len(cases))


def is_published(draft: Draft, version: int) -> bool:
    """Whether the draft is the same as that version.

    Raises:
        VersionRefused: the version is not what was published.
    """
    published = read_published(FolderBeside(draft.folder), ".", version)
    before, libraries = published.manifest, {each.name: each.code for each in published.libraries}
    return (
        (before.kind, before.code_version, before.ready, published.code)
        == (draft.kind, draft.document.code_version, draft.document.ready, draft.code)
        and before.settings == _plain(draft.document.settings)
        and libraries == {each.name: each.code for each in draft.libraries}
    )


def _plain(settings: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(settings))


def _write(draft: Draft, version: int, cases: int, published_at: str) -> None:
    files: dict[str, bytes] = {}
    if draft.kind != "ready":
        files[code_file(draft.kind)] = draft.code.encode()
        suffix = SUFFIXES[draft.kind]
        files |= {f"{LIBRARIES}/{each.name}{suffix}": each.code.encode() for each in draft.libraries}
    manifest = PublishedVersion(
        version=version,
        published_at=published_at,
        kind=draft.kind,
        code_version=draft.document.code_version,
        ready=draft.document.ready,
        settings=_plain(draft.document.settings),
        cases=cases,
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )
    sealed = msgspec.structs.replace(manifest, sha256=seal(manifest))
    written = json.dumps(msgspec.to_builtins(sealed), indent=2, ensure_ascii=False) + "\n"
    folder = draft.folder / VERSIONS
    folder.mkdir(exist_ok=True)
    fresh = folder / f".{version}.{secrets.token_hex(6)}"
    try:
        for name, data in {**files, MANIFEST: written.encode()}.items():
            _write_synced(fresh / name, data)
        for path in sorted((path for path in fresh.rglob("*") if path.is_dir()), reverse=True):
            _sync(path)
        _sync(fresh)
        try:
            fresh.rename(folder / str(version))
        except OSError as error:
            if (folder / str(version)).exists():
                raise NotPublished(
                    f"version {version} of {draft.name} was published by somebody else just now"
                ) from error
            raise
        _sync(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write_synced(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o444)  # an editor asks before it changes it


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

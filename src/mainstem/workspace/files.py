"""A workspace file (YAML, JSON, or RudderStack's `workspaceConfig.json`), watched and reloaded.

Its size, times and inode are looked at every second; once they have changed and then stood still for one
look, the file is read. So an editor that writes in place is not caught half way (half a file can be valid
YAML), and a Kubernetes ConfigMap, which is swapped by a link, is noticed too.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from mainstem.clock import Clock, iso_from_ms
from mainstem.workspace import announce
from mainstem.workspace.checks import Checks
from mainstem.workspace.errors import WorkspaceInvalid, WorkspaceUnavailable
from mainstem.workspace.last_good import LastGood
from mainstem.workspace.model import Workspace
from mainstem.workspace.parse import parse_workspace
from mainstem.workspace.report import Parsed
from mainstem.workspace.tree import MAX_DOCUMENT_BYTES

_Signature = tuple[int, int, int, int]


class FileSource:
    """Snapshots from one file (a `WorkspaceSource`)."""

    def __init__(
        self,
        path: Path,
        *,
        env: Mapping[str, str],
        checks: Checks,
        clock: Clock,
        state_dir: Path,
        poll_interval_s: float = 1.0,
    ) -> None:
        """Make a source; reads nothing yet. The last good copy goes to `state_dir`."""
        self._path = path
        self._origin = str(path)
        self._env = env
        self._checks = checks
        self._clock = clock
        self._poll_interval_s = poll_interval_s
        self._last_good = LastGood(state_dir, str(path.absolute()))
        self._closed = False
        self._workspace: Workspace | None = None
        self._signature: _Signature | None = None
        self._digest = b""

    async def current(self) -> Workspace:
        try:
            parsed = await self._read()
        except (WorkspaceInvalid, WorkspaceUnavailable) as error:
            self._announce(error)
            parsed = await self._copy(error)
        announce.applied(parsed, self._origin, self._clock)
        self._workspace = parsed.workspace
        return parsed.workspace

    async def changes(self) -> AsyncIterator[Workspace]:
        version = self._workspace.version if self._workspace else ""
        signature, digest, looked_at = self._signature, self._digest, self._signature
        while not self._closed:
            await self._clock.sleep(self._poll_interval_s)
            seen = await asyncio.to_thread(_signature, self._path)
            settled, looked_at = seen == looked_at, seen
            if seen == signature or not settled:
                continue
            signature = seen
            try:
                data = await asyncio.to_thread(_content, self._path)
                if (found := _hash(data)) == digest:
                    continue
                digest = found
                parsed = await self._parse(data)
            except (WorkspaceInvalid, WorkspaceUnavailable) as error:
                self._announce(error)
                continue
            await self._save(data)
            if parsed.workspace.version == version:
                continue  # comments or layout only
            version = parsed.workspace.version
            announce.applied(parsed, self._origin, self._clock)
            self._workspace = parsed.workspace
            yield parsed.workspace

    async def close(self) -> None:
        self._closed = True

    async def _read(self) -> Parsed:
        self._signature = await asyncio.to_thread(_signature, self._path)
        data = await asyncio.to_thread(_content, self._path)
        self._digest = _hash(data)
        parsed = await self._parse(data)
        await self._save(data)
        return parsed

    async def _parse(self, data: bytes) -> Parsed:
        return await asyncio.to_thread(
            parse_workspace, data, origin=self._origin, env=self._env, checks=self._checks
        )

    async def _save(self, data: bytes) -> None:
        await asyncio.to_thread(self._last_good.save, data, now_ms=self._clock.now_ms())

    async def _copy(self, error: WorkspaceInvalid | WorkspaceUnavailable) -> Parsed:
        """Return the snapshot of the last good copy; raise `error` when there is none that is still good."""
        saved = await asyncio.to_thread(self._last_good.load)
        if saved is None:
            raise error
        try:
            parsed = await self._parse(saved.document)
        except WorkspaceInvalid as stale:
            announce.refused(stale)
            raise error from None
        announce.fallen_back(self._origin, iso_from_ms(saved.saved_at_ms))
        return parsed

    def _announce(self, error: WorkspaceInvalid | WorkspaceUnavailable) -> None:
        if isinstance(error, WorkspaceInvalid):
            announce.refused(error)
        else:
            announce.unavailable(self._origin, str(error))


def _signature(path: Path) -> _Signature | None:
    """Return what changes when the file does; None while it can't be looked at."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise WorkspaceUnavailable(f"{path}: {error.strerror or type(error).__name__}") from None


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()

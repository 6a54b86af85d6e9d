"""A workspace file (YAML, JSON, or RudderStack's `workspaceConfig.json`), watched and reloaded, and with it the
files it refers to (code of transformations).

Their size, times and inode are looked at every second; once they have changed and then stood still for one
look, the files are read. So an editor that writes in place is not caught half way (half a file can be valid
YAML), and a Kubernetes ConfigMap, which is swapped by a link, is noticed too.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from mainstem.clock import Clock, iso_from_ms
from mainstem.workspace import announce
from mainstem.workspace.beside import Beside, FilesBeside, FolderBeside, Stamp, stamp
from mainstem.workspace.checks import Checks
from mainstem.workspace.errors import WorkspaceInvalid, WorkspaceUnavailable
from mainstem.workspace.last_good import LastGood
from mainstem.workspace.model import Workspace
from mainstem.workspace.parse import parse_workspace
from mainstem.workspace.report import Parsed
from mainstem.workspace.tree import MAX_DOCUMENT_BYTES

_Look = tuple[Stamp | None, dict[str, Stamp | None]]
"""The stamps of the document, and of every path beside it that it needs."""


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
        self._beside = FolderBeside(path.parent)
        self._seen: _Look = (None, {})
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
        looked_at = self._seen
        while not self._closed:
            await self._clock.sleep(self._poll_interval_s)
            seen = await asyncio.to_thread(self._look)
            settled, looked_at = seen == looked_at, seen
            if seen == self._seen or not settled:
                continue
            try:
                parsed = await self._news(seen)
            except (WorkspaceInvalid, WorkspaceUnavailable) as error:
                self._announce(error)
                continue
            finally:
                looked_at = self._seen
            if parsed is None:
                continue
            if parsed.workspace.version == version:
                continue  # comments or layout only
            version = parsed.workspace.version
            announce.applied(parsed, self._origin, self._clock)
            self._workspace = parsed.workspace
            yield parsed.workspace

    async def close(self) -> None:
        self._closed = True

    async def _read(self) -> Parsed:
        document = await asyncio.to_thread(stamp, self._path)
        self._seen = (document, {})
        data = await asyncio.to_thread(_content, self._path)
        return await self._take(data, document)

    async def _news(self, seen: _Look) -> Parsed | None:
        """Return what the files mean now, None if their content is what it was.

        Raises:
            WorkspaceInvalid: they are wrong; they are not read again until they change.
            WorkspaceUnavailable: the document can't be read.
        """
        self._seen = seen
        data = await asyncio.to_thread(_content, self._path)
        again = await asyncio.to_thread(self._beside.again)
        if _digest(data, again) == self._digest:
            return None
        return await self._take(data, seen[0])

    async def _take(self, data: bytes, document: Stamp | None) -> Parsed:
        self._beside = beside = FolderBeside(self._path.parent)
        try:
            parsed = await self._parse(data, beside)
        finally:
            self._seen = (document, dict(beside.stamps))
            self._digest = _digest(data, beside)
        await asyncio.to_thread(self._last_good.save, data, now_ms=self._clock.now_ms(), files=beside.files())
        return parsed

    async def _parse(self, data: bytes, beside: Beside) -> Parsed:
        return await asyncio.to_thread(
            parse_workspace, data, origin=self._origin, env=self._env, checks=self._checks, beside=beside
        )

    def _look(self) -> _Look:
        return stamp(self._path), self._beside.now()

    async def _copy(self, error: WorkspaceInvalid | WorkspaceUnavailable) -> Parsed:
        """Return the snapshot of the last good copy; raise `error` when there is none that is still good."""
        saved = await asyncio.to_thread(self._last_good.load)
        if saved is None:
            raise error
        try:
            parsed = await self._parse(saved.document, FilesBeside(saved.files))
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


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise WorkspaceUnavailable(f"{path}: {error.strerror or type(error).__name__}") from None


def _digest(data: bytes, beside: FolderBeside) -> bytes:
    digest = hashlib.blake2b(data, digest_size=16)
    digest.update(repr(beside.content()).encode())
    return digest.digest()

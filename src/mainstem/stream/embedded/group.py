"""Groups on one machine: who owns which partition is who holds the lock on its file.

`groups/<group>/<partition>.lock` is held (flock) by the owner, so the kernel frees it the moment the owner
dies; there are no heartbeats and no time-outs to guess. `groups/<group>/members/<id>` is held by each live
member: the number of them tells everybody's fair share. Every 0.4 s a member gives away what is
above its share, and takes what is free below it. Partitions stay where they are as far as fairness allows.
"""

import asyncio
import contextlib
import uuid
from pathlib import Path
from typing import Final
from urllib.parse import quote

import structlog
from structlog.typing import FilteringBoundLogger

from mainstem.stream.base import OnAssign, OnRevoke
from mainstem.stream.embedded.locks import FileLock

_log: FilteringBoundLogger = structlog.get_logger(module=__name__)
_PERIOD_S: Final = 0.4


class FileMembership:
    """This process's place in a group."""

    def __init__(
        self, directory: Path, group: str, partitions: int, on_assign: OnAssign, on_revoke: OnRevoke
    ) -> None:
        self._directory = directory / "groups" / quote(group, safe="")
        self._members = self._directory / "members"
        self._members.mkdir(parents=True, exist_ok=True)
        self._all = partitions
        self._on_assign = on_assign
        self._on_revoke = on_revoke
        self._owned: dict[int, FileLock] = {}
        self._id = uuid.uuid4().hex
        self._left = asyncio.Event()
        # The name appears only once it is locked: a member is never taken for dead while it joins.
        joining = self._directory / f"joining-{self._id}"
        self._alive = FileLock(joining)
        if not self._alive.try_take():
            raise AssertionError("a name of our own is locked by another")
        joining.rename(self._members / self._id)
        self._task: asyncio.Task[None] | None = None

    @property
    def partitions(self) -> frozenset[int]:
        return frozenset(self._owned)

    async def start(self) -> None:
        """Take what is free, then keep to the fair share until `leave`."""
        await self._settle()
        self._task = asyncio.create_task(self._keep_settled())

    async def leave(self) -> None:
        if self._left.is_set():
            return
        self._left.set()
        if self._task is not None:
            await self._task
        try:
            await self._release(frozenset(self._owned))
        finally:
            for lock in self._owned.values():
                lock.close()
            self._owned.clear()
            (self._members / self._id).unlink(missing_ok=True)
            self._alive.close()

    async def _keep_settled(self) -> None:
        while not self._left.is_set():
            try:
                await self._settle()
            except Exception:  # noqa: BLE001 - one failed callback must not end the membership
                _log.exception("a callback of the group failed")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), _PERIOD_S)

    async def _settle(self) -> None:
        members = self._live_members()
        share, extra = divmod(self._all, len(members))
        quota = share + (1 if members.index(self._id) < extra else 0)
        await self._release(frozenset(sorted(self._owned)[quota:]))
        gained: set[int] = set()
        for partition in range(self._all):
            if len(self._owned) >= quota:
                break
            if partition in self._owned:
                continue
            lock = FileLock(self._directory / f"{partition}.lock")
            if lock.try_take():
                self._owned[partition] = lock
                gained.add(partition)
            else:
                lock.close()
        if gained:
            await self._on_assign(frozenset(gained))

    async def _release(self, partitions: frozenset[int]) -> None:
        if not partitions:
            return
        await self._on_revoke(partitions)
        for partition in partitions:
            self._owned.pop(partition).close()

    def _live_members(self) -> list[str]:
        live: list[str] = []
        for path in sorted(self._members.iterdir()):
            if path.name == self._id:
                live.append(path.name)
                continue
            try:
                lock = FileLock(path, create=False)
            except FileNotFoundError:
                continue
            if lock.try_take():
                path.unlink(missing_ok=True)
            else:
                live.append(path.name)
            lock.close()
        return live
